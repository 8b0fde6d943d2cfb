"""The codec in Ray Data: classes for pipelines, and what `oslic batch --ray` does. See docs/guides/batch.md."""

from __future__ import annotations

import itertools
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..runtime.codec.request import make_request
from ..runtime.errors import BackendError, OslicError, UsageError, one_line
from ..runtime.image.files import decode_image
from ..runtime.limits import available_memory
from ..runtime.memory import return_freed_arrays
from ..runtime.threads import in_order
from .batch.sources import Item
from .batch.table import Row, schema
from .batch.work import CodecOptions, Job, Work

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Batch = dict[str, npt.NDArray[Any]]

_GPU_BACKENDS: Final = ("tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt")
_BLOCK: Final = 32
"""Items that an actor is given at a time: their work overlaps, and so many are done again where it goes away."""
_ROUND: Final = 100_000
# An actor pool starves where its actors take all processors that there are: what feeds it needs one, too.
_LEAST_CPUS: Final = 4
_SECONDS_TO_CONNECT: Final = 10.0


class Compress:
    """For `map_batches`: compresses image files.

    Takes the column `bytes`, and `path` for messages; adds `stream` (bytes; empty where it failed), `width`, `height`
    and `error` (text; empty where there is none), and drops `bytes`. A file that fails stops nothing.

    Args:
        options: how the codec is opened; None: the shipped bundle on the best backend, with one thread.
        jobs: how many files of a batch are in work at a time.
        request: arguments of `Codec.compress`, such as `quality`.
    """

    def __init__(self, options: CodecOptions | None = None, jobs: int = 1, **request: Any) -> None:
        return_freed_arrays()
        self._codec = (options or CodecOptions(threads=1)).open()
        self._jobs = jobs
        self._request = make_request(**request)

    def __call__(self, batch: Batch) -> Batch:
        """Compress the files of a batch."""
        files, codec = list(_files(batch)), self._codec
        streams, errors = [b""] * len(files), [""] * len(files)
        sizes = np.zeros((len(files), 2), np.int32)

        def compress(number: int) -> bytes:
            name, data = files[number]
            picture = decode_image(data, codec.limits, name, use=codec.encoding)
            sizes[number] = picture.pixels.shape[:2]
            return codec.encode(picture.pixels, replace(self._request, metadata=picture.metadata)).data

        for number, outcome in in_order(range(len(files)), compress, self._jobs):
            if isinstance(outcome, OslicError):
                errors[number] = str(outcome)
            else:
                streams[number] = outcome
        return _with(
            batch, stream=_objects(streams), width=sizes[:, 1], height=sizes[:, 0], error=_objects(errors)
        )


class Decompress:
    """For `map_batches`: decompresses streams.

    Takes the column `bytes`, and `path` for messages; adds `image` (uint8, (H, W) or (H, W, C), of each picture's own
    size; (0, 0) where it failed), `digest_matches` and `error`, and drops `bytes`.

    Args:
        options: how the codec is opened; None: the bundle that each stream names, on the best backend, with one thread.
        jobs: how many streams of a batch are in work at a time.
    """

    def __init__(self, options: CodecOptions | None = None, jobs: int = 1) -> None:
        return_freed_arrays()
        self._codec = (options or CodecOptions(threads=1)).open()
        self._jobs = jobs

    def __call__(self, batch: Batch) -> Batch:
        """Decompress the streams of a batch."""
        files = list(_files(batch))
        images: list[Any] = [np.zeros((0, 0), np.uint8)] * len(files)
        matches, errors = np.zeros(len(files), np.bool_), [""] * len(files)
        for number, outcome in in_order(
            range(len(files)), lambda number: self._codec.decode(files[number][1]), self._jobs
        ):
            if isinstance(outcome, OslicError):
                errors[number] = str(outcome)
            else:
                images[number], matches[number] = outcome.image, bool(outcome.digest_matches)
        return _with(batch, image=_objects(images), digest_matches=matches, error=_objects(errors))


def _files(batch: Batch) -> Iterator[tuple[str, bytes]]:
    if "bytes" not in batch:
        raise UsageError(
            f"the batch has no column 'bytes': it has {', '.join(batch)}; use ray.data.read_binary_files"
        )
    for number, data in enumerate(batch["bytes"]):
        yield str(batch["path"][number]) if "path" in batch else f"file {number} of the batch", bytes(data)


def _objects(values: list[Any]) -> npt.NDArray[Any]:
    made = np.empty(len(values), object)
    for number, value in enumerate(values):
        made[number] = value
    return made


def _with(batch: Batch, **columns: npt.NDArray[Any]) -> Batch:
    return {name: column for name, column in batch.items() if name != "bytes"} | columns


# -- oslic batch -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cluster:
    """Where and how wide a batch runs.

    Attributes:
        address: of the cluster: "auto", "HOST:PORT", "ray://HOST:PORT", or "local" for one of this machine's own.
        actors: most processes; None: one for each processor or, where they take GPUs, for each GPU.
        gpus: that an actor takes; None: 1 with the backends for GPUs, else none.
        jobs: how many items an actor has in work at a time; it takes `jobs` x threads processors.
    """

    address: str
    actors: int | None = None
    gpus: float | None = None
    jobs: int = 1

    def gpus_for(self, backend: str) -> float:
        """GPUs that an actor takes with a backend."""
        if self.gpus is not None:
            return self.gpus
        return 1.0 if backend.startswith(_GPU_BACKENDS) else 0.0


class _Worker:
    """An actor: opens a codec once, and does the job on batches of items.

    It reads the files itself. `read_binary_files` would send each through the object store, and one that cannot be
    read would end the run.
    """

    def __init__(self, job: Job, options: CodecOptions, jobs: int, cpus: int) -> None:
        return_freed_arrays()
        if options.max_memory is None:
            # Half of what is free, shared with the actors that may come to this machine, too.
            beside = max(1, (os.cpu_count() or 1) // cpus)
            options = replace(options, max_memory=available_memory() // 2 // beside)
        self._work = Work(options.open(), job, jobs)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Do the job on the items of a batch; returns their rows."""
        import pyarrow as pa

        items = (Item(**entry) for entry in batch.to_pylist())
        return pa.Table.from_pylist([asdict(row) for row in self._work.rows(items)], schema())


def rows(items: Iterable[Item], job: Job, options: CodecOptions, cluster: Cluster) -> Iterator[Row]:
    """Do a job on a cluster.

    Args:
        items: to work on; 100,000 are taken at a time, so that no list of all of them is made.
        job: what is to be done.
        options: how the actors open the codec.
        cluster: where.

    Yields:
        A row for each item, as they come. What was in work on a machine that went away is done on another one.

    Raises:
        BackendError: the cluster cannot be reached, or the run ended.
        DependencyError: `ray` is not installed.
    """
    # Ray else reports what it is used for to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)

    source = iter(items)
    part = list(itertools.islice(source, _ROUND))
    if not part:
        return
    owned = not ray.is_initialized()
    try:
        if owned:
            _connect(cluster.address)
        while part:
            yield from _round(part, job, options, cluster)
            part = list(itertools.islice(source, _ROUND))
    except ray.exceptions.RayError as error:
        raise BackendError(f"the run on Ray ended: {_cause(error)}") from error
    finally:
        if owned:
            ray.shutdown()


def _cause(error: Exception) -> str:
    """What ended a run: the last line of what Ray says, where the actor's traceback names its error."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return one_line(OslicError(lines[-1] if lines else type(error).__name__))


def _require_listener(address: str) -> None:
    """Refuse an address where nobody listens: Ray tries it for minutes.

    Raises:
        BackendError: nobody does.
    """
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=_SECONDS_TO_CONNECT).close()
        except (OSError, OverflowError) as error:
            raise BackendError(f"no Ray cluster at {address}: {one_line(error)}") from error


def _connect(address: str) -> None:
    import ray

    _require_listener(address)

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"num_cpus": max(_LEAST_CPUS, os.cpu_count() or 1), "include_dashboard": False}
    try:
        ray.init(address, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise BackendError(f"no Ray cluster at {address}: {one_line(error)}") from error


def _round(items: list[Item], job: Job, options: CodecOptions, cluster: Cluster) -> Iterator[Row]:
    import ray

    options = replace(options, threads=options.threads or 1)
    cpus, gpus = cluster.jobs * (options.threads or 1), cluster.gpus_for(options.backend)
    actors = cluster.actors or _most_actors(ray.cluster_resources(), cpus, gpus)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    blocks = max(-(-len(items) // _BLOCK), min(len(items), 4 * actors))
    done = ray.data.from_items([asdict(item) for item in items], override_num_blocks=blocks).map_batches(
        _Worker,
        fn_constructor_args=(job, options, cluster.jobs, cpus),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=cpus,
        num_gpus=gpus,
        # It shrinks as the items run out, so that an actor whose machine went away finds a place to start again.
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
    )
    for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
        for entry in batch.to_pylist():
            yield Row(**entry)


def _most_actors(resources: dict[str, float], cpus: int, gpus: float) -> int:
    by_cpu = int(resources.get("CPU", 0) // cpus)
    most = by_cpu if not gpus else min(by_cpu, int(resources.get("GPU", 0) // gpus))
    if most < 1:
        kind = "GPU" if gpus and by_cpu else "processor"
        raise BackendError(
            f"the Ray cluster has no free {kind} for an actor, which takes {cpus} processors and {gpus:g} GPUs"
        )
    return most
