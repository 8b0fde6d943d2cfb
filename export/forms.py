"""The choice between forms that compute the same: by a stated cost model, or by measurement on the target."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import onnx_ir as ir

from ..runtime.backends.sessions import require_onnxruntime, session_options
from ..runtime.errors import UsageError
from .graphs import serialise
from .macs import node_bytes, node_macs
from .rules.base import Builder, Chooser, Site
from .sizes import Sizes
from .verify import register_operators

if TYPE_CHECKING:
    import numpy.typing as npt

Target = Literal["onnxruntime", "tensorrt"]

_OPSET: Final = 18
_IR_VERSION: Final = 10
_LEAST_ROUNDS: Final = 10
_UNKNOWN_SIZES: Final = (
    "forms cannot be compared, because sizes here do not follow from those of the inputs; give the inputs' shapes "
    "(--shape), or take a form as it is (--form)"
)


@dataclass(frozen=True)
class Rates:
    """A target's rates, as far as the choice needs them.

    Attributes:
        convolution: multiply-accumulates per second of a convolution.
        transposed: the same of a transposed convolution.
        copy: bytes per second, read and written, of what moves memory in order.
        scatter: the same of `DepthToSpace`.
        transpose: the same of `Transpose`.
        node: seconds that each node takes at least.
        source: where the numbers come from.
    """

    convolution: float
    transposed: float
    copy: float
    scatter: float
    transpose: float
    node: float
    source: str


RATES: Final[dict[Target, Rates]] = {
    "onnxruntime": Rates(
        convolution=85e9,
        transposed=46e9,
        copy=28e9,
        scatter=6.5e9,
        transpose=16e9,
        node=4e-6,
        source="one core with AVX-512, ONNX Runtime 1.32, octave layers of 64 + 64 channels at 96x64",
    ),
    "tensorrt": Rates(
        convolution=200e12,
        transposed=150e12,
        copy=2.5e12,
        scatter=1.5e12,
        transpose=1.5e12,
        node=3e-6,
        source="assumed for a data-centre GPU in FP16; not measured",
    ),
}

_DISPATCH: Final = {"ConvTranspose": "transposed", "DepthToSpace": "scatter", "Transpose": "transpose"}


class _Writer(ir.tape.Tape):
    """A tape that writes nodes as the rewriter's does: `op.Conv(x, w, strides=[2, 2])`."""

    def __getattr__(self, op_type: str) -> Any:
        def write(*inputs: ir.Value | None, _outputs: int = 1, **attributes: Any) -> Any:
            if _outputs == 1:
                return self.op(op_type, inputs, attributes)
            return self.op_multi_out(op_type, inputs, attributes, num_outputs=_outputs)

        return write


def _sizes_known(site: Site, sizes: Sizes) -> bool:
    return all(sizes.concrete(value) is not None for value in (*site.inputs, *site.frame_inputs))


def site_model(site: Site, form: Builder, sizes: Sizes) -> tuple[ir.Model, dict[str, tuple[int, ...]]]:
    """A model of one form of one site, with fixed input sizes.

    Args:
        site: the site.
        form: the builder of the form.
        sizes: concrete sizes of the graph that the site belongs to.

    Returns:
        The model and its inputs' shapes by name.

    Raises:
        UsageError: the sizes of the site's inputs do not follow from those of the graph's.
    """
    tape = _Writer()
    shapes: dict[str, tuple[int, ...]] = {}

    def stand_in(value: ir.Value, name: str) -> ir.Value:
        shape = sizes.concrete(value)
        if shape is None:
            raise UsageError(
                f"the size of {value.name} is not known, so the forms of {site.node} cannot be compared; give the "
                "inputs' shapes (--shape NAME=1x3x512x768)"
            )
        shapes[name] = shape
        return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))

    inputs = [stand_in(value, f"x{i}") for i, value in enumerate(site.inputs)]
    output = form(tape, inputs)
    extra: list[ir.Value] = []
    if site.frame is not None:
        extra = [stand_in(value, f"f{i}") for i, value in enumerate(site.frame_inputs)]
        output = site.frame(tape, [*extra, output])
    output.type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [*inputs, *extra],
        [output],
        nodes=list(tape.nodes),
        initializers=list(tape.initializers),
        opset_imports={"": _OPSET},
        name=site.rule,
    )
    ir.passes.common.NameFixPass()(model := ir.Model(graph, ir_version=_IR_VERSION))
    return model, shapes


def measure(
    models: Mapping[str, bytes],
    feeds: Mapping[str, npt.NDArray[Any]],
    threads: int,
    seconds: float,
    libraries: Sequence[str] = (),
) -> dict[str, float]:
    """Time models on ONNX Runtime's CPU provider, interleaved.

    Args:
        models: serialised models by name, all with the same inputs.
        feeds: inputs by name.
        threads: threads per run.
        seconds: time to spend, at least; and at least ten rounds.
        libraries: shared libraries with custom operators.

    Returns:
        Seconds of each model's fastest round: what is slower is the noise of the machine's other work.

    Raises:
        DependencyError: ONNX Runtime is not installed.
    """
    onnxruntime = require_onnxruntime("measuring")
    options = session_options(onnxruntime, threads)
    register_operators(options, libraries)
    sessions = {
        name: onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        for name, data in models.items()
    }
    for session in sessions.values():  # fills caches and memory pools
        session.run(None, feeds)
    best = dict.fromkeys(sessions, float("inf"))
    rounds, deadline = 0, time.perf_counter() + seconds
    while rounds < _LEAST_ROUNDS or time.perf_counter() < deadline:
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, feeds)
            best[name] = min(best[name], time.perf_counter() - start)
        rounds += 1
    return best


class CostModel:
    """Chooses by a stated model: multiplications and bytes over the target's rates.

    Args:
        target: whose rates.
        sizes: concrete sizes of the graph.
    """

    def __init__(self, target: Target, sizes: Sizes) -> None:
        self._rates = RATES[target]
        self._target = target
        self._sizes = sizes

    def seconds(self, model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> float:
        """Estimated time of a model of one site."""
        sizes = Sizes(shapes)
        total = 0.0
        for node in model.graph:
            moved = node_bytes(node, sizes)
            rate: float = getattr(self._rates, _DISPATCH.get(node.op_type, "copy"))
            if node.op_type == "Conv":
                work = node_macs(node, sizes) / self._rates.convolution
            elif node.op_type == "ConvTranspose":
                work = node_macs(node, sizes) / rate
            else:
                work = moved / rate
            total += work + self._rates.node
        return total

    def choose(self, site: Site, forms: Mapping[str, Builder]) -> tuple[str, str]:
        """Return the form with the least estimated time, and the estimates."""
        if not _sizes_known(site, self._sizes):
            return "keep", _UNKNOWN_SIZES
        times = {name: self.seconds(*site_model(site, form, self._sizes)) for name, form in forms.items()}
        return _best(times, f"cost model of {self._target}")


class Measured:
    """Chooses by measurement: ONNX Runtime on this machine's CPU, the forms interleaved.

    Args:
        sizes: concrete sizes of the graph.
        threads: threads per run.
        seconds: time to spend on one site, at least.
    """

    def __init__(self, sizes: Sizes, threads: int, seconds: float = 0.5) -> None:
        self._sizes = sizes
        self._threads = threads
        self._seconds = seconds
        self._known: dict[tuple[object, ...], tuple[str, str]] = {}

    def choose(self, site: Site, forms: Mapping[str, Builder]) -> tuple[str, str]:
        """Return the fastest form, and the times."""
        if not _sizes_known(site, self._sizes):
            return "keep", _UNKNOWN_SIZES
        values = (*site.inputs, *site.frame_inputs)
        key = (site.rule, *site.key, *(self._sizes.concrete(value) for value in values))
        if key not in self._known:
            self._known[key] = _best(self._measure(site, forms), "measured")
        return self._known[key]

    def _measure(self, site: Site, forms: Mapping[str, Builder]) -> dict[str, float]:
        random = np.random.default_rng(0)
        models: dict[str, bytes] = {}
        feeds: dict[str, npt.NDArray[Any]] = {}
        for name, form in forms.items():
            model, shapes = site_model(site, form, self._sizes)
            for key, shape in shapes.items():
                feeds.setdefault(key, random.standard_normal(shape, np.float32))
            models[name] = serialise(model)
        return measure(models, feeds, self._threads, self._seconds)


class Fixed:
    """Chooses the named form wherever a rule offers it, and leaves what stands elsewhere.

    Args:
        order: names of forms, the most wanted first.
    """

    def __init__(self, *order: str) -> None:
        self._order = order

    def choose(self, site: Site, forms: Mapping[str, Builder]) -> tuple[str, str]:
        """Return the first form of the order that the site has."""
        del site
        name = next((form for form in self._order if form in forms), "keep")
        return name, "as told"


class Preferred:
    """Chooses the named form wherever a rule offers it; elsewhere another chooser does.

    Args:
        form: its name.
        otherwise: who chooses elsewhere.
    """

    def __init__(self, form: str, otherwise: Chooser) -> None:
        self._form = form
        self._otherwise = otherwise

    def choose(self, site: Site, forms: Mapping[str, Builder]) -> tuple[str, str]:
        """Return the named form, or the other chooser's."""
        if self._form in forms:
            return self._form, "as told"
        return self._otherwise.choose(site, forms)


def _best(times: Mapping[str, float], source: str) -> tuple[str, str]:
    name = min(times, key=lambda form: times[form])
    listed = ", ".join(
        f"{form} {1e3 * t:.3f} ms" for form, t in sorted(times.items(), key=lambda item: item[1])
    )
    return name, f"{source}: {listed}"


__all__ = ["RATES", "CostModel", "Fixed", "Measured", "Preferred", "Rates", "Target", "measure", "site_model"]
