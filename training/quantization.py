"""Training for integers: a network whose convolutions round as `oslic calibrate --integer` will write them.

Values and weights are rounded to steps that are powers of two (docs/concepts/exactness.md), and gradients pass
through the rounding (Bengio et al. 2013, the straight-through estimator), so that the weights find places where it
costs little.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.func import functional_call

from ..runtime.bundle.uint8_form import EXACT_WEIGHT_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    _Watcher = Callable[[str, Tensor], Tensor | None]

_LEVELS: Final = 127
_FINER_STEPS: Final = 6


@dataclass(frozen=True)
class Steps:
    """How a value is rounded.

    Attributes:
        steps: powers of two, float (C,): one for each channel.
        signed: whether values are negative as well.
    """

    steps: Tensor
    signed: bool

    @classmethod
    def of(cls, x: Tensor, parts: Sequence[int] | None = None) -> Steps:
        """Those of least squared error for a value seen, N x C x H x W, one for each of its parts."""
        steps = [
            _best_step(part).expand(part.shape[1]) for part in torch.split(x, list(parts or x.shape[1:2]), 1)
        ]
        return cls(torch.cat(steps), bool(x.min() < 0))

    def rounded(self, x: Tensor) -> Tensor:
        """The value on its grid, N x C x H x W, in its own dtype; gradients as if it were only clipped."""
        steps = self.steps.to(x).view(1, -1, 1, 1)
        low = -(_LEVELS + 1) if self.signed else 0
        clipped = torch.minimum(torch.maximum(x, low * steps), _LEVELS * steps)
        return clipped + (torch.round(clipped / steps) * steps - clipped).detach()

    def rounded_weight(self, weight: Tensor) -> Tensor:
        """A weight (C_out, C, kH, kW) on its grid behind this value: one step for each output channel."""
        # The convolution sees integers of one step for all: the steps of the channels go into the weight.
        scales = (self.steps / self.steps.max()).to(weight).view(1, -1, 1, 1)
        limit = EXACT_WEIGHT_LIMIT if self.signed else _LEVELS
        scaled = weight * scales
        largest = scaled.detach().abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-20)
        steps = torch.exp2(torch.ceil(torch.log2(largest / limit)))
        return weight + ((torch.round(scaled / steps) * steps) / scales - weight).detach()


class IntegerForm:
    """A network as it will compute with integers.

    Args:
        network: in float; it keeps its weights in float, and its own forward pass.
        inputs: names of the modules whose input is stored as integers; all convolutions are among them.
        outputs: names of those whose output is.
        parts: how many channels the concatenated parts of a module's input have, by its name; parts have steps of their
            own. Others have one step for all channels.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Sequence[str],
        outputs: Sequence[str],
        parts: Mapping[str, Sequence[int]],
    ) -> None:
        self._network = network
        self._inputs = {name: network.get_submodule(name) for name in inputs}
        self._outputs = {name: network.get_submodule(name) for name in outputs}
        self._parts = parts
        self._input_steps: dict[str, Steps] = {}
        self._output_steps: dict[str, Steps] = {}

    @property
    def calibrated(self) -> bool:
        """Whether there are steps."""
        return bool(self._input_steps)

    @torch.no_grad()
    def calibrate(self, *inputs: Tensor) -> None:
        """Choose all steps from what the float network makes of some inputs: those of least squared error."""

        def saw_input(name: str, x: Tensor) -> None:
            self._input_steps[name] = Steps.of(x.float(), self._parts.get(name))

        def saw_output(name: str, y: Tensor) -> None:
            self._output_steps[name] = Steps.of(y.float())

        with self._watched(saw_input, saw_output):
            self._network(*inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What the network makes of `inputs` with rounded weights and activations; `calibrate` comes first."""
        weights = {
            f"{name}.weight": self._input_steps[name].rounded_weight(module.weight)
            for name, module in self._inputs.items()
            if isinstance(module, nn.Conv2d)
        }

        def round_input(name: str, x: Tensor) -> Tensor:
            return self._input_steps[name].rounded(x)

        def round_output(name: str, y: Tensor) -> Tensor:
            return self._output_steps[name].rounded(y)

        with self._watched(round_input, round_output):
            result: Tensor = functional_call(self._network, weights, inputs)
        return result

    @contextmanager
    def _watched(self, on_input: _Watcher, on_output: _Watcher) -> Iterator[None]:
        """Show the values to functions, which may return others in their place."""

        def before(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor | None]:
            return lambda _, args: on_input(name, args[0])

        def behind(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
            return lambda _, __, output: on_output(name, output)

        with ExitStack() as stack:
            for name, module in self._inputs.items():
                stack.callback(module.register_forward_pre_hook(before(name)).remove)
            for name, module in self._outputs.items():
                stack.callback(module.register_forward_hook(behind(name)).remove)
            yield


def _best_step(x: Tensor) -> Tensor:
    """The power of two of least squared error, rounding and clipping together: a scalar."""
    values = x.abs().flatten()
    largest = values.max().clamp_min(1e-20)
    steps = torch.exp2(torch.ceil(torch.log2(largest / _LEVELS)) - torch.arange(_FINER_STEPS + 1.0).to(x))
    errors = [((values / s).round().clamp_max(_LEVELS) * s - values).square().mean() for s in steps]
    return steps[int(torch.stack(errors).argmin())]
