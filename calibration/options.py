"""What a calibration is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..runtime.bundle.manifest import LAYER_GRAPHS, GraphName
from ..runtime.bundle.uint8_form import EXACT_WEIGHT_LIMIT
from ..runtime.errors import UsageError
from ..runtime.limits import Limits
from .observers import Cache
from .qparams import AnyScale, ScaleRule
from .ranges import RangeMethod
from .targets import TARGETS, Target


@dataclass(frozen=True)
class Options:
    """How to calibrate.

    Attributes:
        images: folder of photographs, for bundles.
        count: how many samples ranges are measured on, at the most.
        graphs: which graphs to quantize.
        ranges: the range method; None: the one whose output is nearest to the float graph's.
        rule: the scale rule.
        weight_bits: 7, or 8; with 7 the fast kernels of machines without VNNI are exact too.
        budget_db: PSNR of the estimate that `analyse` and `synthesise` may lose together, in dB.
        budget_labels: share of the labels that `segment` may change, 0..1.
        time_decides: layers whose int8 kernels are clearly slower on this machine stay in float, if it is the target.
        target: what the result is to run on.
        integer: whether the graphs of the decoder are made of integers, the same on every machine (`integer`).
        exclude: patterns of the names of layers that stay in float.
        exclude_types: operators that stay in float, such as `ConvTranspose`.
        threads: threads per run.
        cache: of the statistics.
        limits: on the photographs.
    """

    images: Path = Path()
    count: int = 32
    graphs: tuple[GraphName, ...] = LAYER_GRAPHS
    ranges: RangeMethod | None = None
    rule: ScaleRule = field(default_factory=lambda: AnyScale())  # noqa: PLW0108 - typed as the protocol
    weight_bits: int = 7
    budget_db: float = 0.1
    budget_labels: float = 0.05
    time_decides: bool = True
    target: Target = "cpu"
    integer: bool = False
    exclude: tuple[str, ...] = ()
    exclude_types: tuple[str, ...] = ()
    threads: int = 1
    cache: Cache = field(default_factory=lambda: Cache(None))
    limits: Limits = field(default_factory=Limits)

    @property
    def times_layers(self) -> bool:
        """Whether times on this machine decide what stays in float: they say nothing of a GPU."""
        return self.time_decides and self.runs_here

    @property
    def runs_here(self) -> bool:
        """Whether what is written is made for ONNX Runtime, so that its kernels and times count."""
        return self.target == "cpu" or self.integer

    @property
    def as_written(self) -> bool:
        """Whether results are judged with int8 activations: as TensorRT computes them, which clip at 127.

        The uint8 form that CPUs make of a bundle's graphs goes on to 255 where values are never negative, and so looks
        better than what is written.
        """
        return self.target == "tensorrt"

    @property
    def weight_limit(self) -> int:
        """Largest magnitude of int8 weights."""
        return 127 if self.weight_bits == 8 else EXACT_WEIGHT_LIMIT - 1

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            UsageError: naming the setting.
        """
        demands = {
            "--count": (self.count >= 1, self.count, "at least 1"),
            "--weight-bits": (self.weight_bits in {7, 8}, self.weight_bits, "7 or 8"),
            "--budget-db": (self.budget_db >= 0, self.budget_db, "0 or more"),
            "--budget-labels": (0 <= self.budget_labels <= 1, self.budget_labels, "0..1"),
            "--target": (self.target in TARGETS, self.target, f"one of {', '.join(TARGETS)}"),
            "--threads": (self.threads >= 1, self.threads, "at least 1"),
        }
        for name, (good, value, wanted) in demands.items():
            if not good:
                raise UsageError(f"{name} is {value}, must be {wanted}")
