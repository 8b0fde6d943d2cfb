"""How far two graphs, backends or precisions agree, output by output; a bundle is compared graph by graph."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from ...export.bundle_checks import (
    MIXED_PIXELS,
    MIXED_TOLERANCES,
    PLAIN_PIXELS,
    TOLERANCES,
    example_inputs,
)
from ...export.engines import Precision, prepare
from ...export.half_bundle import half_graph
from ...export.verify import Tolerance, compare
from ...measure import environment
from ...runtime.backends import BACKENDS, Options
from ...runtime.bundle.engine_files import PRECISIONS, PRODUCTS, Product, wanted_precision
from ...runtime.bundle.finder import told_as
from ...runtime.bundle.folder import Bundle
from ...runtime.bundle.manifest import OSLIC
from ...runtime.errors import UsageError
from ...runtime.image.files import read_image
from ...runtime.limits import Limits
from ...runtime.model.running import AUTO, Loaded, load
from ...runtime.model.source import Model, Source
from ..report.layer_images import as_rgb

if TYPE_CHECKING:
    import numpy.typing as npt

    from ...export.precision import Half
    from ...runtime.image.arrays import Pixels
    from ...runtime.model.samples import Sample

    Arrays = Mapping[str, npt.NDArray[Any]]

FORMAT: Final = "oslic-compare"
VERSION: Final = 2
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
UNOPTIMIZED: Final = "unoptimized"
END_TO_END: Final = "end to end"
_CHAINED: Final = "synthesise"
"""The graph of a bundle whose output is compared end to end, too."""

# Of outputs of graphs that are no bundle's: sums in another order, half precision, 8-bit integers.
_PLAIN: Final = Tolerance(atol=1e-4, rtol=1e-4)
_MIXED: Final = Tolerance(atol=1e-2, rtol=1e-2)
_INTEGER: Final = Tolerance(atol=5e-2, rtol=5e-2, share=2e-2)
_INTEGER_PIXELS: Final = Tolerance(atol=2, rtol=0, share=1e-1)
_MOST_KEPT: Final = 1 << 20
"""Differences of an output that percentiles are taken of, for each set of inputs; of more, these, evenly spread."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        label: as the user wrote it.
        backend: a key of `BACKENDS`.
        source: what it runs.
        options: how.
        precision: in which it computes, `fp32`, `fp16`, ...
        models: the graphs as they run; none where an engine was named by itself.
    """

    label: str
    backend: str
    source: Source
    options: Options
    precision: str
    models: tuple[Model, ...]

    @property
    def product(self) -> Product | None:
        """The product whose engines it runs; None if it runs ONNX graphs."""
        return next((product for product in PRODUCTS if product == self.backend), None)

    def model(self, name: str) -> Model:
        """A graph as this side runs it.

        Raises:
            UsageError: it runs an engine that was named by itself, and has no graph.
        """
        found = next((model for model in self.models if model.name == name), None)
        if found is None and len(self.models) == 1:
            return self.models[0]
        if found is None:
            raise UsageError(
                f"{self.label} is an engine without its graph: name the graph, and the product as a backend "
                "(--backends)"
            )
        return found

    def graph(self, name: str) -> bytes:
        """A graph in the types in which this side computes it, serialized.

        Raises:
            UsageError: it cannot be brought into these types, or there is none.
        """
        data = self.model(name).data
        return data if self.product is None else prepare(data, cast("Precision", self.precision))

    def load(self, name: str) -> Loaded:
        """A graph, ready to run.

        Raises:
            BackendError: the backend cannot be used, or cannot take the graph.
        """
        subject = self.source.engine or self.model(name)
        return load(subject, self.backend, self.options)


def make_side(text: str, source: Source, threads: int | None = None, *, trust: bool = False) -> Side:
    """One side.

    Args:
        text: `BACKEND` or `BACKEND@VARIANT`: a key of `BACKENDS` or `auto`; behind `@` a precision, or `unoptimized`.
        source: what it is to run.
        threads: CPU threads.
        trust: whether engines may be loaded that were not built here.

    Raises:
        UsageError: unknown names, or a variant that the backend or the graph does not have.
    """
    backend, _, variant = text.partition("@")
    if backend not in {AUTO, *BACKENDS}:
        raise UsageError(f"unknown backend {backend!r}; known: auto, {', '.join(BACKENDS)}")
    if variant and variant != UNOPTIMIZED and variant not in PRECISIONS:
        raise UsageError(f"unknown variant {variant!r}; known: {UNOPTIMIZED}, {', '.join(PRECISIONS)}")
    options = Options(threads=threads, trust_engines=trust)
    if source.engine is not None:
        info = source.engine.info
        if variant and variant != info.precision:
            raise UsageError(f"{source.path} is an engine in {info.precision}; {variant} cannot be had")
        return Side(str(source.path), info.backend, source, options, info.precision, ())
    if backend == AUTO:
        backend = _on_graphs()
    models = source.models
    label = backend if not variant else f"{backend}@{variant}"
    precision = "/".join(sorted({model.precision for model in models}))
    if backend in PRODUCTS:
        if variant == UNOPTIMIZED:
            raise UsageError(f"{backend} runs engines, which are optimized when they are built")
        held = variant or (None if source.bundle is None else wanted_precision(source.bundle, backend))
        return Side(label, backend, source, replace(options, precision=held), held or precision, models)
    if variant == UNOPTIMIZED:
        return Side(label, backend, source, replace(options, optimize=False), precision, models)
    if variant and variant != precision:
        if variant not in {"fp16", "bf16"} or precision != "fp32":
            raise UsageError(f"{backend} runs graphs as they are, in {precision}; {variant} cannot be had")
        if backend == "openvino":
            return Side(label, backend, source, replace(options, precision=variant), variant, models)
        models = tuple(m.with_data(half_graph(m.data, cast("Half", variant))) for m in models)
    return Side(label, backend, source, options, variant or precision, models)


def _on_graphs() -> str:
    from ...runtime.model.running import first_for_graphs

    return first_for_graphs(Options())


def origin(bundle: Bundle) -> str:
    """Fingerprint of the float checkpoint that a bundle was made from; quantized bundles have one of their own."""
    manifest = bundle.manifest
    return str((manifest.quantization or {}).get("float_fingerprint", manifest.fingerprint))


def make_sides(
    names: Sequence[str], source: Source, other: Source | None, threads: int | None, *, trust: bool = False
) -> tuple[Side, Side]:
    """The two sides of a comparison.

    Args:
        names: two of `BACKEND[@VARIANT]`.
        source: what the first one runs, and the second unless `other` is given.
        other: another form of the same network, such as a quantized one, or its engine.
        threads: CPU threads.
        trust: whether engines may be loaded that were not built here.

    Raises:
        UsageError: not two names, or names that `make_side` refuses, or other inputs and outputs.
    """
    if len(names) != 2:
        raise UsageError(f"--backends takes two names, A,B, not {len(names)}")
    if other is not None and (source.bundle is None) != (other.bundle is None):
        raise UsageError(f"{source.path} and {other.path}: a bundle is compared with a bundle")
    if other is not None and source.bundle is not None and other.bundle is not None:
        _require_same_checkpoint(source.bundle, other.bundle)
    if source.engine is not None:
        raise UsageError(f"{source.path} is an engine: name the graph that it is compared with first")
    first = make_side(names[0], source, threads, trust=trust)
    second = make_side(names[1], other or source, threads, trust=trust)
    if source.bundle is None and other is not None and other.engine is None:
        _require_same_ports(first.models[0], second.models[0])
    return first, second


def _require_same_checkpoint(bundle: Bundle, other: Bundle) -> None:
    if origin(other) != origin(bundle):
        fingerprints = f"{bundle.manifest.fingerprint[:16]}, {other.manifest.fingerprint[:16]}"
        raise UsageError(
            f"{bundle.path} and {other.path} are of different checkpoints ({fingerprints}): outputs of different "
            "networks say nothing about backends"
        )


def _require_same_ports(one: Model, two: Model) -> None:
    for what, a, b in (("inputs", one.inputs, two.inputs), ("outputs", one.outputs, two.outputs)):
        left, right = (sorted(port.name for port in ports) for ports in (a, b))
        if left != right:
            raise UsageError(
                f"{one.path} has the {what} {', '.join(left)}, {two.path} {', '.join(right)}: they are not of "
                "one network"
            )


@dataclass(frozen=True)
class Agreement:
    """One output of the two sides over all sets of inputs.

    Attributes:
        graph: whose output.
        output: its name.
        maximum: largest |b - a|.
        mean: mean |b - a|.
        percentiles: of |b - a|, by percent.
        differing: share of the elements that are not equal.
        exceeding: share of the elements beyond the tolerance, of the worst set of inputs.
        ok: whether every set of inputs is within the tolerance.
        psnr: of 8-bit images: between the two, in dB, peak 255, over all of them; None where they are equal.
        sqnr: of floats: power of the first side over that of the difference, in dB; None where they are equal.
    """

    graph: str
    output: str
    maximum: float
    mean: float
    percentiles: dict[str, float]
    differing: float
    exceeding: float
    ok: bool
    psnr: float | None
    sqnr: float | None = None

    def __str__(self) -> str:
        shares = f"{100 * self.differing:.4f} % differ, {100 * self.exceeding:.4f} % beyond tolerance"
        if self.output == "labels":  # the distance between two classes means nothing
            return f"{self.output:<10} {shares}"
        marks = ", ".join(f"p{percent} {value:g}" for percent, value in self.percentiles.items())
        text = f"{self.output:<10} maximum {self.maximum:g}, mean {self.mean:.5g}, {marks}; {shares}"
        if self.psnr is not None:
            return f"{text}; PSNR between them {self.psnr:.2f} dB"
        return text if self.sqnr is None else f"{text}; SQNR {self.sqnr:.2f} dB"


class _Tally:
    """Differences of one output, summed up."""

    def __init__(self, graph: str, output: str, tolerance: Tolerance) -> None:
        self._graph, self._output, self._tolerance = graph, output, tolerance
        self._kept: list[npt.NDArray[np.float32]] = []
        self._size = self._differing = 0
        self._sum = self._squares = self._signal = self._maximum = 0.0
        self._exceeding = 0.0
        self._ok, self._pixels = True, True

    def add(self, y: npt.NDArray[Any], reference: npt.NDArray[Any]) -> None:
        """Count one pair of outputs."""
        found = compare(self._output, y, reference, self._tolerance)
        self._ok &= found.ok
        self._exceeding = max(self._exceeding, found.exceeding)
        self._pixels &= reference.dtype == np.uint8
        if y.shape != reference.shape or not y.size:
            return
        left, right = y.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
        with np.errstate(invalid="ignore"):
            distance = np.where(left == right, 0.0, np.abs(left - right))
        # What is NaN on one side alone is counted as differing, and by the tolerance.
        plain = np.isfinite(distance)
        self._differing += int(np.count_nonzero(distance[plain])) + int(np.count_nonzero(~plain))
        self._size += distance.size
        finite = distance[plain]
        self._sum += float(finite.sum())
        self._squares += float(np.square(finite).sum())
        self._signal += float(np.square(right[plain]).sum())
        self._maximum = max(self._maximum, float(finite.max(initial=0.0)))
        step = -(-finite.size // _MOST_KEPT) or 1
        self._kept.append(finite[::step].astype(np.float32))

    def result(self) -> Agreement:
        """What was counted."""
        size = max(1, self._size)
        kept = np.concatenate(self._kept) if self._kept else np.zeros(1, np.float32)
        marks = (
            np.percentile(kept, PERCENTILES, method="inverted_cdf") if kept.size else [0.0] * len(PERCENTILES)
        )
        squares = self._squares / size
        image = self._pixels and self._output != "labels" and squares > 0
        floats = not self._pixels and self._squares > 0 and self._signal > 0
        return Agreement(
            self._graph,
            self._output,
            self._maximum,
            self._sum / size,
            {f"{p:g}": float(mark) for p, mark in zip(PERCENTILES, marks, strict=True)},
            self._differing / size,
            self._exceeding,
            self._ok,
            10 * math.log10(255**2 / squares) if image else None,
            10 * math.log10(self._signal / self._squares) if floats else None,
        )


def read_padded(path: Path, multiple: int, most: int | None, limits: Limits | None = None) -> Pixels:
    """An image as a batch of one, uint8 (1, H, W, 3), extended to multiples by its edge.

    Args:
        path: image file.
        multiple: what H and W become multiples of.
        most: crop to this height and width first; None: as it is.
        limits: what to refuse; None for the defaults.
    """
    pixels = as_rgb(read_image(path, limits or Limits()).pixels)
    if most is not None:
        pixels = pixels[:most, :most]
    below, right = (-side % multiple for side in pixels.shape[:2])
    return np.ascontiguousarray(np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="edge")[None])


def pictures_for(
    bundle: Bundle, images: Iterable[Path], most: int | None, limits: Limits | None = None
) -> Iterator[tuple[str, dict[str, Pixels]]]:
    """Photographs as what a bundle's first graphs take; the name of each, and the arrays by name.

    Args:
        bundle: whose graphs.
        images: photographs.
        most: crop images to this side; None: as they are.
        limits: what to refuse; None for the defaults.
    """
    for path in images:
        yield path.name, example_inputs(read_padded(path, bundle.manifest.multiple, most, limits))


def _default_tolerance(precisions: set[str], *, pixels: bool) -> Tolerance:
    """What an output of a graph that the toolkit does not know may differ between two precisions."""
    if len(precisions) == 1:
        return PLAIN_PIXELS if pixels else _PLAIN
    if any("int8" in precision for precision in precisions):
        return _INTEGER_PIXELS if pixels else _INTEGER
    return MIXED_PIXELS if pixels else _MIXED


def tolerances(
    one: Side, other: Side, given: Mapping[str, Mapping[str, float]]
) -> dict[tuple[str, str], Tolerance]:
    """What may differ, by graph and output.

    Args:
        one: one side.
        other: the other side; where both compute in one precision, less may differ.
        given: `atol`, `rtol`, `share` and `limit` by output, or for all outputs under the empty name.
    """
    same = one.precision == other.precision
    result = {}
    for model in one.models:
        for port in model.outputs:
            if one.source.bundle is not None and one.source.bundle.manifest.kind == OSLIC:
                tolerance = (TOLERANCES if same else MIXED_TOLERANCES)[cast("Any", model.name)]
            else:
                tolerance = _default_tolerance({one.precision, other.precision}, pixels=port.dtype == "uint8")
            changes = {**given.get("", {}), **given.get(port.name, {})}
            # Who gives a bound of his own means it to hold for every element, unless he says otherwise.
            own = bool({"atol", "rtol"} & changes.keys())
            result[model.name, port.name] = replace(
                replace(tolerance, share=0.0, limit=None) if own else tolerance, **changes
            )
    return result


def run(
    one: Side,
    other: Side,
    inputs: Iterable[tuple[str, Arrays]],
    allowed: Mapping[tuple[str, str], Tolerance],
) -> dict[str, Any]:
    """Compare the outputs of two sides on the same inputs.

    The graphs of a bundle feed one another: each graph of the other side gets the inputs that the first side computed,
    so that a difference shows where it arises, and `end to end` feeds the other side's own outputs on.

    Args:
        one: the reference.
        other: what is compared with it.
        inputs: a name and arrays by input, once or more often.
        allowed: what may differ, by graph and output.

    Returns:
        The result, ready for JSON.
    """
    tallies = {key: _Tally(*key, tolerance) for key, tolerance in allowed.items()}
    chained = next((key for key in allowed if key[0] == _CHAINED and len(one.models) > 1), None)
    whole = None
    if chained is not None:
        whole = _Tally(_CHAINED, END_TO_END, replace(allowed[chained], share=1.0, limit=None))
    names: list[str] = []
    with contextlib.ExitStack() as stack:
        sides = [
            {m.name: stack.enter_context(contextlib.closing(side.load(m.name))) for m in one.models}
            for side in (one, other)
        ]
        for label, arrays in inputs:
            names.append(label)
            values, own = dict(arrays), dict(arrays)
            for model in one.models:
                feeds = _feeds(model, values)
                outputs = [side[model.name].run(feeds) for side in sides]
                for port in model.outputs:
                    if port.name not in outputs[1]:
                        raise UsageError(
                            f"{other.label} has no output {port.name}; it gives {', '.join(outputs[1])}"
                        )
                    tallies[model.name, port.name].add(outputs[1][port.name], outputs[0][port.name])
                values |= outputs[0]
                if whole is not None:
                    own |= sides[1][model.name].run(_feeds(model, own))
            if whole is not None and chained is not None:
                whole.add(own[chained[1]], values[chained[1]])
    rows = [tally.result() for tally in tallies.values()]
    return _result((one, other), names, allowed, rows, None if whole is None else whole.result())


def run_apart(
    one: Side,
    other: Side,
    samples: Mapping[str, Sequence[Sample]],
    allowed: Mapping[tuple[str, str], Tolerance],
) -> dict[str, Any]:
    """Compare the outputs of two sides, each graph on inputs of its own.

    Args:
        one: the reference.
        other: what is compared with it.
        samples: what each graph is given, by its name; a graph that is not there is left out.
        allowed: what may differ, by graph and output.

    Returns:
        The result, ready for JSON.
    """
    rows: list[Agreement] = []
    for model in one.models:
        if model.name in samples:
            only = {key: tolerance for key, tolerance in allowed.items() if key[0] == model.name}
            part = [replace(side, models=(side.model(model.name),)) for side in (one, other)]
            inputs = ((sample.name, sample.feeds) for sample in samples[model.name])
            rows += rows_of(run(part[0], part[1], inputs, only))
    names = dict.fromkeys(sample.name for each in samples.values() for sample in each)
    return _result((one, other), list(names), allowed, rows)


def _result(
    sides: tuple[Side, Side],
    names: list[str],
    allowed: Mapping[tuple[str, str], Tolerance],
    rows: list[Agreement],
    whole: Agreement | None = None,
) -> dict[str, Any]:
    one = sides[0]
    bundle = one.source.bundle
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": environment.describe(),
        "sides": [
            {
                "name": side.label,
                "precision": side.precision,
                "backend": side.backend,
                "source": told_as(side.source.path),
            }
            for side in sides
        ],
        "source": one.models[0].name if bundle is None else bundle.manifest.name,
        "fingerprint": None if bundle is None else bundle.manifest.fingerprint,
        "inputs": names,
        "tolerances": {
            f"{graph}:{output}": asdict(tolerance) for (graph, output), tolerance in allowed.items()
        },
        "outputs": [asdict(row) for row in rows],
        "end_to_end": None if whole is None else asdict(whole),
        "ok": all(row.ok for row in rows),
    }


def _feeds(model: Model, values: Arrays) -> dict[str, npt.NDArray[Any]]:
    return {port.name: values[port.name] for port in model.inputs}


def rows_of(result: Mapping[str, Any]) -> list[Agreement]:
    """The outputs of a result, and the one end to end, if there is one."""
    rows = [*result["outputs"], *([result["end_to_end"]] if result["end_to_end"] else [])]
    return [Agreement(**row) for row in rows]


def table(result: Mapping[str, Any]) -> str:
    """The result in lines."""
    return "\n".join(f"{'' if row.ok else 'BEYOND '}{row}" for row in rows_of(result))
