"""How fast one GPU trains LLaVA: packed rows against upstream's grouped and padded batches. `make bench-gpu`.

    python tests/bench/gpu.py                         LLaVA-1.5 7B, random weights, lengths as in mix665k
    python tests/bench/gpu.py --shape tiny            the same on a CPU, in seconds: proves the script, not the speed

torch and transformers are all that it needs; the other files come from this repository. It does what one of eight GPUs
does in a step of 128 samples, and it does the share of the one on which the others would wait. Pictures are random
pixels in memory: reading and decoding are measured elsewhere. Both ways use the same model, kernels and optimizer; what
differs is which samples meet in a row. LLAVAFLOW_KERNELS forces or forbids kernels (models/kernels.py).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / ".pyroot")]

import gpu_model as models  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from llavaflow.models import kernels as kernel_choice  # noqa: E402
from llavaflow.models.labels import IGNORE, Encoded  # noqa: E402
from llavaflow.models.objective import Objective  # noqa: E402
from llavaflow.models.packing import Plan, collate_packed, collate_padded, plan_epoch  # noqa: E402
from llavaflow.models.samplers import grouped_by_modality  # noqa: E402

CENSUS = ROOT / "pipelines" / "_length_census.json"
GPUS, GLOBAL_BATCH, MAX_LENGTH = 8, 128, 2048
DRAWN = 20_000
# of the text of a sample, the end of it
LEARNED = 0.4
ROW_TOKENS = (32_768, 24_576, 16_384, 8_192, 4_096)
LOSS_TOKENS = 8192
DENSE_ROW_TOKENS = 4096
ASSUMED = (
    "lengths drawn from the deciles of pipelines/_length_census.json, cut at 2,048",
    f"{LEARNED:.0%} of the text supervised",
    "hours: all tokens of the mixture at eight times this rate, communication between GPUs not counted",
    "MFU: operations that the samples need (no padding, nothing computed twice) over the measured matrix rate",
)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A mixture: tokens per sample, image tokens included, and which have an image."""

    lengths: Any
    shown: Any
    total: int


def draw(shape: models.Shape, count: int) -> Samples:
    """Samples as in mix665k, by the census of its parts."""
    census = json.loads(CENSUS.read_text("utf-8"))
    mixture = census["mixtures"]["mix665k"]
    rng = np.random.default_rng(0)
    sizes = np.array(list(mixture.values()), float)
    parts = [census["parts"][name] for name in mixture]
    chosen = rng.choice(len(parts), size=count, p=sizes / sizes.sum())
    deciles = np.array([[part["deciles"][0], *part["deciles"]] for part in parts], float)
    at = rng.random(count) * 10
    low = at.astype(int)
    text = deciles[chosen, low] * (1 - at % 1) + deciles[chosen, low + 1] * (at % 1)
    shown = np.array([part["size"] is not None for part in parts])[chosen]
    lengths = np.minimum(text + shape.image_tokens * shown, MAX_LENGTH).astype(np.int64)
    return Samples(lengths=lengths, shown=shown, total=int(sizes.sum()))


def encoded(samples: Samples, shape: models.Shape, index: int) -> Encoded:
    """One sample with random words; the image stands in front."""
    length, image = int(samples.lengths[index]), shape.image_tokens * bool(samples.shown[index])
    ids = np.random.default_rng(index).integers(3, shape.language.vocab, length).astype(np.int32)
    labels = ids.copy()
    labels[: length - int((length - image) * LEARNED)] = IGNORE
    ids[:image] = models.IMAGE_ID
    return Encoded(input_ids=ids, labels=labels)


@dataclass(kw_only=True)
class Way:
    """A way to make batches: the plan of an epoch, and how the samples of one GPU become micro-batches."""

    name: str
    plan: Plan
    rows: Callable[[Any], list[Any]]
    packed: bool

    def share(self, step: int) -> list[Any]:
        """Micro-batches of the GPU that takes longest in a step."""
        micros = self.plan.step(step).rows
        loads = [sum(self._load(micro[rank]) for micro in micros) for rank in range(GPUS)]
        slowest = int(np.argmax(loads))
        return [row for micro in micros if len(micro[slowest]) for row in self.rows(micro[slowest])]

    def _load(self, row: Any) -> int:
        lengths = self.plan.lengths[row]
        return int(lengths.sum() if self.packed else lengths.max(initial=0) * len(lengths))


def ways(samples: Samples, row_tokens: int) -> list[Way]:
    """Ours, and upstream's: grouped by modality and length, 16 per GPU, padded to the longest of a micro-batch."""
    settings: dict[str, Any] = {"global_batch": GLOBAL_BATCH, "ranks": GPUS, "seed": 0, "epoch": 0}
    packed = plan_epoch(samples.lengths, max_row=row_tokens, **settings)
    per_gpu = GLOBAL_BATCH // GPUS
    text = samples.lengths - samples.lengths.min() + 1
    order = grouped_by_modality(np.where(samples.shown, text, -text).tolist(), per_device=per_gpu, world=GPUS)
    padded = plan_epoch(
        samples.lengths, max_row=row_tokens, order=order, deal="upstream", per_device=per_gpu, **settings
    )
    micro = max(size for size in (1, 2, 4, 8, 16) if size == 1 or size * MAX_LENGTH <= row_tokens)
    return [
        Way(name="packed", plan=packed, rows=lambda row: [row], packed=True),
        Way(
            name=f"grouped and padded, micro-batches of {micro}",
            plan=padded,
            rows=lambda row: [row[start : start + micro] for start in range(0, len(row), micro)],
            packed=False,
        ),
    ]


def tensors(rows: Sequence[Encoded], shown: int, shape: models.Shape, packed: bool, device: str) -> dict[str, Any]:
    """A micro-batch as the objective takes it."""
    if packed:
        row = collate_packed(rows)
        ids, labels, positions = row.input_ids, row.labels, row.position_ids
    else:
        side = collate_padded(rows, pad_token_id=0)
        ids, labels = side.input_ids, side.labels
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    arrays = {"input_ids": ids, "labels": labels, "position_ids": positions}
    micro = {name: torch.from_numpy(np.array(array, np.int64)).to(device) for name, array in arrays.items()}
    side_px = shape.vision.image
    micro["pixel_values"] = torch.randn(max(shown, 1), 3, side_px, side_px, device=device)
    micro["image_index"] = torch.arange(shown * shape.image_tokens, device=device)
    return micro


@dataclass(kw_only=True)
class Result:
    """What a way did in the measured steps. Rates are those of one GPU."""

    way: str
    steps: int
    tokens_per_second: float
    samples_per_second: float
    step_seconds: float
    fill: float
    peak_gib: float
    tflops: float
    mfu: float
    hours_on_8: float


@dataclass(kw_only=True)
class Bench:
    """A model on a device, ready to train."""

    shape: models.Shape
    regime: models.Regime
    samples: Samples
    device: str
    row_tokens: int
    matmul_tflops: float
    kernels: kernel_choice.Kernels

    def __post_init__(self) -> None:
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        model = models.random_model(self.shape, self.regime, self.device, dtype)
        kernel_choice.apply(self.kernels, model)
        self.objective = Objective(model, self.kernels, loss_parts=-(-self.row_tokens // LOSS_TOKENS))
        self.optimizer = models.Optimizer(model, self.regime.master)

    @property
    def longest_row(self) -> int:
        """On a dense mask attention costs the square of a row, so rows stay short there."""
        return min(self.row_tokens, DENSE_ROW_TOKENS) if self.kernels.dense_mask else self.row_tokens

    def run(self, way: Way, steps: int, warm: int) -> Result:
        """Time `steps` steps spread over the epoch, after `warm` more that are not counted."""
        chosen = np.linspace(0, len(way.plan) - 2, steps + warm).astype(int).tolist()
        for step in chosen[:warm]:
            self._step(way, step)
        self._settled()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        counted = [self._step(way, step) for step in chosen[warm:]]
        self._settled()
        seconds = time.perf_counter() - started
        tokens, count, places, work = (sum(column) for column in zip(*counted, strict=True))
        rate = tokens / seconds
        whole = float(self.samples.lengths.mean()) * self.samples.total
        return Result(
            way=way.name,
            steps=steps,
            tokens_per_second=round(rate, 1),
            samples_per_second=round(count / seconds, 3),
            step_seconds=round(seconds / steps, 3),
            fill=round(tokens / places, 4),
            peak_gib=round(torch.cuda.max_memory_allocated() / models.GIB, 2) if self.device == "cuda" else 0.0,
            tflops=round(work / seconds / 1e12, 3),
            mfu=round(work / seconds / 1e12 / self.matmul_tflops, 4),
            hours_on_8=round(whole / (rate * GPUS) / 3600, 2),
        )

    def _step(self, way: Way, step: int) -> tuple[int, int, int, float]:
        """One optimizer step: tokens, samples, places computed, useful operations."""
        micros = way.share(step)
        rows = [[encoded(self.samples, self.shape, int(index)) for index in micro] for micro in micros]
        learned = sum(int((one.labels[1:] != IGNORE).sum()) for row in rows for one in row)
        places = 0
        for micro, row in zip(micros, rows, strict=True):
            shown = int(self.samples.shown[micro].sum())
            batch = tensors(row, shown, self.shape, way.packed, self.device)
            places += batch["input_ids"].numel()
            (self.objective(**batch) / learned).backward()
        self.optimizer.step()
        lengths = [len(one) for row in rows for one in row]
        images = sum(int(self.samples.shown[micro].sum()) for micro in micros)
        return sum(lengths), len(lengths), places, models.flops(self.shape, self.regime, lengths, images, learned)

    def _settled(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def matmul_tflops(device: str) -> float:
    """The rate of one large matrix product in the type of the training: what the machine can really do."""
    size, rounds = (8192, 30) if device == "cuda" else (512, 3)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(3):
        wait(device)
        started = time.perf_counter()
        for _ in range(rounds):
            one @ other
        wait(device)
        best = max(best, 2 * size**3 * rounds / (time.perf_counter() - started) / 1e12)
    return best


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def results(
    make: Callable[[models.Regime, int], Bench], fitting: Iterator[tuple[models.Regime, int]], steps: int, warm: int
) -> tuple[Bench, list[Result]]:
    """Both ways, with the first that the memory really holds."""
    for regime, row_tokens in fitting:
        made: Bench | None = None
        try:
            made = make(regime, row_tokens)
            return made, [made.run(way, steps, warm) for way in ways(made.samples, made.longest_row)]
        except torch.OutOfMemoryError:
            print(f"{regime.name}: rows of {row_tokens:,} tokens do not fit", file=sys.stderr)
        del made
        gc.collect()
        torch.cuda.empty_cache()
    raise SystemExit("the GPU holds none of it: take a smaller --shape.")


def table(report: dict[str, Any]) -> Iterator[str]:
    """The report for people, as Markdown."""
    yield f"{report['shape']} on {report['device']}: {report['regime']}; rows of {report['row_tokens']:,} tokens"
    yield f"{report['kernels']}; measured matrix rate {report['matmul_tflops']:.1f} TFLOP/s"
    yield ""
    yield "| batches | tokens/s | samples/s | fill | peak GiB | MFU | hours for the mixture on 8 |"
    yield "|---|---|---|---|---|---|---|"
    for row in report["ways"]:
        yield (
            f"| {row['way']} | {row['tokens_per_second']:,.0f} | {row['samples_per_second']:.2f} | {row['fill']:.3f} "
            f"| {row['peak_gib']:.1f} | {row['mfu']:.1%} | {row['hours_on_8']:.1f} |"
        )
    yield ""
    yield f"packed over padded: {report['speedup']:.2f} x (tokens/s)"


def measure(shape: models.Shape, steps: int, warm: int) -> dict[str, Any]:
    """The whole measurement as one document."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and shape.name != "tiny":
        raise SystemExit("no GPU here. `--shape tiny` runs on a CPU and proves the script.")
    memory = torch.cuda.get_device_properties(0).total_memory / models.GIB if device == "cuda" else 8.0
    fitting = models.candidates(shape, memory, ROW_TOKENS if device == "cuda" else ROW_TOKENS[-1:])
    wishes = kernel_choice.parse(os.environ.get(kernel_choice.SETTING, ""))
    kernels = kernel_choice.settle(wishes, zero=0, half=device == "cuda", family="llama")
    rate, samples = matmul_tflops(device), draw(shape, DRAWN if device == "cuda" else 512)

    def make(regime: models.Regime, row_tokens: int) -> Bench:
        return Bench(
            shape=shape, regime=regime, samples=samples, device=device, row_tokens=row_tokens, matmul_tflops=rate,
            kernels=kernels,
        )  # fmt: skip

    made, found = results(make, fitting, steps, warm)
    return {
        "device": torch.cuda.get_device_name(0) if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "shape": shape.name,
        "regime": made.regime.name,
        "kernels": str(kernels),
        "row_tokens": made.longest_row,
        "matmul_tflops": round(rate, 3),
        "assumed": ASSUMED,
        "ways": [asdict(one) for one in found],
        "speedup": round(found[0].tokens_per_second / found[1].tokens_per_second, 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=models.SHAPES, default="llava-1.5-7b")
    parser.add_argument("--steps", type=int, default=8, help="measured steps of each way")
    parser.add_argument("--warm", type=int, default=2, help="steps before them")
    parser.add_argument("--out", type=Path, help="also write the report there, as JSON")
    chosen = parser.parse_args(arguments)
    report = measure(models.SHAPES[chosen.shape], chosen.steps, chosen.warm)
    print("\n".join(table(report)))
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
