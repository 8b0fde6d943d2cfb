"""Networks of a kind of codec other than `oslic`, ready for export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..runtime.errors import UsageError
from .weight_hash import hash_of_state

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class TensorInput:
    """An input of a graph.

    Attributes:
        scale: its height and width are the picture's over this.
        channels: number of channels.
        dtype: of its elements.
        layout: `NCHW` or `NHWC`.
    """

    scale: int
    channels: int
    dtype: Literal["float32", "uint8"] = "float32"
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    def shape(self, n: int, height: int, width: int) -> tuple[int, ...]:
        """Shape for n pictures of a size."""
        sides = height // self.scale, width // self.scale
        return (n, self.channels, *sides) if self.layout == "NCHW" else (n, *sides, self.channels)

    @property
    def axes(self) -> tuple[int, int]:
        """Axes of height and width."""
        return (2, 3) if self.layout == "NCHW" else (1, 2)

    def example(self, n: int, height: int, width: int) -> Tensor:
        """Values that any network takes."""
        generator = torch.Generator().manual_seed(0)
        values = torch.randint(0, 2, self.shape(n, height, width), generator=generator)
        return values.to(getattr(torch, self.dtype))


IMAGE = TensorInput(1, 3, "uint8", "NHWC")
"""A picture, uint8 (N, H, W, 3)."""


@dataclass(frozen=True)
class KindGraph:
    """One graph.

    Attributes:
        module: what is exported.
        inputs: its inputs by name, in order.
        output: name of its only output. Where another graph has an input of that name, the check against PyTorch gives
            it this output.
    """

    module: nn.Module
    inputs: Mapping[str, TensorInput]
    output: str


@dataclass(frozen=True)
class KindSource:
    """Networks of a kind of codec.

    Attributes:
        kind: as its class states it, see `runtime.kinds.LearnedCodec`.
        name: of the networks.
        graphs: by name, in the order in which an encoder runs them and then a decoder; the first takes `image`.
        multiple: what heights and widths of pictures must be multiples of.
        package: distribution that brings the kind; "": this one.
        settings: what the kind's class reads of the manifest, plain JSON types.
        files: what it reads beside it, by name.
        exact: whether all that a decoder must compute as the encoder does is the same on every machine.
        fingerprint: what defines the decoded picture, 64 hexadecimal digits; None: hashed from all weights and files.
        license: terms of the weights.
        provenance: where they come from, plain JSON types.
    """

    kind: str
    name: str
    graphs: Mapping[str, KindGraph]
    multiple: int
    package: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    exact: bool = False
    fingerprint: str | None = None
    license: str = "unknown"
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, graph in self.graphs.items():
            for port, given in graph.inputs.items():
                if self.multiple % given.scale:
                    raise UsageError(
                        f"the input {port} of {name} has 1/{given.scale} of a picture's size, which sides that are "
                        f"multiples of {self.multiple} do not have"
                    )

    def identity(self) -> str:
        """The fingerprint, computed if it was not given."""
        if self.fingerprint is not None:
            return self.fingerprint
        state = {
            f"{name}.{key}": value
            for name, graph in self.graphs.items()
            for key, value in graph.module.state_dict().items()
        }
        files = [f"{name} {content.hex()}" for name, content in sorted(self.files.items())]
        return hash_of_state(state, "\n".join((self.kind, *files)))
