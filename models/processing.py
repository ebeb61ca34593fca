"""How pictures enter a joined model, in two tongues: the `ImageRule` of training and a processor of transformers.

The processor is saved with the model, so that plain transformers gives the same pixels and the same token counts as
training had; read back, it is the rule again.
"""

from __future__ import annotations

from typing import Any

from llavaflow.infra.errors import InputError
from llavaflow.models import anyres
from llavaflow.models.backbone import IMAGE_TOKEN
from llavaflow.models.forms import IN_TILES
from llavaflow.models.images import CLIP_MEAN, CLIP_STD, Aspect, ImageRule, Size
from llavaflow.models.vision import shape_of


def image_rule(
    vision: str, config: Any, *, aspect: Aspect, class_token: bool, pinpoints: tuple[Size, ...]
) -> ImageRule:
    """The rule of a tower (name and configuration) under the settings of a design."""
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(vision)
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    except OSError:
        mean, std = CLIP_MEAN, CLIP_STD
    shape = shape_of(config)
    return ImageRule(
        aspect=aspect,
        size=shape.image,
        patch=shape.stride,
        mean=mean,
        std=std,
        class_token=shape.class_token and class_token,
        crop=shape.crops,
        pinpoints=pinpoints,
    )


def processor_of(rule: ImageRule, tokenizer: Any, config: Any) -> Any:
    """The processor that plain transformers uses with a model of this configuration."""
    from transformers import LlavaNextProcessor, LlavaProcessor

    in_tiles = rule.aspect == "anyres"
    return (LlavaNextProcessor if in_tiles else LlavaProcessor)(
        image_processor=anyres.image_processor(rule) if in_tiles else _one_tile(rule),
        tokenizer=tokenizer,
        patch_size=rule.patch,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(shape_of(config).class_token),
        image_token=IMAGE_TOKEN,
    )


def _one_tile(rule: ImageRule) -> Any:
    from transformers import LlavaImageProcessor

    square = {"height": rule.size, "width": rule.size}
    return LlavaImageProcessor(
        do_pad=rule.aspect == "pad",
        do_center_crop=rule.crop,
        size={"shortest_edge": rule.size} if rule.crop else square,
        crop_size=square,
        image_mean=list(rule.mean),
        image_std=list(rule.std),
    )


def load_processor(path: str, *, in_tiles: bool) -> Any:
    """The processor saved with a model. Through its class, because AutoProcessor asks the user before it touches a
    folder that carries code, although a processor needs none."""
    from transformers import LlavaNextProcessor, LlavaProcessor

    try:
        return (LlavaNextProcessor if in_tiles else LlavaProcessor).from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot load tokenizer and image processor of '{path}': {str(error).splitlines()[0]} A checkpoint needs "
            "tokenizer.json and processor_config.json (or preprocessor_config.json) beside its weights."
        ) from error


def rule_of(processor: Any, config: Any) -> ImageRule:
    """The rule that a saved processor states."""
    images = processor.image_processor
    in_tiles = config.model_type in IN_TILES
    return ImageRule(
        aspect="anyres" if in_tiles else "pad" if getattr(images, "do_pad", False) else "square",
        pinpoints=anyres.pinpoints_of(images) if in_tiles else (),
        size=shape_of(config).image,
        patch=shape_of(config).stride,
        mean=tuple(images.image_mean),
        std=tuple(images.image_std),
        class_token=config.vision_feature_select_strategy == "full" and processor.num_additional_image_tokens > 0,
        crop=bool(images.do_center_crop),
    )
