"""Nearest upsampling that is not written as `Resize`: repeat_interleave, expand and reshape, Keras' UpSampling2D."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..data_movement import goes_on, repeated
from ..ir_queries import is_real, label, producer, reject, require_live
from .base import Bound, FusionRule
from .resampling import repeat

if TYPE_CHECKING:
    import onnx_ir as ir


class UpsamplingByRepetition(FusionRule):
    """Rows and columns that are repeated by tiling, expanding and reshaping are an upsampling."""

    title = "upsampling-by-repetition"
    identity = "reshape(tile(l)) = up(l)"

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Reshape(x, _allow_other_inputs=True, _outputs=["up"])

    def check(self, bound: Bound) -> None:
        self._source(bound["up"])

    def _source(self, up: ir.Value) -> tuple[ir.Value, tuple[int, int]]:
        require_live(up)
        found = repeated(up, self.context.sizes)
        if found is None or goes_on(up, self.context.sizes):
            raise reject("")  # any other reshaping, or a part of a longer one
        source, _ = found
        if not is_real(source):
            raise reject(
                f"{label(producer(up))} repeats whole numbers, or values of an unknown type", producer(up)
            )
        return found

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        return repeat(op, self, *self._source(bound["up"]))


class UpsamplingByRepetitionTransposed(UpsamplingByRepetition):
    """The same where channels come last in between, as in the graphs of Keras."""

    title = "upsampling-by-repetition-transposed"
    identity = "transpose(reshape(tile(transpose(l)))) = up(l)"

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Transpose(x, _outputs=["up"])
