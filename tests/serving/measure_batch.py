"""What a batch of tiles takes beside one tile: `python tests/serving/measure_batch.py -o FILE.json`.

`synthesise` on one core, batches of 1 to 8 taking turns; processor seconds, so that other work counts little.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from oslic.measure import environment
from oslic.runtime.backends import Options, select
from oslic.runtime.bundle.finder import open_bundle
from oslic.runtime.bundle.manifest import COMPACT_SCALE

FORMAT = "oslic-serving-batch"
SIDE = 576  # a tile of 512 with its halo
BATCHES = (1, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    bundle = open_bundle("lite")
    manifest = bundle.manifest
    runner = select("onnxruntime-cpu", bundle, Options(threads=1)).backend.load("synthesise")
    random = np.random.default_rng(1)
    inputs = {}
    for batch in BATCHES:
        compact = random.integers(
            0, manifest.levels, (batch, SIDE // COMPACT_SCALE, SIDE // COMPACT_SCALE, 3)
        )
        side = SIDE // manifest.label_scale
        labels = random.integers(0, len(manifest.classes), (batch, side, side))
        inputs[batch] = compact.astype(np.uint8), labels.astype(np.uint8)
        runner(*inputs[batch])
    samples: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    for _ in range(args.rounds):
        for batch in BATCHES:
            start = time.process_time()
            runner(*inputs[batch])
            samples[batch].append((time.process_time() - start) * 1e3)
    body = {
        "format": FORMAT,
        "version": 1,
        "environment": environment.describe(),
        "settings": {"bundle": manifest.name, "graph": "synthesise", "side": SIDE, "threads": 1},
        "processor_ms": {str(batch): [round(s, 3) for s in found] for batch, found in samples.items()},
        "median_ms_per_tile": {
            str(batch): float(np.median(found)) / batch for batch, found in samples.items()
        },
    }
    args.output.write_text(json.dumps(body, indent=2) + "\n")
    print(json.dumps(body["median_ms_per_tile"]))


if __name__ == "__main__":
    main()
