"""`oslic inspect`: show the contents of a bundle."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..bundle import Bundle


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, nargs="?", metavar="BUNDLE", help="default: the shipped one")
    parser.add_argument("--json", action="store_true", help="machine-readable")


def describe(bundle: Bundle) -> dict[str, Any]:
    """Everything that a bundle says of itself, with the state of its files.

    Args:
        bundle: an opened bundle.

    Returns:
        The manifest's fields as plain JSON types, for each graph also `bytes` and `intact` (the hash was
        computed again), and the `engines` with their sidecars.
    """
    from ..bundle import GRAPH_NAMES
    from ..engines import EngineInfo, sidecars
    from ..errors import BackendError, BundleError

    found: dict[str, Any] = json.loads(json.dumps(asdict(bundle.manifest)))
    for name in GRAPH_NAMES:
        path = bundle.graph_path(name)
        entry = found["graphs"][name]
        entry["bytes"] = path.stat().st_size if path.is_file() else None
        try:
            bundle.read_graph(name)
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


def run(args: argparse.Namespace) -> int:
    from ..bundle_finder import open_bundle
    from ..errors import BundleError, printable

    bundle = open_bundle(args.bundle)
    found = describe(bundle)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        for line in _lines(bundle.path, found):
            print(printable(line))
    damaged = [name for name, graph in found["graphs"].items() if not graph["intact"]]
    if damaged:
        raise BundleError(found["graphs"][damaged[0]]["damage"])
    return 0


def _lines(path: Path, found: dict[str, Any]) -> Iterator[str]:
    yield f"{path}: {found['name']}"
    yield f"  fingerprint  {found['fingerprint']}"
    yield f"  licence      {found['license']}"
    yield f"  classes      {', '.join(c['name'] for c in found['classes'])}"
    yield (
        f"  levels {found['levels']}, label scale {found['label_scale']}, alpha {found['alpha']:g}, "
        f"multiple {found['multiple']}"
    )
    for name, graph in found["graphs"].items():
        state = "" if graph["intact"] else "   DAMAGED"
        size = "missing" if graph["bytes"] is None else f"{graph['bytes'] / 1e6:.2f} MB"
        yield (
            f"  {name:<11} {', '.join(graph['inputs'])} -> {graph['output']}: {graph['form']}, {graph['precision']}, "
            f"opset {graph['opset']}, IR {graph['ir_version']}, {graph['parameters'] / 1e6:.3f} M weights, "
            f"{graph['macs_per_pixel'] * 768 * 512 / 1e9:.3f} GMAC at 768x512, {size}{state}"
        )
    for engine in found["engines"]:
        yield f"  engine {engine['file']}: {engine.get('backend', '?')} {engine.get('precision', '?')}"
    for key in ("provenance", "tools", "quantization"):
        for name, value in (found[key] or {}).items():
            yield f"  {key}.{name}: {value}"
