"""Gates on the training stages of a recipe: what failed other teams after hours, seen in seconds.

Each reads the fields of one Train stage; none needs a GPU, a model or the data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llavaflow.infra.errors import InputError
from llavaflow.models import projector as projectors
from llavaflow.models.backbone import ORIGINAL_LANGUAGES
from llavaflow.models.forms import FORMS
from llavaflow.models.images import count_tokens
from llavaflow.models.language import families_of
from llavaflow.models.lora import CONFIG as ADAPTER
from llavaflow.models.sizes import recognise_language
from llavaflow.models.templates import for_family, names
from llavaflow.models.templates import template as template_of
from llavaflow.models.weights import read_object
from llavaflow.pipelines._estimate import Estimate, estimate_training
from llavaflow.pipelines._from_zoo import unlike, zoo_row
from llavaflow.pipelines._gates import Gate, Preflight, Problem
from llavaflow.pipelines._job import TrainingJob, image_rule, texts
from llavaflow.pipelines._volume import records_at_most
from llavaflow.stages._answerer import Checkpoint
from llavaflow.stages.base import Base
from llavaflow.stages.evaluate import Evaluate
from llavaflow.stages.foundation import Foundation
from llavaflow.stages.train import Train
from llavaflow.stages.zoo_weights import ZooWeights

# what the name of a language model that has no shape in models/sizes.py says about its family, the narrower first
FAMILIES = (
    ("llama-3", "llama-3"), ("llama-2", "llama-2"), ("vicuna", "vicuna"), ("mistral", "mistral"), ("yi-34b", "yi"),
    ("qwen", "qwen"), ("mpt", "mpt"), ("gemma", "gemma"), ("mixtral", "mixtral"),
)  # fmt: skip


def _trains(preflight: Preflight) -> Iterator[tuple[str, Train]]:
    for name, stage in preflight.waiting():
        if isinstance(stage, Train):
            yield name, stage


def _estimate(preflight: Preflight, stage: Train) -> Estimate:
    item = preflight.resolved.get(preflight.recipe.name_of(stage.data))
    facts = item.artifact.facts if item and item.artifact else None
    return estimate_training(stage, preflight.machine, facts, name=preflight.recipe.name_of(stage))


def global_batch(preflight: Preflight) -> Iterator[Problem]:
    """The global batch has equal shares on this machine."""
    for name, stage in _trains(preflight):
        split = _estimate(preflight, stage).split
        if split.problem:
            mend = "choose such a machine; the global batch is part of the result and stays"
            yield Problem(what=split.problem, where=name, mend=mend, warning=bool(split.accumulation))


def gpu_memory(preflight: Preflight) -> Iterator[Problem]:
    """The job fits into the devices."""
    for name, stage in _trains(preflight):
        found = _estimate(preflight, stage)
        if found.memory and found.change:
            box = preflight.machine
            there = f"{box.gpu_memory_gib:.0f}" if box.gpus else "no GPUs"
            what = f"{found.memory.total:.1f} GiB per device are needed, {there} are there"
            if found.host and found.memory.fits(box):
                what = found.host
            yield Problem(what=what, where=f"{name} on {preflight.machine.name}", mend=found.change)


def precision(preflight: Preflight) -> Iterator[Problem]:
    """bf16 is only asked of chips that have it, fp16 of chips."""
    for name, stage in _trains(preflight):
        kind, where = preflight.machine.kind, f"{name}.precision"
        if stage.precision == "bf16" and not preflight.machine.bf16:
            scaled = f"{where}=fp16{'' if stage.zero else f' --set {name}.zero=1'}"
            mend = f"choose a newer kind, or --set {scaled}, or float32, which takes twice the memory"
            yield Problem(what=f"{kind} has no bf16", where=where, mend=mend)
        if stage.precision == "fp16" and not preflight.machine.gpus:
            yield Problem(what="fp16 needs a GPU", where=f"{where} on {kind}", mend=f"--set {where}=float32")
        elif stage.precision == "fp16" and stage.zero == 0:
            what = "DeepSpeed scales the loss of fp16 under ZeRO alone"
            yield Problem(what=what, where=where, mend=f"--set {name}.zero=1")


def template(preflight: Preflight) -> Iterator[Problem]:
    """The conversation template is known and made for the language model: another gives a loss of 0, or gibberish."""
    for name, stage in _trains(preflight):
        where = f"{name}.template"
        if stage.template not in names():
            mend = f"choose one of {', '.join(names())}"
            yield Problem(what=f"there is no template '{stage.template}'", where=where, mend=mend)
            continue
        families = _families(stage)
        fitting = sorted({name for family in families for name in for_family(family)})
        if families and stage.template not in fitting:
            what = f"template '{stage.template}' is not made for {' or '.join(families)} models"
            yield Problem(what=what, where=where, mend=f"choose one of {', '.join(fitting)}")


def _families(stage: Train) -> list[str]:
    """The families that the language model may be of: by the shape of one's own, by the name of a published one."""
    own = _own_config(stage)
    if own is None:
        named = _family(stage)
        return [named] if named else []
    language = own[0].get("text_config")
    text = {**own[0], **(language if isinstance(language, dict) else {})}
    architecture = " ".join(text.get("architectures") or ())
    kind = next((kind for word, kind in ORIGINAL_LANGUAGES.items() if f"Llava{word}" in architecture), None)
    shape = SimpleNamespace(model_type=kind or text.get("model_type"), vocab_size=text.get("vocab_size", 0))
    try:
        return [family.name for family in families_of(shape)]
    except InputError:
        return []


def _family(stage: Train) -> str | None:
    if stage.language and isinstance(stage.language.stage, Foundation):
        return "llama"
    said = list(texts(stage, inside=("language", "base")))
    if size := recognise_language(said):
        return size.family
    marks = " ".join(said).lower()
    return next((family for mark, family in FAMILIES if mark in marks and for_family(family)), None)


def projector(preflight: Preflight) -> Iterator[Problem]:
    """The projector was made for this tower and language model, by the same rules."""
    for name, stage in _trains(preflight):
        source = stage.projector_from
        if isinstance(source, ZooWeights):
            yield from _projector_file(preflight.recipe.name_of(source), stage, source, _estimate(preflight, stage).job)
        if not isinstance(source, Train):
            continue
        for field in ("vision", "language", "projector", "select_layer", "select_feature", "im_start_end"):
            ours, theirs = getattr(stage, field), getattr(source, field)
            if ours != theirs:
                said = [getattr(value, "name", value) for value in (theirs, ours)]
                what = f"its projector was made with {field} {said[0]}, it is used with {said[1]}"
                yield Problem(what=what, where=f"{name}.{field}", mend=f"use the same {field} in both stages")


def _projector_file(origin: str, stage: Train, source: ZooWeights, job: TrainingJob | None) -> Iterator[Problem]:
    """A projector's file that lies here tells by its shapes what it was made for."""
    if source.folder is None or not source.folder.exists() or job is None:
        return
    file = source.folder / projectors.FILE if source.folder.is_dir() else source.folder
    wanted = projectors.Projector(
        kind=stage.projector, vision_width=job.vision.hidden, language_width=job.language.hidden
    )
    try:
        found = projectors.read(file)
        projectors.check_fits(found.projector, wanted, str(file))
        projectors.mark_rows(found, stage.im_start_end, str(file))
    except InputError as error:
        mend = f"--set {origin}.folder=FILE with what {source.row().weights} holds"
        yield Problem(what=str(error), where=f"{origin}.folder", mend=mend)


def length(preflight: Preflight) -> Iterator[Problem]:
    """A picture's tokens leave room for text."""
    for name, stage in _trains(preflight):
        job = _estimate(preflight, stage).job
        if job is None:
            continue
        rule = image_rule(stage, job.vision)
        # the largest picture of each layout fills it
        tokens = max(count_tokens(rule, *size) for size in stage.pinpoints or ((rule.size, rule.size),))
        if tokens >= stage.max_length:
            what = f"a picture takes up to {tokens} tokens, a sample may have {stage.max_length}"
            mend = f"raise {name}.max_length above {tokens}"
            yield Problem(what=what, where=f"{name}.max_length", mend=mend)


def saving(preflight: Preflight) -> Iterator[Problem]:
    """A run saves before it ends: otherwise a crash costs all of it."""
    for name, stage in _trains(preflight):
        job = _estimate(preflight, stage).job
        samples = job.lengths.samples if job and job.lengths else records_at_most(stage.data)
        if samples is None:
            continue
        steps = int(samples * stage.epochs / stage.global_batch)
        if stage.save_every_steps > steps:
            what = f"it saves every {stage.save_every_steps} steps and has about {steps}"
            mend = f"--set {name}.save_every_steps={max(1, steps // 10)}"
            yield Problem(what=what, where=f"{name}.save_every_steps", mend=mend)


def schedule(preflight: Preflight) -> Iterator[Problem]:
    """DeepSpeed's settings hold no schedule or optimizer of their own: those would silently replace the recipe's."""
    for name, stage in _trains(preflight):
        file = f"zero{stage.zero}{'_offload' if stage.offload == 'cpu' else ''}.json"
        place = files("llavaflow.infra").joinpath("deepspeed").joinpath(file)
        if not place.is_file():
            mend = "choose zero 2 or 3 when offload is cpu"
            yield Problem(what=f"there are no DeepSpeed settings {file}", where=f"{name}.zero", mend=mend)
            continue
        if stage.zero == 3 and stage.lora is not None and stage.lora.quantization is not None:
            mend = f"--set {name}.zero=2, as upstream has"
            yield Problem(what="ZeRO-3 cannot divide quantised weights", where=f"{name}.zero", mend=mend)
        for key in {"scheduler", "optimizer"} & set(json.loads(place.read_text())):
            yield Problem(what=f"{file} sets a {key}", where=str(place), mend=f"remove `{key}` from it")


def trainable(preflight: Preflight) -> Iterator[Problem]:
    """What trains exists, and every rate and adapter belongs to a part that trains."""
    for name, stage in _trains(preflight):
        wants = {
            "vision_lr": ("vision_tower", stage.vision_lr is not None),
            "vision_from_layer": ("vision_tower", stage.vision_from_layer > 0),
            "projector_lr": ("mm_projector", stage.projector_lr is not None),
            "lora": ("language_model", stage.lora is not None),
        }
        for field, (part, given) in wants.items():
            if given and part not in stage.trainable:
                mend = f"add {part} to {name}.trainable, or leave {field} out"
                yield Problem(what=f"{field} is set and {part} does not train", where=f"{name}.{field}", mend=mend)
        for part in sorted({*stage.trainable} - {"mm_projector", "language_model", "vision_tower"}):
            mend = "choose out of mm_projector, language_model, vision_tower"
            yield Problem(what=f"there is no part '{part}'", where=f"{name}.trainable", mend=mend)


def grouping(preflight: Preflight) -> Iterator[Problem]:
    """Samples are grouped by modality only where there are two."""
    for name, stage in _trains(preflight):
        job = _estimate(preflight, stage).job
        if stage.batching == "grouped" and job and job.lengths and job.lengths.pictures in (0, job.lengths.samples):
            kind = "has" if job.lengths.pictures else "lacks"
            what = f"it groups by modality, and every sample {kind} a picture: only lengths are grouped"
            mend = f"nothing, or --set {name}.batching=packed, which needs no groups"
            yield Problem(what=what, where=f"{name}.batching", mend=mend, warning=True)


def start(preflight: Preflight) -> Iterator[Problem]:
    """A checkpoint is trained further as it was made (pictures cut or padded, the same layer), and is a whole one."""
    for name, stage in _trains(preflight):
        origin = stage.base.stage if stage.base else None
        row = zoo_row(origin)
        for what, mend in unlike(name, stage, row) if row else ():
            yield Problem(what=f"{row.weights if row else ''}: {what}", where=name, mend=mend)
        folder = origin.checkpoint if isinstance(origin, Base) else None
        if folder is not None and (folder / ADAPTER).is_file():
            mend = f"`pipeline checkpoint merge-lora {folder} OUT --base MODEL`, and start from OUT"
            yield Problem(what="it holds adapters and no whole model", where=str(folder), mend=mend)
        elif (own := _own_config(stage)) is not None:
            yield from _start(name, stage, *own)
        elif isinstance(origin, Base) and folder is not None and folder.exists():
            mend = f"--set {preflight.recipe.name_of(origin)}.checkpoint=FOLDER that from_pretrained would take"
            yield Problem(what="it holds no config.json that can be read", where=str(folder), mend=mend)


def _own_config(stage: Train) -> tuple[dict[str, Any], str] | None:
    """The configuration of a checkpoint that lies on this machine, and where it is."""
    origin = stage.base.stage if stage.base else None
    if isinstance(origin, Base) and origin.checkpoint is not None:
        for folder in (origin.checkpoint / "model", origin.checkpoint):
            if (config := folder / "config.json").is_file():
                table = _table(config)
                return (table, str(config)) if table is not None else None
    return None


def _table(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None for a damaged one."""
    try:
        return read_object(file)
    except (InputError, OSError):
        return None


def _start(name: str, stage: Train, config: Mapping[str, Any], where: str) -> Iterator[Problem]:
    if config.get("model_type") not in FORMS and not any(key.startswith("mm_") for key in config):
        what = f"a '{config.get('model_type')}' model is no LLaVA"
        yield Problem(what=what, where=where, mend=f"give one of {', '.join(FORMS)}, or one in the original format")
        return
    tiles = config.get("image_aspect_ratio") == "anyres" or config.get("model_type") == "llava_next"
    if tiles != (stage.image_aspect == "anyres"):
        made = "in tiles (anyres)" if tiles else "without tiles"
        mend = f"--set {name}.image_aspect={'anyres, with its pinpoints' if tiles else 'pad'}"
        yield Problem(what=f"the checkpoint saw pictures {made}, {name} does not", where=where, mend=mend)
    layer = config.get("mm_vision_select_layer", config.get("vision_feature_layer", stage.select_layer))
    if layer != stage.select_layer:
        what = f"the checkpoint takes layer {layer} of its tower, {name} takes {stage.select_layer}"
        yield Problem(what=what, where=where, mend=f"--set {name}.select_layer={layer}")


def tokenizer(preflight: Preflight) -> Iterator[Problem]:
    """The mark that ends an answer is one token of the tokenizer, where its files are here to be read."""
    for name, stage in _trains(preflight):
        file = _tokenizer_file(stage)
        if file is None or stage.template not in names():
            continue
        table = _table(file)
        if table is None or not isinstance(table.get("model"), dict):
            yield Problem(what="it is no tokenizer", where=str(file), mend="fetch it again, from where the model is")
            continue
        vocabulary = {token["content"] for token in table.get("added_tokens") or ()}
        pieces = table["model"].get("vocab") or {}
        vocabulary |= {*pieces} if isinstance(pieces, dict) else {piece for piece, _ in pieces}
        marks = [mark for mark in template_of(stage.template).stop if mark.startswith("<") and mark not in vocabulary]
        if marks:
            what = f"template '{stage.template}' ends answers with {marks[0]}, which is no token of the tokenizer"
            mend = f"--set {name}.template=NAME made for this model, or take the tokenizer that belongs to it"
            yield Problem(what=what, where=str(file), mend=mend)


def _tokenizer_file(stage: Train) -> Path | None:
    """`tokenizer.json` of the language model or checkpoint, on this disk; None where it is not here yet."""
    model = stage.base or stage.language
    origin = model.stage if model else None
    folders = [model.path / model.folder] if model and model.path else []
    if isinstance(origin, Base) and origin.checkpoint:
        folders = [origin.checkpoint / "model", origin.checkpoint]
    return next((folder / "tokenizer.json" for folder in folders if (folder / "tokenizer.json").is_file()), None)


def evaluation(preflight: Preflight) -> Iterator[Problem]:
    """Questions are put in the template that the model was trained in, and adapters come with their base."""
    for name, stage in preflight.waiting():
        if not isinstance(stage, Evaluate):
            continue
        model = stage.model
        if isinstance(model, Checkpoint) and model.base is None and (model.path / ADAPTER).is_file():
            mend = f"--set {name}.model.base=FOLDER with the language model that they were trained on"
            yield Problem(what="it holds adapters and no base is given", where=f"{name}.model.path", mend=mend)
        # none: the checkpoint brings its own, or a server has one
        if stage.template and stage.template not in names():
            what, mend = f"there is no template '{stage.template}'", f"choose one of {', '.join(names())}"
            yield Problem(what=what, where=f"{name}.template", mend=mend)
        if not isinstance(model, Train) or not {stage.template, model.template} <= set(names()):
            continue
        if (families := _families(model)) and not any(model.template in for_family(family) for family in families):
            # the gate `template` tells of that
            continue
        if template_of(stage.template).name != template_of(model.template).name:
            what = f"it asks in template '{stage.template}', the model learned '{model.template}'"
            mend = f"--set {name}.template={model.template}"
            yield Problem(what=what, where=f"{name}.template", mend=mend)


TRAINING: tuple[Gate, ...] = (
    global_batch, gpu_memory, precision, template, tokenizer, projector, length, saving, schedule, trainable, grouping,
    start, evaluation,
)  # fmt: skip
