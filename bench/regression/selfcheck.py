"""Does the harness tell a change from noise on this machine? Equal builds, and one stage made a tenth slower."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...measure import environment
from ...measure.timing import Candidate, Settings, measure
from ...runtime.backends import Options
from ...runtime.bundle.finder import open_bundle
from ...runtime.codec import Codec
from ...runtime.codec.networks import Graphs
from ...runtime.image.files import read_image
from ...runtime.image.metadata import Metadata
from ...runtime.image.writing import encode_image
from ...runtime.limits import Limits
from ..experiments import latency
from .comparison import Margins, compare

if TYPE_CHECKING:
    from ...runtime.image.arrays import Pixels

FORMAT: Final = "oslic-bench-selfcheck"
VERSION: Final = 1
STAGE: Final = "synthesise"
_FIGURE: Final = f"oslic/decompress {STAGE}"


class _Slowed(Graphs):
    """Graphs whose `synthesise` takes longer by a known factor, spent in work as the original is."""

    factor = 1.0

    def synthesise(self, compact: Pixels, labels: Pixels, height: int, width: int) -> Pixels:
        """As `Graphs.synthesise`, then as much more work as the factor says: the clock would count waiting as work."""
        start = time.thread_time()
        estimate = super().synthesise(compact, labels, height, width)
        end = start + (time.thread_time() - start) * self.factor
        while time.thread_time() < end:
            pass
        return estimate


def _result(codec: Codec, file: Path, folder: Path, rule: Settings) -> dict[str, Any]:
    """One latency result with the reference and decompression alone: what a comparison needs."""
    setup = latency.Setup("oslic", threads=1, effort=1)
    found = latency.codec_candidates(codec, setup, file, folder)
    found["oslic/compress"]()
    candidates: dict[str, Candidate] = {
        latency.REFERENCE: latency.reference,
        "oslic/decompress": found["oslic/decompress"],
    }
    timings = measure(candidates, rule)
    return {
        "format": latency.FORMAT,
        "version": latency.VERSION,
        "settings": {"width": 0, "height": 0},
        "timings": {name: timing.to_json() for name, timing in timings.items()},
    }


def run(
    bundle: Path | None,
    image: Path,
    runs: int,
    slowdown: float,
    rule: Settings,
    *,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Compare equal builds, and a slowed one with its original, `runs` times each.

    Args:
        bundle: folder; None for the shipped one.
        image: a photograph.
        runs: comparisons of each kind.
        slowdown: factor of the stage `synthesise` in the slowed build.
        rule: when a measurement stops.
        limits: what to refuse; None for the defaults.

    Returns:
        The verdicts on that stage, ready for JSON.
    """
    verdicts: dict[str, list[str]] = {"equal": [], "slowed": []}
    loads = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graphs = _Slowed(open_bundle(bundle), "auto", Options(threads=1))
        codec = Codec(graphs, limits or Limits())
        file = folder / "input.png"
        file.write_bytes(encode_image(read_image(image, codec.limits).pixels, Metadata(), file))
        with codec:
            for _ in range(runs):
                loads.append(environment.describe()["load_average"][0])
                graphs.factor = 1.0
                before, same = (_result(codec, file, folder, rule) for _ in range(2))
                graphs.factor = slowdown
                slower = _result(codec, file, folder, rule)
                for kind, after in (("equal", same), ("slowed", slower)):
                    rows = {row.figure: row for row in compare(before, after, Margins())}
                    verdicts[kind].append(rows[_FIGURE].verdict)
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": environment.describe(),
        "settings": {"runs": runs, "slowdown": slowdown, "stage": STAGE, "timeout_seconds": rule.timeout},
        "load_averages": loads,
        "verdicts": verdicts,
        "equal_called_same": verdicts["equal"].count("SAME"),
        "slowed_called_slower": verdicts["slowed"].count("SLOWER"),
    }


def to_text(result: dict[str, Any]) -> str:
    """Return the result as JSON text."""
    return json.dumps(result, indent=1) + "\n"
