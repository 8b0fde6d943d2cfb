"""Numeric comparison of graphs: |y - ref| <= atol + rtol * |ref|, NaN with a verdict of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..runtime.backends.onnxruntime.sessions import require_onnxruntime, session_options
from ..runtime.errors import UsageError, VerificationError, one_line
from ..runtime.model.feeds import is_misfit

if TYPE_CHECKING:
    import numpy.typing as npt

    Arrays = Mapping[str, npt.NDArray[Any]]

NO_BFLOAT16: Final = "ONNX Runtime has no kernels in bfloat16 for this graph on the CPU"
"""What is said where it refuses a graph for that."""


@dataclass(frozen=True)
class Tolerance:
    """What may differ.

    Attributes:
        atol: absolute part, in units of the value.
        rtol: part relative to the reference.
        share: share of the elements that may exceed it; above 0 only for whole numbers, where a rounding
            or an argmax can tip either way.
        limit: what no element may exceed, share or not; None: no such bound.
    """

    atol: float = 1e-4
    rtol: float = 1e-4
    share: float = 0.0
    limit: float | None = None


def for_type(tolerance: Tolerance, reference: npt.NDArray[Any]) -> Tolerance:
    """A tolerance for values of the reference's type.

    Whole numbers may differ by one. Half precision has steps of 2^-11 (bfloat16: 2^-8) of a value's size; layers in it
    add their roundings, which are relative to the largest of what they sum.

    Args:
        tolerance: for float32.
        reference: the values compared with.
    """
    if np.issubdtype(reference.dtype, np.integer):
        return replace(tolerance, atol=max(1.0, tolerance.atol))
    if reference.dtype.itemsize == 2:
        step = 2.0**-11 if reference.dtype == np.float16 else 2.0**-8
        finite = np.abs(reference[np.isfinite(reference)].astype(np.float64))
        return replace(tolerance, atol=max(tolerance.atol, 4 * step * float(finite.max(initial=0.0))))
    return tolerance


@dataclass(frozen=True)
class Difference:
    """How far one output is from its reference.

    Attributes:
        name: the output.
        shape: its shape.
        maximum: largest `|y - ref|`; NaN where one of them is NaN.
        mean: mean `|y - ref|`.
        p999: 99.9th percentile of `|y - ref|`.
        magnitude: largest finite `|ref|`, for judging the others.
        exceeding: share of elements beyond the tolerance.
        nans: elements that are NaN in one of both, or infinite in one alone.
        ok: within the tolerance.
        reference_nans: those of `nans` that are NaN in the reference.
    """

    name: str
    shape: tuple[int, ...]
    maximum: float
    mean: float
    p999: float
    magnitude: float
    exceeding: float
    nans: int
    ok: bool
    reference_nans: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; what is not finite is None, as JSON has no word for it."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }

    def __str__(self) -> str:
        text = (
            f"{self.name} {'x'.join(map(str, self.shape))}: maximum {self.maximum:.3g}, mean {self.mean:.3g} "
            f"of values up to {self.magnitude:.3g}, {100 * self.exceeding:.4f} % beyond tolerance"
        )
        if self.nans:
            text += f", {self.nans} NaN or infinite"
        if self.reference_nans:
            text += f" ({self.reference_nans} of them NaN in the original, too)"
        return text


def compare(name: str, y: npt.NDArray[Any], reference: npt.NDArray[Any], tolerance: Tolerance) -> Difference:
    """Compare one array with its reference.

    Args:
        name: what it is called in the result.
        y: any numeric array.
        reference: of the same shape.
        tolerance: what may differ.
    """
    if y.shape != reference.shape:
        nan = float("nan")
        return Difference(name, y.shape, nan, nan, nan, nan, 1.0, 0, ok=False)
    left, right = y.astype(np.float64), reference.astype(np.float64)
    finite = np.abs(right[np.isfinite(right)])
    # Equal infinities are equal; everything else that is not finite is named.
    odd = ~(np.isfinite(left) & np.isfinite(right)) & ~(left == right)
    with np.errstate(invalid="ignore"):
        distance = np.where(left == right, 0.0, np.abs(left - right))
        beyond = odd | (distance > tolerance.atol + tolerance.rtol * np.abs(right))
    nans = int(odd.sum())
    given = int((odd & np.isnan(right)).sum())
    share = float(beyond.mean()) if beyond.size else 0.0
    plain = distance[~odd]
    maximum = float("nan") if nans else float(distance.max(initial=0.0))
    bounded = tolerance.limit is None or maximum <= tolerance.limit
    return Difference(
        name,
        y.shape,
        maximum,
        float(plain.mean()) if plain.size else 0.0,
        float(np.quantile(plain, 0.999)) if plain.size else 0.0,
        float(finite.max(initial=0.0)),
        share,
        nans,
        ok=nans == 0 and share <= tolerance.share and bounded,
        reference_nans=given,
    )


def run(
    model: bytes | str,
    feeds: Arrays,
    outputs: Sequence[str] | None = None,
    threads: int = 1,
    libraries: Sequence[str] = (),
    *,
    given: bool = False,
) -> dict[str, Any]:
    """Run a model with ONNX Runtime on the CPU.

    Args:
        model: a serialized ONNX model, or the name of its file.
        feeds: inputs by name.
        outputs: names of the outputs wanted; None: all.
        threads: threads to use.
        libraries: shared libraries with custom operators; their code is run.
        given: the model is the user's own: inputs that do not fit are an error of usage.

    Returns:
        Outputs by name.

    Raises:
        DependencyError: ONNX Runtime is not installed.
        VerificationError: it cannot load or run the model.
        UsageError: an output is no tensor, or the inputs do not fit a model that was given.
    """
    onnxruntime = require_onnxruntime("comparing graphs")
    options = session_options(onnxruntime, threads)
    register_operators(options, libraries)
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        if "bfloat16" in str(error):
            raise VerificationError(
                f"{NO_BFLOAT16}: do without the comparison (--no-check). {one_line(error)}"
            ) from error
        raise VerificationError(f"ONNX Runtime cannot run the graph: {one_line(error)}") from error
    try:
        names = [o.name for o in session.get_outputs()] if outputs is None else list(outputs)
        found = dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        kind = UsageError if given and is_misfit(str(error)) else VerificationError
        raise kind(f"ONNX Runtime cannot run the graph: {one_line(error)}") from error
    for name, value in found.items():
        if not isinstance(value, np.ndarray):
            raise UsageError(
                f"the output {name} is no tensor (a sequence, a map, or optional), and only tensors can be compared: "
                "do without the comparison (--no-check), or export the graph without it"
            )
    return found


def register_operators(options: Any, libraries: Sequence[str]) -> None:
    """Have sessions with these options know the custom operators of shared libraries.

    Args:
        options: `onnxruntime.SessionOptions`.
        libraries: names of the files.

    Raises:
        UsageError: one of them cannot be loaded, or registers no operators.
    """
    for library in libraries:
        try:
            options.register_custom_ops_library(library)
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            raise UsageError(
                f"{library} cannot be loaded as a library of custom operators: {one_line(error)}"
            ) from error


def require(differences: Sequence[Difference], what: str, tolerance: Tolerance) -> None:
    """Raise where an output is beyond its tolerance.

    Raises:
        VerificationError: naming the outputs and by how much.
    """
    wrong = [str(d) for d in differences if not d.ok]
    if wrong:
        raise VerificationError(
            f"{what} does not match its reference (atol {tolerance.atol:g}, rtol {tolerance.rtol:g}): "
            + "; ".join(wrong)
        )
