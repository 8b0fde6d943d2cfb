"""What all rules share: names, sizes, the choice between forms, fresh names for new weights."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule, RewriteRuleSet

from ..ir_queries import Convolution, NotApplicableError, is_live, label, reject
from ..symbolic_shapes.expression import describe, remedy
from ..symbolic_shapes.inference import Sizes

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


_OWN = ".fused"

Reader = Literal["convolution", "output", "others"]


@dataclass(frozen=True)
class Site:
    """A place where a rule applies.

    Attributes:
        rule: the rule's name.
        node: name of the node that is rewritten.
        inputs: the values that every form reads.
        key: equal for sites that cost the same at equal sizes of the inputs.
        reader: what reads the output: one `convolution` alone, which takes its channels in whatever order they lie;
            nobody, because it is an `output` of the graph; or `others`.
    """

    rule: str
    node: str
    inputs: tuple[ir.Value, ...]
    key: tuple[object, ...]
    reader: Reader = "convolution"


def reader_of(value: ir.Value) -> Reader:
    """What reads a value, see `Site`."""
    uses = list(value.uses())
    if value.is_graph_output():
        return "others" if uses else "output"
    return "convolution" if len(uses) == 1 and uses[0].node.op_type == "Conv" else "others"


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
        return f"{stem}{_OWN}{next(self._numbers)}"

    @staticmethod
    def wrote(node: ir.Node) -> bool:
        """Whether a node was written by a rule of this run, or of one before it."""
        return _OWN in (node.name or "")


def _failed(error: NotApplicableError) -> MatchResult:
    return MatchResult().fail(error.reason, list(error.where))


class Tape(ir.tape.Tape):
    """A tape that writes nodes as the rewriter's does: `op.Conv(x, w, strides=[2, 2])`."""

    def __getattr__(self, op_type: str) -> Any:
        def write(*inputs: ir.Value | None, _outputs: int = 1, **attributes: Any) -> Any:
            if _outputs == 1:
                return self.op(op_type, inputs, attributes)
            return self.op_multi_out(op_type, inputs, attributes, num_outputs=_outputs)

        return write


class Tracer(Protocol):
    """Collects why rules do not apply."""

    def note(self, title: str, node: str, reason: str) -> None:
        """Keep one reason of a rule at a node."""


class Rewriter(Protocol):
    """Applies one rule to a whole model."""

    def apply_to_model(self, model: ir.Model, *, tracer: Any = None) -> int:
        """Rewrite wherever the rule applies; return at how many places that was.

        Args:
            model: changed in place.
            tracer: is told of every place where a check fails.
        """


class Rule(abc.ABC):
    """A named identity that is applied wherever it holds.

    Nodes that the rewrite leaves without readers are removed afterwards, so that values with other readers
    stay.

    Attributes:
        title: name of the rule in reports.
        identity: the identity in one line.
    """

    title: ClassVar[str]
    identity: ClassVar[str]

    def __init__(self, context: Context) -> None:
        self.context = context

    @classmethod
    @abc.abstractmethod
    def rewriter(cls, context: Context) -> Rewriter:
        """The rule as it is applied to a whole model."""

    def weight(
        self, op: Any, values: npt.NDArray[Any], stem: str, dtype: npt.DTypeLike | None = None
    ) -> ir.Value:
        """A new weight on the tape.

        Args:
            op: the tape.
            values: of the weight.
            stem: start of its name.
            dtype: type to round to; None: that of the values.
        """
        name = self.context.fresh(stem)
        values = values if dtype is None else values.astype(dtype)
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


class FusionRule(Rule):
    """A rule that looks for a pattern of nodes: a pattern, a check that says why it does not apply, a rewrite.

    Attributes:
        commutes: whether the pattern's additions are to be matched in either order.
    """

    commutes: ClassVar[bool] = False

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
    def rewriter(cls, context: Context) -> Rewriter:
        """The rule as it is applied to a whole model."""
        rules: Rewriter = RewriteRuleSet([cls.rule(context)], commute=cls.commutes)
        return rules


Plan = TypeVar("Plan")


class NodeRule(Rule, Generic[Plan]):
    """A rule that starts at one node and finds out by itself what stands around it, which no fixed pattern says.

    Attributes:
        operators: types of the nodes at which it starts.
    """

    operators: ClassVar[frozenset[str]]

    @abc.abstractmethod
    def check(self, node: ir.Node) -> Plan:
        """What the rewrite needs to know.

        Raises:
            NotApplicableError: the rule does not apply, and why.
        """

    @abc.abstractmethod
    def rewrite(self, op: Any, plan: Plan) -> Mapping[ir.Value, ir.Value]:
        """Write the replacement onto the tape `op`; return the values that it replaces, with what replaces them.

        Raises:
            NotApplicableError: the form that stands is to stay.
        """

    @classmethod
    def rewriter(cls, context: Context) -> Rewriter:
        """The rule as it is applied to a whole model."""
        return _NodeRewriter(cls(context))


class _NodeRewriter:
    def __init__(self, rule: NodeRule[Any]) -> None:
        self._rule = rule

    def apply_to_model(self, model: ir.Model, *, tracer: Tracer | None = None) -> int:
        graph = model.graph
        count = 0
        for node in list(graph):
            if (
                node.op_type not in self._rule.operators
                or node.domain not in {"", "ai.onnx"}
                or node.graph is not graph
                or not any(is_live(value) for value in node.outputs)
            ):
                continue
            tape = Tape()
            try:
                replaced = self._rule.rewrite(tape, self._rule.check(node))
            except NotApplicableError as error:
                if tracer is not None and error.reason:
                    tracer.note(self._rule.title, label(node), error.reason)
                continue
            self._insert(graph, node, tape, replaced)
            count += 1
        return count

    def _insert(
        self, graph: ir.Graph, node: ir.Node, tape: Tape, replaced: Mapping[ir.Value, ir.Value]
    ) -> None:
        for value in tape.initializers:
            graph.register_initializer(value)
        for written in tape.nodes:
            written.name = written.name or self._rule.context.fresh(label(node))
        graph.insert_after(node, list(tape.nodes))
        for old, new in replaced.items():
            new.type, new.shape = old.type, old.shape
            name, is_output = old.name, old.is_graph_output()
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
            if is_output:
                old.name, new.name = f"{name}.before", name


def convolve(
    op: Any,
    rule: Rule,
    x: ir.Value,
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    *,
    stem: str,
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
    group: int = 1,
    dtype: npt.DTypeLike | None = None,
) -> ir.Value:
    """A Conv node with new weights on the tape.

    Args:
        op: the tape.
        rule: whose name counter to use.
        x: N x C_in x H x W.
        weight: (C_out, C_in / group, Kh, Kw).
        bias: (C_out,) or None.
        stem: start of the weights' names.
        strides: along H and W.
        pads: zeros (top, left, bottom, right).
        dilations: along H and W.
        group: number of groups.
        dtype: type of the new weights; None: that of the given.
    """
    inputs = [x, rule.weight(op, weight, stem, dtype)]
    if bias is not None:
        inputs.append(rule.weight(op, bias, f"{stem}.bias", dtype))
    value: ir.Value = op.Conv(
        *inputs,
        kernel_shape=list(weight.shape[2:]),
        strides=list(strides),
        pads=list(pads),
        dilations=list(dilations),
        group=group,
    )
    return value


def again(op: Any, rule: Rule, x: ir.Value, found: Convolution) -> ir.Value:
    """A convolution as it stood, of another value, on the tape."""
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
        group=found.group,
        dtype=found.dtype,
    )


def integers(op: Any, rule: Rule, values: list[int], stem: str) -> ir.Value:
    """A new constant of int64 on the tape."""
    name = rule.context.fresh(stem)
    value: ir.Value = op.initializer(ir.tensor(np.array(values, np.int64), name=name), name=name)
    return value
