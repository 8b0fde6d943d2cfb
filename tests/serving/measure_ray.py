"""`oslic batch` on a local Ray cluster beside the plain pipeline: `python tests/serving/measure_ray.py -o FILE.json`.

Runs in the environment of `make test-serving` that has Ray. Parts of both take turns; processor seconds are those of
all processes of Ray, its own included.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from oslic.measure import environment
from oslic.runtime.codec.request import make_request
from oslic.runtime.image.files import find_images
from oslic.runtime.memory import resident_memory
from oslic.runtime.threads import default_jobs, most_workers
from oslic.serving import ray as serving_ray
from oslic.serving.batch.sources import Item
from oslic.serving.batch.table import ResultTable
from oslic.serving.batch.work import CodecOptions, Job, Work
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FORMAT = "oslic-serving-ray"
LOGICAL_CPUS = 4


def pictures(folder: Path, count: int, side: int) -> list[Item]:
    """Parts of the sample photographs, as PNG files."""
    sources = [np.asarray(Image.open(path).convert("RGB")) for path in find_images(ROOT / "samples")]
    random, items = np.random.default_rng(1), []
    for number in range(count):
        source = sources[number % len(sources)]
        top, left = (int(random.integers(0, size - side + 1)) for size in source.shape[:2])
        path = folder / f"{number:05d}.png"
        Image.fromarray(source[top : top + side, left : left + side]).save(path, compress_level=1)
        items.append(Item(str(path), path.name))
    return items


class Sampler(threading.Thread):
    """Twice a second: processor time of a Ray session's processes, which come and go, and memory of the driver."""

    def __init__(self, session: str) -> None:
        super().__init__(daemon=True)
        self._session = session.encode()
        self._ticks: dict[int, int] = {}
        self.ended = threading.Event()
        self.memory: list[int] = []

    def run(self) -> None:
        while not self.ended.wait(0.5):
            self.look()
            found = resident_memory()
            if found is not None:
                self.memory.append(found[0])

    def look(self) -> None:
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and int(folder.name) != os.getpid():
                try:
                    command = (folder / "cmdline").read_bytes()
                    if self._session in command or command.startswith(b"ray::"):
                        fields = (folder / "stat").read_text().rpartition(")")[2].split()
                        self._ticks[int(folder.name)] = int(fields[11]) + int(fields[12])
                except OSError:
                    continue

    def processor_seconds(self) -> float:
        """User and system time of all processes that were seen."""
        self.look()
        return sum(self._ticks.copy().values()) / os.sysconf("SC_CLK_TCK")


def timed(rows: Any, table: ResultTable) -> tuple[int, int, float]:
    """Consume rows; how many there are, how many failed, and wall-clock seconds."""
    start, count, failed = time.perf_counter(), 0, 0
    for row in rows:
        table.add(row)
        count += 1
        failed += row.failed
    return count, failed, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--effort", type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    cores, actors = default_jobs(), most_workers()
    parts: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        items = pictures(folder / "photos", args.images, args.side)
        context = ray.init("local", num_cpus=LOGICAL_CPUS, include_dashboard=False, log_to_driver=False)
        session = Path(context.address_info["session_dir"]).name
        sampler = Sampler(session)
        sampler.start()
        request = make_request(effort=args.effort)
        for number in range(args.parts):
            part = items[number :: args.parts]
            plain = Job(str(folder / f"plain{number}"), request)
            with ResultTable(plain.target) as table, CodecOptions(threads=1).open() as codec:
                own = time.process_time()
                count, failed, wall = timed(Work(codec, plain, cores).rows(part), table)
                own = time.process_time() - own
            many = Job(str(folder / f"many{number}"), request)
            with ResultTable(many.target) as table:
                before, driver = sampler.processor_seconds(), time.process_time()
                where = serving_ray.Cluster("local", actors=actors)
                counted, failures, wall_ray = timed(
                    serving_ray.rows(part, many, CodecOptions(threads=1), where), table
                )
                used = sampler.processor_seconds() - before
                driver = time.process_time() - driver
            digests = [
                sorted(path.read_bytes() for path in Path(job.target).glob("*.oslic"))
                for job in (plain, many)
            ]
            parts.append(
                {
                    "images": count, "failed": failed + failures, "rows": [count, counted],
                    "equal_streams": digests[0] == digests[1],
                    "plain": {"wall": wall, "processor": own},
                    "ray": {"wall": wall_ray, "processor": used, "driver_processor": driver},
                }
            )  # fmt: skip
            print(json.dumps(parts[-1]), flush=True)
        sampler.ended.set()
        ray.shutdown()
    wall = [sum(part[kind]["wall"] for part in parts) for kind in ("plain", "ray")]
    processor = [
        sum(part["plain"]["processor"] for part in parts),
        sum(part["ray"]["processor"] + part["ray"]["driver_processor"] for part in parts),
    ]
    body = {
        "format": FORMAT,
        "version": 1,
        "environment": environment.describe(),
        "settings": {
            "images": args.images, "side": args.side, "effort": args.effort, "jobs": cores, "actors": actors,
            "logical_processors": LOGICAL_CPUS, "ray": ray.__version__,
        },
        "ray_over_plain_wall": wall[0] / wall[1],
        "ray_over_plain_processor": processor[0] / processor[1],
        "images_per_second": {"plain": args.images / wall[0], "ray": args.images / wall[1]},
        "driver_memory_bytes": sampler.memory,
        "parts": parts,
    }  # fmt: skip
    args.output.write_text(json.dumps(body, indent=2) + "\n")
    print(json.dumps({key: body[key] for key in ("ray_over_plain_wall", "ray_over_plain_processor")}))


if __name__ == "__main__":
    main()
