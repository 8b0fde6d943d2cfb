"""`oslic bench latency`: any graphs and engines, interleaved; or a codec, stage by stage, beside peers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bench.coders.registry import TIMED_PEERS
from ...measure.timing import Settings
from ...runtime.codec.effort import DEFAULT_EFFORT
from ...runtime.errors import UsageError, printable
from ...runtime.image.files import ENDINGS
from ..file_arguments import output_file
from ..limit_arguments import add_limit_arguments, limits_of
from ..model_arguments import SUBJECT, add_input_arguments, feeds_of
from ..numbers import at_least, not_negative, positive, width_by_height
from ..peer_arguments import add_peers, chosen_peers
from ..trust_argument import add_trust_argument

if TYPE_CHECKING:
    from ...bench.agreement.outputs import Side
    from ...runtime.model.feeds import Feeds
    from ...runtime.model.header import Port


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subjects",
        nargs="+",
        metavar=f"{SUBJECT}|IMAGE",
        help="graphs, engines and bundles, measured interleaved; or one photograph, on which codecs are measured",
    )
    parser.add_argument(
        "-o", "--output", type=output_file("JSON"), metavar="JSON", help="write the result, with all samples"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    parser.add_argument(
        "--backend",
        default="auto",
        metavar="A,B",
        help="auto or names from `oslic backends`; for graphs several, each with @fp16, @bf16 or @unoptimized",
    )
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="CPU threads of the networks")
    add_trust_argument(parser)
    _add_rule(parser)
    _add_graph_arguments(parser)
    add_input_arguments(parser)
    _add_codec_arguments(parser)
    add_limit_arguments(parser)


def _add_rule(parser: argparse.ArgumentParser) -> None:
    defaults = Settings()
    rule = parser.add_argument_group("when to stop: all of them hold, or the time is up")
    rule.add_argument(
        "--iterations", "--min-samples", type=at_least(1), default=defaults.min_samples, metavar="N",
        help="runs of each at the least (default: %(default)s)",
    )  # fmt: skip
    rule.add_argument(
        "--duration", type=not_negative, default=defaults.min_seconds, metavar="SECONDS",
        help="of each at the least (default: %(default)s)",
    )  # fmt: skip
    rule.add_argument(
        "--max-error", type=positive, default=defaults.max_error, metavar="E",
        help="relative half-width of the median's interval (default: %(default)s)",
    )  # fmt: skip
    rule.add_argument(
        "--warm-up", type=at_least(1), default=defaults.warmup, metavar="N",
        help="runs of each before (default: %(default)s)",
    )  # fmt: skip
    rule.add_argument(
        "--timeout", type=positive, default=defaults.timeout, metavar="SECONDS",
        help="for all together (default: %(default)s)",
    )  # fmt: skip


def _add_graph_arguments(parser: argparse.ArgumentParser) -> None:
    graphs = parser.add_argument_group("graphs and engines")
    graphs.add_argument(
        "--profile", action="store_true", help="also time the layers, where the product tells"
    )
    graphs.add_argument(
        "--graph", action="append", default=[], metavar="NAME", help="of a bundle; repeatable"
    )
    graphs.add_argument(
        "--max-median", type=positive, metavar="MS", help="exit code 9 if a median is above it"
    )
    graphs.add_argument(
        "--max-ratio",
        type=positive,
        metavar="X",
        help="exit code 9 if another takes more than X times the first",
    )


def _add_codec_arguments(parser: argparse.ArgumentParser) -> None:
    codecs = parser.add_argument_group("codecs on a photograph")
    codecs.add_argument(
        "--size",
        type=width_by_height,
        metavar="WxH",
        help="repeat and crop the image to this size, e.g. 768x512",
    )
    codecs.add_argument(
        "--bundle",
        action="append",
        metavar="[NAME=]FOLDER",
        help="may be repeated; default: the shipped bundle",
    )
    codecs.add_argument(
        "--effort",
        type=int,
        default=DEFAULT_EFFORT,
        metavar="E",
        help="of the encoder (default: %(default)s)",
    )
    codecs.add_argument(
        "--quality",
        type=int,
        default=60,
        metavar="Q",
        help="of the residual (default: 60); peers are measured at their setting nearest in PSNR",
    )
    add_peers(parser, TIMED_PEERS, "avif-s6,avif-s9")
    codecs.add_argument(
        "--throughput", type=at_least(0), default=0, metavar="N", help="also run N images as a pipeline"
    )


def run(args: argparse.Namespace) -> int:
    images = [text for text in args.subjects if Path(text).suffix.lower() in ENDINGS]
    if images and len(args.subjects) > 1:
        raise UsageError(
            f"codecs are measured on one photograph ({images[0]}), apart from graphs and engines"
        )
    rule = Settings(
        warmup=args.warm_up,
        min_samples=args.iterations,
        min_seconds=args.duration,
        max_error=args.max_error,
        timeout=args.timeout,
    )
    return _codecs(args, Path(images[0]), rule) if images else _graphs(args, rule)


def _graphs(args: argparse.Namespace, rule: Settings) -> int:
    from ...bench.agreement.outputs import make_side
    from ...bench.experiments import graph_latency
    from ...runtime.model.source import open_source

    sides: list[Side] = []
    for source in map(open_source, args.subjects):
        if source.engine is not None:
            sides.append(make_side("auto", source, args.threads, trust=args.trust_engines))
            continue
        sides += [
            make_side(name, source, args.threads, trust=args.trust_engines)
            for name in args.backend.split(",")
        ]
    subjects = [s for s in graph_latency.subjects_of(sides) if not args.graph or s.graph in args.graph]
    if not subjects:
        raise UsageError(f"no graph {args.graph[0]!r} in {', '.join(args.subjects)}")
    result = graph_latency.run(subjects, _feeds_for(args, sides), rule, profile=args.profile)
    if args.output:
        graph_latency.write(Path(args.output), result)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        for line in graph_latency.table(result).splitlines():
            print(printable(line))
        if args.output:
            print(f"wrote {args.output}")
    graph_latency.require(result, args.max_median, args.max_ratio)
    return 0


def _feeds_for(args: argparse.Namespace, sides: Sequence[Side]) -> Any:
    """Gives each candidate the arrays that the arguments ask for; what names no input of any is an error."""
    from ...runtime.model.feeds import require_names

    ports = [port for side in sides for model in side.models for port in model.inputs]
    if ports:
        for option in ("shapes", "range"):
            given = [name for name, _ in getattr(args, option) if name]
            require_names(given, ports, f"--{option}")

    def feeds_for(name: str, inputs: Sequence[Port], side: Side) -> Feeds:
        del name
        known = {port.name for port in inputs}
        own = argparse.Namespace(**vars(args))
        own.shapes = [entry for entry in args.shapes if entry[0] in known]
        own.range = [entry for entry in args.range if entry[0] in {*known, ""}]
        models = [m for m in side.models if m.inputs == tuple(inputs)]
        model = models[0] if models else None
        return feeds_of(own, inputs, model.ranges if model else {}, model.shapes if model else {})

    return feeds_for


def _codecs(args: argparse.Namespace, image: Path, rule: Settings) -> int:
    from ...bench.experiments.latency import Setup, table, write
    from ...bench.experiments.latency import run as measure_all

    specs = chosen_peers(args, TIMED_PEERS)
    setups = []
    for index, text in enumerate(args.bundle or [""]):
        name, separator, folder = text.rpartition("=")
        label = name if separator else "oslic" if index == 0 else f"oslic-{index + 1}"
        setups.append(Setup(label, folder or None, args.backend, args.threads, args.effort, args.quality))
    result = measure_all(
        setups,
        image,
        size=args.size,
        peers=specs,
        rule=rule,
        images=args.throughput,
        limits=limits_of(args),
    )
    if args.output:
        write(Path(args.output), result)
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    print(table(result))
    for name, made in result["coded"].items():
        print(f"{name}: {made['bytes']} bytes, {made['psnr']:.2f} dB at quality {made['quality']:g}")
    for name, value in result["ratios"].items():
        print(f"{name} takes {value:.2f} of the time of {setups[0].name}, in this run")
    for name, flow in result["throughput"].items():
        print(
            f"{name}: {flow['sequential_per_second']:.2f} images/s one by one, "
            f"{flow['pipelined_per_second']:.2f} pipelined"
        )
    if args.output:
        print(f"wrote {args.output}")
    return 0
