"""Ray, and the only file that imports it: one cluster per run, batches over actors, training jobs.

`session` starts a private cluster on this machine the first time something needs it and every later call shares it
(starting one costs seconds). On a cluster that already runs, `RAY_ADDRESS` names it. A cluster of ours belongs to the
driver: it ends with it, also when the driver is killed with signal 9, because Ray ties its daemons to their parent.

Nothing is shipped to workers: they import the installed package and read files where the driver has them. On several
nodes that takes a shared file system, and a job is refused when a node does not see it. (A checkout handed over as a
working directory would be a loop, because `.pyroot/llavaflow` points back to it.)
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from llavaflow.infra.errors import InputError, LlavaflowError, StageFailed

Row = TypeVar("Row")
Result = TypeVar("Result")
BatchFunction = Callable[[list[Row]], list[Result]]

OBJECT_STORE_BYTES = 256 << 20
POLL_S = 0.25
TEMPORARY_PREFIX = "llavaflow-ray-"
REACH_TIMEOUT_S = 5.0

# read by the daemons and workers, which inherit the environment of the moment in which they are started
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # at its own level Ray writes warnings about its internals into the terminal of the run
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # a busy machine may take minutes to start two processes; the default gives up after one
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
# a cluster of our own listens on loopback and ends with us; one that we join keeps its token and its metrics
OWN_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    # nobody reads the metrics of a private cluster, and Ray 2.60 leaves the threads that export them running after
    # its shutdown, to be destroyed with the process (a joinable C++ thread that is destroyed aborts it)
    "RAY_enable_open_telemetry": "0",
}


def session(cores: int | None = None) -> None:
    """Start or join the cluster of this process; later calls return at once.

    A local cluster offers two slots more than the machine has cores: a training job on a small box needs two
    workers, and a pool must not wait for a slot that its own reader holds.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    wanted = ENVIRONMENT | (OWN_ENVIRONMENT if address == "local" else {})
    os.environ.update({name: value for name, value in wanted.items() if name not in os.environ})
    import ray

    if ray.is_initialized():
        return
    if address != "local":
        _join(address)
        return
    with _silent_stderr():
        ray.init(
            address="local",
            num_cpus=(cores or os.cpu_count() or 1) + 2,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(_temporary_folder()),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    atexit.register(shutdown)


def _join(address: str) -> None:
    """Connect to a cluster that runs already. Raises InputError when that cannot be done."""
    import ray

    if (why := unreachable(address)) is None:
        try:
            with _silent_stderr():
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            return
        except (ConnectionError, RuntimeError, ValueError) as error:
            why = f"{error}. Where it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    raise InputError(
        f"cannot join the Ray cluster at {address} (RAY_ADDRESS): {why}. Unset RAY_ADDRESS to start one on this "
        "machine."
    )


def unreachable(address: str) -> str | None:
    """Why nothing answers at a cluster's address, or None; `auto` is not asked. Ray would try for two minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return None
    if not host or not port.isdigit():
        return "an address has the form HOST:PORT"
    try:
        socket.create_connection((host, int(port)), timeout=REACH_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        return f"nothing answers there ({error})"
    return None


def shutdown() -> None:
    """Stop the cluster of this process, if there is one, and remove its temporary folder."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
    shutil.rmtree(_own_folder(), ignore_errors=True)


def map_batches(
    rows: Iterable[Row],
    make: Callable[..., BatchFunction[Row, Result]],
    *,
    arguments: Mapping[str, Any] | None = None,
    batch_size: int,
    workers: int,
    gpus_per_worker: float = 0,
) -> Iterator[Result]:
    """Stream rows through a Ray Data pool of actors, in order.

    Every actor calls `make(**arguments)` once (that is where a model is loaded) and the function it returns on each
    batch; the function must return one result per row. Rows and results travel pickled, so they may hold anything;
    keep images out of rows and give names instead.
    """
    import ray.data
    from ray.data import ActorPoolStrategy, DataContext

    session()
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    packed = [{"row": pickle.dumps(row)} for row in rows]
    if not packed:
        return
    blocks = max(workers, -(-len(packed) // (4 * batch_size)))
    pool = ray.data.from_items(packed, override_num_blocks=min(blocks, len(packed))).map_batches(
        _Actor,
        fn_constructor_args=(make, dict(arguments or {})),
        batch_size=batch_size,
        batch_format="numpy",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=gpus_per_worker,
    )
    for row in pool.iter_rows():
        result = pickle.loads(row["result"])
        if isinstance(result, LlavaflowError):
            raise result
        yield result


class _Actor:
    """One member of the pool of `map_batches`: unpickles a batch, calls the function, pickles what it returns."""

    def __init__(self, make: Callable[..., BatchFunction[Any, Any]], arguments: Mapping[str, Any]) -> None:
        self.error: LlavaflowError | None = None
        try:
            self.function = make(**arguments)
        except LlavaflowError as error:
            # raised here, it would have Ray start the actor again for ever: it is every batch's answer instead
            self.error = error

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[bytes]]:
        rows = [pickle.loads(row) for row in batch["row"]]
        try:
            results = [self.error] * len(rows) if self.error else self.function(rows)
        except LlavaflowError as error:
            # an exception of ours travels as a value: Ray would bury its message under three tracebacks
            results = [error] * len(rows)
        if len(results) != len(rows):
            raise ValueError(f"{len(results)} results for a batch of {len(rows)} rows")
        return {"result": [pickle.dumps(result) for result in results]}


def train(
    loop: Callable[[dict[str, Any]], None],
    *,
    workers: int,
    config: dict[str, Any],
    storage: Path,
    gpus_per_worker: int = 0,
    max_failures: int = 0,
    files: Iterable[Path] = (),
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Run `loop(config)` on every worker of a Ray Train job whose process group is up, and wait for its end.

    Results and checkpoints go through files that the loop writes under folders named in `config`: a kill may come at
    any moment, and only what is on disk counts. After the death of a worker the whole group is started again, up to
    `max_failures` times. `watch` is called a few times per second for progress. `files` are those that the loop reads:
    every node must see them, and `storage`, under the driver's paths. Raises InputError where one does not.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    session()
    _check_capacity(workers, gpus_per_worker)
    _check_seen(files, storage)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    attempt = f"job-{os.getpid()}-{len(list(storage.glob('job-*'))) if storage.exists() else 0}"
    trainer = TorchTrainer(
        loop,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpus_per_worker > 0, resources_per_worker=_resources(gpus_per_worker)
        ),
        run_config=RunConfig(
            name=attempt, storage_path=str(storage.absolute()), failure_config=FailureConfig(max_failures=max_failures)
        ),
    )
    with _unwrapped():
        _in_thread(trainer.fit, watch)
    watch()


def _check_capacity(workers: int, gpus_per_worker: int) -> None:
    """Refuse a job that the cluster can never place: Ray would wait for more nodes without an end."""
    import ray

    there, needed = ray.cluster_resources(), {"GPU": workers * gpus_per_worker, "CPU": workers}
    short = [
        f"{amount} {kind}s, it has {int(there.get(kind, 0))}"
        for kind, amount in needed.items()
        if there.get(kind, 0) < amount
    ]
    if short:
        raise InputError(
            f"the Ray cluster ({os.environ.get('RAY_ADDRESS', 'this machine')}) is too small: the run needs "
            f"{' and '.join(short)}. Choose a smaller --machine, or name a larger cluster in RAY_ADDRESS."
        )


def _check_seen(files: Iterable[Path], storage: Path) -> None:
    """Refuse a job whose files a node does not see: it would end hours later, when a worker comes to run there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2:
        return
    storage.mkdir(parents=True, exist_ok=True)
    # its name is new, so another file system at the same path does not have it
    with tempfile.NamedTemporaryFile(prefix="seen-", dir=storage.absolute()) as mark:
        names = [mark.name, *(str(path.absolute()) for path in files)]
        look = ray.remote(num_cpus=0)(lambda: [name for name in names if not os.path.exists(name)])
        there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
        asked = [look.options(scheduling_strategy=place).remote() for place in there]
        for address, absent in zip(nodes.values(), ray.get(asked), strict=True):
            if absent:
                place = storage.absolute() if absent[0] == mark.name else absent[0]
                raise InputError(
                    f"the node {address} of the Ray cluster does not see {place} as this one does. Every node must: "
                    "put --store (for s3://, LLAVAFLOW_CACHE) and HF_HOME on a file system that all of them mount."
                )


def _resources(gpus_per_worker: int) -> dict[str, float]:
    return {"CPU": 1, "GPU": gpus_per_worker} if gpus_per_worker else {"CPU": 1}


def _in_thread(job: Callable[[], Any], watch: Callable[[], None]) -> None:
    """Run a job beside the main thread: in the main thread Ray Train takes Ctrl-C over and exits with code 0."""
    failure: list[BaseException] = []

    def body() -> None:
        try:
            job()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body, daemon=True, name="ray-train")
    thread.start()
    while thread.is_alive():
        thread.join(POLL_S)
        watch()
    if failure:
        raise failure[0]


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise the project's own error from inside a worker as itself; a bug keeps Ray's report with the traceback."""
    try:
        yield
    except Exception as error:
        cause = _own_error(error)
        if cause is None:
            raise
        raise type(cause)(str(cause)) if type(cause) in _OWN else StageFailed(str(cause)) from error


_OWN: Sequence[type[LlavaflowError]] = (LlavaflowError, *LlavaflowError.__subclasses__())


def _own_error(error: BaseException | None) -> LlavaflowError | None:
    """The first error of the project's tree in a chain of wrappers, wherever Ray keeps it."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        item = waiting.pop(0)
        if not isinstance(item, BaseException) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, LlavaflowError) and type(item).__module__.startswith("llavaflow."):
            return item
        waiting += [item.__cause__, getattr(item, "cause", None), getattr(item, "_base_exc", None)]
        waiting += list(getattr(item, "worker_failures", {}).values())
    return None


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Ray's C++ core announces its own log level on file descriptor 2; failures still come as exceptions."""
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def _own_folder() -> Path:
    # Ray's sockets live under it and a socket path holds at most 107 bytes
    root = tempfile.gettempdir()
    return Path(root if len(root) <= 30 else "/tmp") / f"{TEMPORARY_PREFIX}{os.getpid()}"


def _temporary_folder() -> Path:
    """A fresh folder for this process's cluster, after removing those of drivers that were killed."""
    own = _own_folder()
    for folder in own.parent.glob(f"{TEMPORARY_PREFIX}*"):
        if not Path(f"/proc/{folder.name.removeprefix(TEMPORARY_PREFIX)}").exists():
            shutil.rmtree(folder, ignore_errors=True)
    own.mkdir(parents=True, exist_ok=True)
    return own
