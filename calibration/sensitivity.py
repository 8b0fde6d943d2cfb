"""The sensitivity pass: layer by layer, what int8 costs and what it wins, and what is left in float for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .qdq_placement import Layer

if TYPE_CHECKING:
    from .evaluator import Damage

# Kernels of both forms are timed one after the other: what is nearer to 1 than this is noise.
_CLEARLY_SLOWER: Final = 1.1
# A layer of less than this share of the convolutions' time is not worth this share of the budget.
_TRIFLE: Final = 0.005
_TELLING: Final = 0.02


@dataclass(frozen=True)
class Trial:
    """One layer quantized alone.

    Attributes:
        layer: which.
        damage: what it costs, see `evaluator.Damage.value`.
        float_seconds: of its kernels in float.
        int8_seconds: of its kernels in int8; None: the target is not ONNX Runtime, and its times say nothing.
    """

    layer: Layer
    damage: float
    float_seconds: float
    int8_seconds: float | None

    @property
    def won(self) -> float:
        """Seconds that int8 wins; where nobody knows, those in float, which say how much there is to compute."""
        return self.float_seconds - (self.int8_seconds or 0.0)

    @property
    def pays(self) -> bool:
        """Whether its kernels are not clearly slower in int8."""
        return self.int8_seconds is None or self.int8_seconds <= _CLEARLY_SLOWER * self.float_seconds


@dataclass(frozen=True)
class Decision:
    """What becomes of the layers.

    Attributes:
        int8: these are quantized.
        reasons: why each of the others stays in float, by name.
        damage: of all the quantized ones together.
    """

    int8: tuple[Layer, ...]
    reasons: dict[str, str]
    damage: Damage


def rank(trials: Sequence[Trial]) -> list[Trial]:
    """Trials by damage for each second won, the worst first."""
    return sorted(trials, key=lambda trial: trial.damage / max(trial.won, 1e-6), reverse=True)


def decide(
    trials: Sequence[Trial],
    budget: float,
    judge: Callable[[Sequence[Layer]], Damage],
    *,
    time_decides: bool = True,
    text: Callable[[float], str] = "{:.4g}".format,
) -> Decision:
    """Keep in float what does not pay, and then as few of the worst layers as the budget demands.

    The damage of the rest is taken to fall with each layer that is left out, so that the number of layers is found
    by bisection.

    Args:
        trials: of all layers.
        budget: damage that all quantized layers together may do.
        judge: scores a choice of layers.
        time_decides: leave out layers whose int8 kernels are clearly slower here.
        text: a damage in words.
    """
    whole = sum(trial.float_seconds for trial in trials)
    reasons: dict[str, str] = {}
    for t in trials:
        if time_decides and t.int8_seconds is not None and not t.pays:
            reasons[t.layer.name] = (
                f"int8 takes {1e3 * t.int8_seconds:.3f} ms, float {1e3 * t.float_seconds:.3f} ms"
            )
        elif t.float_seconds < _TRIFLE * whole and t.damage > _TELLING * budget:
            reasons[t.layer.name] = (
                f"a trifle to compute ({1e3 * t.float_seconds:.3f} ms), damage {text(t.damage)}"
            )
    ranked = rank([trial for trial in trials if trial.layer.name not in reasons])

    def rest(left_out: int) -> list[Layer]:
        kept = {trial.layer.name for trial in ranked[left_out:]}
        return [trial.layer for trial in trials if trial.layer.name in kept]

    low, high = 0, len(ranked)
    best = judge(rest(0))
    found = {0: best}
    if best.value > budget:
        while low < high:
            middle = (low + high) // 2
            found[middle] = judge(rest(middle))
            if found[middle].value <= budget:
                high = middle
            else:
                low = middle + 1
        best = found[low] if low in found else judge(rest(low))
    for trial in ranked[:low]:
        reasons[trial.layer.name] = f"damage {text(trial.damage)} alone; the budget is {text(budget)} for all"
    return Decision(tuple(rest(low)), reasons, best)
