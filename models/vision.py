"""Vision towers: CLIP, SigLIP and ConvNeXt behind one description, and what LLaVA does to each.

    CLIP      class token in front, dropped by `patch`; hidden state -2
    SigLIP    no class token; upstream deletes the last layer and reads the last of the rest, which is hidden state -2
    ConvNeXt  a map instead of tokens (`models/convnext.py`), hidden state -1; ConvLLaVA adds a fifth stage

A tower saved alone (ConvLLaVA keeps it apart from the language model) loads by the same `load_tower`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llavaflow.infra.errors import InputError
from llavaflow.models.weights import load_whole

if TYPE_CHECKING:
    import torch

TowerKind = Literal["clip", "siglip", "convnext"]
SELECT_LAYER: dict[TowerKind, int] = {"clip": -2, "siglip": -2, "convnext": -1}


@dataclass(frozen=True, kw_only=True)
class TowerShape:
    """What the projector, the image rule and the planner must know of a tower.

    stride  pixels per token along one side
    layers  transformer layers, or stages of a ConvNeXt
    """

    kind: TowerKind
    hidden: int
    image: int
    stride: int
    layers: int

    @property
    def class_token(self) -> bool:
        return self.kind == "clip"

    @property
    def crops(self) -> bool:
        """Its own processor keeps the aspect and crops; SigLIP's squashes."""
        return self.kind != "siglip"

    @property
    def tokens(self) -> int:
        """Tokens of one image, class token not counted."""
        return (self.image // self.stride) ** 2


def shape_of(config: Any) -> TowerShape:
    """The shape behind a transformers configuration of a tower, or of a model that holds one."""
    config = getattr(config, "vision_config", config)
    kind = _kind(str(config.model_type))
    if kind == "convnext":
        depths, widths = list(config.depths), list(config.hidden_sizes)
        return TowerShape(
            kind=kind, hidden=widths[-1], image=config.image_size, stride=4 << (len(depths) - 1), layers=len(depths)
        )
    return TowerShape(
        kind=kind,
        hidden=config.hidden_size,
        image=config.image_size,
        stride=config.patch_size,
        layers=config.num_hidden_layers,
    )


def _kind(model_type: str) -> TowerKind:
    kinds: tuple[TowerKind, ...] = ("clip", "siglip", "convnext")
    for kind in kinds:
        if model_type in (kind, f"{kind}_vision_model", f"{kind}_tower"):
            return kind
    raise InputError(f"a '{model_type}' model is no vision tower. Known: {', '.join(kinds)}.")


def load_tower(name: str, dtype: torch.dtype | None = None) -> Any:
    """A tower by hub name or folder: the vision half of a CLIP or SigLIP, a tower saved alone, or a ConvNeXt."""
    from transformers import AutoConfig, CLIPVisionModel, SiglipVisionModel

    from llavaflow.models.convnext import ConvNextTower, ConvNextTowerConfig

    if Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise InputError(f"{name} holds no config.json: a vision tower is a folder saved by transformers.")
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"cannot load the vision tower '{name}': {reason} Give a hub name or a saved folder."
        ) from error
    kind = _kind(str(config.model_type))
    if kind == "convnext":
        settings = {key: value for key, value in config.to_dict().items() if key not in ("model_type", "architectures")}
        return load_whole(ConvNextTower, name, config=ConvNextTowerConfig(**settings), dtype=dtype)
    return load_whole({"clip": CLIPVisionModel, "siglip": SiglipVisionModel}[kind], name, dtype=dtype)


def save_tower(tower: Any, folder: Path) -> None:
    """The tower alone, ConvLLaVA's way: its own folder, which `load_tower` and plain transformers read."""
    tower.save_pretrained(folder)


def add_stage(tower: Any, *, depth: int = 6, width: int = 3072, seed: int = 0) -> Any:
    """ConvLLaVA's fifth stage on top of a ConvNeXt: stride 2 and `depth` blocks of `width`, fresh from `seed`."""
    import torch
    from transformers.models.convnext.modeling_convnext import ConvNextStage

    config = tower.config
    if shape_of(config).kind != "convnext":
        raise InputError(f"a fifth stage goes on a ConvNeXt, not on '{config.model_type}'.")
    weight = next(tower.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stage = ConvNextStage(config, config.hidden_sizes[-1], width, depth=depth)
        for module in stage.modules():
            tower._init_weights(module)
        norm = torch.nn.LayerNorm(width, eps=config.layer_norm_eps)
    tower.encoder.stages.append(stage.to(weight))
    tower.layernorm = norm.to(weight)
    config.depths = [*config.depths, depth]
    config.hidden_sizes = [*config.hidden_sizes, width]
    config.num_stages = len(config.depths)
    config.stage_names = ["stem", *(f"stage{number}" for number in range(1, config.num_stages + 1))]
    config._out_features, config._out_indices = [config.stage_names[-1]], [config.num_stages]
    return tower


def set_image_size(tower: Any, image: int) -> None:
    """Another resolution for a ConvNeXt, which has no positions to stretch; ConvLLaVA: 768, 1024 or 1536."""
    shape = shape_of(tower.config)
    if shape.kind != "convnext":
        raise InputError(f"a {shape.kind} tower is bound to {shape.image} px by its position embeddings.")
    if image % shape.stride:
        raise InputError(f"{image} px is no multiple of this tower's {shape.stride} px per token.")
    tower.config.image_size = image


def names_from_layer(tower: Any, first: int) -> set[str]:
    """Parameters from a layer (or ConvNeXt stage, counted from 0) upwards: `tune_vit_from_layer`."""
    kind = shape_of(tower.config).kind
    mark = ".stages." if kind == "convnext" else ".layers."
    chosen = set()
    for name, _ in tower.named_parameters():
        head, found, rest = f".{name}".partition(mark)
        # blocks inside a stage are called layers too: only the outermost number counts
        if found and int(rest.split(".")[0]) >= first:
            chosen.add(name)
    return chosen
