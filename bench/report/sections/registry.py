"""Which section shows which kind of result file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from ....measure.result_files import read_json
from ....runtime.errors import DataError
from ...experiments import latency, rate_distortion
from ..page import Section
from .agreement import agreement_section, drift_section
from .fusion import fusion_section
from .gpu import gpu_section
from .int8 import int8_section
from .latency import graph_latency_section, latency_section
from .lossless import lossless_layers_section
from .rate_distortion import rate_distortion_section
from .resources import memory_section, scale_section, seams_section
from .robustness import fuzzing_section, selfcheck_section

# In the order in which a report shows them.
_SECTIONS: Final = {
    rate_distortion.FORMAT: rate_distortion_section,
    latency.FORMAT: latency_section,
    "oslic-bench-fusion": fusion_section,
    "oslic-bench-int8": int8_section,
    "oslic-bench-flif": lossless_layers_section,
    "oslic-bench-gpu": gpu_section,
    "oslic-bench-drift": drift_section,
    "oslic-compare": agreement_section,
    "oslic-bench-graphs": graph_latency_section,
    "oslic-bench-memory": memory_section,
    "oslic-bench-scale": scale_section,
    "oslic-bench-seams": seams_section,
    "oslic-fuzz-campaign": fuzzing_section,
    "oslic-bench-selfcheck": selfcheck_section,
}


KNOWN: Final = frozenset(_SECTIONS)
"""Kinds of result files that a report shows."""

# Of the kinds that are not named here it is 1.
_VERSIONS: Final = {latency.FORMAT: latency.VERSION, "oslic-bench-fusion": 2, "oslic-compare": 2}


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file of any kind that a report knows.

    Raises:
        DataError: not a result file, of an unknown kind, or of another version of its kind.
    """
    body = read_json(path, "result")
    kind = body.get("format")
    if kind not in _SECTIONS:
        raise DataError(f"{path} is of the kind {kind!r}; a report knows {', '.join(_SECTIONS)}")
    version, known = body.get("version"), _VERSIONS.get(kind, 1)
    if version != known:
        raise DataError(
            f"{path} was measured by version {version} of its bench, this is {known}: measure it again"
        )
    return body


def sections(results: list[dict[str, Any]]) -> list[Section]:
    """Return one section per result, ordered by kind; those of one kind as they were given."""
    order = list(_SECTIONS)
    ranked = sorted(results, key=lambda result: order.index(result["format"]))
    return [_SECTIONS[result["format"]](result) for result in ranked]
