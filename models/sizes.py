"""Shapes of the published language models and vision towers: the one place that holds them, importable without torch.

Parameter counts are computed from the shapes and tested against the published counts, so a wrong shape shows. Sources
are the `config.json` files of the hub names given; a tower's `tokens` are those of LLaVA (class token dropped). What a
name says about a shape (`recognise_language`) is what the planner goes by: folders and checkpoints have names too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from llavaflow.infra.errors import unknown

LanguageKind = Literal["llama", "vicuna", "llama-2", "mistral", "yi", "mpt", "llama-3", "qwen"]


@dataclass(frozen=True, kw_only=True)
class LanguageSize:
    """A decoder. `gated` feed-forwards have three matrices (Llama's kind), others two (MPT's)."""

    name: str
    hub: str
    family: LanguageKind
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    gated: bool = True
    attention_bias: bool = False
    tied: bool = False
    needs_access: bool = False

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def layer_matrices(self) -> int:
        """Weights in the matrices of one layer: what a token multiplies with."""
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.kv_heads * self.head_size
        return attention + (3 if self.gated else 2) * self.hidden * self.intermediate

    @property
    def matrices(self) -> int:
        """Weights in the matrices of all layers: what every token multiplies with, embeddings and head not."""
        return self.layers * self.layer_matrices

    def lora_params(self, rank: int) -> int:
        """Adapters on every matrix of the layers: rank times the two sides of each."""
        narrow = self.kv_heads * self.head_size
        attention = 2 * 2 * self.hidden + 2 * (self.hidden + narrow)
        return self.layers * rank * (attention + (3 if self.gated else 2) * (self.hidden + self.intermediate))

    @property
    def params(self) -> int:
        bias = self.hidden + 2 * self.kv_heads * self.head_size if self.attention_bias else 0
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * (self.layer_matrices + bias + 2 * self.hidden) + self.hidden


@dataclass(frozen=True, kw_only=True)
class VisionSize:
    """A transformer tower: CLIP (class token, layer norm in front) or SigLIP (patch bias instead)."""

    name: str
    hub: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    image: int
    patch: int
    clip: bool = True

    @property
    def tokens(self) -> int:
        """Tokens of one image as LLaVA uses it."""
        return (self.image // self.patch) ** 2

    @property
    def layer_matrices(self) -> int:
        return 4 * self.hidden * self.hidden + 2 * self.hidden * self.intermediate

    @property
    def params(self) -> int:
        """The encoder with its embeddings and last norm; pooling heads, which LLaVA does not use, not counted."""
        positions = self.tokens + self.clip
        patches = 3 * self.patch * self.patch * self.hidden
        extra = 3 * self.hidden if self.clip else self.hidden
        return self.params_from(0) + positions * self.hidden + patches + extra + 2 * self.hidden

    def params_from(self, layer: int) -> int:
        """Parameters of the layers from this one up."""
        return (self.layers - layer) * (self.layer_matrices + 9 * self.hidden + self.intermediate)

    def image_flops(self, layer: int = 0) -> int:
        """Multiply-adds times two of one forward pass over an image, through the layers from this one up."""
        positions = self.tokens + self.clip
        return (self.layers - layer) * (2 * self.layer_matrices + 4 * positions * self.hidden) * positions

    def kept_values(self) -> int:
        """Values that a backward pass with checkpointing keeps of one image: the input of every layer."""
        return self.layers * (self.tokens + self.clip) * self.hidden


@dataclass(frozen=True, kw_only=True)
class ConvNextSize:
    """A ConvNeXt tower, ConvLLaVA's fifth stage included: blocks and width per stage."""

    name: str
    hub: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    image: int
    patch: int = 64

    @property
    def hidden(self) -> int:
        """What the projector sees."""
        return self.widths[-1]

    @property
    def tokens(self) -> int:
        return (self.image // self.patch) ** 2

    def stage_params(self, stage: int) -> int:
        """One stage: the downsampling in front of it and its blocks (7x7 depthwise, norm, two linears, a scale)."""
        width = self.widths[stage]
        block = 7 * 7 * width + width + 2 * width + 8 * width * width + 5 * width + width
        if stage == 0:
            return self.depths[0] * block
        before = self.widths[stage - 1]
        return 2 * before + 4 * before * width + width + self.depths[stage] * block

    @property
    def params(self) -> int:
        """Stem, stages; classification or projection heads not counted."""
        return 3 * 4 * 4 * self.widths[0] + 3 * self.widths[0] + self.params_from(0)

    def params_from(self, layer: int) -> int:
        """Parameters of the stages from this one up."""
        return sum(self.stage_params(stage) for stage in range(layer, len(self.depths)))

    def image_flops(self, layer: int = 0) -> int:
        """Multiply-adds times two of one forward pass over an image, through the stages from this one up."""
        total, side = 2 * 3 * 16 * self.widths[0] * (self.image // 4) ** 2 if layer == 0 else 0, self.image // 4
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            entry = 0
            if stage:
                side //= 2
                entry = 8 * self.widths[stage - 1] * width * side * side
            if stage >= layer:
                total += entry + depth * 2 * (49 * width + 8 * width * width) * side * side
        return total

    def kept_values(self) -> int:
        """Values that a backward pass with checkpointing keeps of one image: the input of every block."""
        sides = [self.image // 4 >> stage for stage in range(len(self.depths))]
        return sum(d * w * side * side for d, w, side in zip(self.depths, self.widths, sides, strict=True))


Tower = VisionSize | ConvNextSize

_LANGUAGE = (
    LanguageSize(name="vicuna-7b", hub="lmsys/vicuna-7b-v1.5", family="vicuna", layers=32, hidden=4096,
                 intermediate=11008, heads=32, kv_heads=32, vocab=32000, context=4096),
    LanguageSize(name="vicuna-13b", hub="lmsys/vicuna-13b-v1.5", family="vicuna", layers=40, hidden=5120,
                 intermediate=13824, heads=40, kv_heads=40, vocab=32000, context=4096),
    LanguageSize(name="llama-2-7b", hub="meta-llama/Llama-2-7b-chat-hf", family="llama-2", layers=32, hidden=4096,
                 intermediate=11008, heads=32, kv_heads=32, vocab=32000, context=4096, needs_access=True),
    LanguageSize(name="llama-2-13b", hub="meta-llama/Llama-2-13b-chat-hf", family="llama-2", layers=40, hidden=5120,
                 intermediate=13824, heads=40, kv_heads=40, vocab=32000, context=4096, needs_access=True),
    LanguageSize(name="mistral-7b", hub="mistralai/Mistral-7B-Instruct-v0.2", family="mistral", layers=32,
                 hidden=4096, intermediate=14336, heads=32, kv_heads=8, vocab=32000, context=32768),
    LanguageSize(name="yi-34b", hub="NousResearch/Nous-Hermes-2-Yi-34B", family="yi", layers=60, hidden=7168,
                 intermediate=20480, heads=56, kv_heads=8, vocab=64000, context=4096),
    LanguageSize(name="llama-3-8b", hub="meta-llama/Meta-Llama-3-8B-Instruct", family="llama-3", layers=32,
                 hidden=4096, intermediate=14336, heads=32, kv_heads=8, vocab=128256, context=8192,
                 needs_access=True),
    LanguageSize(name="qwen2-7b", hub="Qwen/Qwen2-7B-Instruct", family="qwen", layers=28, hidden=3584,
                 intermediate=18944, heads=28, kv_heads=4, vocab=152064, context=32768, attention_bias=True),
    LanguageSize(name="mpt-7b", hub="mosaicml/mpt-7b-chat", family="mpt", layers=32, hidden=4096,
                 intermediate=16384, heads=32, kv_heads=32, vocab=50432, context=2048, gated=False, tied=True),
)  # fmt: skip
_CONVNEXT = "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"
_DEPTHS, _WIDTHS = (3, 3, 27, 3, 6), (192, 384, 768, 1536, 3072)
_VISION: tuple[Tower, ...] = (
    VisionSize(name="clip-l-224", hub="openai/clip-vit-large-patch14", layers=24, hidden=1024, intermediate=4096,
               heads=16, image=224, patch=14),
    VisionSize(name="clip-l-336", hub="openai/clip-vit-large-patch14-336", layers=24, hidden=1024,
               intermediate=4096, heads=16, image=336, patch=14),
    VisionSize(name="siglip-so400m-384", hub="google/siglip-so400m-patch14-384", layers=27, hidden=1152,
               intermediate=4304, heads=16, image=384, patch=14, clip=False),
    ConvNextSize(name="convnext-l-768", hub=_CONVNEXT, image=768, depths=_DEPTHS, widths=_WIDTHS),
    ConvNextSize(name="convnext-l-1024", hub=_CONVNEXT, image=1024, depths=_DEPTHS, widths=_WIDTHS),
    ConvNextSize(name="convnext-l-1536", hub=_CONVNEXT, image=1536, depths=_DEPTHS, widths=_WIDTHS),
)  # fmt: skip

LANGUAGE: dict[str, LanguageSize] = {size.name: size for size in _LANGUAGE}
VISION: dict[str, Tower] = {size.name: size for size in _VISION}

# names under which the same shape is published
_SAME_SHAPE = {
    "lmsys/vicuna-7b-v1.3": "vicuna-7b",
    "lmsys/vicuna-13b-v1.3": "vicuna-13b",
    "lmsys/vicuna-7b-v1.1": "vicuna-7b",
    "lmsys/vicuna-13b-v1.1": "vicuna-13b",
    "liuhaotian/llava-v1.5-7b": "vicuna-7b",
    "liuhaotian/llava-v1.5-13b": "vicuna-13b",
}


# what names of folders and of whole LLaVA checkpoints say beside the names above
_MARKS = {
    "llava-v1.5-7b": "vicuna-7b",
    "llava-1.5-7b": "vicuna-7b",
    "llava-v1.5-13b": "vicuna-13b",
    "llava-1.5-13b": "vicuna-13b",
    "llava-v1.6-34b": "yi-34b",
    "llama3-llava-next-8b": "llama-3-8b",
    **{name: name for name in LANGUAGE},
}
_TOWER_MARKS = {
    "clip-vit-large-patch14": "clip-l-224",
    "clip-vit-large-patch14-336": "clip-l-336",
    "siglip-so400m-patch14-384": "siglip-so400m-384",
    "convnext": "convnext-l",
    # every whole checkpoint of these generations looks through CLIP-L at 336 pixels
    **dict.fromkeys(("llava-v1.5", "llava-1.5", "llava-v1.6", "llava-next-8b"), "clip-l-336"),
}


def recognise_language(names: Iterable[str]) -> LanguageSize | None:
    """The language model that names of weights or folders speak of; the longest mark wins, None without any."""
    found = _longest_mark(_MARKS, names)
    return LANGUAGE[found] if found else None


def recognise_vision(names: Iterable[str], image: int | None = None) -> Tower | None:
    """The tower that names speak of; `image` is the resolution of a ConvNeXt, which no name of weights tells."""
    found = _longest_mark(_TOWER_MARKS, names)
    return VISION.get(f"{found}-{image}" if found == "convnext-l" else found or "")


def _longest_mark(marks: Mapping[str, str], names: Iterable[str]) -> str | None:
    said = " ".join(names).lower()
    return marks[max(found, key=len)] if (found := [mark for mark in marks if mark in said]) else None


def language_size(name: str) -> LanguageSize:
    """By our name or by a hub name."""
    known = LANGUAGE | {size.hub: size for size in _LANGUAGE}
    known |= {hub: LANGUAGE[same] for hub, same in _SAME_SHAPE.items()}
    if name not in known:
        raise unknown("language model", name, known, "models/sizes.py")
    return known[name]


def vision_size(name: str, image: int | None = None) -> Tower:
    """By our name or by a hub name; `image` chooses among the resolutions of one tower."""
    matches = [size for size in _VISION if name in (size.name, size.hub) and image in (None, size.image)]
    if not matches:
        raise unknown("vision tower", name, [*VISION, *(size.hub for size in _VISION)], "models/sizes.py")
    return matches[0]


def projector_params(kind: str, vision: int, language: int) -> int:
    """Parameters of linear, identity or mlpNx_gelu."""
    if kind == "identity":
        return 0
    layers = 1 if kind == "linear" else int(kind.removeprefix("mlp").removesuffix("x_gelu"))
    return vision * language + language + (layers - 1) * (language * language + language)
