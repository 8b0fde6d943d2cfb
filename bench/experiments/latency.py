"""Latency of compressing and decompressing, stage by stage, beside peers in the same run."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ...measure import environment
from ...measure.metrics import psnr
from ...measure.timing import Candidate, Settings, StageTimes, Timing, measure, ratio
from ...runtime.backends.onnxruntime.cpu import OnnxRuntimeCpu
from ...runtime.codec import Codec
from ...runtime.codec.effort import DEFAULT_EFFORT
from ...runtime.errors import OslicError
from ...runtime.files import write_atomically
from ...runtime.image.files import read_image
from ...runtime.image.metadata import Metadata
from ...runtime.image.writing import encode_image
from ...runtime.limits import Limits
from ...runtime.threads import in_order
from ..coders.registry import CoderSpec
from ..report.layer_images import as_rgb

if TYPE_CHECKING:
    from ...runtime.image.arrays import Pixels

FORMAT: Final = "oslic-bench-latency"
VERSION: Final = 2
REFERENCE: Final = "reference"
"""Fixed work of this harness, measured in every run: what `oslic bench regress` scales two runs by."""
_JOBS: Final = 2
FLIF_STAGES: Final = ("labels", "compact", "alpha")


@dataclass(frozen=True)
class Setup:
    """One codec to measure.

    Attributes:
        name: in the results.
        bundle: folder; None for the shipped one.
        backend: as for `Codec.open`.
        threads: CPU threads of the networks; None for the backend's choice.
        effort: of the encoder, 0..9.
        quality: of the residual.
    """

    name: str
    bundle: str | None = None
    backend: str = "auto"
    threads: int | None = None
    effort: int = DEFAULT_EFFORT
    quality: int = 60


def reference() -> None:
    """Some 100 ms of single-threaded arithmetic and memory traffic, the same in every run.

    It has to suffer from other load as the networks do, or dividing by it adds noise instead of removing it:
    multiplications of matrices small enough for one thread, and sums that pass through memory, for about as long as
    a network takes (what takes a few milliseconds is either interrupted or not).
    """
    matrices = np.full((256, 64, 64), 0.01, np.float32)
    levels = np.ones(1_000_000, np.float32)
    for _ in range(30):
        np.matmul(matrices, matrices[0])
        np.add(levels, 1.0)


def codec_candidates(codec: Codec, setup: Setup, source: Path, folder: Path) -> dict[str, Candidate]:
    """Return compress and decompress of one image file, from file to file, with their stages."""
    stream, restored = folder / f"{setup.name}.oslic", folder / f"{setup.name}.ppm"

    # Of a network on another device the processor's time says nothing.
    on_cpu = codec.graphs.selection.backend.name == OnnxRuntimeCpu.name

    def compress() -> StageTimes:
        start = time.perf_counter()
        picture = read_image(source, codec.limits)
        stages = {"read": time.perf_counter() - start}
        encoded = codec.finish(codec.layers(picture.pixels), quality=setup.quality, effort=setup.effort)
        stages |= encoded.stages
        start = time.perf_counter()
        write_atomically(stream, encoded.data)
        stages["write"] = time.perf_counter() - start
        return StageTimes(_with_flif(stages), encoded.processor if on_cpu else {})

    def decompress() -> StageTimes:
        start = time.perf_counter()
        data = stream.read_bytes()
        stages = {"read": time.perf_counter() - start}
        decoded = codec.decode(data)
        stages |= decoded.stages
        start = time.perf_counter()
        write_atomically(restored, encode_image(decoded.image, Metadata(), restored))
        stages["write"] = time.perf_counter() - start
        return StageTimes(_with_flif(stages), decoded.processor if on_cpu else {})

    return {f"{setup.name}/compress": compress, f"{setup.name}/decompress": decompress}


def _with_flif(stages: dict[str, float]) -> dict[str, float]:
    return {**stages, "flif": sum(stages.get(name, 0.0) for name in FLIF_STAGES)}


def peer_candidates(
    spec: CoderSpec, image: Pixels, wanted: float
) -> tuple[dict[str, Candidate], dict[str, Any]]:
    """Return encode and decode of a peer, in memory, and what it makes of the image.

    Of the peer's settings that one is timed whose PSNR is nearest to a wanted one: times at unequal qualities would
    say little. A peer that is a command reads and writes files, and starts a process each time.

    Args:
        spec: the peer.
        image: uint8, (H, W, 3).
        wanted: PSNR in dB.

    Raises:
        DependencyError: the peer is not installed.
    """
    coder = spec.open()
    tried = {}
    for quality in spec.qualities:
        coding = coder.code(image, quality)
        tried[quality] = (psnr(image, coding.image), coding.size)
    quality = min(tried, key=lambda q: abs(tried[q][0] - wanted))
    data = coder.encode(image, quality).data

    def encode() -> None:
        coder.encode(image, quality)

    def decode() -> None:
        coder.decode(data)

    facts = {"quality": quality, "psnr": tried[quality][0], "bytes": tried[quality][1]}
    return {f"{spec.name}/encode": encode, f"{spec.name}/decode": decode}, facts


def load_times(setup: Setup) -> dict[str, float]:
    """Return the seconds that opening a codec and loading each graph take, once, in this process."""
    start = time.perf_counter()
    with Codec.open(setup.bundle, setup.backend, setup.threads) as codec:
        times = {"open": time.perf_counter() - start}
        for graph in codec.bundle.manifest.graph_names:
            start = time.perf_counter()
            codec.graphs.load(graph)
            times[graph] = time.perf_counter() - start
    return times


def throughput(codec: Codec, setup: Setup, image: Pixels, count: int) -> dict[str, float]:
    """Return images per second of a pipelined and of a sequential run over `count` copies of an image."""

    def finish(_: int, layers: Any) -> int:
        return len(codec.finish(layers, quality=setup.quality, effort=setup.effort).data)

    def timed(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return count / (time.perf_counter() - start)

    def pipelined() -> None:
        for _, outcome in in_order(range(count), lambda _: finish(0, codec.layers(image)), _JOBS):
            if isinstance(outcome, OslicError):
                raise outcome

    sequential = timed(lambda: [finish(0, codec.layers(image)) for _ in range(count)])
    return {
        "sequential_per_second": sequential,
        "pipelined_per_second": timed(pipelined),
        "images": float(count),
    }


def run(
    setups: list[Setup],
    source: Path,
    *,
    size: tuple[int, int] | None,
    peers: list[CoderSpec],
    rule: Settings,
    images: int,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Measure all setups and peers on one image, interleaved.

    Args:
        setups: codecs to measure; the first is what peers are compared with.
        source: image file.
        size: width and height to crop to, after repeating the image if it is smaller; None: as it is.
        peers: each is measured at the setting nearest in PSNR to the first of `setups`.
        rule: when to stop.
        images: length of the throughput run; 0: none.
        limits: what to refuse; None for the defaults.

    Returns:
        The result, ready for JSON.
    """
    loads = {setup.name: load_times(setup) for setup in setups}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        codecs = {s.name: Codec.open(s.bundle, s.backend, s.threads, limits) for s in setups}
        picture = read_image(source, codecs[setups[0].name].limits)
        image = picture.pixels if size is None else fit(picture.pixels, *size)
        candidates, facts = _candidates(setups, codecs, peers, image, folder)
        before = environment.describe()
        timings = measure(candidates, rule)
        flows = {s.name: throughput(codecs[s.name], s, image, images) for s in setups} if images else {}
        chosen = {s.name: codecs[s.name].graphs.selection.reason for s in setups}
        for codec in codecs.values():
            codec.close()
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": before,
        "load_average_after": environment.describe()["load_average"],
        "settings": {
            "image": source.name,
            "width": image.shape[1],
            "height": image.shape[0],
            "rule": asdict(rule),
            "setups": [{k: v for k, v in asdict(s).items() if k != "bundle"} for s in setups],
        },
        "backends": chosen,
        "coded": facts,
        "load_ms": {n: {k: v * 1e3 for k, v in times.items()} for n, times in loads.items()},
        "timings": {n: t.to_json() for n, t in timings.items()},
        "ratios": _ratios(timings, setups[0].name),
        "throughput": flows,
    }


def _candidates(
    setups: list[Setup], codecs: Mapping[str, Codec], peers: list[CoderSpec], image: Pixels, folder: Path
) -> tuple[dict[str, Candidate], dict[str, dict[str, Any]]]:
    """What is timed, and what each codec and peer makes of the image, both by name."""
    file = folder / "input.png"
    write_atomically(file, encode_image(image, Metadata(), file))
    candidates: dict[str, Candidate] = {REFERENCE: reference}
    for setup in setups:
        candidates |= codec_candidates(codecs[setup.name], setup, file, folder)
    facts = {setup.name: _facts(codecs[setup.name], setup, image) for setup in setups}
    for peer in peers:
        found, facts[peer.name] = peer_candidates(peer, as_rgb(image), facts[setups[0].name]["psnr"])
        candidates |= found
    return candidates, facts


def _facts(codec: Codec, setup: Setup, image: Pixels) -> dict[str, Any]:
    """What a codec makes of the image."""
    encoded = codec.finish(codec.layers(image), quality=setup.quality, effort=setup.effort)
    back = codec.decompress(encoded.data)
    return {"quality": setup.quality, "psnr": psnr(as_rgb(image), as_rgb(back)), "bytes": len(encoded.data)}


def fit(image: Pixels, width: int, height: int) -> Pixels:
    """Repeat an image as often as needed and cut it to a size."""
    rows, columns = -(-height // image.shape[0]), -(-width // image.shape[1])
    repeated = np.tile(image, (rows, columns, *(1,) * (image.ndim - 2)))
    return np.ascontiguousarray(repeated[:height, :width])


def _ratios(timings: dict[str, Timing], ours: str) -> dict[str, float]:
    """Time of each candidate over ours of the same direction, round by round."""
    pairs = {"compress": "compress", "encode": "compress", "decompress": "decompress", "decode": "decompress"}
    found = {}
    for name, timing in timings.items():
        base, _, direction = name.partition("/")
        if direction in pairs and base != ours:
            found[name] = ratio(timing, timings[f"{ours}/{pairs[direction]}"])
    return found


def table(result: dict[str, Any]) -> str:
    """Return the medians and percentiles as text."""
    lines = [
        f"{'candidate':<24}{'stage':<12}{'p50 ms':>9}{'p90':>9}{'p95':>9}{'p99':>9}{'n':>6}{'cpu ms':>9}"
    ]
    for name, timing in result["timings"].items():
        for stage, series in timing["wall"].items():
            cpu = f"{timing['cpu']['p50_ms']:9.2f}" if stage == "total" else ""
            cells = "".join(f"{series[f'p{p}_ms']:9.2f}" for p in (50, 90, 95, 99))
            lines.append(f"{name if stage == 'total' else '':<24}{stage:<12}{cells}{series['n']:>6}{cpu}")
    return "\n".join(lines)


def write(path: Path, result: dict[str, Any]) -> None:
    """Write the result file."""
    write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())
