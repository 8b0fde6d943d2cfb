"""Requests to a Triton server beside the same work in one process: `python tests/serving/measure_triton.py -o FILE`.

Needs the server of `make test-serving`. Rounds of both take turns, so that what else the machine does hits both alike;
processor seconds are told beside wall-clock ones. Every answer is compared with what the codec gives in this process.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from oslic.measure import environment
from oslic.runtime.bundle.finder import open_bundle
from oslic.runtime.codec import Codec
from oslic.runtime.codec.request import make_request
from oslic.runtime.image.files import find_images
from oslic.runtime.threads import default_jobs, in_order, most_workers
from oslic.serving.triton.repository import Plan, write_repository
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
from triton_server import Client, Server  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402

FORMAT = "oslic-serving-triton"
CLIENTS = 8
LEAST_PIXELS, MOST_PIXELS = 64 * 64, 4_000_000
BROKEN = 33  # one of so many
DECODED = 4  # likewise
CLASSES = (("up to 0.1 MP", 1e5), ("up to 1 MP", 1e6), ("up to 4 MP", 4.1e6))


@dataclass
class Work:
    """One request, and what must come of it."""

    model: str
    data: bytes
    pixels: int
    wanted: bytes | None  # None: an error


def work_list(codec: Codec, count: int, effort: int, seed: int) -> list[Work]:
    """Photographs of sizes from 64x64 to 4 megapixels, log-uniform; some broken, some streams to be decoded."""
    random = np.random.default_rng(seed)
    sources = [Image.open(path).convert("RGB") for path in find_images(ROOT / "samples")]
    works = []
    for number in range(count):
        pixels = float(np.exp(random.uniform(np.log(LEAST_PIXELS), np.log(MOST_PIXELS))))
        aspect = float(np.exp(random.uniform(-0.5, 0.5)))
        size = max(32, round((pixels * aspect) ** 0.5)), max(32, round((pixels / aspect) ** 0.5))
        picture = sources[number % len(sources)].resize(size, Image.Resampling.BICUBIC)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=95)
        data, area = file.getvalue(), size[0] * size[1]
        if number % BROKEN == BROKEN - 1:
            works.append(Work("encode", data[: len(data) // 2] if number % 2 else b"no image", area, None))
        elif number % DECODED == DECODED - 1:
            stream = codec.encode(data, make_request(effort=effort)).data
            works.append(Work("decode", stream, area, b""))
        else:
            works.append(Work("encode", data, area, b""))
    return works


def processor_seconds(group: int) -> float:
    """User and system time of all processes of a group, and of their children that have ended."""
    ticks = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if os.getpgid(int(folder.name)) == group:
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    ticks += sum(map(int, fields[11:15]))
            except OSError:
                continue
    return ticks / os.sysconf("SC_CLK_TCK")


def served(server: Server, works: list[Work], effort: int) -> tuple[list[Any], float, float, float]:
    """Send requests from eight clients; returns outcomes, wall-clock, server's and clients' processor seconds."""
    clients = threading.local()
    started, own = processor_seconds(server.process_group), time.process_time()

    def request(work: Work) -> tuple[float, bytes | str]:
        if not hasattr(clients, "client"):
            clients.client = Client(server.address, timeout=600)
        start = time.perf_counter()
        try:
            if work.model == "encode":
                answer: bytes | str = clients.client.encode(work.data, effort=effort)[0]
            else:
                answer = clients.client.decode(work.data)[0]
        except InferenceServerException as error:
            answer = error.message()
        except Exception as error:  # whatever the client library makes of a server that is gone
            answer = f"{type(error).__name__}: {error}"
            del clients.client
        return time.perf_counter() - start, answer

    start = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        outcomes = list(pool.map(request, works))
    wall = time.perf_counter() - start
    return outcomes, wall, processor_seconds(server.process_group) - started, time.process_time() - own


def alone(codec: Codec, works: list[Work], effort: int) -> tuple[list[Any], float, float]:
    """The same work in this process, as many at a time as there are cores; wall-clock and processor seconds."""
    from oslic.runtime.image.writing import writer_for

    png = writer_for("x", "png")

    def work_on(work: Work) -> bytes:
        if work.model == "encode":
            return codec.encode(work.data, make_request(effort=effort)).data
        decoded = codec.decode(work.data)
        return png.encode(decoded.image, decoded.metadata, "x")

    start, own = time.perf_counter(), time.process_time()
    outcomes = [outcome for _, outcome in in_order(works, work_on, default_jobs())]
    return outcomes, time.perf_counter() - start, time.process_time() - own


def percentiles(samples: list[float]) -> dict[str, float]:
    """Of latencies in milliseconds."""
    return {
        "n": len(samples),
        **{f"p{p}": round(float(np.percentile(samples, p)) * 1e3, 1) for p in (50, 90, 99)},
    }


def restart(server: Server, works: list[Work], effort: int) -> dict[str, Any]:
    """Kill the server under load and start it again."""
    stop, log, lock = threading.Event(), [], threading.Lock()

    def load(number: int) -> None:
        client = Client(server.address, timeout=60)
        index = number
        while not stop.is_set():
            start = time.monotonic()
            try:
                client.encode(works[index % len(works)].data, effort=effort)
                answered = True
            except Exception:  # whatever the client library makes of a server that is gone
                answered = False
                time.sleep(0.1)
            index += CLIENTS
            with lock:
                log.append((start, time.monotonic(), answered))

    threads = [threading.Thread(target=load, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    time.sleep(8)
    killed = time.monotonic()
    server.kill()
    time.sleep(1)
    server.start()
    ready = time.monotonic()
    time.sleep(10)
    stop.set()
    for thread in threads:
        thread.join(120)
    after = [end for start, end, answered in log if answered and start > killed]
    return {
        "answers_before": sum(answered and end < killed for _, end, answered in log),
        "errors": sum(not answered for *_, answered in log),
        "answers_after": len(after),
        "seconds_from_kill_to_ready": round(ready - killed, 2),
        "seconds_from_kill_to_first_answer": round(min(after) - killed, 2) if after else None,
        "longest_request_seconds": round(max(end - start for start, end, _ in log), 2),
        "threads_that_hang": sum(thread.is_alive() for thread in threads),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--effort", type=int, default=0)
    args = parser.parse_args()
    bundle = open_bundle("lite")
    with tempfile.TemporaryDirectory() as folder, Codec.open(bundle, threads=1) as codec:
        works = work_list(codec, args.requests, args.effort, 1)
        good = [work for work in works if work.wanted is not None]
        plan = Plan(instances=most_workers())
        write_repository(bundle, Path(folder) / "models", plan)
        server = Server(Path(folder) / "models", Path(folder) / "log")
        server.start()
        idle = server.memory()
        wrong, rounds, latencies, memory, crashes = [], [], [], [], []
        alone(codec, good[:4], args.effort)
        served(server, works[:CLIENTS], args.effort)
        for number in range(args.rounds):
            part = works[number :: args.rounds]
            outcomes, wall, server_cpu, client_cpu = served(server, part, args.effort)
            if not server.is_ready():
                crashes.append({"round": number, "log": server.last_lines()})
                server.kill()
                server.start()
            memory.append(server.memory())
            valid = [work for work in part if work.wanted is not None]
            results, wall_alone, cpu_alone = alone(codec, valid, args.effort)
            expected = iter(results)
            for work, (seconds, answer) in zip(part, outcomes, strict=True):
                right = (
                    isinstance(answer, str) and answer.startswith("ImageError: ")
                    if work.wanted is None
                    else answer == next(expected)
                )
                if not right:
                    wrong.append({"model": work.model, "pixels": work.pixels, "answer": str(answer)[:200]})
                if work.wanted is not None:
                    latencies.append((work.model, work.pixels, seconds))
            rounds.append(
                {
                    "requests": len(part), "broken": len(part) - len(valid),
                    "served": {"wall": wall, "server_processor": server_cpu, "clients_processor": client_cpu},
                    "alone": {"wall": wall_alone, "processor": cpu_alone},
                }
            )  # fmt: skip
            print(json.dumps(rounds[-1] | {"memory_mib": memory[-1] >> 20}), flush=True)
        alive = server.is_ready()
        after = restart(server, [work for work in good if work.model == "encode"], args.effort)
        server.stop()
    total = {key: sum(r["served"][key] for r in rounds) for key in rounds[0]["served"]}
    base = {key: sum(r["alone"][key] for r in rounds) for key in rounds[0]["alone"]}
    by_size = {}
    for model in ("encode", "decode"):
        least = 0.0
        for name, most in CLASSES:
            found = [s for m, pixels, s in latencies if m == model and least < pixels <= most]
            by_size[f"{model}, {name}"] = percentiles(found)
            least = most
    body = {
        "format": FORMAT,
        "version": 1,
        "environment": environment.describe(),
        "settings": {
            "bundle": bundle.manifest.name, "requests": args.requests, "clients": CLIENTS, "effort": args.effort,
            "instances": plan.instances, "threads": plan.threads, "max_batch": plan.max_batch,
            "pixels": [LEAST_PIXELS, MOST_PIXELS], "server": "Triton 2.51, Python backend",
        },
        "wrong_answers": wrong,
        "alive_after": alive,
        "crashes": crashes,
        "throughput": {
            "served_over_alone_wall": base["wall"] / total["wall"],
            "served_over_alone_processor": base["processor"] / total["server_processor"],
            "served_per_second": len(latencies) / total["wall"],
            "alone_per_second": len(latencies) / base["wall"],
            "alone_processor_seconds_per_megapixel": base["processor"] / (sum(w.pixels for w in good) / 1e6),
        },
        "latency_ms": {"all": percentiles([s for *_, s in latencies]), **by_size},
        "memory_bytes": {"idle": idle, "after_each_round": memory},
        "killed_and_restarted": after,
        "rounds": rounds,
    }  # fmt: skip
    args.output.write_text(json.dumps(body, indent=2) + "\n")
    print(
        json.dumps({key: body[key] for key in ("throughput", "latency_ms", "killed_and_restarted")}, indent=2)
    )
    print(f"{len(wrong)} wrong answers, {len(crashes)} crashes of the server")


if __name__ == "__main__":
    main()
