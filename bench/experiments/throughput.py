"""A folder of pictures with several in work at a time, against one call after another, in alternating rounds."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from ...measure import environment
from ...runtime.codec import Codec
from ...runtime.codec.batch import compress_many, decompress_many
from ...runtime.errors import OslicError
from ...runtime.threads import most_workers

FORMAT: Final = "oslic-bench-throughput"
VERSION: Final = 1
_ONE: Final = "one call after another"


@dataclass(frozen=True)
class Candidate:
    """A way to work on all pictures.

    Attributes:
        name: in the results.
        work: does it.
        over: the candidate that it is compared with; None: it is one that others are compared with.
    """

    name: str
    work: Callable[[], object]
    over: str | None = None


def run(
    images: Sequence[Path],
    *,
    jobs: Sequence[int],
    quality: float,
    effort: int,
    rounds: int,
    commands: bool,
    progress: Callable[[str], Any],
) -> dict[str, Any]:
    """Measure compressing and decompressing.

    One call after another has a codec as `Codec.open()` gives it, whose networks use all cores; several at a time have
    one whose networks share the cores, as `oslic compress` has. All of them read files; their streams are the same.

    Args:
        images: image files.
        jobs: pictures in work at a time, one after the other.
        quality: of the residual.
        effort: of the encoder.
        rounds: how often each candidate runs, one after the other, after a round that does not count.
        commands: whether calls of the command are measured, too: one for each file, against one for the folder.
        progress: gets a line for the user after each round.

    Returns:
        The result file: seconds and processor seconds of each candidate and round, ratios of the rounds.

    Raises:
        OslicError: a picture cannot be coded.
    """
    with (
        Codec.open() as alone,
        Codec.open(threads=max(1, most_workers() // min(jobs))) as shared,
        tempfile.TemporaryDirectory() as name,
    ):
        streams = [alone.compress(image, quality, effort=effort) for image in images]
        if _compressed(shared, images, quality, jobs=max(jobs), effort=effort) != streams:
            raise OslicError("pictures in work at the same time give other streams than one after the other")
        candidates = [
            Candidate(
                f"compress, {_ONE}", lambda: [alone.compress(i, quality, effort=effort) for i in images]
            ),
            Candidate(f"decompress, {_ONE}", lambda: [alone.decompress(stream) for stream in streams]),
        ]
        for count in jobs:
            candidates += _several(shared, images, streams, count, quality=quality, effort=effort)
        if commands:
            candidates += _commands(images, Path(name), jobs=max(jobs), quality=quality, effort=effort)
        before = environment.describe()
        samples = _measure(candidates, rounds, len(images), progress)
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": before,
        "load_average_after": environment.describe()["load_average"],
        "settings": {
            "images": [image.name for image in images],
            "jobs": list(jobs),
            "quality": quality,
            "effort": effort,
        },
        "samples": samples,
        "images_per_second": {
            name: len(images) / median(found["seconds"]) for name, found in samples.items()
        },
        "ratios": {
            c.name: _ratio(samples[c.over]["seconds"], samples[c.name]["seconds"])
            for c in candidates
            if c.over is not None
        },
    }


def _several(
    shared: Codec,
    images: Sequence[Path],
    streams: Sequence[bytes],
    count: int,
    *,
    quality: float,
    effort: int,
) -> list[Candidate]:
    """So many pictures in work at a time, in both directions."""
    return [
        Candidate(
            f"compress, {count} at a time",
            partial(_compressed, shared, images, quality, jobs=count, effort=effort),
            f"compress, {_ONE}",
        ),
        Candidate(
            f"decompress, {count} at a time",
            partial(_decompressed, shared, streams, jobs=count),
            f"decompress, {_ONE}",
        ),
    ]


def _commands(
    images: Sequence[Path], folder: Path, *, jobs: int, quality: float, effort: int
) -> list[Candidate]:
    """A call of `oslic compress` for each file, and one for all."""
    options = ["--quality", str(quality), "--effort", str(effort), "--quiet", "--overwrite"]

    def call(*words: str) -> None:
        command = [sys.executable, "-m", "oslic.cli.main", "compress", *words, *options]
        subprocess.run(command, check=True)

    def each() -> None:
        for image in images:
            call(str(image), "-o", str(folder / f"{image.name}.oslic"))

    one = "oslic compress, a call for each file"
    return [
        Candidate(one, each),
        Candidate(
            f"oslic compress, one call with {jobs} jobs",
            lambda: call(*map(str, images), "-o", str(folder), "--jobs", str(jobs)),
            one,
        ),
    ]


def _compressed(codec: Codec, images: Sequence[Path], quality: float, *, jobs: int, effort: int) -> list[Any]:
    return _whole(compress_many(codec, images, quality, jobs=jobs, effort=effort))


def _decompressed(codec: Codec, streams: Sequence[bytes], *, jobs: int) -> list[Any]:
    return _whole(decompress_many(codec, streams, jobs=jobs))


def _whole(results: Any) -> list[Any]:
    """All results; the first error is raised."""
    found = list(results)
    for result in found:
        if isinstance(result, OslicError):
            raise result
    return found


def _measure(
    candidates: Sequence[Candidate], rounds: int, count: int, progress: Callable[[str], Any]
) -> dict[str, dict[str, list[float]]]:
    samples: dict[str, dict[str, list[float]]] = {
        c.name: {"seconds": [], "processor_seconds": []} for c in candidates
    }
    for number in range(rounds + 1):
        for candidate in candidates:
            start, used = time.perf_counter(), _processor_seconds()
            candidate.work()
            seconds, processor = time.perf_counter() - start, _processor_seconds() - used
            if number:
                samples[candidate.name]["seconds"].append(seconds)
                samples[candidate.name]["processor_seconds"].append(processor)
                progress(f"round {number}: {candidate.name}: {count / seconds:.2f} images/s")
    return samples


def _processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _ratio(before: Sequence[float], after: Sequence[float]) -> dict[str, float]:
    """How many times as fast, by round: what else the machine does changes from round to round."""
    ratios = [b / a for b, a in zip(before, after, strict=True)]
    return {"median": median(ratios), "least": min(ratios), "most": max(ratios)}
