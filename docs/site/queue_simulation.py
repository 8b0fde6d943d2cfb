"""How long requests wait for a network that runs batches: a simulation, and the tables of docs/results/scaling.md.

    python docs/site/queue_simulation.py            # print the tables
    python docs/site/queue_simulation.py --write    # put them into docs/results/scaling.md

Requests come at random (Poisson), one tile each, to one network. Without batching it runs one tile after the other;
with dynamic batching, whenever it is free, it takes all that wait, up to a limit.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DOCS = Path(__file__).resolve().parents[1]
RESULTS = DOCS.parent / "bench" / "results"
LOADS = (0.5, 0.8, 0.95)
REQUESTS = 400_000
MOST = 8
# What a photograph is: 12 megapixels, and the file that a camera writes.
MEGAPIXELS, FILE_MB = 12.0, 5.0
QUALITY = 58  # the nearest to 60 that the rates were measured at


def response_times(
    arrivals: np.ndarray[Any, Any], service: Callable[[int], float], most: int
) -> np.ndarray[Any, Any]:
    """Time from arrival to answer.

    Args:
        arrivals: times, ascending.
        service: size of a batch -> the time that it takes.
        most: requests that go into one batch.

    Returns:
        A time for each request.
    """
    count, done, free, first = len(arrivals), np.empty(len(arrivals)), 0.0, 0
    while first < count:
        start = max(free, arrivals[first])
        last = min(first + most, int(np.searchsorted(arrivals, start, side="right")))
        free = start + service(last - first)
        done[first:last] = free
        first = last
    times: np.ndarray[Any, Any] = done - arrivals
    return times


def poisson(rate: float, count: int, seed: int) -> np.ndarray[Any, Any]:
    """Times of so many arrivals."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


def queue_rows(service: Callable[[int], float]) -> list[list[str]]:
    """Percentiles without and with batches at some loads; a load is the share of what runs without batches."""
    rows = []
    for load in LOADS:
        rate = load / service(1)
        arrivals = poisson(rate, REQUESTS, 1)
        row = [f"{100 * load:.0f} %"]
        for most in (1, MOST):
            if rate * service(most) / most >= 1:  # more comes than the largest batches do
                row += ["no end", "no end"]
                continue
            times = response_times(arrivals, service, most)
            row += [f"{np.percentile(times, p):.0f}" for p in (50, 99)]
        rows.append(row)
    return rows


def measured_service(per_batch: dict[int, float]) -> Callable[[int], float]:
    """Times of batches of any size, by straight lines between those that were measured."""
    sizes = sorted(per_batch)
    found = np.interp(np.arange(sizes[-1] + 1), sizes, [per_batch[size] for size in sizes])
    return lambda batch: float(found[batch])


def _json(name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return body


def _table(head: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def one_core() -> dict[str, float]:
    """Processor seconds for each megapixel, and what a megapixel becomes, from the results in this repository."""
    rates = _json("throughput-kodak-lite.json")
    megapixels = len(rates["settings"]["images"]) * 768 * 512 / 1e6

    def seconds(name: str) -> float:
        return float(np.median(rates["samples"][name]["processor_seconds"])) / megapixels

    stages = _json("latency-lite-cpu.json")["timings"]["oslic/compress"]
    networks = sum(stages["stage_cpu"][name]["p50_ms"] for name in ("segment", "analyse", "synthesise"))
    coded = [
        point["bpp"]
        for point in _json("rd-kodak-lite.json")["points"]
        if point["coder"] == "oslic" and point["quality"] == QUALITY
    ]
    return {
        "compress": seconds("compress, 2 at a time"),
        "decompress": seconds("decompress, 2 at a time"),
        "networks": networks / stages["cpu"]["p50_ms"],
        "bytes": float(np.mean(coded)) * 1e6 / 8,
    }


def archive_rows(core: dict[str, float]) -> list[list[str]]:
    """What a million and a hundred million photographs take."""
    rows = []
    for count, machines in ((1e6, 4), (1e8, 100)):
        hours = count * MEGAPIXELS * core["compress"] / 3600
        back = count * MEGAPIXELS * core["decompress"] / 3600
        stored = count * MEGAPIXELS * core["bytes"] / 1e12
        read = count * FILE_MB / 1e6
        wall = hours / (machines * 64)
        network = (read + stored) * 8e12 / (wall * 3600) / machines / 1e9
        rows.append(
            [
                f"{count:,.0f}", f"{hours:,.0f}", f"{back:,.0f}", f"{machines} x 64", f"{wall:,.0f}", f"{read:,.0f}",
                f"{stored:,.1f}", f"{network:.2f}",
            ]
        )  # fmt: skip
    return rows


def tables() -> dict[str, str]:
    """All tables by name."""
    core = one_core()
    networks, coding = core["networks"], 1 - core["networks"]
    measured = _json("batch-lite-cpu.json")["processor_ms"]
    batch = {int(size): float(np.median(times)) for size, times in measured.items()}
    head = ["load", "one by one: p50", "p99", f"batches of up to {MOST}: p50", "p99"]
    made = {
        "core": _table(
            ["one core", "value"],
            [
                ["compress, processor seconds for a megapixel", f"{core['compress']:.2f}"],
                ["of these in the networks", f"{100 * networks:.0f} %"],
                ["in AV1, FLIF and the rest", f"{100 * coding:.0f} %"],
                ["decompress, processor seconds for a megapixel", f"{core['decompress']:.2f}"],
                [f"bytes for a megapixel, quality {QUALITY}", f"{core['bytes']:,.0f}"],
            ],
        ),
        "archive": _table(
            [
                "photographs",
                "core hours",
                "to decode",
                "cores",
                "hours",
                "read, TB",
                "stored, TB",
                "network, Gbit/s each",
            ],
            archive_rows(core),
        ),
        "gpu": _table(
            ["what a GPU takes over", "cores still needed, of those above", "at most as fast"],
            [["all networks, in no time", f"{100 * coding:.0f} %", f"{1 / coding:.1f} x"]],
        ),
        "batch": _table(
            ["tiles at once", "ms for each"],
            [[str(size), f"{ms / size:.0f}"] for size, ms in sorted(batch.items())],
        ),
        "queue-cpu": _table(head, queue_rows(measured_service(batch))),
        # In hundredths of the time of one tile: of a device whose runs have a fixed share.
        "queue-half": _table(head, queue_rows(lambda size: 50.0 + 50.0 * size)),
    }
    triton = RESULTS / "serving-triton-cpu.json"
    if triton.exists():
        made["triton"] = _triton(json.loads(triton.read_text(encoding="utf-8")))
    ray = RESULTS / "serving-ray-cpu.json"
    if ray.exists():
        made["ray"] = _ray(json.loads(ray.read_text(encoding="utf-8")))
    return made


def _triton(body: dict[str, Any]) -> str:
    speed, memory, again = body["throughput"], body["memory_bytes"], body["killed_and_restarted"]
    settings, rounds = body["settings"], memory["after_each_round"]
    quarter = max(1, len(rounds) // 4)
    level = [memory["idle"], np.mean(rounds[:quarter]), np.mean(rounds[-quarter:])]
    rows = [
        ["requests; clients", f"{settings['requests']}; {settings['clients']}"],
        ["wrong answers; crashes", f"{len(body['wrong_answers'])}; {len(body['crashes'])}"],
        ["throughput over that of one process, wall clock", f"{speed['served_over_alone_wall']:.2f}"],
        ["likewise, processor time", f"{speed['served_over_alone_processor']:.2f}"],
        ["memory, MiB: idle; first quarter; last quarter", "; ".join(f"{int(size) >> 20}" for size in level)],
    ]
    for name, found in body["latency_ms"].items():
        rows.append([f"{name}: p50; p99, ms", f"{found['p50']:,.0f}; {found['p99']:,.0f}"])
    rows += [
        ["killed under load: errors; answers after", f"{again['errors']}; {again['answers_after']}"],
        ["seconds to the first answer after", f"{again['seconds_from_kill_to_first_answer']}"],
    ]
    return _table(["Triton", "value"], rows)


def _ray(body: dict[str, Any]) -> str:
    memory, settings = body["driver_memory_bytes"], body["settings"]
    quarter = max(1, len(memory) // 4)
    level = [np.mean(memory[quarter : 2 * quarter]), np.mean(memory[-quarter:])]
    rows = [
        ["images", f"{settings['images']} of {settings['side']}x{settings['side']}"],
        ["throughput over the plain pipeline's, wall clock", f"{body['ray_over_plain_wall']:.2f}"],
        ["likewise, processor time", f"{body['ray_over_plain_processor']:.2f}"],
        ["driver's memory, MiB: second quarter; last quarter", "; ".join(f"{int(m) >> 20}" for m in level)],
    ]
    return _table(["Ray", "value"], rows)


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/results/scaling.md")
    args = parser.parse_args()
    page = DOCS / "results" / "scaling.md"
    text = page.read_text(encoding="utf-8")
    for name, table in tables().items():
        print(f"{name}\n{table}\n")
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        text = re.sub(
            pattern, lambda found, table=table: f"{found[1]}\n{table}\n\n{found[2]}", text, flags=re.DOTALL
        )
    if args.write:
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
