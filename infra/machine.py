"""Machine: what a run is launched on. Chosen with `--machine`, never fingerprinted.

    a100-80g        one node as sold: 8 GPUs
    a100-80g:2x8    two nodes of 8 GPUs
    a100-40g@2048   micro-steps of 2,048 tokens per GPU: less memory, more accumulation, the same result
    cpu             this computer
    box.toml:1x2    a machine of your own: a TOML file with the fields below; `like = "a100-40g"` fills in the others

Adding a kind is one entry in KINDS. Peak rates are the vendors' dense half-precision tensor figures (bf16 where the
chip has it, fp16 with fp32 accumulation otherwise), and single precision outside the tensor cores for float32, which is
what torch does unless told otherwise; memory is what the driver reports; links are GPU to GPU inside a node, both
directions together, halved on PCIe, where every byte goes through the host.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

from llavaflow.infra.errors import InputError, unknown
from llavaflow.infra.prices import GPU_HOUR


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Nodes of one kind: GPUs, memory and rates per node or GPU, and what an hour costs (None: no public price).

    file: that describes a machine of one's own. row_tokens: of one micro-step on one device; 0: its memory decides.
    """

    kind: str
    nodes: int = 1
    gpus: int = 0
    cores: int = 2
    gpu_memory_gib: float = 0.0
    memory_gib: float = 8.0
    peak_tflops: float = 0.0
    float32_tflops: float = 0.0
    memory_gbs: float = 0.0
    link_gbs: float = 0.0
    network_gbs: float = 25.0
    bf16: bool = True
    usd_per_gpu_hour: float | None = None
    launcher: str = "ray"
    title: str = ""
    row_tokens: int = 0
    file: str = ""

    @property
    def devices(self) -> int:
        """GPUs over all nodes; 0 on a CPU box."""
        return self.nodes * self.gpus

    @property
    def ranks(self) -> int:
        """Training workers: one per GPU, on a CPU box two (the least that exercises the distributed path)."""
        return self.devices or 2 * self.nodes

    @property
    def name(self) -> str:
        """What a reader calls it."""
        size = f":{self.nodes}x{self.gpus}" if self.gpus else ""
        return f"{self.kind}{size}{f'@{self.row_tokens}' if self.row_tokens else ''}"

    @property
    def spec(self) -> str:
        """As `--machine` takes it: the name, with the file of a machine of one's own in place of its kind."""
        return f"{self.file or self.kind}{self.name.removeprefix(self.kind)}"


def _gpu(
    kind: str, title: str, memory_gib: float, peak: float, single: float, memory_gbs: float, link_gbs: float
) -> Machine:
    return Machine(
        kind=kind,
        title=title,
        gpus=8,
        cores=96,
        memory_gib=960,
        gpu_memory_gib=memory_gib,
        peak_tflops=peak,
        float32_tflops=single,
        memory_gbs=memory_gbs,
        link_gbs=link_gbs,
        bf16=kind not in BEFORE_BF16,
        usd_per_gpu_hour=GPU_HOUR.get(kind),
    )


BEFORE_BF16 = ("v100-32g",)

# kind, title, memory GiB, half precision and float32 TFLOP/s, memory and link GB/s
KINDS: dict[str, Machine] = {
    machine.kind: machine
    for machine in (
        _gpu("a100-80g", "NVIDIA A100 SXM 80 GB", 80, 312, 19.5, 2039, 600),
        _gpu("a100-40g", "NVIDIA A100 SXM 40 GB", 40, 312, 19.5, 1555, 600),
        _gpu("a800-80g", "NVIDIA A800 SXM 80 GB", 80, 312, 19.5, 2039, 400),
        _gpu("h100", "NVIDIA H100 SXM 80 GB", 79.6, 989, 67, 3350, 900),
        _gpu("h200", "NVIDIA H200 SXM 141 GB", 140.4, 989, 67, 4800, 900),
        _gpu("b200", "NVIDIA B200 180 GB", 179, 2250, 75, 8000, 1800),
        _gpu("v100-32g", "NVIDIA V100 SXM2 32 GB", 32, 125, 15.7, 900, 300),
        _gpu("rtx3090", "NVIDIA RTX 3090 24 GB", 24, 71, 35.6, 936, 32),
        _gpu("a6000", "NVIDIA RTX A6000 48 GB", 48, 155, 38.7, 768, 32),
        Machine(kind="cpu", title="this computer, without a GPU"),
    )
}

_SPEC = re.compile(r"^(?P<kind>[^@]+?)(?::(?P<nodes>\d+)x(?P<gpus>\d+))?(?:@(?P<tokens>\d+))?$")


def parse(spec: str) -> Machine:
    """The machine that `KIND[:NODESxGPUS][@TOKENS]` names, KIND one of ours or FILE.toml. Raises InputError."""
    match = _SPEC.match(spec)
    if match is None or (":" in spec and match["nodes"] is None):
        raise InputError(f"cannot read machine '{spec}'. Write KIND or KIND:NODESxGPUS, such as a100-80g:2x8.")
    machine = _kind(match["kind"])
    if match["tokens"]:
        machine = dataclasses.replace(machine, row_tokens=int(match["tokens"]))
    if match["nodes"] is None:
        return machine
    nodes, gpus = int(match["nodes"]), int(match["gpus"])
    if nodes < 1 or (gpus < 1 and machine.gpus):
        raise InputError(f"machine '{spec}' has no device to run on. Ask for at least one node and one GPU.")
    return dataclasses.replace(machine, nodes=nodes, gpus=gpus if machine.gpus else 0)


def _kind(kind: str) -> Machine:
    if kind.endswith(".toml"):
        return load(Path(kind))
    if kind == "cpu":
        return _this_cpu()
    if kind not in KINDS:
        raise unknown("machine", kind, KINDS, "infra/machine.py; a file ending in .toml describes your own")
    return KINDS[kind]


def load(path: Path) -> Machine:
    """A machine described by a TOML file with the fields of Machine; `kind` defaults to the file's name.

    `like` names a kind whose fields hold where the file says nothing. Raises InputError for a machine that cannot be.
    """
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the machine file {path}: {error}.") from error
    like = table.pop("like", None)
    # a list of its names: what else a file may say has no hash
    if like is not None and like not in [*KINDS]:
        raise unknown("machine", str(like), KINDS, f"{path}, like")
    types = {field.name: type(field.default) for field in dataclasses.fields(Machine)}
    types |= {"kind": str, "usd_per_gpu_hour": float}
    del types["file"]
    for name, value in table.items():
        if name not in types:
            raise unknown("machine field", name, [*types, "like"], str(path))
        # TOML's 80 is an int where we mean 80.0
        table[name] = float(value) if types[name] is float and type(value) is int else value
        if type(table[name]) is not types[name]:
            raise InputError(f"{path}: {name} must be {types[name].__name__}, not {value!r}.")
    base = KINDS[like] if like is not None else Machine(kind="")
    return _possible(dataclasses.replace(base, **{"kind": path.stem, **table, "file": str(path.resolve())}), path)


def _possible(machine: Machine, path: Path) -> Machine:
    """The machine, unless a number of it makes no sense."""
    numbers = {name: value for name, value in vars(machine).items() if type(value) in (int, float)}
    if endless := next((name for name, value in numbers.items() if not math.isfinite(value)), None):
        raise InputError(f"{path}: {endless} is {numbers[endless]}; a number is needed.")
    wrong = next((name for name, value in numbers.items() if value < (name in ("nodes", "cores"))), None)
    if wrong:
        raise InputError(f"{path}: {wrong} is {numbers[wrong]}; at least {int(wrong in ('nodes', 'cores'))} is needed.")
    if machine.gpus and not machine.gpu_memory_gib:
        raise InputError(f"{path}: {machine.gpus} GPUs without gpu_memory_gib. Say how much memory each has.")
    return machine


def this_machine() -> Machine:
    """This computer: its GPUs by their names if the NVIDIA driver reports any, otherwise its CPU."""
    rows = _driver_rows()
    if not rows:
        return _this_cpu()
    title, memory_gib = rows[0]
    known = _match(title, memory_gib) or Machine(kind="gpu", title=title, gpu_memory_gib=memory_gib)
    cores, memory = _this_size()
    return dataclasses.replace(known, gpus=len(rows), cores=cores, memory_gib=memory)


def _this_cpu() -> Machine:
    cores, memory = _this_size()
    return dataclasses.replace(KINDS["cpu"], cores=cores, memory_gib=memory)


def _this_size() -> tuple[int, float]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores, round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _driver_rows() -> list[tuple[str, float]]:
    """Name and memory in GiB of every GPU that the driver reports."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        rows = [line.rpartition(",") for line in text.splitlines() if line.strip()]
        return [(name.strip(), round(float(mib) / 1024, 1)) for name, _, mib in rows]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def _match(title: str, memory_gib: float) -> Machine | None:
    """The known kind whose chip the driver's name contains and whose memory is nearest."""
    chips = {"a100": ("A100",), "a800": ("A800",), "v100": ("V100",), "rtx3090": ("3090",), "a6000": ("A6000",)}
    fits = [
        machine
        for kind, machine in KINDS.items()
        if any(mark in title for mark in chips.get(kind.partition("-")[0], (kind.upper(),)))
        and abs(machine.gpu_memory_gib - memory_gib) < 0.15 * memory_gib
    ]
    return fits[0] if fits else None
