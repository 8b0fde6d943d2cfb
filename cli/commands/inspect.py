"""`oslic inspect`: show what an ONNX graph, an engine or a bundle holds."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runtime.bundle.manifest import OSLIC

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...runtime.bundle.folder import Bundle
    from ...runtime.model.source import EngineFile, Model


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, nargs="?", metavar="GRAPH.onnx|ENGINE|BUNDLE", help="default: the shipped bundle"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")


def describe(bundle: Bundle) -> dict[str, Any]:
    """Everything that a bundle says of itself, with the state of its files.

    Args:
        bundle: an opened bundle.

    Returns:
        The manifest's fields as plain JSON types, for each graph and each other file also `bytes` and `intact` (the
        hash was computed again), and the `engines` with their sidecars.
    """
    from ...runtime.bundle.engine_files import EngineInfo, sidecars
    from ...runtime.errors import BackendError, BundleError

    found: dict[str, Any] = json.loads(json.dumps(asdict(bundle.manifest)))
    for entries, place, read in (
        (found["graphs"], bundle.graph_path, bundle.read_graph),
        (found["files"], bundle.file_path, bundle.read_file),
    ):
        for name, entry in entries.items():
            path = place(name)
            entry["bytes"] = path.stat().st_size if path.is_file() else None
            try:
                read(name)
                entry["intact"] = True
            except BundleError as error:
                entry["intact"], entry["damage"] = False, str(error)
    engines = []
    for sidecar in sidecars(bundle):
        try:
            engines.append(asdict(EngineInfo.read(sidecar)))
        except BackendError as error:
            engines.append({"file": sidecar.name, "damage": str(error)})
    found["engines"] = engines
    return found


def describe_model(model: Model) -> dict[str, Any]:
    """What an ONNX graph states, as plain JSON types.

    Args:
        model: the graph.

    Returns:
        `inputs` and `outputs` (name, dtype, shape), `operators` and `parameters` by kind, versions, bytes and SHA-256.
    """
    header = model.header
    return {
        "name": model.name,
        "file": str(model.path),
        "bytes": len(model.data),
        "sha256": model.file_sha256,
        **{key: value for key, value in asdict(header).items() if key != "external"},
        "weights_beside": list(header.external),
        "quantized": header.quantized,
    }


def _model_lines(model: Model) -> Iterator[str]:
    header = model.header
    weights = sum(header.parameters.values())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in header.parameters.items())
    opsets = ", ".join(f"{name or 'ai.onnx'} {version}" for name, version in header.opsets.items())
    yield f"{model.path}: {len(model.data) / 1e6:.2f} MB, {weights / 1e6:.3f} M weights ({kinds or 'none'})"
    yield f"  opset {opsets}, IR {header.ir_version}{f', by {header.producer}' if header.producer else ''}"
    for what, ports in (("in ", header.inputs), ("out", header.outputs)):
        for port in ports:
            yield f"  {what}  {port}"
    yield f"  nodes  {', '.join(f'{count} {kind}' for kind, count in header.operators.items())}"


def _engine_lines(engine: EngineFile) -> Iterator[str]:
    info = engine.info
    yield f"{engine.path}: {info.backend} {info.version}, {info.precision}, for GPUs of compute capability {info.gpu}"
    yield f"  of the graph {info.graph} ({info.graph_sha256[:16]}), built in {info.build_seconds:g} s"
    for profile in info.profiles:
        for name, shapes in profile.items():
            yield f"  in   {name} {', '.join('x'.join(map(str, shape)) for shape in shapes)}"


def run(args: argparse.Namespace) -> int:
    from ...runtime.bundle.engine_files import read_engine
    from ...runtime.errors import BundleError, printable
    from ...runtime.model.source import open_source

    source = open_source(args.source)
    if source.engine is not None:
        read_engine(source.engine.path, source.engine.info)
        found, lines = asdict(source.engine.info), list(_engine_lines(source.engine))
    elif source.bundle is not None:
        found = describe(source.bundle)
        lines = list(_lines(source.bundle.path, found))
    else:
        (model,) = source.models
        found, lines = describe_model(model), list(_model_lines(model))
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        for line in lines:
            print(printable(line))
    if source.bundle is not None:
        entries = (*found["graphs"].values(), *found["files"].values())
        damaged = [entry["damage"] for entry in entries if not entry["intact"]]
        if damaged:
            raise BundleError(damaged[0])
    return 0


def _lines(path: Path, found: dict[str, Any]) -> Iterator[str]:
    yield f"{path}: {found['name']}"
    yield f"  fingerprint  {found['fingerprint']}"
    yield f"  license      {found['license']}"
    yield from _lines_of_oslic(found) if found["kind"] == OSLIC else _lines_of_another(found)
    for name, graph in found["graphs"].items():
        yield (
            f"  {name:<11} {', '.join(graph['inputs'])} -> {graph['output']}: {graph['form']}, {graph['precision']}, "
            f"opset {graph['opset']}, IR {graph['ir_version']}, {graph['parameters'] / 1e6:.3f} M weights, "
            f"{graph['macs_per_pixel'] * 768 * 512 / 1e9:.3f} GMAC at 768x512, {_size(graph)}"
        )
    for name, file in found["files"].items():
        yield f"  {name:<11} {file['file']}, {_size(file)}"
    for engine in found["engines"]:
        yield f"  engine {engine['file']}: {engine.get('backend', '?')} {engine.get('precision', '?')}"
    yield from _certificate_lines(found)
    for key in ("provenance", "tools", "quantization"):
        for name, value in (found[key] or {}).items():
            if name != "certificate":
                yield f"  {key}.{name}: {value}"


def _lines_of_oslic(found: dict[str, Any]) -> Iterator[str]:
    yield f"  classes      {', '.join(c['name'] for c in found['classes'])}"
    if found["groups"]:
        groups = (f"{name} = {' + '.join(members)}" for name, members in found["groups"].items())
        yield f"  groups       {', '.join(groups)}"
    yield (
        f"  levels {found['levels']}, label scale {found['label_scale']}, alpha {found['alpha']:g}, "
        f"multiple {found['multiple']}"
    )


def _lines_of_another(found: dict[str, Any]) -> Iterator[str]:
    brought = f", which the package {found['package']} brings" if found["package"] else ""
    yield f"  kind         {found['kind']}{brought}"
    yield f"  multiple {found['multiple']}"
    for name, value in found["settings"].items():
        yield f"  settings.{name}: {value}"


def _size(entry: dict[str, Any]) -> str:
    size = "missing" if entry["bytes"] is None else f"{entry['bytes'] / 1e6:.2f} MB"
    return size if entry["intact"] else f"{size}   DAMAGED"


def _certificate_lines(found: dict[str, Any]) -> Iterator[str]:
    """What is proved of the graphs that decode."""
    if found["exact"]:
        what = "the estimate is" if found["kind"] == OSLIC else "what decides how symbols are coded is"
        yield f"  exact        {what} the same on every machine (docs/concepts/exactness.md)"
    for name, proof in ((found["quantization"] or {}).get("certificate") or {}).items():
        yield (
            f"  certificate  {name}: {proof['nodes']} nodes, {proof['convolutions']} convolutions with "
            f"{proof['channels']} output channels; sums up to 2^{proof['largest_bits']} (allowed: "
            f"2^{proof['allowed_bits']}), of two products {proof['largest_pair_sum']} (allowed: "
            f"{proof['allowed_pair_sum']})"
        )
