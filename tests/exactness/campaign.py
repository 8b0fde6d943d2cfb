"""Runs the graphs of an exact bundle in every way at hand, and counts the samples that differ: there must be none.

    python tests/exactness/campaign.py BUNDLE -o RESULT.json --images DIR [--images DIR ...] [--emulate CPU,...]

ONNX Runtime at four levels of optimization, with 1, 2, 4 and 8 threads, with Q/DQ fused and not; PyTorch; on crops of
some pictures, and on random and extreme inputs of their size, whole numbers in numpy and emulated processors
(`qemu-x86_64`, package qemu-user). `refine` sees pictures that were coded at several qualities.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
CROP = 96, 128
SMALL = 12
QUALITIES = (8, 40, 72)
GRAPHS = {"synthesise": ("compact", "labels"), "refine": ("decoded", "estimate", "settings")}


def session(data: bytes, level: str, threads: int, *, fused: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = threads
    # More threads than cores would wait for each other in circles.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not fused:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def pictures(codec: Any, files: list[Path]) -> Iterator[dict[str, dict[str, np.ndarray]]]:
    """The inputs of the decoder's graphs for each picture."""
    from oslic.runtime.codec import residual
    from oslic.runtime.codec.settings import Settings
    from oslic.runtime.image.files import read_image

    multiple = codec.bundle.manifest.multiple
    for i, file in enumerate(files):
        pixels = read_image(file, codec.limits).pixels[..., :3]
        height, width = (side // multiple * multiple for side in pixels.shape[:2])
        pixels = np.ascontiguousarray(pixels[:height, :width])
        layers = codec.layers(pixels, Settings(layers="always", quality=0))
        labels = codec.graphs._extended_labels(layers.labels, (height, width))
        found = {"synthesise": {"compact": layers.compact, "labels": labels}}
        if "refine" in codec.bundle.manifest.graphs:
            quality = QUALITIES[i % len(QUALITIES)]
            coded = residual.encode(pixels, layers.estimate, quality=quality)
            decoded = residual.decode(coded, layers.estimate)
            settings = np.array([quality, i % 2], np.uint8)
            found["refine"] = {"decoded": decoded, "estimate": layers.estimate, "settings": settings}
        yield {graph: {k: v[np.newaxis] for k, v in inputs.items()} for graph, inputs in found.items()}


def crop(graph: str, inputs: dict[str, np.ndarray], label_scale: int) -> dict[str, np.ndarray]:
    height, width = CROP
    if graph == "refine":
        return {
            k: v if v.ndim == 2 else np.ascontiguousarray(v[:, :height, :width]) for k, v in inputs.items()
        }
    scales = {"compact": 8, "labels": label_scale}
    return {
        k: np.ascontiguousarray(v[:, : height // scales[k], : width // scales[k]]) for k, v in inputs.items()
    }


def synthetic(inputs: dict[str, np.ndarray], limits: dict[str, int]) -> list[dict[str, np.ndarray]]:
    """Random inputs of the same shapes, and ones at the ends of the ranges."""
    random = np.random.default_rng(7)
    made = []
    for extreme in (False, True):
        one = {}
        for name, array in inputs.items():
            most = limits[name]
            values = (
                random.choice([0, most], array.shape)
                if extreme
                else random.integers(0, most + 1, array.shape)
            )
            one[name] = values.astype(np.uint8)
        made.append(one)
    return made


def emulated(cpu: str, data: bytes, samples: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    """Run on an emulated processor."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        raise SystemExit("qemu-x86_64 is missing: apt-get install qemu-user")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "graph.onnx").write_bytes(data)
        np.savez(place / "in.npz", **{f"{i}.{k}": v for i, s in enumerate(samples) for k, v in s.items()})
        command = [emulator, "-cpu", cpu, sys.executable, __file__, "--worker", folder]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        with np.load(place / "out.npz") as found:
            return [found[str(i)] for i in range(len(samples))]


def work(folder: str) -> None:
    """What runs under emulation."""
    place = Path(folder)
    runner = session((place / "graph.onnx").read_bytes(), "ORT_ENABLE_ALL", 1, fused=True)
    with np.load(place / "in.npz") as stored:
        samples: dict[int, dict[str, np.ndarray]] = {}
        for key in stored.files:
            number, name = key.split(".")
            samples.setdefault(int(number), {})[name] = stored[key]
    outputs = {str(i): runner.run(None, sample)[0] for i, sample in samples.items()}
    np.savez(place / "out.npz", **outputs)


class Counter:
    """Samples that differ, by way."""

    def __init__(self) -> None:
        self.ways: dict[str, dict[str, int]] = {}

    def count(self, way: str, output: np.ndarray, wanted: np.ndarray) -> None:
        row = self.ways.setdefault(way, {"pictures": 0, "samples": 0, "differing": 0})
        row["pictures"] += 1
        row["samples"] += wanted.size
        row["differing"] += int((output != wanted).sum()) if output.shape == wanted.shape else wanted.size


def measure(bundle: Any, files: list[Path], processors: list[str]) -> dict[str, Any]:
    from oslic.runtime.codec import Codec

    with Codec.open(bundle, "onnxruntime-cpu", threads=2) as codec:
        inputs = list(pictures(codec, files))
    return {
        graph: measure_graph(bundle, graph, [i[graph] for i in inputs], processors) for graph in inputs[0]
    }


def measure_graph(
    bundle: Any, graph: str, inputs: list[dict[str, np.ndarray]], processors: list[str]
) -> dict[str, Any]:
    """One way after the other, so that one session is open at a time."""
    import onnx
    import torch
    import torch_interpreter
    from integer_interpreter import Interpreter

    torch.set_num_threads(2)
    manifest = bundle.manifest
    limits = {
        "compact": manifest.levels - 1, "labels": len(manifest.classes) - 1, "decoded": 255, "estimate": 255,
        "settings": 100,
    }  # fmt: skip
    data = bundle.read_graph(graph)
    model = onnx.load_model_from_string(data)
    counter = Counter()
    wanted: list[np.ndarray] = []
    for level, threads, fused in product(LEVELS, (1, 2, 4, 8), (True, False)):
        way = f"onnxruntime {level}, {threads} threads, Q/DQ {'fused' if fused else 'not fused'}"
        print(f"{graph}: {way}", file=sys.stderr, flush=True)
        runner = session(data, level, threads, fused=fused)
        if not wanted:
            wanted = [runner.run(None, feeds)[0] for feeds in inputs]
        for feeds, reference in zip(inputs, wanted, strict=True):
            counter.count(way, runner.run(None, feeds)[0], reference)
    print(f"{graph}: PyTorch", file=sys.stderr, flush=True)
    for feeds, reference in zip(inputs, wanted, strict=True):
        counter.count("PyTorch", torch_interpreter.run(model, **feeds), reference)
    small = [crop(graph, feeds, manifest.label_scale) for feeds in inputs[:SMALL]]
    small += synthetic(small[0], limits)
    outputs = [Interpreter(model).run(**sample) for sample in small]
    for sample, reference in zip(small, outputs, strict=True):
        counter.count("whole numbers in numpy, small", runner.run(None, sample)[0], reference)
    for cpu in processors:
        print(f"{graph}: emulated {cpu}", file=sys.stderr, flush=True)
        for output, reference in zip(emulated(cpu, data, small), outputs, strict=True):
            counter.count(f"emulated {cpu}, small", output, reference)
    digest = hashlib.sha256(b"".join(output.tobytes() for output in wanted)).hexdigest()
    return {"sha256_of_outputs": digest, "ways": counter.ways}


def main() -> int:
    """Run; the exit code is 1 if anything differs."""
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2])
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--images", type=Path, action="append", required=True)
    parser.add_argument("--count", type=int, help="of each folder, evenly spread (default: all)")
    parser.add_argument("--emulate", default="", help="names of processors that qemu-x86_64 knows")
    args = parser.parse_args()

    from oslic.measure import environment
    from oslic.runtime.bundle.folder import Bundle
    from oslic.runtime.image.files import find_images

    bundle = Bundle.open(args.bundle)
    files = []
    for folder in args.images:
        found = find_images(folder)
        count = min(args.count or len(found), len(found))
        files += [found[i * len(found) // count] for i in range(count)]
    result = {
        "format": "oslic-exactness",
        "version": 1,
        "environment": environment.describe(),
        "bundle": {"name": bundle.manifest.name, "fingerprint": bundle.manifest.fingerprint},
        "exact": bundle.manifest.exact,
        "certificate": (bundle.manifest.quantization or {}).get("certificate"),
        "pictures": len(files),
        "graphs": measure(bundle, files, [cpu for cpu in args.emulate.split(",") if cpu]),
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    differing = 0
    for graph, found in result["graphs"].items():
        for way, row in found["ways"].items():
            differing += row["differing"]
            if row["differing"]:
                print(f"{graph}: {way}: {row['differing']} of {row['samples']} samples differ")
    print(f"\n{len(files)} pictures: {differing} samples differ")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
