"""`oslic run`: run any ONNX graph or engine once, and keep what it gives."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..file_arguments import output_file
from ..model_arguments import SUBJECT, add_input_arguments, add_runner_arguments, feeds_of, options_of

if TYPE_CHECKING:
    import numpy.typing as npt


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar=SUBJECT)
    parser.add_argument("--graph", metavar="NAME", help="which graph of a bundle")
    parser.add_argument(
        "-o", "--output", type=output_file("arrays"), metavar="NPZ", help="write the outputs by name"
    )
    parser.add_argument(
        "--save-inputs", type=output_file("arrays"), metavar="NPZ", help="write the random inputs by name"
    )
    add_runner_arguments(parser)
    add_input_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")


def describe(array: npt.NDArray[Any]) -> dict[str, Any]:
    """Type, shape and figures of an array, as plain JSON types; NaN and infinities are counted and left out of them."""
    import numpy as np

    found: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.dtype.kind not in "biuf" or not array.size:
        return found
    values = array.astype(np.float64)
    finite = values[np.isfinite(values)]
    found["not_finite"] = int(values.size - finite.size)
    if not finite.size:
        return found | {"minimum": None, "mean": None, "maximum": None}
    return found | {
        "minimum": float(finite.min()),
        "mean": float(finite.mean()),
        "maximum": float(finite.max()),
    }


def line(name: str, found: dict[str, Any]) -> str:
    """The same in one line."""
    shape = "x".join(map(str, found["shape"])) or "scalar"
    text = f"{name} {found['dtype']} {shape}"
    if found.get("mean") is not None:
        text += f": minimum {found['minimum']:.6g}, mean {found['mean']:.6g}, maximum {found['maximum']:.6g}"
    if found.get("not_finite"):
        text += f", {found['not_finite']} NaN or infinite"
    return text


def run(args: argparse.Namespace) -> int:
    import time

    from ...runtime.errors import UsageError, printable
    from ...runtime.model.feeds import write_arrays
    from ...runtime.model.running import load
    from ...runtime.model.source import open_source

    source = open_source(args.source)
    subject = source.engine
    if subject is None:
        models = source.chosen([] if args.graph is None else [args.graph])
        if len(models) > 1:
            raise UsageError(
                f"{args.source} holds the graphs {', '.join(m.name for m in models)}: name one with --graph"
            )
        (model,) = models
        # Wrong inputs are said before the backend takes its time to load the graph.
        feeds = feeds_of(args, model.inputs, model.ranges, model.shapes)
        loaded = load(model, args.backend, options_of(args))
    else:
        loaded = load(subject, args.backend, options_of(args))
        feeds = feeds_of(args, loaded.inputs, {})
    try:
        start = time.perf_counter()
        outputs = loaded.run(feeds)
        seconds = time.perf_counter() - start
    finally:
        loaded.close()
    if args.save_inputs is not None:
        write_arrays(Path(args.save_inputs), feeds)
    if args.output is not None:
        write_arrays(Path(args.output), outputs)
    found = {name: describe(array) for name, array in outputs.items()}
    if args.json:
        document = {
            "graph": loaded.name,
            "backend": loaded.backend,
            "milliseconds": seconds * 1e3,
            "inputs": {name: describe(array) for name, array in feeds.items()},
            "outputs": found,
        }
        print(json.dumps(document, indent=2))
        return 0
    print(printable(f"{loaded.name} on {loaded.backend}"))
    for name, figures in found.items():
        print(printable(line(name, figures)))
    if args.output is not None:
        print(f"wrote {args.output}")
    return 0
