"""Judging quantized graphs by their outputs: the signal-to-quantization-noise ratio, or a metric of the user's."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..runtime.errors import DataError, UsageError, one_line
from .evaluator import Damage
from .ort_session import Session

if TYPE_CHECKING:
    import numpy.typing as npt

    Arrays = Mapping[str, npt.NDArray[Any]]

Metric = Callable[[Sequence["Arrays"], Sequence["Arrays"]], float]
"""Outputs and inputs by name, for each sample -> a score; the higher, the better."""

_MOST_DB: Final = 99.0
_LEAST_NOISE: Final = 10 ** (-_MOST_DB / 10)


def load_metric(text: str) -> Metric:
    """A metric by name.

    Args:
        text: `module:function`; modules are looked for in the current folder, too.

    Raises:
        UsageError: there is no such function.
    """
    module, separator, name = text.partition(":")
    if not (separator and module and name):
        raise UsageError(f"--metric {text}: name a function as module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--metric {text}: {one_line(error)}") from error
    if not callable(found):
        raise UsageError(f"--metric {text}: it is no function")

    def metric(outputs: Sequence[Arrays], inputs: Sequence[Arrays]) -> float:
        try:
            return float(found(outputs, inputs))
        except Exception as error:  # whatever the user's function raises
            raise DataError(f"the metric {text} failed: {type(error).__name__}: {one_line(error)}") from error

    return metric


class OutputJudge:
    """Scores a quantized graph by its outputs.

    Without a metric, the damage is the power of the difference over the power of the float output, of the worst output:
    noise powers of layers add up, nearly, and 20 dB are 0.01. With one, it is the loss of the metric.

    Args:
        data: the serialized float model.
        samples: inputs by name.
        threads: threads per run.
        where: names the graph in messages.
        metric: of the user's; None: none.
        name: of the metric.
        as_written: quantized graphs are run in the form that they are in, not in uint8.
    """

    def __init__(
        self,
        data: bytes,
        samples: Sequence[Arrays],
        threads: int,
        *,
        where: str,
        metric: Metric | None = None,
        name: str = "",
        as_written: bool = False,
    ) -> None:
        self._samples = samples
        self._threads = threads
        self._where = where
        self._metric = metric
        self._as_written = as_written
        self.measure = "SQNR of the worst output, dB" if metric is None else name
        session = Session(data, threads, where=where)
        self._names = session.outputs
        self._references = [dict(zip(self._names, session.run(feeds), strict=True)) for feeds in samples]
        for reference in self._references:
            for output, y in reference.items():
                if y.dtype.kind == "f" and not np.all(np.isfinite(y)):
                    raise DataError(f"{where}: the output {output} is not finite on these inputs")
        self._before = _MOST_DB if metric is None else metric(self._references, samples)

    def damage(self, data: bytes, weight_limit: int | None) -> Damage:
        """See `GraphJudge.damage`."""
        session = Session(
            data,
            self._threads,
            where=f"{self._where} (quantized)",
            weight_limit=weight_limit,
            as_written=self._as_written,
        )
        outputs = [dict(zip(self._names, session.run(feeds), strict=True)) for feeds in self._samples]
        noise = max(self._noise(name, outputs) for name in self._names)
        agreement = min(_MOST_DB, -10 * math.log10(max(noise, _LEAST_NOISE)))
        if self._metric is None:
            return Damage(noise, agreement, agreement)
        score = self._metric(outputs, self._samples)
        return Damage(self._before - score, score, agreement)

    def _noise(self, name: str, outputs: Sequence[Arrays]) -> float:
        """Power of the noise over that of the signal, of one output over all samples."""
        signal = noise = 0.0
        for output, reference in zip(outputs, self._references, strict=True):
            y, x = output[name].astype(np.float64), reference[name].astype(np.float64)
            signal += float(np.square(x).sum())
            noise += float(np.square(y - x).sum())
        if not math.isfinite(noise):
            return math.inf
        return noise / signal if signal > 0 else float(noise > 0)

    def before(self) -> float:
        """See `GraphJudge.before`."""
        return self._before

    def text(self, value: float) -> str:
        """See `GraphJudge.text`."""
        if not math.isfinite(value):
            return "outputs that are not finite"
        if self._metric is not None:
            return f"{self.measure} -{value:.4g}"
        return f"SQNR {min(_MOST_DB, -10 * math.log10(max(value, _LEAST_NOISE))):.1f} dB"
