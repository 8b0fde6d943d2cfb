"""What running a graph takes of memory, measured in a process of its own.

Run as a module, this file is that process: `python -m oslic.export.memory GRAPH.onnx NAME SCALE MULTIPLE LIMIT`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..runtime.backends.onnxruntime import sessions
from ..runtime.backends.onnxruntime.cpu import host_runner, open_session
from ..runtime.bundle.manifest import COMPACT_SCALE
from ..runtime.errors import BackendError, one_line
from ..runtime.memory import resident_memory

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..runtime.bundle.manifest import GraphName

# Height and width, ascending: a process's peak only grows.
_SIZES: Final = ((768, 1152), (1024, 1536), (1536, 2304))
_TIMEOUT_S: Final = 900


@dataclass(frozen=True)
class GraphMemory:
    """Resident memory of a graph in ONNX Runtime on the CPU.

    Attributes:
        fixed: bytes that the loaded graph holds.
        per_pixel: bytes that a run takes more than that, per pixel of the image.
    """

    fixed: int
    per_pixel: float


def measure(
    data: bytes, name: GraphName, label_scale: int, multiple: int, weight_limit: int | None = None
) -> GraphMemory | None:
    """Measure a graph at three sizes between 0.9 and 3.5 megapixels.

    ONNX Runtime takes memory in steps, some 10 % to either side of a straight line: the mean of the sizes counts.

    Args:
        data: the serialized graph.
        name: which graph.
        label_scale: S.
        multiple: what sides must be multiples of.
        weight_limit: as for `onnxruntime.cpu.open_session`.

    Returns:
        None where the system does not say how much memory a process holds.

    Raises:
        BackendError: the graph does not run.
    """
    if resident_memory() is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.onnx"
        file.write_bytes(data)
        words = [str(file), name, str(label_scale), str(multiple), json.dumps(weight_limit)]
        try:
            done = subprocess.run(
                [sys.executable, "-m", __name__, *words],
                capture_output=True,
                check=True,
                timeout=_TIMEOUT_S,
                text=True,
            )
        except subprocess.CalledProcessError as error:
            last = error.stderr.strip().splitlines()[-1:] or [f"exit code {error.returncode}"]
            raise BackendError(f"the memory of the {name} graph cannot be measured: {last[0]}") from error
        except (OSError, subprocess.SubprocessError) as error:
            raise BackendError(
                f"the memory of the {name} graph cannot be measured: {one_line(error)}"
            ) from error
    return GraphMemory(**json.loads(done.stdout.splitlines()[-1]))


def _feeds(name: str, height: int, width: int, scale: int) -> list[npt.NDArray[np.uint8]]:
    random = np.random.default_rng(1)
    labels = np.zeros((1, height // scale, width // scale), np.uint8)
    image = random.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    compact = np.ones((1, height // COMPACT_SCALE, width // COMPACT_SCALE, 3), np.uint8)
    feeds: dict[str, list[npt.NDArray[np.uint8]]] = {
        "segment": [image],
        "analyse": [image, labels],
        "synthesise": [compact, labels],
        "refine": [image, image, np.full((1, 2), 1, np.uint8)],
    }
    return feeds[name]


def _probe(file: str, name: GraphName, label_scale: int, multiple: int, weight_limit: int | None) -> Any:
    def held() -> tuple[int, int]:
        return resident_memory() or (0, 0)

    sessions.find_onnxruntime()
    before = held()[0]
    session = open_session(Path(file).read_bytes(), None, weight_limit=weight_limit)
    runner = host_runner(session, name, keep_memory=False)
    loaded = held()[0]
    ratios = []
    for sides in _SIZES:
        height, width = (-(-side // multiple) * multiple for side in sides)
        runner(*_feeds(name, height, width, label_scale))
        ratios.append((held()[1] - loaded) / (height * width))
    return {"fixed": max(0, loaded - before), "per_pixel": max(0.0, fmean(ratios))}


if __name__ == "__main__":
    _file, _name, *_numbers = sys.argv[1:]
    print(json.dumps(_probe(_file, _name, *(json.loads(number) for number in _numbers))))
