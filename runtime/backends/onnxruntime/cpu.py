"""ONNX Runtime on the CPU."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ...bundle.manifest import COMPACT_SCALE
from ...bundle.uint8_form import EXACT_WEIGHT_LIMIT, uint8_activations, weight_limit
from ...errors import BackendError, BundleError, LimitError
from ..base import Availability
from . import sessions

if TYPE_CHECKING:
    from ...bundle.folder import Bundle
    from ...bundle.manifest import GraphName
    from ...model.source import Model
    from ..base import Options

KEPT_PIXELS: Final = 1 << 20
"""Images up to this size leave ONNX Runtime its memory for the next one, if `Options.keep_memory` says so.

Giving it back costs 10 to 20 % of the processor's time of a run, in page faults.
"""


def open_session(
    data: bytes,
    threads: int | None,
    *,
    weight_limit: int | None = None,
    as_written: bool = False,
    profile: str | None = None,
    optimize: bool = True,
    timeout: float | None = None,
    arena: bool = True,
) -> Any:
    """A session of ONNX Runtime on the CPU.

    Args:
        data: a serialized ONNX model.
        threads: threads to use; None leaves it the choice.
        weight_limit: largest magnitude of the int8 weights of a quantized graph, whose activations are then brought
            to uint8 (see `runtime.bundle.uint8_form`); None: the graph is not quantized.
        as_written: activations of a quantized graph stay what they are, int8 ones too.
        profile: path prefix of the profile that the session writes when it ends; None: none.
        optimize: whether the graph may be rewritten.
        timeout: seconds that it may take; None: no limit.
        arena: whether memory is kept for the next run.

    Raises:
        BackendError: ONNX Runtime is missing, or cannot take the model.
        BundleError: no valid model, or not quantized as `oslic calibrate` does it.
        LimitError: the time was up.
    """
    onnxruntime, reason = sessions.find_onnxruntime()
    if onnxruntime is None:
        raise BackendError(reason)
    options = sessions.session_options(onnxruntime, threads, optimize=optimize)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    if weight_limit is not None:
        if not as_written:
            data = uint8_activations(data, "the graph")
        if weight_limit > EXACT_WEIGHT_LIMIT:
            # Without VNNI the kernels add two products of uint8 and int8 in 16 bits, which saturate. This option
            # takes other kernels on such machines (slower, exact), and changes nothing elsewhere.
            options.add_session_config_entry("session.x64quantprecision", "1")
    if not arena:
        options.enable_cpu_mem_arena = False
    elif _share_arena():
        options.add_session_config_entry("session.use_env_allocators", "1")
    return sessions.open_session(
        onnxruntime, data, sessions.Provider(sessions.CPU, {}), options, timeout=timeout
    )


@functools.cache
def _share_arena() -> bool:
    """Make one arena for all our sessions, and say whether there is one.

    By default each session has its own, which grows by doubling and never gives back all that it took: three graphs
    then hold three times of what any one of them needs. Sessions that do not ask for the shared one are not affected.
    """
    onnxruntime, _ = sessions.find_onnxruntime()
    try:
        kind = onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        )
        settings = {
            "max_mem": 0,
            "arena_extend_strategy": 1,  # as much as is asked for
            "initial_chunk_size_bytes": -1,
            "max_dead_bytes_per_chunk": -1,
        }
        onnxruntime.create_and_register_allocator(kind, onnxruntime.OrtArenaCfg(settings))
    except Exception:  # the host program has registered one, or this version does not know how
        return False
    return True


def host_runner(
    session: Any, graph: GraphName, *, timeout: float | None = None, keep_memory: bool = True
) -> sessions.HostRunner:
    """Runs a session of `open_session` as one graph of a bundle; the last two as in `base.Options`."""
    onnxruntime, _ = sessions.find_onnxruntime()
    scale = COMPACT_SCALE if graph == "synthesise" else 1
    kept = KEPT_PIXELS if keep_memory else 0

    def gives_back(shape: tuple[int, ...]) -> bool:
        return math.prod(shape[:3]) * scale * scale > kept

    return sessions.HostRunner(onnxruntime, session, graph, timeout=timeout, gives_back=gives_back)


def thrifty_runner(
    data: bytes, name: str, threads: int | None, *, timeout: float | None = None
) -> sessions.HostRunner:
    """Runs a graph of any inputs and outputs, and holds no memory between its runs.

    Args:
        data: a serialized ONNX model.
        name: of the graph, for messages.
        threads: as for `open_session`.
        timeout: as in `base.Options`.

    Raises:
        BackendError: ONNX Runtime is missing, or cannot take the model.
        BundleError: no valid model.
        LimitError: the time was up.
    """
    session = open_session(data, threads, timeout=timeout, arena=False)
    onnxruntime, _ = sessions.find_onnxruntime()
    return sessions.HostRunner(onnxruntime, session, name, timeout=timeout)


class OnnxRuntimeCpu:
    """ONNX Runtime's CPU execution provider."""

    name: ClassVar[str] = "onnxruntime-cpu"

    def __init__(self, bundle: Bundle, options: Options) -> None:
        self._bundle = bundle
        self._options = options

    @classmethod
    def probe(cls, bundle: Bundle | None, options: Options) -> Availability:
        """Say whether ONNX Runtime is installed; it takes every bundle."""
        onnxruntime, reason = sessions.find_onnxruntime()
        if onnxruntime is None:
            return Availability(False, None, reason)
        version = str(onnxruntime.__version__)
        try:
            if bundle is not None:
                for graph in bundle.manifest.graphs:
                    sessions.require_precision(bundle, graph, cls.name, options)
        except BackendError as error:
            return Availability(False, version, str(error))
        return Availability(True, version, "runs everywhere")

    def load(self, graph: GraphName) -> sessions.HostRunner:
        """Load one graph: see `Backend.load`."""
        sessions.require_precision(self._bundle, graph, self.name, self._options)
        data = self._bundle.read_graph(graph)
        try:
            session = open_session(
                data,
                self._options.threads,
                weight_limit=weight_limit(self._bundle.manifest, graph),
                optimize=self._options.optimize,
                timeout=self._options.timeout,
            )
            sessions.require_ports(session, self._bundle.manifest.graphs[graph])
        except (BackendError, BundleError, LimitError) as error:
            raise type(error)(f"{self._bundle.graph_path(graph)}: {error}") from error
        return host_runner(
            session, graph, timeout=self._options.timeout, keep_memory=self._options.keep_memory
        )

    @classmethod
    def open(cls, model: Model, options: Options) -> sessions.HostRunner:
        """Load any ONNX graph: see `Backend.open`."""
        sessions.require_plain(model, cls.name, options)

        def session(profile: str | None = None) -> Any:
            return open_session(
                model.data,
                options.threads,
                weight_limit=model.weight_limit,
                profile=profile,
                optimize=options.optimize,
                timeout=options.timeout,
            )

        with sessions.naming(model):
            opened = session()
        onnxruntime, _ = sessions.find_onnxruntime()
        return sessions.HostRunner(onnxruntime, opened, model.name, timeout=options.timeout, reopen=session)
