"""Attention inside rows of several samples by torch's variable-length flash kernel, under the name `varlen`.

transformers hands every attention function what the model was called with, so the edges of the samples (`spans`) go in
as keyword arguments of the model, by the names that its own flash functions read. Importing this file registers it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from llavaflow.models.kernels import SDPA, VARLEN

# samples of the check at start, in tokens
_CHECKED = (5, 33, 12)
_CLOSE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def spans(position_ids: torch.Tensor) -> dict[str, Any]:
    """The samples of rows (rows, tokens) whose positions restart, as flash kernels want them: running sums, longest."""
    flat = position_ids.flatten()
    starts = torch.nonzero(flat == 0).flatten()
    edges = torch.cat([starts, starts.new_tensor([len(flat)])]).to(torch.int32)
    longest = int(edges.diff().max())
    return {"cu_seq_lens_q": edges, "cu_seq_lens_k": edges, "max_length_q": longest, "max_length_k": longest}


def varlen(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within spans; (rows, heads, tokens, width) in, (rows, tokens, heads, width) out."""
    from torch.nn.attention.varlen import varlen_attn

    rows, heads, tokens, width = query.shape

    def flat(part: torch.Tensor) -> torch.Tensor:
        return part.transpose(1, 2).reshape(rows * tokens, part.shape[1], width)

    seen = varlen_attn(
        flat(query),
        flat(key),
        flat(value),
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        enable_gqa=key.shape[1] != heads,
    )
    assert isinstance(seen, torch.Tensor)
    return seen.reshape(rows, tokens, heads, width), None


AttentionInterface.register(VARLEN, varlen)


def agrees(attention: str, device: str) -> bool:
    """Whether a small model sees in a row of several samples what it sees in each alone, forward and backward."""
    from transformers import LlamaConfig, LlamaModel

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    config = LlamaConfig(
        hidden_size=128, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=8
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaModel(config).to(device, dtype)
        row = torch.randn(1, sum(_CHECKED), 128, device=device, dtype=dtype)
    positions = torch.cat([torch.arange(length) for length in _CHECKED])[None].to(device)
    alone, gradient = _seen(model, SDPA, _pieces(row), _pieces(positions))
    try:
        together, other = _seen(model, attention, [row], [positions])
    except (RuntimeError, ImportError, TypeError, ValueError):
        return False
    return _near(together, alone) and _near(other, gradient)


def _pieces(row: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.split(row, list(_CHECKED), dim=1))


def _seen(
    model: Any, attention: str, rows: list[torch.Tensor], positions: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Last states of rows, and the gradient of a weighted sum of them by the input."""
    model.set_attn_implementation(attention)
    inputs = [row.detach().clone().requires_grad_() for row in rows]
    states = [
        model(inputs_embeds=row, position_ids=place, use_cache=False, **spans(place)).last_hidden_state
        for row, place in zip(inputs, positions, strict=True)
    ]
    seen = torch.cat(states, dim=1)
    # weighted: the last norm keeps the size of a state the same whatever goes in
    weighted = seen.float() * torch.linspace(-1, 1, seen.shape[-1], device=seen.device)
    gradients = torch.autograd.grad(weighted.sum(), inputs)
    return seen.detach(), torch.cat(gradients, dim=1)


def _near(one: torch.Tensor, other: torch.Tensor) -> bool:
    scale = float(other.float().abs().max())
    return float((one.float() - other.float()).abs().max()) <= _CLOSE[one.dtype] * max(scale, 1e-6)
