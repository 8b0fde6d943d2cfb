"""How far two backends, precisions or forms of one checkpoint agree, output by output."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from ..export.bundling import MIXED_TOLERANCES, TOLERANCES
from ..export.engines import Precision, prepare
from ..export.halves import write_half
from ..export.verify import Tolerance, compare
from ..runtime.backends import BACKENDS, Options
from ..runtime.backends.sessions import PRECISION_NAMES
from ..runtime.bundle import Bundle, GraphName
from ..runtime.engines import PRECISIONS, PRODUCTS, Product, wanted_precision
from ..runtime.errors import UsageError
from ..runtime.graphs import Graphs
from ..runtime.images import read_image
from ..runtime.limits import Limits
from . import environment
from .picture import as_rgb

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..export.precision import Half

    Pixels = npt.NDArray[np.uint8]

FORMAT: Final = "oslic-compare"
VERSION: Final = 1
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
UNOPTIMISED: Final = "unoptimised"


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        label: as the user wrote it.
        backend: a key of `BACKENDS`.
        bundle: what it runs.
        options: how.
        precision: in which it computes, `fp32`, `fp16`, ...
    """

    label: str
    backend: str
    bundle: Bundle
    options: Options
    precision: str

    @property
    def product(self) -> Product | None:
        """The product whose engines it runs; None if it runs the bundle's ONNX graphs."""
        return next((product for product in PRODUCTS if product == self.backend), None)

    def graphs(self) -> Graphs:
        """The graphs on the backend, each loaded when it is first needed.

        Raises:
            BackendError: the backend is not usable.
        """
        return Graphs(self.bundle, self.backend, self.options)

    def graph(self, name: GraphName) -> bytes:
        """A graph in the types in which this side computes it, serialised.

        Raises:
            BundleError: the file is missing or was altered.
            UsageError: it cannot be brought into these types.
        """
        data = self.bundle.read_graph(name)
        return data if self.product is None else prepare(data, cast("Precision", self.precision))


def parse_side(text: str, bundle: Bundle, folder: Path, threads: int | None) -> Side:
    """`BACKEND` or `BACKEND@VARIANT`.

    Args:
        text: a key of `BACKENDS`; behind `@` a precision, or `unoptimised`.
        bundle: what it is to run.
        folder: for a half-precision form of the bundle; must not exist.
        threads: CPU threads.

    Raises:
        UsageError: unknown names, or a variant that the backend or the bundle does not have.
    """
    backend, _, variant = text.partition("@")
    if backend not in BACKENDS:
        raise UsageError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    if variant and variant != UNOPTIMISED and variant not in PRECISIONS:
        raise UsageError(f"unknown variant {variant!r}; known: {UNOPTIMISED}, {', '.join(PRECISIONS)}")
    stated = {graph.precision for graph in bundle.manifest.graphs.values()}
    precision = "/".join(sorted(PRECISION_NAMES.get(name, name) for name in stated))
    if backend in PRODUCTS:
        if variant == UNOPTIMISED:
            raise UsageError(f"{backend} runs engines, which are optimised when they are built")
        held = wanted_precision(bundle, backend)
        options = Options(threads=threads, precision=variant or None)
        return Side(text, backend, bundle, options, variant or held or precision)
    if variant == UNOPTIMISED:
        return Side(text, backend, bundle, Options(threads=threads, optimise=False), precision)
    if variant and variant != precision:
        if variant not in {"fp16", "bf16"} or precision != "fp32":
            raise UsageError(f"{backend} runs graphs as they are, in {precision}; {variant} cannot be had")
        bundle = write_half(bundle, cast("Half", variant), folder)
    return Side(text, backend, bundle, Options(threads=threads), variant or precision)


def origin(bundle: Bundle) -> str:
    """Fingerprint of the float checkpoint that a bundle was made from; quantised bundles have one of their own."""
    manifest = bundle.manifest
    return str((manifest.quantization or {}).get("float_fingerprint", manifest.fingerprint))


@contextlib.contextmanager
def open_sides(
    names: Sequence[str], bundle: Bundle, other: Bundle | None, threads: int | None
) -> Iterator[tuple[Side, Side]]:
    """The two sides of a comparison; forms made for it are gone afterwards.

    Args:
        names: two of `BACKEND[@VARIANT]`.
        bundle: what the first one runs, and the second unless `other` is given.
        other: another form of the same checkpoint, or a bundle quantised from it.
        threads: CPU threads.

    Raises:
        UsageError: not two names, or names that `parse_side` refuses, or another checkpoint.
    """
    if len(names) != 2:
        raise UsageError(f"--backends takes two names, A,B, not {len(names)}")
    if other is not None and origin(other) != origin(bundle):
        fingerprints = f"{bundle.manifest.fingerprint[:16]}, {other.manifest.fingerprint[:16]}"
        raise UsageError(
            f"{bundle.path} and {other.path} are of different checkpoints ({fingerprints}): outputs of different "
            "networks say nothing about backends"
        )
    with tempfile.TemporaryDirectory(prefix="oslic-") as text:
        first = parse_side(names[0], bundle, Path(text) / "a", threads)
        second = parse_side(names[1], other or bundle, Path(text) / "b", threads)
        yield first, second


@dataclass(frozen=True)
class Agreement:
    """One output of the two sides over all images.

    Attributes:
        graph: whose output.
        output: its name.
        maximum: largest |b - a|.
        mean: mean |b - a|.
        percentiles: of |b - a|, by percent.
        differing: share of the elements that are not equal.
        exceeding: share of the elements beyond the tolerance, of the worst image.
        ok: whether every image is within the tolerance.
        psnr: between the two, in dB, peak 255, over all images; None where they are equal or are labels.
    """

    graph: GraphName
    output: str
    maximum: int
    mean: float
    percentiles: dict[str, float]
    differing: float
    exceeding: float
    ok: bool
    psnr: float | None

    def __str__(self) -> str:
        shares = f"{100 * self.differing:.4f} % differ, {100 * self.exceeding:.4f} % beyond tolerance"
        if self.output == "labels":  # the distance between two classes means nothing
            return f"{self.output:<10} {shares}"
        marks = ", ".join(f"p{percent} {value:g}" for percent, value in self.percentiles.items())
        text = f"{self.output:<10} maximum {self.maximum}, mean {self.mean:.5f}, {marks}; {shares}"
        return text if self.psnr is None else f"{text}; PSNR between them {self.psnr:.2f} dB"


class _Tally:
    """Differences of one uint8 output, counted."""

    def __init__(self, graph: GraphName, output: str, tolerance: Tolerance) -> None:
        self._graph, self._output, self._tolerance = graph, output, tolerance
        self._counts = np.zeros(256, np.int64)
        self._exceeding = 0.0
        self._ok = True

    def add(self, y: Pixels, reference: Pixels) -> None:
        found = compare(self._output, y, reference, self._tolerance)
        self._ok &= found.ok
        self._exceeding = max(self._exceeding, found.exceeding)
        if y.shape == reference.shape:
            distance = np.abs(y.astype(np.int16) - reference)
            self._counts += np.bincount(distance.ravel(), minlength=256)

    def result(self) -> Agreement:
        total = max(1, int(self._counts.sum()))
        cumulative = np.cumsum(self._counts) / total
        levels = np.arange(256)
        squares = float((self._counts * levels**2).sum()) / total
        image = self._output != "labels" and squares > 0
        return Agreement(
            self._graph,
            self._output,
            int(np.flatnonzero(self._counts)[-1]) if self._counts.any() else 0,
            float((self._counts * levels).sum()) / total,
            {f"{p:g}": float(np.searchsorted(cumulative, p / 100)) for p in PERCENTILES},
            float(self._counts[1:].sum()) / total,
            self._exceeding,
            self._ok,
            10 * math.log10(255**2 / squares) if image else None,
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


def tolerances(
    one: Side, other: Side, given: Mapping[str, Mapping[str, float]]
) -> dict[GraphName, Tolerance]:
    """What may differ, by graph.

    Args:
        one: one side.
        other: the other side; where both compute in one precision, less may differ.
        given: `atol`, `rtol`, `share` and `limit` by output, or for all outputs under the empty name.
    """
    base = TOLERANCES if one.precision == other.precision else MIXED_TOLERANCES
    result = {}
    for graph, tolerance in base.items():
        output = one.bundle.manifest.graphs[graph].output
        changes = {**given.get("", {}), **given.get(output, {})}
        # Who gives a bound of his own means it to hold for every element, unless he says otherwise.
        own = bool({"atol", "rtol"} & changes.keys())
        result[graph] = replace(replace(tolerance, share=0.0, limit=None) if own else tolerance, **changes)
    return result


def run(
    one: Side,
    other: Side,
    images: Sequence[Path],
    allowed: Mapping[GraphName, Tolerance],
    most: int | None,
    *,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Compare the outputs of two sides on the same inputs, and their estimates end to end.

    Each graph of the other side gets the inputs that the first side computed, so that a difference shows where it
    arises. `end to end` feeds the other side's own labels and compact image on.

    Args:
        one: the reference.
        other: what is compared with it.
        images: photographs.
        allowed: what may differ, by graph.
        most: crop images to this side; None: as they are.
        limits: what to refuse; None for the defaults.

    Returns:
        The result, ready for JSON.
    """
    manifest = one.bundle.manifest
    tallies = {
        graph: _Tally(graph, manifest.graphs[graph].output, allowed[graph]) for graph in manifest.graph_names
    }
    whole = _Tally("synthesise", "end to end", replace(allowed["synthesise"], share=1.0, limit=None))
    with one.graphs() as a, other.graphs() as b:
        for path in images:
            x = read_padded(path, manifest.multiple, most, limits)
            labels = a.run("segment", x)
            compact = a.run("analyse", x, labels)
            estimate = a.run("synthesise", compact, labels)
            own_labels = b.run("segment", x)
            tallies["segment"].add(own_labels, labels)
            tallies["analyse"].add(b.run("analyse", x, labels), compact)
            tallies["synthesise"].add(b.run("synthesise", compact, labels), estimate)
            own = b.run("synthesise", b.run("analyse", x, own_labels), own_labels)
            whole.add(own, estimate)
        chosen = [a.selection.reason, b.selection.reason]
    rows = [tally.result() for tally in tallies.values()]
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": environment.describe(),
        "sides": [
            {"name": side.label, "precision": side.precision, "backend": reason}
            for side, reason in zip((one, other), chosen, strict=True)
        ],
        "bundle": manifest.name,
        "fingerprint": manifest.fingerprint,
        "images": [path.name for path in images],
        "tolerances": {graph: asdict(tolerance) for graph, tolerance in allowed.items()},
        "outputs": [asdict(row) for row in rows],
        "end_to_end": asdict(whole.result()),
        "ok": all(row.ok for row in rows),
    }


def table(result: dict[str, Any]) -> str:
    """The result in lines."""
    rows = [Agreement(**row) for row in (*result["outputs"], result["end_to_end"])]
    return "\n".join(f"{'' if row.ok else 'BEYOND '}{row}" for row in rows)
