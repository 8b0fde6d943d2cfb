"""What all rules share: names, sizes, the choice between forms, fresh names for new weights."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule, RewriteRuleSet

from ..graphs import Convolution, NotApplicableError, reject
from ..sizes import Sizes, describe, remedy

if TYPE_CHECKING:
    import numpy.typing as npt

Builder = Callable[[Any, Sequence[ir.Value]], ir.Value]
"""Writes one form of a site onto a tape, from the site's inputs, and returns its output."""


Bound = Mapping[str, ir.Value]
"""What a pattern has found, by the pattern's names."""


class Chooser(Protocol):
    """Chooses between forms that compute the same."""

    def choose(self, site: Site, forms: Mapping[str, Builder]) -> tuple[str, str]:
        """Return the name of the form to take and the reason, in words."""


@dataclass(frozen=True)
class Site:
    """A place where a rule applies.

    Attributes:
        rule: the rule's name.
        node: name of the node that is rewritten.
        inputs: the values that every form reads.
        key: equal for sites that cost the same at equal sizes of the inputs.
        frame: what stands around the site and changes what its forms cost, or None: its builder gets the
            `frame_inputs` and, last, the site's output.
        frame_inputs: further values that the frame reads.
    """

    rule: str
    node: str
    inputs: tuple[ir.Value, ...]
    key: tuple[object, ...]
    frame: Builder | None = None
    frame_inputs: tuple[ir.Value, ...] = ()


@dataclass
class Context:
    """What the rules of one run know and report to.

    Attributes:
        sizes: what is proved of sizes.
        chooser: chooses between forms.
        decisions: the choices made: site, form, reason.
        tracing: set while near-misses are collected; nothing is recorded then.
    """

    sizes: Sizes
    chooser: Chooser
    decisions: list[tuple[Site, str, str]] = field(default_factory=list)
    tracing: bool = False
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def fresh(self, stem: str) -> str:
        """A name that no other weight of this run has."""
        return f"{stem}.fused{next(self._numbers)}"


def _failed(error: NotApplicableError) -> MatchResult:
    return MatchResult().fail(error.reason, list(error.where))


class FusionRule(abc.ABC):
    """A named identity: a pattern, a check that says why it does not apply, a rewrite.

    Nodes that the rewrite leaves without readers are removed afterwards, so that values with other readers
    stay.

    Attributes:
        title: name of the rule in reports.
        identity: the identity in one line.
        commutes: whether the pattern's additions are to be matched in either order.
    """

    title: ClassVar[str]
    identity: ClassVar[str]
    commutes: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self.context = context

    @abc.abstractmethod
    def pattern(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        """What the rule looks for, in onnxscript's pattern language."""

    @abc.abstractmethod
    def check(self, bound: Bound) -> None:
        """Say why the rule does not apply to what the pattern has found, if it does not.

        Raises:
            NotApplicableError: it does not.
        """

    @abc.abstractmethod
    def rewrite(self, op: Any, bound: Bound) -> ir.Value | Sequence[ir.Value]:
        """Write the replacement onto the tape `op`; return what replaces the pattern's outputs.

        Raises:
            NotApplicableError: the form that stands is to stay.
        """

    @classmethod
    def rule(cls, context: Context) -> RewriteRule:
        """The rule as onnxscript's rewriter applies it."""
        instance = cls(context)

        def check(_: object, **bound: ir.Value) -> bool | MatchResult:
            try:
                instance.check(bound)
            except NotApplicableError as error:
                return _failed(error)
            return True

        def rewrite(op: Any, **bound: ir.Value) -> Any:
            try:
                return instance.rewrite(op, bound)
            except NotApplicableError as error:
                return _failed(error)

        return RewriteRule(instance.pattern, rewrite, check, name=instance.title, remove_nodes=False)

    @classmethod
    def rewriter(cls, context: Context) -> RewriteRuleSet:
        """The rule as it is applied to a whole model."""
        return RewriteRuleSet([cls.rule(context)], commute=cls.commutes)

    def weight(self, op: Any, values: npt.NDArray[np.float32], stem: str) -> ir.Value:
        """A new weight on the tape."""
        name = self.context.fresh(stem)
        value: ir.Value = op.initializer(ir.tensor(values, name=name), name=name)
        return value

    def decide(self, site: Site, forms: Mapping[str, Builder]) -> str:
        """Name of the chosen form.

        Raises:
            NotApplicableError: the form that stands, named "keep", was chosen.
        """
        name, reason = self.context.chooser.choose(site, forms)
        if not self.context.tracing:
            self.context.decisions.append((site, name, reason))
        if name == "keep":
            raise reject(f"the present form was chosen: {reason}")
        return name

    def choose(self, op: Any, site: Site, forms: Mapping[str, Builder]) -> ir.Value:
        """Write the chosen form onto the tape; return its output.

        Raises:
            NotApplicableError: the form that stands, named "keep", was chosen.
        """
        return forms[self.decide(site, forms)](op, site.inputs)

    def require_same_size(self, left: ir.Value, right: ir.Value) -> None:
        """Reject summands whose sizes are not proved equal: an addition might repeat one of them.

        Raises:
            NotApplicableError: they differ, or are not known to be equal.
        """
        one, two = self.context.sizes.shape(left), self.context.sizes.shape(right)
        if one is None or one != two:
            raise reject(
                f"the sizes {describe(one)} and {describe(two)} are not proved equal{remedy(one, two)}"
            )


def convolve(
    op: Any,
    rule: FusionRule,
    x: ir.Value,
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    *,
    stem: str,
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
) -> ir.Value:
    """A Conv node with new weights on the tape.

    Args:
        op: the tape.
        rule: whose name counter to use.
        x: N x C_in x H x W.
        weight: (C_out, C_in, Kh, Kw).
        bias: (C_out,) or None.
        stem: start of the weights' names.
        strides: along H and W.
        pads: zeros (top, left, bottom, right).
        dilations: along H and W.
    """
    inputs = [x, rule.weight(op, weight, stem)]
    if bias is not None:
        inputs.append(rule.weight(op, bias, f"{stem}.bias"))
    value: ir.Value = op.Conv(
        *inputs,
        kernel_shape=list(weight.shape[2:]),
        strides=list(strides),
        pads=list(pads),
        dilations=list(dilations),
        group=1,
    )
    return value


def again(op: Any, rule: FusionRule, x: ir.Value, found: Convolution) -> ir.Value:
    """A convolution of one group as it stood, of another value, on the tape."""
    return convolve(
        op,
        rule,
        x,
        found.weight,
        found.bias,
        stem=found.name,
        strides=found.strides,
        pads=found.pads,
        dilations=found.dilations,
    )


def integers(op: Any, rule: FusionRule, values: list[int], stem: str) -> ir.Value:
    """A new constant of int64 on the tape."""
    name = rule.context.fresh(stem)
    value: ir.Value = op.initializer(ir.tensor(np.array(values, np.int64), name=name), name=name)
    return value
