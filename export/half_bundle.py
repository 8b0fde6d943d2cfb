"""Half-precision forms of graphs and of whole bundles, for backends that run graphs as they are."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from ..runtime.backends.onnxruntime.sessions import PRECISION_NAMES
from ..runtime.bundle.folder import Bundle, write_bundle
from ..runtime.bundle.manifest import OSLIC, GraphName
from ..runtime.errors import UsageError
from ..runtime.kinds.recording import record
from ..runtime.kinds.registry import entropy_graphs
from ..runtime.limits import Limits
from ..runtime.model.source import model_of
from .bundle_checks import MIXED_PIXELS, MIXED_TOLERANCES, example_inputs, read_crops
from .graph_files import parse_graph
from .half_weights import graphs_with_half_weights
from .ir_queries import serialize
from .precision import Half, to_half
from .verify import Difference, Tolerance, compare, require, run

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..runtime.model.source import Model
    from .verify import Arrays

_MIXED_OUTPUT: Final = Tolerance(atol=2e-2, rtol=2e-2)
"""Of outputs of networks that the toolkit does not know, in half precision."""
_STATED: Final = {short: stated for stated, short in PRECISION_NAMES.items()}


def half_graphs(bundle: Bundle, kind: Half) -> dict[GraphName, bytes]:
    """A bundle's graphs, cast to half precision, see `precision.to_half`; those that decide how symbols are coded stay.

    Args:
        bundle: in float32.
        kind: `fp16` or `bf16`.

    Raises:
        UsageError: the bundle is not in float32, or a graph cannot be cast.
    """
    for name, info in bundle.manifest.graphs.items():
        if info.precision != "float32":
            raise UsageError(f"{bundle.path}: {name} is {info.precision}; only float32 graphs can be cast")
    fixed = entropy_graphs(bundle)
    return {
        name: bundle.read_graph(name) if name in fixed else cast_model(model_of(bundle, name), kind)
        for name in bundle.manifest.graph_names
    }


def check_half(
    bundle: Bundle,
    graphs: dict[GraphName, bytes],
    images: Sequence[Path],
    threads: int = 1,
    limits: Limits | None = None,
) -> list[Difference]:
    """Hold cast graphs against the float32 ones, on the CPU, each on what it is given where these code pictures.

    Args:
        bundle: whose graphs were cast.
        graphs: cast.
        images: photographs, of which the first two are used; without any: two pictures of noise.
        threads: threads to use.
        limits: on the photographs; None for the defaults.

    Returns:
        The differences, output by output.

    Raises:
        VerificationError: one is beyond what half precision explains, as where values are beyond the range of float16.
    """
    info = bundle.manifest
    pictures = read_crops(images, info.multiple, limits) if images else _noise(info.multiple)
    found: list[Difference] = []
    if info.kind != OSLIC:
        given = record(bundle, ((f"crop {i}", one[0]) for i, one in enumerate(pictures)), threads)
        for name, samples in given.items():
            model = model_of(bundle, name)
            tolerance = MIXED_PIXELS if model.outputs[0].dtype == "uint8" else _MIXED_OUTPUT
            for sample in samples:
                found += check_cast(model, graphs[name], sample.feeds, tolerance, threads)
        return found
    models = {name: model_of(bundle, name) for name in info.graph_names}
    for image in pictures:
        values = example_inputs(image)
        for name in info.graph_names:
            ports, model = info.graphs[name], models[name]
            feeds = {port: values[port] for port in ports.inputs}
            found += check_cast(model, graphs[name], feeds, MIXED_TOLERANCES[name], threads)
            values[ports.output] = run(model.data, feeds, threads=threads)[ports.output]
    return found


def _noise(multiple: int) -> list[npt.NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (1, multiple * n, multiple * 2, 3), np.uint8) for n in (2, 3)]


def write_half(
    bundle: Bundle,
    kind: Half | None,
    folder: Path,
    *,
    graphs: dict[GraphName, bytes] | None = None,
    replace: bool = False,
) -> Bundle:
    """Write a bundle whose graphs are cast to half precision.

    The fingerprint stays: both forms compute the same in real arithmetic, and read each other's streams.

    Args:
        bundle: in float32.
        kind: `fp16` or `bf16`; None: the graphs compute in the precision that they had.
        folder: where to.
        graphs: from `half_graphs`, or from `graphs_with_half_weights` for `kind` None; None: they are made here.
        replace: replace a bundle that is already there.

    Returns:
        The bundle written.

    Raises:
        UsageError: the folder exists, or a graph cannot be cast.
    """
    if graphs is None:
        graphs = graphs_with_half_weights(bundle) if kind is None else half_graphs(bundle, kind)
    fixed = entropy_graphs(bundle)
    infos = {}
    for name, data in graphs.items():
        info = bundle.manifest.graphs[name]
        precision = info.precision if kind is None or name in fixed else _STATED[kind]
        infos[name] = dataclasses.replace(info, sha256=hashlib.sha256(data).hexdigest(), precision=precision)
    files = {infos[name].file: data for name, data in graphs.items()}
    manifest = dataclasses.replace(bundle.manifest, graphs=infos)
    write_bundle(folder, manifest, files | bundle.read_files(), replace=replace)
    return Bundle.open(folder)


def half_graph(data: bytes, kind: Half) -> bytes:
    """A serialized float32 graph, cast to half precision and serialized again."""
    return serialize(to_half(parse_graph(data), kind))


def cast_model(model: Model, kind: Half) -> bytes:
    """A float32 graph, cast to half precision; its inputs and outputs keep their types.

    Raises:
        UsageError: it is not in float32, or cannot be cast.
    """
    if model.precision != "fp32":
        raise UsageError(f"{model.path} is in {model.precision}; only float32 graphs can be cast")
    try:
        return half_graph(model.data, kind)
    except UsageError as error:
        raise UsageError(f"{model.path}: {error}") from error


def check_cast(
    model: Model, data: bytes, feeds: Arrays, tolerance: Tolerance, threads: int = 1
) -> list[Difference]:
    """Hold a cast graph against the float32 one, on the CPU.

    Args:
        model: in float32.
        data: cast.
        feeds: inputs by name.
        tolerance: what may differ.
        threads: threads to use.

    Returns:
        The differences, output by output.

    Raises:
        VerificationError: one is beyond the tolerance, as where values are beyond the range of float16.
        UsageError: the inputs do not fit the graph.
    """
    references = run(model.data, feeds, threads=threads, given=True)
    found = run(data, feeds, threads=threads)
    differences = [compare(name, found[name], reference, tolerance) for name, reference in references.items()]
    require(differences, f"the graph {model.name}", tolerance)
    return differences
