"""A fuzzing campaign in as many runs as it takes, recorded with seeds and counts.

    python tests/fuzz/campaign.py flif --executions 1500000
    python tests/fuzz/campaign.py decoder --executions 500000
    python tests/fuzz/campaign.py transform --executions 100000

Executes until the result file counts so many of the target, and goes on behind the last seed that it holds: it may be
interrupted and started again. Each run is a process of its own. A run that does not end well (a crash, a sanitizer's
report, a hang, an error that is not the library's, too much memory) is recorded with its seed as a failure, its input
is kept under `build/fuzz/`, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oslic.measure.environment import describe
from oslic.runtime.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "bench" / "results" / "fuzz-campaign.json"
FORMAT = "oslic-fuzz-campaign"
SECONDS = 5
"""What one execution may take; the harnesses stop themselves behind it."""
_COUNTS = re.compile(r"executed (\d+) mutations: (\d+) pictures, slowest ([\d.]+) ms, peak (\d+) kB")


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        command: takes the number of executions and the seed, prints what `_COUNTS` reads.
        inputs: further arguments.
        memory: bytes that the process may take at its peak.
        run: executions of one run.
    """

    command: tuple[str, ...]
    inputs: tuple[str, ...]
    memory: int
    run: int


def _flif() -> Target:
    subprocess.run(["make", "-s", "-C", str(ROOT), "build/sanitize/flif_fuzz"], check=True)
    files = [
        *(ROOT / "tests" / "data" / "flif").glob("*.flif"),
        *(ROOT / "tests" / "fuzz" / "corpus").iterdir(),
    ]
    inputs = tuple(sorted(str(file.relative_to(ROOT)) for file in files))
    return Target(("build/sanitize/flif_fuzz",), inputs, 512 << 20, 25_000)


def _decoder() -> Target:
    return Target((sys.executable, "tests/fuzz/decoder_fuzz.py"), (), 512 << 20, 10_000)


def _transform() -> Target:
    return Target((sys.executable, "tests/fuzz/decoder_fuzz.py"), ("transform",), 512 << 20, 10_000)


TARGETS = {"flif": _flif, "decoder": _decoder, "transform": _transform}


def execute(target: Target, name: str, executions: int, seed: int) -> dict[str, Any]:
    """One run, as it is recorded; `failed` says what went wrong if something did."""
    last = ROOT / "build" / "fuzz" / f"{name}-{seed}.bin"
    last.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [*target.command, str(executions), str(seed), *target.inputs],
        cwd=ROOT,
        env={**os.environ, "FUZZ_LAST": str(last)},
        capture_output=True,
        text=True,
        check=False,
        errors="backslashreplace",
    )
    row: dict[str, Any] = {"seed": seed, "executions": executions}
    counts = _COUNTS.search(done.stdout)
    if done.returncode != 0 or counts is None:
        return row | {"failed": f"exit code {done.returncode}: {done.stderr.strip()[-2000:]}"}
    last.unlink(missing_ok=True)
    row |= {"decoded": int(counts[2]), "slowest_ms": float(counts[3]), "peak_bytes": int(counts[4]) << 10}
    if row["slowest_ms"] > SECONDS * 1e3 or row["peak_bytes"] > target.memory:
        row["failed"] = "beyond the limit of time or memory"
    return row


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The totals of recorded runs."""
    good = [run for run in runs if "failed" not in run]
    executions = sum(run["executions"] for run in good)
    decoded = sum(run["decoded"] for run in good)
    return {
        "executions": executions,
        "decoded": decoded,
        "decoded_share": round(decoded / max(executions, 1), 4),
        "failures": len(runs) - len(good),
        "slowest_ms": max((run["slowest_ms"] for run in good), default=0.0),
        "peak_bytes": max((run["peak_bytes"] for run in good), default=0),
    }


def read(path: Path) -> dict[str, Any]:
    """A result file; an empty one if it does not exist."""
    body = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {"format": FORMAT, "version": 1, "targets": {}} | body


def recorded(path: Path, target: str) -> dict[str, Any]:
    """What a result file holds of a target."""
    entry: dict[str, Any] = read(path)["targets"].get(target, {"runs": []})
    return entry


def failed(runs: list[dict[str, Any]]) -> bool:
    """Whether a run did not end well."""
    return any("failed" in run for run in runs)


def main() -> int:
    """Run; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument(
        "--executions", type=int, required=True, metavar="N", help="in all, recorded ones included"
    )
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args()
    target = TARGETS[args.target]()
    runs = recorded(args.output, args.target)["runs"]
    while (left := args.executions - summarize(runs)["executions"]) > 0 and not failed(runs):
        seed = max((run["seed"] for run in runs), default=0) + 1
        row = execute(target, args.target, min(target.run, left), seed)
        row["time"] = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        environment = describe()
        row["revision"] = environment["revision"]
        # Read again: the other target's campaign may have written meanwhile.
        body = read(args.output)
        runs = [*recorded(args.output, args.target)["runs"], row]
        limits = {"seconds": SECONDS, "memory_bytes": target.memory}
        body["targets"][args.target] = {
            "limits": limits,
            **summarize(runs),
            "environment": environment,
            "runs": runs,
        }
        write_atomically(args.output, (json.dumps(body, indent=1) + "\n").encode())
        print(f"{args.target} seed {seed}: {row.get('failed') or row['decoded']}", flush=True)
    return 1 if failed(runs) else 0


if __name__ == "__main__":
    sys.exit(main())
