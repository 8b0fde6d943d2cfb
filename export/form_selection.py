"""The choice between forms that compute the same: as told, by measurement, or by the cost model (`form_costs`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir

from ..runtime.errors import UsageError
from .form_costs import RATES, Estimate, Target, estimate
from .form_timing import Times, measure
from .ir_queries import type_of
from .rules.base import Builder, Chooser, Site, Tape
from .rules.low_rate import KEEP
from .symbolic_shapes.inference import Sizes

if TYPE_CHECKING:
    import numpy.typing as npt

_OPSET: Final = 18
_NEIGHBOR: Final = 16  # channels of the convolution behind a measured site
_IR_VERSION: Final = 10
_UNKNOWN_SIZES: Final = (
    "forms cannot be compared, because sizes here do not follow from those of the inputs; give the inputs' shapes "
    "(--shape), or take a form as it is (--form)"
)


def _sizes_known(site: Site, sizes: Sizes) -> bool:
    return all(sizes.concrete(value) is not None for value in site.inputs)


def site_model(
    site: Site, form: Builder, sizes: Sizes, *, neighbors: bool = False
) -> tuple[ir.Model, dict[str, tuple[int, ...]]]:
    """A model of one form of one site, with fixed input sizes.

    Args:
        site: the site.
        form: the builder of the form.
        sizes: concrete sizes of the graph that the site belongs to.
        neighbors: put a small convolution before each input and behind the output: in networks there is one nearly
            always, and what it leaves and expects decides what a form costs.

    Returns:
        The model and its inputs' shapes by name.

    Raises:
        UsageError: the sizes of the site's inputs do not follow from those of the graph's.
    """
    inputs = [_stand_in(value, f"site.x{i}", site, sizes) for i, value in enumerate(site.inputs)]
    shapes = {str(value.name): _shape(value) for value in inputs}
    kind = inputs[0].dtype or ir.DataType.FLOAT
    tape = Tape()
    if neighbors:
        around = _Neighbors(tape, kind)
        output = around.behind(form(tape, [around.before(value) for value in inputs]), site, shapes)
    else:
        output = form(tape, inputs)
    output.type = ir.TensorType(kind)
    _copy_constants(tape)
    graph = ir.Graph(
        inputs,
        [output],
        nodes=list(tape.nodes),
        initializers=list(tape.initializers),
        opset_imports={"": _OPSET},
        name=site.rule,
    )
    ir.passes.common.NameFixPass()(model := ir.Model(graph, ir_version=_IR_VERSION))
    return model, shapes


def _copy_constants(tape: Tape) -> None:
    """Give the nodes of a tape copies of the constants that belong to the graph that the site is in."""
    own = set(tape.initializers)
    copies: dict[ir.Value, ir.Value] = {}
    for node in tape.nodes:
        for i, value in enumerate(node.inputs):
            if value is None or value.const_value is None or value in own:
                continue
            if value not in copies:
                name = f"site.constant{len(copies)}"
                copies[value] = tape.initializer(value.const_value, name=name)
            node.replace_input_with(i, copies[value])


def _stand_in(value: ir.Value, name: str, site: Site, sizes: Sizes) -> ir.Value:
    """An input of the model, of the size and type of an input of the site."""
    shape = sizes.concrete(value)
    if shape is None:
        raise UsageError(
            f"the size of {value.name} is not known, so the forms of {site.node} cannot be compared; give the "
            "inputs' shapes (--shape NAME=1x3x512x768)"
        )
    kind = ir.TensorType(type_of(value) or ir.DataType.FLOAT)
    return ir.Value(name=name, shape=ir.Shape(shape), type=kind)


def _shape(stand_in: ir.Value) -> tuple[int, ...]:
    assert stand_in.shape is not None
    return stand_in.shape.numpy()


class _Neighbors:
    """Small convolutions around a site, with random weights."""

    def __init__(self, tape: Tape, kind: ir.DataType) -> None:
        self._tape = tape
        self._kind = kind
        self._random = np.random.default_rng(0)

    def before(self, value: ir.Value) -> ir.Value:
        """A convolution of an input, channel by channel."""
        channels = _shape(value)[1]
        y = self._convolved(value, (channels, 1, 1, 1), f"{value.name}.neighbor", channels)
        y.shape, y.type = value.shape, value.type
        return y

    def behind(self, output: ir.Value, site: Site, shapes: Mapping[str, tuple[int, ...]]) -> ir.Value:
        """A convolution of the site's output; the output as it is where nothing reads it, or its size is not known."""
        shape = Sizes(dict(shapes)).shape(output)
        channels = None if shape is None else shape[1].known
        if channels is None or site.reader == "output":
            return output
        if site.reader == "others":  # something that is no convolution stands between
            output = self._tape.Add(output, self._tape.AveragePool(output, kernel_shape=[1, 1]))
        return self._convolved(output, (_NEIGHBOR, channels, 1, 1), "site.neighbor")

    def _convolved(self, value: ir.Value, weight: tuple[int, ...], name: str, group: int = 1) -> ir.Value:
        values = self._random.standard_normal(weight, np.float32).astype(self._kind.numpy())
        initializer = self._tape.initializer(ir.tensor(values, name=name), name=name)
        y: ir.Value = self._tape.Conv(value, initializer, group=group)
        return y


class CostModel:
    """Chooses by the cost model: a form that is faster than what stands beyond the model's own error.

    Args:
        target: whose rates.
        sizes: concrete sizes of the graph.
    """

    def __init__(self, target: Target, sizes: Sizes) -> None:
        self._target: Target = target
        self._sizes = sizes

    def choose(self, site: Site, forms: Mapping[str, Builder]) -> tuple[str, str]:
        """Return the form with the least estimated time, what stands where that is not sure, and the estimates."""
        if not _sizes_known(site, self._sizes):
            return KEEP, _UNKNOWN_SIZES
        found = {
            name: estimate(self._target, *site_model(site, form, self._sizes), reader=site.reader)
            for name, form in forms.items()
        }
        sure = {name: e for name, e in found.items() if name == KEEP or e.beats(found[KEEP])}
        best = min(sure, key=lambda name: sure[name].seconds)
        listed = ", ".join(
            f"{name} {1e3 * e.seconds:.3f} ms"
            for name, e in sorted(found.items(), key=lambda item: item[1].seconds)
        )
        return best, f"cost model of {self._target}: {listed}"


class Measured:
    """Chooses by measurement: ONNX Runtime on this machine's CPU, the forms interleaved; what stands stays on a tie.

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
        key = (site.rule, *site.key, *(self._sizes.concrete(value) for value in site.inputs))
        if key not in self._known:
            times = self._measure(site, forms)
            self._known[key] = times.best(KEEP), times.describe(KEEP)
        return self._known[key]

    def _measure(self, site: Site, forms: Mapping[str, Builder]) -> Times:
        random = np.random.default_rng(0)
        models: dict[str, ir.Model] = {}
        feeds: dict[str, npt.NDArray[Any]] = {}
        for name, form in forms.items():
            models[name], shapes = site_model(site, form, self._sizes, neighbors=True)
            for value in models[name].graph.inputs:
                shape = shapes[str(value.name)]
                kind = (value.dtype or ir.DataType.FLOAT).numpy()
                feeds.setdefault(str(value.name), random.standard_normal(shape, np.float32).astype(kind))
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


__all__ = ["RATES", "CostModel", "Estimate", "Fixed", "Measured", "Preferred", "Target", "site_model"]
