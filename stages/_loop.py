"""The training loop, as each worker of the Ray Train job runs it.

Assemble the model, tokenise this worker's share, plan, resume, step, save, export. The loop owns what a training
framework would hide: the loss is summed over supervised tokens and divided by those of the whole global batch, a step
holds exactly the recipe's samples however many workers there are, and the cursor of a checkpoint is one number.

Everything that can go wrong on one worker alone (a broken image, a loss that is no number) is agreed on first, so that
all workers stop together with one message instead of one stopping and the rest waiting for it.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.distributed as distributed

from llavaflow.infra.errors import LlavaflowError, StageFailed
from llavaflow.models import engine as engines
from llavaflow.models import kernels as kernel_choice
from llavaflow.models import llava as llavas
from llavaflow.models import marks, parts
from llavaflow.models.engine import Optimization
from llavaflow.models.kernels import Kernels
from llavaflow.models.language import check_template
from llavaflow.models.llava import Llava
from llavaflow.models.lora import inject, restored
from llavaflow.models.objective import Objective
from llavaflow.models.templates import template
from llavaflow.stages import _state, _training_failure
from llavaflow.stages._batches import Order, StepBatch, Steps, loader
from llavaflow.stages._corpus import Corpus, Encoding, encode_corpus, rejected
from llavaflow.stages._export import export
from llavaflow.stages._job import Job, Loss
from llavaflow.stages._training_log import TrainingLog

CACHE, BROKEN = "encoded", "broken_images.txt"
# below this, somebody has brought a small set to a recipe for a large one
FEW_STEPS = 10
# where attention works on a dense mask, rows are folded to about this length
FOLD_TOKENS = {"cpu": 384, "cuda": 4096}
# supervised tokens that meet the vocabulary at once are at most these
LOSS_TOKENS = 8192


def run(config: Mapping[str, Any]) -> None:
    """The entry of a worker. What it leaves when it fails is told in `_training_failure.py`."""
    job: Job = config["job"]
    earlier = _training_failure.read(job.work)
    if earlier is not None and earlier.final:
        return
    torch.set_num_threads(torch.get_num_threads() if torch.cuda.is_available() else 1)
    try:
        _train(job)
    except Exception as error:
        found = _state.newest(job.work)
        _training_failure.leave(job.work, error, step=found[1].step if found else 0, earlier=earlier)
        if not isinstance(error, LlavaflowError):
            raise
        # all workers met it: they end together, and Ray has nothing to restart
        distributed.barrier()


def _train(job: Job) -> None:
    rank, workers = distributed.get_rank(), distributed.get_world_size()
    model = _assemble(job)
    kernels = kernel_choice.settle(
        job.wishes,
        zero=job.zero,
        half=job.precision != "float32",
        family=model.model.config.text_config.model_type,
    )
    kernel_choice.apply(kernels, model.model)
    counts = parts.set_trainable(model, job.trainable, job.vision_from_layer, adapters=job.lora is not None)
    corpus = _corpus(job, model, rank, workers)
    steps = Steps(corpus, job.data, model.image_rule, _laid_out(job, kernels), rank, model.tokenizer.pad_token_id)
    before = parts.checksums(model.model.state_dict().items()) if rank == 0 else {}
    # a head that is tied to the embeddings changes with them
    named = model.model.named_parameters(remove_duplicate=False)
    trained = [name for name, parameter in named if parameter.requires_grad]
    settings = engines.engine_config(job.zero, job.offload, job.precision, job.optimization.max_grad_norm)
    found = _state.newest(job.work)
    if found is not None:
        settings |= _state.universal_settings(found[1], workers)
    objective = Objective(model.model, kernels, loss_parts=-(-job.order.row_tokens // LOSS_TOKENS))
    engine = engines.start(objective, _scheduled(job, len(steps)), settings)
    begin = 0
    if found is not None:
        _state.load(engine, *found)
        begin = found[1].step
    with _Log(job, begin, len(steps), rank) as log:
        lost = len(rejected(job.work / CACHE)) if rank == 0 else 0
        size = f"{len(corpus):,} samples ({lost:,} rejected), {len(steps):,} steps"
        where = f"{workers} workers on {engine.device.type}, ZeRO-{job.zero}, {job.precision}"
        log.say([*counts, f"{size}, {where}", f"kernels: {kernels}"])
        if len(steps) < FEW_STEPS:
            log.say([f"few steps to learn in: a global_batch below {job.order.global_batch} makes more"])
        _loop(engine, steps, job, begin, log)
    state = engines.gathered(engine)
    if rank == 0:
        changed = parts.check_changes(before, parts.checksums(state.items()), trained)
        if job.lora is not None and job.lora.quantization is not None:
            # adapters are merged into the weights that they were learned for, not into their rounded form
            model = _join(job, rounded=False)
            state = restored(state, model)
        export(
            model,
            state,
            job.out,
            whole=job.whole,
            template=job.template,
            lora=job.lora,
            counts=[asdict(count) for count in counts],
            trained=trained,
            changed=changed,
            kernels=str(kernels),
        )
        _training_failure.clear(job.work)
    distributed.barrier()


def _assemble(job: Job) -> Llava:
    """Every worker builds the same model: fresh weights come from the recipe's seed alone."""
    model = _join(job, rounded=True)
    if job.projector is not None:
        llavas.load_projector(model, job.projector)
    if job.lora is not None:
        inject(model, job.lora, job.order.seed)
    if model.im_start_end and "mm_projector" in job.trainable and "language_model" not in job.trainable:
        marks.release(model.model, model.mark_ids)
    if job.gradient_checkpointing:
        model.model.gradient_checkpointing_enable({"use_reentrant": False})
    model.model.train()
    return model


def _join(job: Job, *, rounded: bool) -> Llava:
    """The model that the job starts from; `rounded`: quantised, if it is to be."""
    quantization = job.lora.quantization if job.lora is not None and rounded else None
    if job.base is not None:
        model = llavas.load(job.base, precision=job.precision, quantization=quantization)
        return llavas.as_designed(model, job.design, job.base)
    return llavas.build(
        job.vision,
        job.language,
        job.design,
        precision=job.precision,
        seed=job.order.seed,
        quantization=quantization,
    )


def _corpus(job: Job, model: Llava, rank: int, workers: int) -> Corpus:
    check_template(template(job.template, model.im_start_end), model.model.config, model.tokenizer)
    encoding = Encoding(
        template=job.template,
        masking=job.masking,
        max_length=job.max_length,
        image_rule=model.image_rule,
        im_start_end=model.im_start_end,
    )
    cache = job.work / CACHE
    encode_corpus(job.data, cache, encoding, model.tokenizer, model.image_token_id, rank, workers)
    distributed.barrier()
    corpus = Corpus(cache)
    if len(corpus) == 0:
        raise StageFailed(f"no sample of {job.data} can be trained on; rejected: {rejected(cache)[:3]}")
    return corpus


def _laid_out(job: Job, kernels: Kernels) -> Order:
    """The order with rows folded where long ones cost too much."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return replace(job.order, fold_tokens=FOLD_TOKENS[device] if kernels.dense_mask else None)


def _scheduled(job: Job, steps: int) -> Optimization:
    return Optimization(**asdict(job.optimization) | {"steps": steps})


def _loop(engine: Any, steps: Steps, job: Job, begin: int, log: _Log) -> None:
    batches = loader(steps, begin, job.loader_processes, pin_memory=engine.device.type == "cuda")
    started, skipped = time.perf_counter(), engine.skipped_steps
    for index, batch in enumerate(batches, begin):
        # random state is a function of the position, so a resumed run draws what the unbroken one drew
        torch.manual_seed(hash((job.order.seed, index, distributed.get_rank())))
        expected = steps.samples(index)
        totals = _agreed(batch, job, expected, engine.device)
        log.samples(index + 1, [steps.corpus.name(sample) for sample in expected])
        rate = engine.optimizer.param_groups[0]["lr"]
        loss = engines.step(engine, batch.on(engine.device), _scales(batch, job.loss, totals["supervised"]))
        mean = _sum([loss], engine.device)[0] / totals["supervised"]
        norm = float(engine.get_global_grad_norm() or 0.0)
        if job.precision == "fp16" and engine.skipped_steps > skipped:
            # DeepSpeed has lowered the loss scale
            skipped, norm = engine.skipped_steps, 0.0
            log.say([f"step {index + 1}: the gradients overflowed fp16, its update is left out"])
        _check_numbers(mean, norm, index + 1)
        now = time.perf_counter()
        log.step(index + 1, mean, rate, norm, totals, now - started)
        started = now
        if job.save_every_steps and (index + 1) % job.save_every_steps == 0 and index + 1 < len(steps):
            _state.save(engine, job.work, step=index + 1, zero=job.zero)


def _agreed(batch: StepBatch, job: Job, expected: list[int], device: torch.device) -> dict[str, float]:
    """The sums over all workers. All stop together if any of them met a broken image and the policy is to fail, or if
    they do not have each `expected` sample exactly once between them."""
    mine = [sum(batch.supervised), batch.tokens, batch.places, len(batch.samples), len(batch.broken)]
    held = Counter(batch.samples)
    sums = _sum([*mine, *(held[sample] for sample in expected)], device)
    supervised, tokens, places, samples, broken = sums[: len(mine)]
    if samples != len(expected) or any(times != 1 for times in sums[len(mine) :]):
        raise StageFailed(f"a step of {len(expected)} samples was dealt wrong: the workers hold {samples:.0f}.")
    if broken:
        lines: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(lines, batch.broken)
        names = [line for part in lines for line in part]
        if job.broken_images == "fail":
            raise StageFailed(
                f"{len(names)} broken images, first: {names[0]}. Repair the data or set broken_images=skip."
            )
        if distributed.get_rank() == 0:
            with (job.work / BROKEN).open("a", encoding="utf-8") as record:
                record.writelines(f"{name}\n" for name in names)
    if supervised == 0:
        reason = "its images are broken" if broken else "check the template and the labels"
        raise StageFailed(f"a step has no supervised token: the loss would be 0 ({reason}).")
    return {"supervised": supervised, "tokens": tokens, "places": places, "samples": samples}


def _scales(batch: StepBatch, loss: Loss, supervised: float) -> list[float]:
    """Factors on summed micro-batch losses. Gradients are averaged over workers; the token loss takes that back."""
    if loss == "token":
        return [distributed.get_world_size() / supervised] * len(batch.micros)
    return [1 / (max(1, count) * len(batch.micros)) for count in batch.supervised]


def _check_numbers(loss: float, norm: float, step: int) -> None:
    """Stop before numbers that are none reach a training state or the checkpoint. A gradient overflows before the loss
    does, and its update has spoilt the weights when the next loss tells of it."""
    for what, value in (("loss", loss), ("gradient", norm)):
        if not math.isfinite(value):
            raise StageFailed(
                f"the {what} is {value} at step {step}. Lower the learning rate, or look at the samples of that step "
                "(the last line of seen.jsonl)."
            )
    if loss == 0.0:
        raise StageFailed(f"the loss is exactly 0 at step {step}: labels and logits do not meet.")


def _sum(values: list[float] | list[int], device: torch.device) -> list[float]:
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(tensor)
    return [float(value) for value in tensor.tolist()]


class _Log:
    """The training log on the first worker, nothing on the others."""

    def __init__(self, job: Job, begin: int, steps: int, rank: int) -> None:
        self._steps = steps
        self._log = TrainingLog(job.out, job.work, begin, job.tracking) if rank == 0 else None

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._log is not None:
            self._log.__exit__(*error)

    def say(self, lines: list[Any]) -> None:
        if self._log is not None:
            self._log.say(lines)

    def samples(self, step: int, ids: list[str]) -> None:
        if self._log is not None:
            self._log.samples(step, ids)

    def step(
        self, step: int, loss: float, rate: float, norm: float, totals: Mapping[str, float], seconds: float
    ) -> None:
        if self._log is None:
            return
        row = {
            "step": step,
            "steps": self._steps,
            "loss": loss,
            "lr": rate,
            "grad_norm": norm,
            "tokens": int(totals["tokens"]),
            "samples": int(totals["samples"]),
            "pad_fraction": 1 - totals["tokens"] / totals["places"],
            "seconds": seconds,
            "tokens_per_second": totals["tokens"] / seconds,
        }
        self._log.step(row)
