"""<im_start> and <im_end> round every image: LLaVA v1's `mm_use_im_start_end`.

The tokenizer gets two tokens and both embedding tables two rows, which begin as the mean of the others. Where the
language model learns, they learn with their table. Where it is frozen (stage 1) just the two input rows learn beside
the projector, as upstream had it when these models were made (at e9f9baa it cuts the gradient of every other
embedding; its later code refuses to pretrain with them). They are a parameter of their own then: an optimizer holds
two rows instead of a table, and the table is proven unchanged like everything frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

MARKS = ("<im_start>", "<im_end>")
NAME = "marks"

State = dict[str, torch.Tensor]


class MarkedEmbedding(nn.Embedding):
    """An embedding table in which the rows of `ids` are replaced by a parameter of their own."""

    def __init__(self, table: nn.Embedding, ids: Sequence[int]) -> None:
        super().__init__(table.num_embeddings, table.embedding_dim, table.padding_idx, _weight=table.weight)
        # the same object, not a copy of it: an output head may be tied to it
        self.weight = table.weight
        self.ids = tuple(ids)
        self.marks = nn.Parameter(table.weight.detach()[list(ids)].clone())

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = super().forward(input)
        for place, number in enumerate(self.ids):
            rows = torch.where((input == number).unsqueeze(-1), self.marks[place], rows)
        return rows


def begin(model: Any, ids: Sequence[int]) -> None:
    """Set the rows of new tokens, in both tables of a language model, to the mean of all rows before them."""
    with torch.no_grad():
        for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            table[list(ids)] = table[: min(ids)].float().mean(dim=0).to(table.dtype)


def release(model: Any, ids: Sequence[int]) -> None:
    """Let the rows of these tokens learn although their table is frozen."""
    model.set_input_embeddings(MarkedEmbedding(model.get_input_embeddings(), ids))


def is_marks(name: str) -> bool:
    """Whether a parameter holds the released rows."""
    return name.endswith(f".{NAME}")


def folded(state: Mapping[str, torch.Tensor], ids: Sequence[int]) -> State:
    """The weights with released rows back in their table: the names of a model without them."""
    whole = {name: value for name, value in state.items() if not is_marks(name)}
    for name, value in state.items():
        if is_marks(name):
            table = f"{name.removesuffix(NAME)}weight"
            whole[table] = whole[table].clone()
            whole[table][list(ids)] = value.to(whole[table].dtype)
    return whole
