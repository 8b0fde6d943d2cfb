"""Where the time of an engine goes, by the convolutions of the graph that it was built from.

Two engines of one network in different precisions have different layers: each fuses what it can. What they share is the
convolutions of the graphs, which a product names in what it tells of each layer.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx

from ...export.engines import Options, layer_information
from ...runtime.backends.tensorrt.bindings import load_product
from ...runtime.bundle.engine_files import Product
from .engine_candidates import Source, open_plan, plan_of

_WARM: Final = 3
_RUNS: Final = 20
_CONVOLUTIONS: Final = frozenset({"Conv", "ConvTranspose"})
# How TensorRT names the nodes of the graph in a layer's metadata.
_ORIGIN: Final = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
# Calibration writes a transposed convolution as four, named so.
_PHASE: Final = re.compile(r"\.[01][01]$")


@dataclass(frozen=True)
class LayerTime:
    """A layer of an engine.

    Attributes:
        name: the product's.
        milliseconds: mean of its runs.
        convolutions: names of the graph's convolutions that it computes; empty for conversions and the like.
    """

    name: str
    milliseconds: float
    convolutions: frozenset[str]


def convolution_names(data: bytes) -> frozenset[str]:
    """Names of a model's convolutions."""
    graph = onnx.load_model_from_string(data).graph
    return frozenset(node.name for node in graph.node if node.op_type in _CONVOLUTIONS)


def layer_times(product: Product, source: Source, folder: Path, options: Options) -> list[LayerTime]:
    """Time the layers of an engine, one by one; the sum is more than the engine takes when it runs as it likes.

    Args:
        product: of which product.
        source: what the engine is made from.
        folder: for the built engine.
        options: how it is built; with `layers`.

    Raises:
        BackendError: it cannot be built, loaded or run here.
    """
    trt: Any = load_product(product)
    opened = open_plan(product, source, plan_of(product, source, folder, options), cuda_graphs=False)
    total: defaultdict[str, float] = defaultdict(float)

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            total[layer_name] += float(ms)

    for _ in range(_WARM):
        opened.runner.launch(*opened.placed)
    profiler = Profiler()  # the context does not keep it
    opened.loaded.context.profiler = profiler
    for _ in range(_RUNS):
        opened.runner.launch(*opened.placed)
    with opened.driver.current():
        information = layer_information(trt, opened.loaded.engine)
    opened.runner.close()
    return read_layers(
        information, {name: ms / _RUNS for name, ms in total.items()}, convolution_names(source.data)
    )


def read_layers(
    information: str, milliseconds: Mapping[str, float], convolutions: Iterable[str]
) -> list[LayerTime]:
    """Put together what a product tells of its layers.

    Args:
        information: the inspector's JSON.
        milliseconds: by layer.
        convolutions: names of the graph's convolutions.
    """
    told: dict[str, str] = {}
    for layer in json.loads(information).get("Layers", []):
        entry: dict[str, Any] = layer if isinstance(layer, dict) else {"Name": str(layer)}
        told[entry.get("Name", "")] = entry.get("Metadata", "")
    known = frozenset(convolutions)
    found = []
    for name, ms in milliseconds.items():
        origins = frozenset(_ORIGIN.findall(told.get(name, ""))) & known
        # Without metadata the layer's name is made of those of its nodes.
        found.append(LayerTime(name, ms, origins or frozenset(c for c in known if _names(name, c))))
    return found


def _names(layer: str, node: str) -> bool:
    # TensorRT writes FIRST...LAST of many nodes.
    return re.search(rf"(?<![\w./]){re.escape(node)}(?![\w./])", layer.replace("...", " ")) is not None


def by_convolution(before: list[LayerTime], after: list[LayerTime]) -> list[dict[str, Any]]:
    """Compare two engines of one network, convolution by convolution.

    Convolutions that either engine computes in one layer, or that calibration made of one, are taken together.

    Args:
        before: layers of the one.
        after: layers of the other.

    Returns:
        Rows with `convolutions`, `before_ms` and `after_ms`, those that became slower first; without convolutions: all
        else, conversions between types and layouts among it.
    """
    names = {name for layer in before for name in layer.convolutions}

    def origins(layer: LayerTime) -> set[str]:
        stems = {name: _PHASE.sub("", name) for name in layer.convolutions}
        return {stem if name not in names and stem in names else name for name, stem in stems.items()}

    groups: list[set[str]] = []
    for layer in (*before, *after):
        if found := origins(layer):
            touched = [group for group in groups if group & found]
            groups = [group for group in groups if not group & found] + [found.union(*touched)]
    rows: list[dict[str, Any]] = [
        {"convolutions": sorted(group), "before_ms": 0.0, "after_ms": 0.0} for group in (*groups, set[str]())
    ]
    row_of = {name: row for group, row in zip(groups, rows, strict=False) for name in group}
    for when, layers in (("before_ms", before), ("after_ms", after)):
        for layer in layers:
            found = origins(layer)
            row = row_of[found.pop()] if found else rows[-1]
            row[when] += layer.milliseconds
    return sorted(rows, key=lambda row: row["before_ms"] - row["after_ms"])
