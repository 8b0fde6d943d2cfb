"""PyTorch modules as ONNX graphs with dynamic N, H and W, by torch's dynamo exporter."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from onnxscript import FLOAT, INT64, opset18

from ..runtime.bundle.manifest import COMPACT_SCALE, GraphName
from ..runtime.errors import VerificationError
from .symbolic_shapes.expression import Size, describe
from .symbolic_shapes.inference import Sizes

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET: Final = 18
_MOST = 1 << 14
"""Largest height and width that the exported graphs are declared for."""


@dataclass(frozen=True)
class Port:
    """An input or the output of a graph.

    Attributes:
        name: its name.
        scale: its height and width are the image's over this; 0: it has none.
        channels: number of channels behind N, H, W; 0: no such axis.
    """

    name: str
    scale: int
    channels: int

    def shape(self, n: int, height: int, width: int) -> tuple[int, ...]:
        """Shape for N images of a size."""
        sides = (n, height // self.scale, width // self.scale) if self.scale else (n,)
        return (*sides, self.channels) if self.channels else sides

    def factors(self, multiple: int) -> tuple[int, ...]:
        """The height and the width as multiples of the image's over `multiple`; empty where there are none."""
        return (multiple // self.scale,) * 2 if self.scale else ()


def ports(label_scale: int) -> dict[GraphName, tuple[tuple[Port, ...], Port]]:
    """Inputs and output of each graph of a bundle.

    Args:
        label_scale: S of the bundle.
    """
    image, labels = Port("image", 1, 3), Port("labels", label_scale, 0)
    compact, estimate = Port("compact", COMPACT_SCALE, 3), Port("estimate", 1, 3)
    decoded, settings, refined = Port("decoded", 1, 3), Port("settings", 0, 2), Port("refined", 1, 3)
    return {
        "segment": ((image,), labels),
        "analyse": ((image, labels), compact),
        "synthesise": ((compact, labels), estimate),
        "refine": ((decoded, estimate, settings), refined),
    }


def _max_pool(  # noqa: PLR0917 - ATen's signature
    self: FLOAT,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> tuple[FLOAT, INT64]:
    pads = list(padding) * (2 // len(padding))
    result: tuple[FLOAT, INT64] = opset18.MaxPool(
        self,
        kernel_shape=list(kernel_size) * (2 // len(kernel_size)),
        strides=list(stride or kernel_size) * (2 // len(stride or kernel_size)),
        pads=pads * 2,
        dilations=list(dilation) * (2 // len(dilation)),
        ceil_mode=int(ceil_mode),
    )
    return result


def _max_unpool(self: FLOAT, indices: INT64, output_size: Sequence[INT64]) -> FLOAT:
    # The indices are MaxPool's own, which count through the whole tensor; `_translations` sees to it that
    # nobody else reads them, and the fusion rule that the size before the pool is restored.
    del output_size
    result: FLOAT = opset18.MaxUnpool(self, indices, kernel_shape=[2, 2], strides=[2, 2])
    return result


def _translations(program: torch.export.ExportedProgram) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Max-pooling and -unpooling as the ONNX operators of these names, where all indices go into unpoolings.

    Left to itself the exporter writes the unpooling as ScatterND over computed indices.
    """
    aten = torch.ops.aten
    for node in program.graph.nodes:
        if node.target == aten.max_pool2d_with_indices.default:
            readers = [
                reader
                for part in node.users
                if part.args[1] == 1
                for reader in part.users  # getitem(pool, 1)
            ]
            if any(reader.target != aten.max_unpool2d.default for reader in readers):
                return {}
    return {
        aten.max_pool2d_with_indices.default: _max_pool,
        aten.max_unpool2d.default: _max_unpool,
    }


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep what torch's exporters say of their own work to themselves; errors are raised as ever."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def export_graph(
    module: nn.Module,
    name: GraphName,
    label_scale: int,
    multiple: int,
    n: int = 2,
) -> ir.Model:
    """Export one module.

    Args:
        module: with the inputs and the output that `ports` lists.
        name: which graph of a bundle it is.
        label_scale: S.
        multiple: what heights and widths are multiples of.
        n: batch of the example; torch's exporter makes a batch of 1 a constant.

    Returns:
        The model; its inputs' sizes are named `N`, and multiples of `h` and `w`.

    Raises:
        VerificationError: a dimension became constant.
    """
    inputs, output = ports(label_scale)[name]
    examples = tuple(_example(port.shape(n, 2 * multiple, 3 * multiple)) for port in inputs)
    batch = torch.export.Dim("N", min=1, max=64)
    h, w = (torch.export.Dim(side, min=1, max=_MOST // multiple) for side in "hw")
    dims = tuple(
        {0: batch}
        | {i: f * side for i, (f, side) in enumerate(zip(p.factors(multiple), (h, w), strict=False), 1)}
        for p in inputs
    )
    with quiet_exporter():
        program = torch.export.export(module, examples, dynamic_shapes=dims, strict=False)
        found = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[p.name for p in inputs],
            output_names=[output.name],
            custom_translation_table=_translations(program),
            optimize=True,
            verbose=False,
        )
    assert found is not None
    model = found.model
    _rename(model, inputs, multiple)
    passes.ClearMetadataAndDocStringPass()(model)
    require_dynamic(model, name, label_scale, multiple)
    return model


def _example(shape: tuple[int, ...]) -> Tensor:
    # Values that any port takes: labels and levels are small.
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 2, shape, dtype=torch.uint8, generator=generator)


def _rename(model: ir.Model, inputs: Sequence[Port], multiple: int) -> None:
    """Name the inputs' dynamic sizes."""
    for value, port in zip(model.graph.inputs, inputs, strict=True):
        factors = zip(port.factors(multiple), "hw", strict=False)
        names = ["N", *(side if factor == 1 else f"{factor}*{side}" for factor, side in factors)]
        assert value.shape is not None
        for axis, symbol in enumerate(names):
            if isinstance(value.shape[axis], int):
                raise VerificationError(
                    f"axis {axis} of the input {port.name} became the constant {value.shape[axis]}"
                )
            value.shape[axis] = symbol


def require_dynamic(model: ir.Model, name: GraphName, label_scale: int, multiple: int) -> None:
    """Prove that the output's sizes follow the inputs', whatever these are.

    Args:
        model: the graph; its inputs' sizes are those of `export_graph`.
        name: which graph of a bundle it is.
        label_scale: S.
        multiple: what heights and widths are multiples of.

    Raises:
        VerificationError: a dimension became constant, or is not what it should be.
    """
    _, port = ports(label_scale)[name]
    output = model.graph.outputs[0]
    factor = multiple // port.scale
    wanted: tuple[Size, ...] = (Size.of("N"), Size.of("h") * factor, Size.of("w") * factor)
    wanted += (Size.of(port.channels),) if port.channels else ()
    found = Sizes()
    found.prepare(model.graph)
    shape = found.shape(output)
    if shape != wanted:
        raise VerificationError(
            f"the output {port.name} of {name} has the size {describe(shape)} instead of {describe(wanted)}: a "
            "dimension became constant on export, or an operator hides its size"
        )
    # What the file says of itself, for tools that do not infer shapes.
    output.shape = ir.Shape([d.known if d.known is not None else str(d) for d in wanted])
    for node in model.graph:
        for value in node.outputs:
            if value is not output:
                value.shape = None
