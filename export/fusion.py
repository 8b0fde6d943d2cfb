"""Fusion: applies the rules to any ONNX graph, and says what was done, what was not, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import MatchingTracer, MatchStatus, RewriteRuleSet

from ..runtime.errors import UsageError, VerificationError
from .forms import CostModel, Measured, measure
from .graphs import label, remove_identities, serialise, to_proto
from .macs import Cost, count
from .rules.base import Chooser, Context, FusionRule
from .rules.neutral import EmptyPadding, ProductWithOnes
from .rules.normalisation import (
    NormalisationBehindUpsampling,
    NormalisedConvolution,
    NormalisedSum,
    NormalisedUpsampledSum,
    ScaleAndShift,
)
from .rules.padding import ZeroPaddedConvolution
from .rules.pooling import MaxUnpooling, PoolOfPointwise, PoolOfUpsampling
from .rules.repetition import UpsamplingByRepetition, UpsamplingByRepetitionTransposed
from .rules.sums import SharedInput, SumOfConvolutions
from .rules.upsampling import (
    ConvolutionBehindUpsampling,
    PaddedConvolutionBehindUpsampling,
    PointwiseBehindUpsampling,
    StridedBehindUpsampling,
    UpsamplingToSize,
)
from .sizes import Sizes
from .verify import Difference, Tolerance, compare
from .verify import run as run_graph

if TYPE_CHECKING:
    import numpy.typing as npt
    from onnxscript.rewriter import RewriteRule

RULES: Final[tuple[type[FusionRule], ...]] = (
    EmptyPadding,
    ProductWithOnes,
    ZeroPaddedConvolution,
    UpsamplingToSize,
    UpsamplingByRepetition,
    UpsamplingByRepetitionTransposed,
    ScaleAndShift,
    NormalisationBehindUpsampling,
    NormalisedConvolution,
    NormalisedSum,
    NormalisedUpsampledSum,
    MaxUnpooling,
    PoolOfUpsampling,
    PoolOfPointwise,
    StridedBehindUpsampling,
    PointwiseBehindUpsampling,
    ConvolutionBehindUpsampling,
    PaddedConvolutionBehindUpsampling,
    SumOfConvolutions,
    SharedInput,
)
"""In the order in which they are tried: each sees what those before it have left."""

LOWERINGS: Final[tuple[type[FusionRule], ...]] = (
    NormalisationBehindUpsampling,
    NormalisedConvolution,
    NormalisedSum,
    NormalisedUpsampledSum,
    MaxUnpooling,
)
"""The rules that a graph needs to run everywhere, whatever the form of its octave convolutions."""

_OPSET: Final = 18
_MOST_ROUNDS: Final = 20
_LARGEST_WEIGHT: Final = 2**26  # elements of a constant that is computed ahead of time
_LONGEST_SIZES: Final = 64  # elements of a vector of sizes, such as those of Pad
# Operators whose output holds the elements of their first input, in whatever shape or order.
_KEEP_ELEMENTS: Final = frozenset(
    {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)

ChooserFactory = Callable[[Sizes], Chooser]


@dataclass(frozen=True)
class NearMiss:
    """A place that looks like a rule's pattern, where the rule does not hold.

    Attributes:
        node: the node that would have been rewritten.
        reason: why not.
    """

    node: str
    reason: str


@dataclass(frozen=True)
class RuleReport:
    """What one rule did.

    Attributes:
        rule: its name.
        identity: the identity in one line.
        hits: how often it was applied.
        near_misses: where it does not apply in the fused graph, and why.
    """

    rule: str
    identity: str
    hits: int
    near_misses: tuple[NearMiss, ...]


@dataclass(frozen=True)
class Report:
    """What fusion did to a graph.

    Attributes:
        rules: one entry per rule.
        choices: for each place with alternatives: rule, node, form chosen and reason.
        before: cost before.
        after: cost after.
        shapes: shapes of the inputs for which the costs were counted.
        multiple: what the inputs' sizes were declared to be a multiple of.
        differences: outputs against the graph before, if they were compared.
        timing: the graph's time before and after, in words, if it was measured.
        kept: the graph was left as it was, because fused it was slower.
    """

    rules: tuple[RuleReport, ...]
    choices: tuple[dict[str, str], ...]
    before: Cost
    after: Cost
    shapes: dict[str, tuple[int, ...]]
    multiple: int
    differences: tuple[Difference, ...] = ()
    timing: str = ""
    kept: bool = False

    @property
    def hits(self) -> dict[str, int]:
        """Hits by the rule's name."""
        return {report.rule: report.hits for report in self.rules}

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "rules": [
                {
                    "rule": r.rule,
                    "identity": r.identity,
                    "hits": r.hits,
                    "near_misses": [{"node": m.node, "reason": m.reason} for m in r.near_misses],
                }
                for r in self.rules
            ],
            "choices": list(self.choices),
            "nodes": {
                "before": sum(self.before.operators.values()),
                "after": sum(self.after.operators.values()),
            },
            "operators": {"before": self.before.operators, "after": self.after.operators},
            "macs": {"before": self.before.macs, "after": self.after.macs},
            "bytes_moved": {"before": self.before.bytes_moved, "after": self.after.bytes_moved},
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "multiple": self.multiple,
            "differences": [difference.to_dict() for difference in self.differences],
            "timing": self.timing,
        }


class _Collector(MatchingTracer):
    """Keeps the reason of every check that failed, not only of the best match."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, dict[tuple[str, str], None]] = {}

    def log(
        self,
        rule: RewriteRule,
        container: ir.Graph | ir.Function,
        node: ir.Node,
        match_result: Any,
        status: MatchStatus,
    ) -> None:
        del container
        if status in {MatchStatus.CONDITION_FAILED, MatchStatus.REPLACEMENT_FAILED} and match_result.reason:
            self.found.setdefault(str(rule), {})[label(node), match_result.reason] = None


def normalise(model: ir.Model) -> ir.Model:
    """A copy in the form that the rules read: one graph, opset 18 or later, weights as initializers.

    Initializers that are listed among the inputs as well, as older exporters do, are constants: what could be given
    in their place cannot be fused.

    Raises:
        UsageError: the model cannot be brought to opset 18.
    """
    version = model.graph.opset_imports.get("", 0)
    proto = to_proto(model)
    if version < _OPSET:
        try:
            proto = onnx.version_converter.convert_version(proto, _OPSET)
        except Exception as error:  # the converter raises RuntimeError and others
            raise UsageError(f"opset {version} cannot be converted to {_OPSET}: {error}") from error
    result = ir.from_proto(proto)
    result.ir_version = max(result.ir_version, 8)
    for step in (
        passes.RemoveInitializersFromInputsPass(),
        passes.InlinePass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        _fold_constants,
        remove_identities,
        passes.RemoveUnusedNodesPass(),
        passes.NameFixPass(),
    ):
        step(result)
    for i, node in enumerate(result.graph):
        node.name = node.name or f"{node.op_type}_{i}"
    return result


def _fold_constants(model: ir.Model) -> None:
    """Compute what depends on constants alone: weights under a norm, sizes of a padding; not large fills."""

    def wanted(node: ir.Node) -> bool | None:
        if node.op_type != "ConstantOfShape":
            return None  # the pass's own rules
        shape = None if node.inputs[0] is None else node.inputs[0].const_value
        return shape is not None and math.prod(int(side) for side in shape.numpy()) <= _LONGEST_SIZES

    fold_constants(
        model, input_size_limit=_LARGEST_WEIGHT, output_size_limit=_LARGEST_WEIGHT, should_fold=wanted
    )


def sample_shapes(
    graph: ir.Graph, multiple: int = 1, given: Mapping[str, Sequence[int]] | None = None, side: int = 256
) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs for counting and measuring.

    Args:
        graph: the graph.
        multiple: what the inputs' sizes are declared to be a multiple of.
        given: shapes of some inputs by name; the symbols in them are taken from there.
        side: about what the other dynamic sizes become; the batch becomes 1.

    Raises:
        UsageError: a given shape has another rank or a name that no input has.
    """
    given = dict(given or {})
    unknown = sorted(set(given) - {str(value.name) for value in graph.inputs})
    if unknown:
        names = ", ".join(str(value.name) for value in graph.inputs)
        raise UsageError(f"no input {unknown[0]!r}; the graph has {names}")
    sizes = Sizes(multiple=multiple)
    values: dict[str, int] = {}
    for value in graph.inputs:
        shape = sizes.shape(value) or ()
        wanted = given.get(str(value.name))
        if wanted is not None and len(wanted) != len(shape):
            raise UsageError(f"input {value.name} has {len(shape)} dimensions, the given shape {len(wanted)}")
        for axis, size in enumerate(shape):
            if wanted is not None and len(size.terms) == 1 and len(size.symbols) == 1:
                values[next(iter(size.symbols))] = max(1, wanted[axis] // size.terms[0][1])
    result: dict[str, tuple[int, ...]] = {}
    for value in graph.inputs:
        shape = sizes.shape(value) or ()
        for axis, size in enumerate(shape):
            for symbol in size.symbols - values.keys():
                values[symbol] = 1 if axis == 0 else max(1, side // max(c for _, c in size.terms))
        name = str(value.name)
        result[name] = tuple(given[name]) if name in given else tuple(s.evaluate(values) for s in shape)
    return result


def fuse(
    model: ir.Model,
    chooser: ChooserFactory,
    *,
    multiple: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
    rules: Sequence[type[FusionRule]] = RULES,
) -> tuple[ir.Model, Report]:
    """Rewrite the octave convolutions of a graph.

    Args:
        model: any ONNX model; it is not changed.
        chooser: makes what chooses between forms, from the graph's concrete sizes.
        multiple: every dynamic size of the inputs but the first (N) is declared to be a multiple of this.
        shapes: shapes of the inputs for counting and measuring; None: 1 for N, about 256 elsewhere.
        rules: which rules to apply, in order.

    Returns:
        The fused model and the report.

    Raises:
        UsageError: the model cannot be read, or its cost cannot be counted from the shapes.
    """
    result = normalise(model)
    graph = result.graph
    given = sample_shapes(graph, multiple, shapes)
    before = count(graph, given)
    context = Context(Sizes(multiple=multiple), chooser(Sizes(given)))
    hits = dict.fromkeys((rule.title for rule in rules), 0)
    sets = {rule.title: RewriteRuleSet([rule.rule(context)], commute=rule.commutes) for rule in rules}
    for _ in range(_MOST_ROUNDS):
        changed = 0
        for title, rule_set in sets.items():
            context.sizes.prepare(graph)
            found = rule_set.apply_to_model(result)
            if found:
                hits[title] += found
                changed += found
                remove_identities(result)
                graph.sort()
        if not changed:
            break
    passes.RemoveUnusedNodesPass()(result)
    passes.NameFixPass()(result)
    context.tracing = True
    tracer = _Collector()
    for rule_set in sets.values():
        rule_set.apply_to_model(result, tracer=tracer)
    reports = tuple(
        RuleReport(
            rule.title,
            rule.identity,
            hits[rule.title],
            tuple(NearMiss(node, reason) for node, reason in tracer.found.get(rule.title, {})),
        )
        for rule in rules
    )
    choices: dict[tuple[str, str], dict[str, str]] = {}
    for site, form, reason in context.decisions:
        choices[site.rule, site.node] = {
            "rule": site.rule,
            "node": site.node,
            "form": form,
            "reason": reason,
        }
    after = count(graph, given)
    return result, Report(reports, tuple(choices.values()), before, after, given, multiple)


def random_inputs(
    model: ir.Model, shapes: Mapping[str, Sequence[int]], seed: int = 0
) -> dict[str, npt.NDArray[Any]]:
    """Random inputs of the model's types: standard normal, or whole numbers of their whole range.

    Whole numbers that index a `Gather`, such as labels of an embedding, stay within what it holds. Inputs that have an
    initializer keep it.

    Args:
        model: whose inputs.
        shapes: shape of each input by name.
        seed: of the random numbers.
    """
    random = np.random.default_rng(seed)
    feeds: dict[str, npt.NDArray[Any]] = {}
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        name = str(value.name)
        kind = (value.dtype or ir.DataType.FLOAT).numpy()
        if np.issubdtype(kind, np.integer):
            info = np.iinfo(kind)
            limit = _index_limit(value)
            low, high = (info.min, info.max) if limit is None else (0, min(info.max, limit - 1))
            feeds[name] = random.integers(low, high, tuple(shapes[name]), kind, endpoint=True)
        else:
            feeds[name] = random.standard_normal(tuple(shapes[name])).astype(kind)
    return feeds


def _index_limit(value: ir.Value) -> int | None:
    """The number of entries of the smallest table that a value's elements index; None if they index nothing."""
    limits = []
    for use in value.uses():
        if use.node.op_type == "Gather" and use.idx == 1:
            table = use.node.inputs[0]
            shape = None if table is None else table.shape
            size = None if shape is None else shape[use.node.attributes.get_int("axis", 0)]
            limits.append(size if isinstance(size, int) else None)
        elif use.node.op_type in _KEEP_ELEMENTS and use.idx == 0:
            limits.append(_index_limit(use.node.outputs[0]))
    return min((limit for limit in limits if limit is not None), default=None)


def check(
    model: ir.Model,
    fused: ir.Model,
    report: Report,
    feeds: Sequence[Mapping[str, npt.NDArray[Any]]],
    tolerance: Tolerance,
) -> Report:
    """Compare the fused graph's outputs with the graph's before, on ONNX Runtime's CPU provider.

    Args:
        model: the graph before.
        fused: the graph after.
        report: of the fusion.
        feeds: sets of inputs by name.
        tolerance: what may differ; outputs of whole numbers may differ by one more.

    Returns:
        The report with the differences.

    Raises:
        VerificationError: one of the graphs does not run.
    """
    before, after = serialise(model), serialise(fused)
    found = []
    for i, inputs in enumerate(feeds):
        try:
            references = run_graph(before, inputs)
        except VerificationError as error:
            shapes = ", ".join(f"{name}={'x'.join(map(str, a.shape))}" for name, a in inputs.items())
            raise VerificationError(
                f"the graph as it was given does not run with {shapes}; give shapes that fit together (--shape) "
                f"if these do not. {error}"
            ) from error
        values = run_graph(after, inputs)
        # Fusion renames no output, but other tools may: compare by position.
        for (name, reference), y in zip(references.items(), values.values(), strict=True):
            whole = np.issubdtype(reference.dtype, np.integer)
            allowed = replace(tolerance, atol=max(1.0, tolerance.atol)) if whole else tolerance
            found.append(compare(f"{name}[{i}]", y, reference, allowed))
    return replace(report, differences=(*report.differences, *found))


def fuse_measured(
    model: ir.Model,
    threads: int,
    *,
    multiple: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seconds: float = 4.0,
) -> tuple[ir.Model, Report]:
    """Rewrite the octave convolutions of a graph as this machine's ONNX Runtime runs it fastest.

    Forms are measured place by place first. What surrounds a place counts too, above all the layout that its neighbours
    leave and expect; so the whole graph is measured with those forms, with the cost model's, and as it was, and
    the fastest is taken.

    Args:
        model: any ONNX model; it is not changed.
        threads: threads per run.
        multiple: as in `fuse`.
        shapes: as in `fuse`.
        seconds: time to spend on whole graphs, at least.

    Returns:
        The fastest model and its report; `kept` says that it is the graph as it was.

    Raises:
        UsageError: as `fuse`.
        DependencyError: ONNX Runtime is not installed.
    """
    before = normalise(model)
    choosers: dict[str, ChooserFactory] = {
        "forms measured one by one": lambda sizes: Measured(sizes, threads),
        "forms by the cost model": lambda sizes: CostModel("onnxruntime", sizes),
    }
    fused = {
        name: fuse(model, chooser, multiple=multiple, shapes=shapes) for name, chooser in choosers.items()
    }
    report = next(iter(fused.values()))[1]
    unchanged = replace(report, choices=(), after=report.before, kept=True)
    candidates = {"as it was": (before, unchanged), **fused}
    models = {name: serialise(candidate) for name, (candidate, _) in candidates.items()}
    times = measure(models, random_inputs(before, report.shapes), threads, seconds)
    name = min(times, key=lambda key: times[key])
    result, report = candidates[name]
    listed = ", ".join(f"{key} {1e3 * value:.2f} ms" for key, value in times.items())
    return result, replace(report, timing=f"{listed} ({threads} threads): {name}")
