"""The tokenizers of the tiny models, each of the class that its full-size model has or of plain `tokenizer.json`.

The language model's splits off every digit and keeps the "0." of a coordinate whole, so that a box costs 14 tokens
and its numbers are learned digit by digit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

# pieces that byte-pair merges never cross: ", 0." of a box, one digit, a word, a run of signs, white space
_PIECES = r",? ?0\.|\d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"
LANGUAGE_SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
_CLIP_SPECIAL = ("<|pad|>", "<|startoftext|>", "<|unk|>", "<|endoftext|>")
_BLIP_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")


def language_tokenizer(texts: Iterable[str], size: int) -> Any:
    """Byte-level BPE with Llama's special tokens; it adds <s> in front, as Vicuna's does."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(LANGUAGE_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", LANGUAGE_SPECIAL.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=["<image>"],
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def clip_tokenizer(texts: Iterable[str], length: int) -> Any:
    """CLIP's own tokenizer class with merges learned here."""
    from tokenizers import Tokenizer, trainers
    from transformers import CLIPTokenizer

    empty = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(type(empty.model)(unk_token=_CLIP_SPECIAL[2], end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = empty.normalizer, empty.pre_tokenizer
    texts = list(texts)
    # the trainer numbers last letters in the order of a hash map, another in each run, and ties between merges are
    # broken by number: named beforehand, they have one order
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[*_CLIP_SPECIAL, *(f"{letter}</w>" for letter in _last_letters(learner, texts))],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learned = _model(learner)
    return CLIPTokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        pad_token=_CLIP_SPECIAL[0],
        bos_token=_CLIP_SPECIAL[1],
        unk_token=_CLIP_SPECIAL[2],
        eos_token=_CLIP_SPECIAL[3],
        model_max_length=length,
    )


def _last_letters(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    split, normal = tokenizer.pre_tokenizer.pre_tokenize_str, tokenizer.normalizer.normalize_str
    return sorted({piece[-1] for text in texts for piece, _ in split(normal(text))})


def _model(tokenizer: Any) -> dict[str, Any]:
    import json

    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


def blip_tokenizer(texts: Iterable[str], length: int) -> Any:
    """BERT's tokenizer with a vocabulary of whole words and single characters."""
    from transformers import BertTokenizer

    words = sorted({piece for text in texts for piece in _words(text)})
    characters = sorted({sign for word in words for sign in word})
    entries = [*_BLIP_SPECIAL, *characters, *(f"##{sign}" for sign in characters)]
    entries += [word for word in words if len(word) > 1]
    return BertTokenizer(
        vocab={entry: number for number, entry in enumerate(entries)}, bos_token="[DEC]", model_max_length=length
    )


def _words(text: str) -> Sequence[str]:
    import re

    return re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower())
