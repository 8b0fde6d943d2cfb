"""`oslic batch`: many pictures into streams, or streams into pictures, on this machine or on a Ray cluster."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...runtime.backends import BACKENDS, Options
from ...runtime.bundle.finder import open_bundle
from ...runtime.dependencies import naming_missing
from ...runtime.errors import UsageError, printable
from ...runtime.memory import resident_memory, return_freed_arrays
from ...runtime.threads import default_jobs
from ...serving.batch import storage
from ...serving.batch.sources import PATH_COLUMN, Item, find_items
from ...serving.batch.table import RESULTS_NAME, ResultTable, key_of, sources_done
from ...serving.batch.work import CodecOptions, Job, Work
from ..coding_arguments import add_coding_arguments, requested
from ..file_arguments import Word, output_place
from ..limit_arguments import add_limit_arguments
from ..numbers import at_least

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...serving.batch.table import Row

_MOST_MESSAGES: Final = 20
_SECONDS_BETWEEN_LINES: Final = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=Word,
        metavar="SOURCE",
        help="a folder, searched with all below it; a list (.txt, one path a line); a manifest (.parquet); or a file: "
        "paths, or URLs of any kind that fsspec knows",
    )
    parser.add_argument(
        "-o", "--output", type=output_place(), required=True, metavar="TARGET",
        help=f"the folder of the results, a path or a URL; the table is in TARGET/{RESULTS_NAME}",
    )  # fmt: skip
    parser.add_argument(
        "--decode", action="store_true", help="the source holds .oslic files: decode them to PNG files"
    )
    parser.add_argument(
        "--verify", action="store_true",
        help="read each stream again and decode it; one that does not give what its encoder saw is a failure",
    )  # fmt: skip
    parser.add_argument(
        "--column",
        default=PATH_COLUMN,
        metavar="NAME",
        help="of the manifest, with paths (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_coding_arguments(parser.add_argument_group("how pictures are coded, as by oslic compress"))
    codec = parser.add_argument_group("networks")
    codec.add_argument("--bundle", metavar="BUNDLE", help="the networks (default: the shipped `lite` bundle)")
    codec.add_argument("--backend", default="auto", metavar="NAME", help=f"auto, {', '.join(BACKENDS)}")
    codec.add_argument(
        "--threads", type=at_least(1), default=1, metavar="N",
        help="CPU threads of each picture's networks (default: %(default)s)",
    )  # fmt: skip
    codec.add_argument(
        "--jobs", type=at_least(1), metavar="N",
        help="pictures in work at a time (default: one for each core; with --ray one in each process)",
    )  # fmt: skip
    ray = parser.add_argument_group("many machines")
    ray.add_argument(
        "--ray", type=Word, metavar="ADDRESS",
        help="of a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local for one on this machine",
    )  # fmt: skip
    ray.add_argument(
        "--actors",
        type=at_least(1),
        metavar="N",
        help="most processes (default: one for each processor or GPU)",
    )
    ray.add_argument(
        "--gpus", type=float, metavar="G",
        help="GPUs that an actor takes, such as 1 or 0.5 (default: 1 with the backends for GPUs, else none)",
    )  # fmt: skip
    add_limit_arguments(parser)


def _job(args: argparse.Namespace) -> Job:
    networks = "" if args.decode else open_bundle(args.bundle).manifest.fingerprint
    return Job(_absolute(args.output), requested(args), args.decode, args.verify, networks)


def _absolute(place: str) -> str:
    """A path that means the same to every process, and in the next call."""
    return place if storage.is_url(place) else str(Path(place).absolute())


def run(args: argparse.Namespace) -> int:
    job = _job(args)
    options = CodecOptions(
        args.bundle, args.backend, args.threads, args.max_pixels, args.max_memory, Options()
    )
    if args.ray is None and (args.actors is not None or args.gpus is not None):
        raise UsageError("--actors and --gpus are for many machines: give --ray as well")
    found = find_items(_absolute(args.source), streams=job.decode, column=args.column, without=job.target)
    storage.require_writable(job.target)
    done = sources_done(job.target, job.described())
    summary = _Summary(done)
    items = summary.without_done(found)
    with ResultTable(job.target) as table:
        for row in _rows(items, job, options, args):
            table.add(row)
            summary.add(row)
    return summary.finish(job.target, as_json=args.json)


def _rows(items: Iterator[Item], job: Job, options: CodecOptions, args: argparse.Namespace) -> Iterator[Row]:
    if args.ray is not None:
        from ...serving.ray import Cluster, rows

        with naming_missing("oslic batch --ray", "ray"):
            import ray  # noqa: F401
        yield from rows(items, job, options, Cluster(str(args.ray), args.actors, args.gpus, args.jobs or 1))
        return
    return_freed_arrays()
    first = next(items, None)
    if first is None:
        return
    with options.open() as codec:
        work = Work(codec, job, args.jobs or default_jobs())
        yield from work.rows(itertools.chain([first], items))


class _Summary:
    """Counts rows, tells of those that failed, and says in the end what came of all.

    Args:
        done: keys of the sources that an earlier run has done.
    """

    def __init__(self, done: frozenset[bytes]) -> None:
        self._before = done
        self._start = time.perf_counter()
        self._spoken = self._start
        self._figures = dict.fromkeys(
            ("items", "done", "failed", "done_before", "pixels", "bytes_in", "bytes_out"), 0
        )
        self._exit_code = 0

    def without_done(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items that are still to be done."""
        for item in items:
            if key_of(item.source) in self._before:
                self._figures["done_before"] += 1
            else:
                yield item

    def add(self, row: Row) -> None:
        """Count a row."""
        figures = self._figures
        figures["items"] += 1
        figures["failed" if row.failed else "done"] += 1
        figures["pixels"] += row.width * row.height
        figures["bytes_in"] += row.bytes_in
        figures["bytes_out"] += row.bytes_out
        if row.failed:
            self._exit_code = self._exit_code or row.exit_code
            if figures["failed"] <= _MOST_MESSAGES:
                print(f"oslic batch: error: {printable(row.error or '')}", file=sys.stderr)
            if figures["failed"] == _MOST_MESSAGES:
                print("oslic batch: further errors are in the table only", file=sys.stderr)
        now = time.perf_counter()
        if now - self._spoken > _SECONDS_BETWEEN_LINES:
            self._spoken = now
            print(self._line(now - self._start), file=sys.stderr, flush=True)

    def _line(self, seconds: float) -> str:
        figures = self._figures
        return (
            f"{figures['done']} done, {figures['failed']} failed, {figures['done_before']} done before; "
            f"{figures['items'] / seconds:.2f} images/s"
        )

    def finish(self, target: str, *, as_json: bool) -> int:
        """Print the summary; return the exit code, that of the first error."""
        seconds = time.perf_counter() - self._start
        table = storage.join(target, RESULTS_NAME)
        memory = resident_memory()
        body: dict[str, Any] = {
            **self._figures,
            "seconds": round(seconds, 3),
            "images_per_second": self._figures["items"] / seconds,
            "peak_memory_bytes": None if memory is None else memory[1],
            "table": table,
        }
        print(json.dumps(body) if as_json else printable(f"{self._line(seconds)}; table: {table}"))
        return self._exit_code
