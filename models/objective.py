"""The training objective: packed rows of image-text tokens in, summed cross-entropy out.

A row is several samples end to end. Their positions restart at 0, and transformers turns those restarts into
block-diagonal attention as long as it is given no attention mask (an all-ones mask would switch that off, and samples
would see each other). Right-padded rows work the same way: what follows a token never reaches it.

The loss is a sum, not a mean: whoever calls divides by the supervised tokens of the whole global batch, so that neither
the number of workers nor the way samples fall into rows changes a gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn
from torch.utils.checkpoint import checkpoint

from llavaflow.models.kernels import Kernels
from llavaflow.models.labels import IGNORE


class Objective(nn.Module):
    """Wraps a Llava model; `forward` is what the training engine calls.

    loss_parts  logits of a row are made, used and dropped in so many parts, and made again on the way back. A fixed
                number, not a fixed size: under ZeRO-3 every rank must call the head equally often.
    """

    def __init__(self, llava: Any, kernels: Kernels | None = None, loss_parts: int = 1) -> None:
        super().__init__()
        self.llava = llava
        self.kernels = kernels or Kernels()
        self.loss_parts = loss_parts

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        labels: torch.Tensor,
        pixel_values: torch.Tensor,
        image_index: torch.Tensor,
    ) -> torch.Tensor:
        """Summed loss of rows (rows, tokens). `image_index`: for every image token its row among the tile features."""
        embeddings = self.embeddings(input_ids, pixel_values, image_index)
        hidden = self.llava.model.language_model(
            inputs_embeds=embeddings, position_ids=position_ids, use_cache=False, **self._spans(position_ids)
        ).last_hidden_state
        targets = labels[:, 1:]
        learned = targets != IGNORE
        # only supervised positions reach the vocabulary: the widest matrix of the model works on a fifth of the tokens
        return self._summed(hidden[:, :-1][learned], targets[learned])

    def _spans(self, position_ids: torch.Tensor) -> dict[str, Any]:
        """The edges of samples, for kernels that are told them instead of a mask."""
        if self.kernels.dense_mask:
            return {}
        from llavaflow.models.attention import spans

        return spans(position_ids)

    def _summed(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.kernels.liger:
            from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

            fused: torch.Tensor = LigerFusedLinearCrossEntropyLoss(reduction="sum")(
                self.llava.lm_head.weight, hidden, targets
            )
            return fused
        if self.loss_parts == 1:
            return self._part(hidden, targets)
        parts = zip(hidden.tensor_split(self.loss_parts), targets.tensor_split(self.loss_parts), strict=True)
        return torch.stack([checkpoint(self._part, *part, use_reentrant=False) for part in parts]).sum()

    def _part(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.llava.lm_head(hidden)
        return functional.cross_entropy(logits.float(), targets, reduction="sum")

    def embeddings(self, ids: torch.Tensor, pixels: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Text embeddings with image features in place. A batch without images runs a dummy at no weight: under
        ZeRO-3 every rank must touch the same modules in the same order."""
        embeddings: torch.Tensor = self.llava.get_input_embeddings()(ids)
        features = self.features(pixels).to(embeddings.dtype)
        if index.numel() == 0:
            return embeddings + (features.sum() + self._newline(features).sum()) * 0.0
        places = (ids == self.llava.config.image_token_id).unsqueeze(-1)
        return embeddings.masked_scatter(places, self._gather(features, index))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Projected features of tiles, flattened to (tiles * tokens, width)."""
        model, config = self.llava.model, self.llava.config
        dtype = next(model.vision_tower.parameters()).dtype
        states = model.vision_tower(pixels.to(dtype), output_hidden_states=True).hidden_states
        chosen = states[config.vision_feature_layer]
        if config.vision_feature_select_strategy == "default":
            chosen = chosen[:, 1:]
        projected: torch.Tensor = model.multi_modal_projector(chosen)
        return projected.flatten(0, 1)

    def _gather(self, features: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Features in the order of the sequence; -1 stands for the newline of an anyres map."""
        return torch.cat([features, self._newline(features)])[index]

    def _newline(self, features: torch.Tensor) -> torch.Tensor:
        """The learned newline as one more feature; none of a model whose images are one tile."""
        newline: torch.Tensor | None = getattr(self.llava.model, "image_newline", None)
        return features[:0] if newline is None else newline.to(features.dtype).unsqueeze(0)
