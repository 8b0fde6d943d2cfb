"""`oslic triton`: a bundle as a model repository of NVIDIA Triton Inference Server."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from ...runtime.bundle.engine_files import PRECISIONS
from ...runtime.bundle.finder import open_bundle
from ...runtime.errors import UsageError, printable
from ...runtime.threads import most_workers
from ...runtime.tiling import UNIT
from ...serving.triton import names
from ...serving.triton.repository import DEVICES, GRAPH_KINDS, SERVER_OPTIONS, Plan, write_repository
from ..file_arguments import Word, output_place
from ..limit_arguments import add_limit_arguments
from ..numbers import at_least

_EXACT_BATCH = 8


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a folder, or the name of a shipped bundle: lite")
    parser.add_argument(
        "-o", "--output", type=output_place(), required=True, metavar="REPOSITORY",
        help="the model repository; models of other names that are there stay",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace the bundle's models that are there")
    parser.add_argument("--json", action="store_true", help="print the models' names as JSON")
    parser.add_argument(
        "--name", type=Word, default=names.DEFAULT_PREFIX,
        help="what the models' names begin with: NAME_encode, NAME_decode, ... (default: %(default)s)",
    )  # fmt: skip
    graphs = parser.add_argument_group("the networks")
    graphs.add_argument(
        "--graphs", choices=GRAPH_KINDS, default="python",
        help="what runs them: Triton's TensorRT or ONNX Runtime backend, or ONNX Runtime in its Python backend "
        "(default: %(default)s)",
    )  # fmt: skip
    graphs.add_argument("--device", choices=DEVICES, help="(default: gpu with --graphs tensorrt, else cpu)")
    graphs.add_argument(
        "--max-batch", type=at_least(1, 1024), metavar="N",
        help=f"most tiles that run at once (default: {_EXACT_BATCH} for exact bundles, else 1: what networks in "
        "floating point give depends on it)",
    )  # fmt: skip
    graphs.add_argument(
        "--queue-delay", type=at_least(0), default=0, metavar="US",
        help="microseconds that a tile waits for others (default: %(default)s)",
    )  # fmt: skip
    graphs.add_argument(
        "--tile", type=at_least(UNIT), metavar="N",
        help=f"cut pictures of all sizes into tiles of this side, a multiple of {UNIT}, so that they batch (default: "
        "as `oslic compress` does: up to 1 megapixel in one piece)",
    )  # fmt: skip
    graphs.add_argument(
        "--threads", type=at_least(1), default=1, metavar="N", help="of each instance (default: 1)"
    )
    graphs.add_argument("--precision", choices=PRECISIONS, help="of the engines (default: the fastest there)")
    graphs.add_argument(
        "--gpu", metavar="X.Y", help="compute capability of the server's GPU: others are refused"
    )
    graphs.add_argument("--tensorrt", metavar="VERSION", help="of the server: engines of others are refused")
    server = parser.add_argument_group("the server")
    server.add_argument(
        "--instances", type=at_least(1), metavar="N",
        help="processes of the encoder and of the decoder, and on CPUs of each network (default: one for each core)",
    )  # fmt: skip
    server.add_argument(
        "--queue", type=at_least(1), default=Plan.queue, metavar="N",
        help="requests that may wait; more are refused (default: %(default)s)",
    )  # fmt: skip
    add_limit_arguments(parser)


def _plan(args: argparse.Namespace, *, exact: bool) -> Plan:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", args.name):
        raise UsageError(f"{args.name!r} is no name for models: take letters, digits, _ and -")
    if args.tile is not None and args.tile % UNIT:
        raise UsageError(f"tiles of {args.tile} pixels: the side must be a multiple of {UNIT}")
    return Plan(
        prefix=str(args.name),
        graphs=args.graphs,
        device=args.device or ("gpu" if args.graphs == "tensorrt" else "cpu"),
        max_batch=args.max_batch or (_EXACT_BATCH if exact else 1),
        queue_delay=args.queue_delay,
        instances=args.instances or most_workers(),
        threads=args.threads,
        tile=args.tile,
        queue=args.queue,
        max_pixels=args.max_pixels,
        max_memory=args.max_memory,
        precision=args.precision,
        gpu=args.gpu,
        tensorrt=args.tensorrt,
    )


def run(args: argparse.Namespace) -> int:
    bundle = open_bundle(args.bundle)
    folder = Path(args.output)
    models = write_repository(bundle, folder, _plan(args, exact=bundle.manifest.exact), replace=args.force)
    if args.json:
        print(json.dumps({"repository": str(folder), "models": models}))
    else:
        print(printable(f"{folder}: {', '.join(models)}"))
        print(
            printable(" ".join(("tritonserver", f"--model-repository={folder.resolve()}", *SERVER_OPTIONS)))
        )
    return 0
