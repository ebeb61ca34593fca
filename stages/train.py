"""Train: projector pretraining and visual instruction tuning, one stage whose fields say which.

    Train(data=caption, vision=..., language=..., template="plain", trainable=("mm_projector",), ...)      stage 1
    Train(data=mix, ..., projector_from=pretrain, template="v1", trainable=("mm_projector", "language_model"))  stage 2

Upstream's defaults change the model when a flag is left out, so what decides the result has no default here, or the
paper's. A Ray Train job runs the loop (`_loop.py`) on as many workers as the machine has; neither their number nor the
size of a micro-batch is a field, because the result must not depend on them. Nor are kernels (`LLAVAFLOW_KERNELS`) and
trackers (`LLAVAFLOW_TRACKERS`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from llavaflow.infra.artifact import Artifact, Json, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.models.lora import Lora
from llavaflow.models.projector import depth
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages._stage import Stage

if TYPE_CHECKING:
    from llavaflow.infra.machine import Machine
    from llavaflow.stages._batches import Order
    from llavaflow.stages._job import Job
    from llavaflow.stages._trackers import Tracking

PROJECTOR_FILE = "mm_projector.bin"
CPU_ROW_TOKENS = 4096
GPU_TOKENS_PER_GIB = 128
# of workers and nodes; an exception that comes back ends the run much sooner (_training_failure.py)
MAX_FAILURES = 5
# fields that count something, and those that may be nothing
COUNTS = ("global_batch", "max_length", "epochs", "image_size_px", "lora.r", "lora.alpha")
# no steps between two states: nothing is saved on the way
AMOUNTS = (
    *("learning_rate", "projector_lr", "vision_lr", "weight_decay", "max_grad_norm"),
    *("vision_from_layer", "save_every_steps", "seed"),
)


@dataclass(frozen=True, kw_only=True)
class Train(Stage):
    """Train parts of a LLaVA model on LLaVA records.

    data            a stage that writes data.jsonl, images.parquet and shards/
    base            a whole LLaVA checkpoint to go on from, made as the other settings say; then vision, language and
                    projector_from are not used
    projector_from  an earlier Train whose mm_projector.bin is taken
    trainable       out of mm_projector, language_model, vision_tower; the tower only from vision_from_layer up
    pinpoints       anyres (merged by spatial_unpad): the (width, height) that an image may be cut to
    image_size_px   of a ConvNeXt tower; added_stage: blocks and width of the fifth stage that goes on top of it
    im_start_end    every image stands between <im_start> and <im_end>, whose rows learn with the projector
    global_batch    samples per optimizer step over all workers
    max_length      tokens of a sample, image tokens included; longer ones are cut by turns
    batching        packed: samples end to end; padded: upstream's batches; grouped: those, by modality and length
    loss            token: mean over all supervised tokens of the global batch; micro-batch-mean: upstream's
    masking         answers: the answer and its end mark are learned; upstream: as upstream's masker has it
    broken_images   fail, or skip: the sample teaches nothing and stands in dropped.jsonl with its reason
    lora            train the language model through adapters; they are merged into model/ and kept beside it; with a
                    quantization the frozen weights are held in 4 or 8 bits meanwhile (QLoRA, not under ZeRO-3)
    precision       bf16 or fp16 with float32 master weights, or float32; fp16 is for GPUs before Ampere (V100), which
                    have no bf16, and scales its loss
    """

    kind: ClassVar[Kind] = "checkpoint"
    folders_by_content: ClassVar[bool] = True
    # 2: batches grouped by upstream's own lengths, and the samples of every step named
    version: ClassVar[str] = "2"

    data: Stage
    vision: Pretrained | None = None
    language: Pretrained | None = None
    base: Pretrained | None = None
    projector_from: Stage | None = None
    projector: str = "mlp2x_gelu"
    select_layer: int = -2
    select_feature: Literal["patch", "cls_patch"] = "patch"
    image_aspect: Literal["square", "pad", "anyres"]
    pinpoints: tuple[tuple[int, int], ...] = ()
    image_size_px: int | None = None
    added_stage: tuple[int, int] | None = None
    im_start_end: bool = False
    template: str
    masking: Literal["answers", "upstream"] = "answers"
    trainable: tuple[str, ...]
    vision_from_layer: int = 0
    learning_rate: float
    projector_lr: float | None = None
    vision_lr: float | None = None
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = 0.03
    epochs: int = 1
    global_batch: int
    max_length: int = 2048
    batching: Literal["packed", "padded", "grouped"] = "packed"
    loss: Literal["token", "micro-batch-mean"] = "token"
    lora: Lora | None = None
    zero: Literal[0, 1, 2, 3]
    offload: Literal["none", "cpu"] = "none"
    precision: Literal["bf16", "fp16", "float32"] = "bf16"
    gradient_checkpointing: bool = True
    broken_images: Literal["fail", "skip"] = "fail"
    save_every_steps: int = 500
    seed: int = 42

    def __post_init__(self) -> None:
        for least, names in ((1, COUNTS), (0, AMOUNTS)):
            for name in names:
                holder = self.lora if name.startswith("lora.") else self
                value = getattr(holder, name.removeprefix("lora."), None)
                if value is not None and value < least:
                    raise InputError(f"a training with {name} {value} cannot be: at least {least} is needed.")
        shares = {"warmup_ratio": self.warmup_ratio, "lora.dropout": self.lora.dropout if self.lora else 0.0}
        if wrong := [f"{name} {value}" for name, value in shares.items() if not 0 <= value <= 1]:
            raise InputError(f"a training with {wrong[0]} cannot be: it is a share, from 0 to 1.")
        if not self.trainable:
            raise InputError("a training of nothing cannot be: name parts in trainable.")
        if self.image_aspect == "anyres" and not self.pinpoints:
            raise InputError("image_aspect anyres cuts pictures to pinpoints, and there are none: set both.")
        depth(self.projector)

    def run(self, ctx: RunContext) -> Artifact:
        from llavaflow.infra import ray
        from llavaflow.stages import _loop, _training_failure
        from llavaflow.stages._training_watch import Watch

        job = self.job(ctx)
        ctx.work.mkdir(parents=True, exist_ok=True)
        ctx.out.mkdir(parents=True, exist_ok=True)
        _training_failure.prepare(ctx.work)
        try:
            with Watch(ctx) as watch:
                ray.train(
                    _loop.run,
                    workers=job.order.workers,
                    config={"job": job},
                    storage=ctx.work / "ray",
                    gpus_per_worker=1 if ctx.machine.gpus else 0,
                    max_failures=MAX_FAILURES,
                    files=job.files,
                    watch=watch.look,
                )
        finally:
            _training_failure.raise_failure(ctx.work)
        if not (ctx.out / PROJECTOR_FILE).exists():
            raise StageFailed(f"training ended without writing {PROJECTOR_FILE} under {ctx.out}.")
        facts = self._facts(ctx.out, ctx.work)
        shutil.rmtree(ctx.work / _loop.CACHE, ignore_errors=True)
        return ctx.finish(facts)

    def job(self, ctx: RunContext) -> Job:
        """The run with every path resolved and the layout of this machine filled in."""
        from llavaflow.models import kernels
        from llavaflow.models.engine import Optimization
        from llavaflow.models.llava import Design
        from llavaflow.stages._job import Job

        if self.lora is not None and self.lora.quantization is not None and self.zero == 3:
            raise InputError("ZeRO-3 cannot divide quantised weights among workers. Set zero=2, as upstream has.")
        self._check_precision(ctx.machine)
        return Job(
            data=ctx.path(self.data),
            out=ctx.out.absolute(),
            work=ctx.work.absolute(),
            vision=self.vision.resolve(ctx) if self.vision and not self.base else "",
            language=self.language.resolve(ctx) if self.language and not self.base else "",
            base=self._base(ctx),
            projector=ctx.path(self.projector_from) / PROJECTOR_FILE if self.projector_from else None,
            design=Design(
                projector=self.projector,
                select_layer=self.select_layer,
                select_feature=self.select_feature,
                image_aspect=self.image_aspect,
                pinpoints=self.pinpoints,
                image_size_px=self.image_size_px,
                added_stage=self.added_stage,
                im_start_end=self.im_start_end,
            ),
            trainable=self.trainable,
            vision_from_layer=self.vision_from_layer,
            optimization=Optimization(
                learning_rate=self.learning_rate,
                projector_lr=self.projector_lr,
                vision_lr=self.vision_lr,
                weight_decay=self.weight_decay,
                max_grad_norm=self.max_grad_norm,
                schedule=self.schedule,
                warmup_ratio=self.warmup_ratio,
            ),
            order=self._order(ctx),
            template=self.template,
            masking=self.masking,
            max_length=self.max_length,
            loss=self.loss,
            lora=self.lora,
            zero=self.zero,
            offload=self.offload,
            precision=self.precision,
            gradient_checkpointing=self.gradient_checkpointing,
            broken_images=self.broken_images,
            save_every_steps=self.save_every_steps,
            loader_processes=max(1, ctx.machine.cores // max(1, ctx.machine.ranks // ctx.machine.nodes)),
            whole=self.trainable != ("mm_projector",),
            wishes=kernels.parse(os.environ.get(kernels.SETTING, "")),
            tracking=self._tracking(ctx),
        )

    def _check_precision(self, machine: Machine) -> None:
        if self.precision == "fp16" and not machine.gpus:
            raise InputError("fp16 needs a GPU, and this machine has none. Set precision=float32.")
        if self.precision == "fp16" and self.zero == 0:
            raise InputError("DeepSpeed scales the loss of fp16 under ZeRO alone. Set zero=1.")
        if self.precision == "bf16" and machine.gpus and not machine.bf16:
            raise InputError(
                f"{machine.kind} has no bf16. Set precision=fp16, or float32, which takes twice the memory."
            )

    def _tracking(self, ctx: RunContext) -> Tracking:
        from llavaflow.stages import _trackers

        return _trackers.Tracking(
            names=_trackers.parse(os.environ.get(_trackers.SETTING, "")),
            run=ctx.fingerprint,
            title=f"{ctx.recipe}/{ctx.stage}",
            folder=Path.cwd(),
            settings=self.settings(),
        )

    def _base(self, ctx: RunContext) -> str | None:
        if (self.base is None) == (self.vision is None or self.language is None):
            raise InputError("Train needs either `base`, a whole LLaVA checkpoint, or both `vision` and `language`.")
        return self.base.resolve(ctx) if self.base else None

    def _order(self, ctx: RunContext) -> Order:
        from llavaflow.stages._batches import Order

        machine = ctx.machine
        share = max(1, self.global_batch // machine.ranks)
        limit = max(1, row_tokens(machine) // self.max_length)
        return Order(
            batching=self.batching,
            global_batch=self.global_batch,
            seed=self.seed,
            epochs=self.epochs,
            workers=machine.ranks,
            row_tokens=row_tokens(machine),
            per_device=max(size for size in range(1, share + 1) if share % size == 0 and size <= limit),
        )

    def _facts(self, out: Path, work: Path) -> dict[str, Json]:
        """The numbers a reader wants: what was trained on, for how long, to which loss."""
        from llavaflow.stages._corpus import broken, rejected
        from llavaflow.stages._export import SUMMARY
        from llavaflow.stages._loop import BROKEN, CACHE
        from llavaflow.stages._training_log import LOG, read_log

        rows = read_log(out / LOG)
        lost = [*rejected(work / CACHE), *broken(work / BROKEN)]
        (out / "dropped.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lost), "utf-8")
        tokens, tail = sum(row["tokens"] for row in rows), rows[-max(1, len(rows) // 10) :]
        places = sum(row["tokens"] / (1 - row["pad_fraction"]) for row in rows)
        return {
            "samples": sum(row["samples"] for row in rows) // self.epochs,
            "dropped": dict(Counter(row["reason"] for row in lost)),
            "steps": len(rows),
            "tokens": tokens,
            "pad_fraction": round(1 - tokens / places, 4),
            "first_loss": round(rows[0]["loss"], 4),
            "last_loss": round(sum(row["loss"] for row in tail) / len(tail), 4),
            "tokens_per_second": round(tokens / sum(row["seconds"] for row in rows), 1),
            **json.loads((out / SUMMARY).read_text("utf-8")),
        }


def row_tokens(machine: Machine) -> int:
    """Tokens of one micro-step of one worker: what leaves room for the activations of a checkpointed 7B model."""
    by_memory = int(machine.gpu_memory_gib * GPU_TOKENS_PER_GIB) if machine.gpus else CPU_ROW_TOKENS
    return machine.row_tokens or by_memory
