"""Fusion: applies the rules to any ONNX graph, and says what was done, what was not, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript.rewriter import MatchingTracer, MatchStatus

from ..runtime.errors import UsageError, VerificationError
from .cost import Cost, count
from .form_selection import CostModel, Measured
from .form_timing import measure
from .graph_files import loadable
from .ir_queries import label, remove_identities
from .near_misses import unknown_places
from .normal_form import normalize, to_opset
from .quantized import output_steps, pairs, without_quantization
from .rules.base import Chooser, Context, Rule
from .rules.concatenation import ConvolutionOfConcatenation
from .rules.deconvolution import TransposedBehindUpsampling
from .rules.functions import FunctionsBehindUpsampling
from .rules.neutral import EmptyPadding, ProductWithOnes
from .rules.normalization import (
    NormalizationBehindUpsampling,
    NormalizedConvolution,
    NormalizedSum,
    NormalizedUpsampledSum,
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
    UpsamplingTwice,
)
from .symbolic_shapes.expression import Size
from .symbolic_shapes.inference import Sizes
from .verify import NO_BFLOAT16, Difference, Tolerance, compare, for_type
from .verify import run as run_graph

if TYPE_CHECKING:
    import numpy.typing as npt
    from onnxscript.rewriter import RewriteRule

    from .rules.base import Rewriter

RULES: Final[tuple[type[Rule], ...]] = (
    EmptyPadding,
    ProductWithOnes,
    ZeroPaddedConvolution,
    UpsamplingToSize,
    UpsamplingByRepetition,
    UpsamplingByRepetitionTransposed,
    UpsamplingTwice,
    ScaleAndShift,
    NormalizationBehindUpsampling,
    FunctionsBehindUpsampling,
    NormalizedConvolution,
    NormalizedSum,
    NormalizedUpsampledSum,
    MaxUnpooling,
    PoolOfUpsampling,
    PoolOfPointwise,
    StridedBehindUpsampling,
    PointwiseBehindUpsampling,
    ConvolutionBehindUpsampling,
    PaddedConvolutionBehindUpsampling,
    ConvolutionOfConcatenation,
    TransposedBehindUpsampling,
    SumOfConvolutions,
    SharedInput,
)
"""In the order in which they are tried: each sees what those before it have left."""

LOWERINGS: Final[tuple[type[Rule], ...]] = (
    NormalizationBehindUpsampling,
    NormalizedConvolution,
    NormalizedSum,
    NormalizedUpsampledSum,
    MaxUnpooling,
)
"""The rules that a graph needs to run everywhere, whatever the form of its octave convolutions."""

_MOST_ROUNDS: Final = 20
_AS_IT_WAS: Final = "as it was"
_TIPPED: Final = 0.01
"""Share of the elements of a quantized graph whose rounding may tip."""

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
        kept: the graph was left as it was, because fused it was not faster beyond doubt.
        notes: what else the user should know.
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
    notes: tuple[str, ...] = ()

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
            "notes": list(self.notes),
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
            self.note(str(rule), label(node), match_result.reason)

    def note(self, title: str, node: str, reason: str) -> None:
        self.found.setdefault(title, {})[node, reason] = None


def sample_shapes(
    graph: ir.Graph, multiple: int = 1, given: Mapping[str, Sequence[int]] | None = None, side: int = 256
) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs for counting and measuring; inputs that state none and are given none are left out.

    Args:
        graph: the graph.
        multiple: what the inputs' sizes are declared to be a multiple of.
        given: shapes of some inputs by name; the symbols in them are taken from there.
        side: about what the other dynamic sizes become; the batch becomes 1.

    Raises:
        UsageError: a given shape has another rank or a name that no input has.
    """
    given = {**_suggested(graph, side), **(given or {})}
    unknown = sorted(set(given) - {str(value.name) for value in graph.inputs})
    if unknown:
        names = ", ".join(str(value.name) for value in graph.inputs)
        raise UsageError(f"no input {unknown[0]!r}; the graph has {names}")
    sizes = Sizes(multiple=multiple)
    values: dict[str, int] = {}
    for value in graph.inputs:
        wanted = given.get(str(value.name))
        shape = sizes.shape(value) or ()
        if wanted is not None and value.shape is not None and len(wanted) != len(shape):
            raise UsageError(f"input {value.name} has {len(shape)} dimensions, the given shape {len(wanted)}")
        for axis, size in enumerate(shape):
            if wanted is not None and len(size.terms) == 1 and len(size.symbols) == 1:
                values[next(iter(size.symbols))] = max(1, wanted[axis] // size.terms[0][1])
    result: dict[str, tuple[int, ...]] = {}
    for value in graph.inputs:
        if value.shape is None and str(value.name) not in given:
            continue
        shape = sizes.shape(value) or ()
        for axis, size in enumerate(shape):
            for symbol in size.symbols - values.keys():
                values[symbol] = 1 if axis == 0 else max(1, side // max(c for _, c in size.terms))
        name = str(value.name)
        if value.is_initializer() and name not in given:
            continue  # its own
        result[name] = tuple(given[name]) if name in given else tuple(s.evaluate(values) for s in shape)
    return result


# Operators that leave the number of an image's channels as it is.
_KEEP_CHANNELS: Final = frozenset(
    {
        "AveragePool", "BatchNormalization", "Clip", "Elu", "HardSigmoid", "Identity", "LeakyRelu", "MaxPool", "PRelu",
        "Pad", "Relu", "Resize", "Sigmoid", "Tanh",
    }
)  # fmt: skip


def _suggested(graph: ir.Graph, side: int) -> dict[str, tuple[int, ...]]:
    """Shapes of inputs that state none and reach a two-dimensional convolution: its weight says what they are."""
    found: dict[str, tuple[int, ...]] = {}
    for value in graph.inputs:
        waiting = [value] if value.shape is None and not value.is_initializer() else []
        seen = set(waiting)
        while waiting:
            for use in waiting.pop().uses():
                node = use.node
                weight = node.inputs[1] if node.op_type == "Conv" else None
                shape = (
                    None if weight is None or weight.const_value is None else weight.const_value.shape.numpy()
                )
                if use.idx == 0 and shape is not None and len(shape) == 4:
                    channels = shape[1] * node.attributes.get_int("group", 1)
                    found[str(value.name)] = (1, int(channels), side, side)
                elif use.idx == 0 and node.op_type in _KEEP_CHANNELS and node.outputs[0] not in seen:
                    seen.add(node.outputs[0])
                    waiting.append(node.outputs[0])
    return found


def fuse(
    model: ir.Model,
    chooser: ChooserFactory,
    *,
    multiple: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
    rules: Sequence[type[Rule]] = RULES,
    opset: int | None = None,
    freeze: bool = False,
) -> tuple[ir.Model, Report]:
    """Rewrite a graph by the rules.

    Args:
        model: any ONNX model; it is not changed.
        chooser: makes what chooses between forms, from the graph's concrete sizes.
        multiple: every dynamic size of the inputs but the first (N) is declared to be a multiple of this.
        shapes: shapes of the inputs for counting and measuring; None: 1 for N, about 256 elsewhere.
        rules: which rules to apply, in order.
        opset: version of ONNX's operators in the result; None: the model's own, or 13 where that is older.
        freeze: initializers that are inputs of the graph, too, are constants, and no inputs of the result.

    Returns:
        The fused model and the report.

    Raises:
        UsageError: the model cannot be read, or not be written in that version of ONNX's operators.
    """
    result = normalize(model, opset=opset, freeze=freeze)
    graph = result.graph
    given = sample_shapes(graph, multiple, shapes)
    before = count(graph, given, partial=True)
    ranks = {
        str(value.name): ir.Shape([f"{value.name}.{axis}" for axis in range(len(given[str(value.name)]))])
        for value in graph.inputs
        if value.shape is None and str(value.name) in given
    }
    context = Context(Sizes(_declared(ranks, multiple), multiple), chooser(Sizes(given)))
    sets = {rule.title: rule.rewriter(context) for rule in rules}
    hits = _apply(sets, result)
    passes.NameFixPass()(result)
    context.tracing = True
    reports = _reports(rules, hits, _near_misses(rules, sets, result, context))
    choices = {
        (site.rule, site.node): {"rule": site.rule, "node": site.node, "form": form, "reason": reason}
        for site, form, reason in context.decisions
    }
    after = count(graph, given, partial=True)
    if opset is not None and opset < graph.opset_imports.get("", opset):
        result = to_opset(result, opset)
    notes = _notes(model, result, given, before, after, freeze=freeze)
    return result, Report(reports, tuple(choices.values()), before, after, given, multiple, notes=notes)


def _apply(sets: Mapping[str, Rewriter], result: ir.Model) -> dict[str, int]:
    """Rewrite until nothing changes any more; how often each rule did."""
    hits = dict.fromkeys(sets, 0)
    for _ in range(_MOST_ROUNDS):
        changed = 0
        for title, rule_set in sets.items():
            found = rule_set.apply_to_model(result)
            if found:
                hits[title] += found
                changed += found
                remove_identities(result)
                # What has lost its readers reads nothing, either: rules count readers.
                passes.RemoveUnusedNodesPass()(result)
                result.graph.sort()
        if not changed:
            break
    return hits


def _near_misses(
    rules: Sequence[type[Rule]], sets: Mapping[str, Rewriter], result: ir.Model, context: Context
) -> _Collector:
    """Places that resemble a rule's pattern, and why they are none."""
    tracer = _Collector()
    for rule_set in sets.values():
        rule_set.apply_to_model(result, tracer=tracer)
    known = {node for found in tracer.found.values() for node, _ in found}
    known |= {site.node for site, _, _ in context.decisions}
    if ConvolutionBehindUpsampling in rules:
        for name, reason in unknown_places(result.graph, known):
            tracer.note(ConvolutionBehindUpsampling.title, name, reason)
    return tracer


def _reports(
    rules: Sequence[type[Rule]], hits: Mapping[str, int], tracer: _Collector
) -> tuple[RuleReport, ...]:
    return tuple(
        RuleReport(
            rule.title,
            rule.identity,
            hits[rule.title],
            tuple(NearMiss(node, reason) for node, reason in tracer.found.get(rule.title, {})),
        )
        for rule in rules
    )


def _declared(ranks: Mapping[str, ir.Shape], multiple: int) -> dict[str, tuple[Size, ...]]:
    """Sizes of inputs that state none, of which the user has said how many there are."""
    return {
        name: tuple(Size.of(str(dim)) * (multiple if axis else 1) for axis, dim in enumerate(shape))
        for name, shape in ranks.items()
    }


def _notes(
    model: ir.Model,
    result: ir.Model,
    shapes: Mapping[str, Sequence[int]],
    before: Cost,
    after: Cost,
    *,
    freeze: bool,
) -> tuple[str, ...]:
    notes = []
    nowhere = [str(value.name) for value in result.graph.inputs if value.shape is None]
    for name in nowhere:
        taken = (
            f"{'x'.join(map(str, shapes[name]))} was taken" if name in shapes else "nothing can be counted"
        )
        notes.append(f"the graph states no shape for {name}, {taken}; --shape {name}=1x3x512x768 gives one")
    uncounted = sorted({*before.uncounted, *after.uncounted})
    if uncounted:
        some = ", ".join(uncounted[:3]) + (", ..." if len(uncounted) > 3 else "")
        notes.append(
            f"multiply-accumulates of {len(uncounted)} nodes ({some}) are not counted: their sizes do not follow from "
            "those of the inputs"
        )
    kept = {str(value.name) for value in result.graph.inputs}
    frozen = [str(v.name) for v in model.graph.inputs if v.is_initializer() and str(v.name) not in kept]
    if frozen:
        why = "as told" if freeze else f"as IR version {model.ir_version} lists all weights"
        notes.append(
            f"{len(frozen)} initializers that are inputs, too, are constants now, {why}: {', '.join(frozen[:3])}"
            f"{', ...' if len(frozen) > 3 else ''}"
        )
    return tuple(notes)


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
        if name not in shapes:
            raise UsageError(
                f"the graph states no shape for {name}, so there are no inputs to compare the graphs on: give one "
                f"(--shape {name}=1x3x512x768), or do without the comparison (--no-check)"
            )
        kind = (value.dtype or ir.DataType.FLOAT).numpy()
        scales = _scales(value, tuple(shapes[name]))
        if scales is not None:
            feeds[name] = scales.astype(kind)
        elif kind == np.bool_:
            feeds[name] = random.integers(0, 2, tuple(shapes[name])).astype(kind)
        elif np.issubdtype(kind, np.integer):
            info = np.iinfo(kind)
            limit = _index_limit(value)
            low, high = (info.min, info.max) if limit is None else (0, min(info.max, limit - 1))
            feeds[name] = random.integers(low, high, tuple(shapes[name]), kind, endpoint=True)
        else:
            feeds[name] = random.standard_normal(tuple(shapes[name])).astype(kind)
    return feeds


def _scales(value: ir.Value, shape: tuple[int, ...]) -> npt.NDArray[np.float64] | None:
    """A doubling of height and width for an input that says by how much a `Resize` is to scale."""
    if shape == (4,) and any(use.node.op_type == "Resize" and use.idx == 2 for use in value.uses()):
        return np.array([1.0, 1.0, 2.0, 2.0])
    return None


def _index_limit(value: ir.Value) -> int | None:
    """The number of entries of the smallest table that a value's elements index; None if they index nothing."""
    limits = []
    waiting = [value]
    while waiting:
        for use in waiting.pop().uses():
            if use.node.op_type == "Gather" and use.idx == 1:
                table = use.node.inputs[0]
                shape = None if table is None else table.shape
                size = None if shape is None else shape[use.node.attributes.get_int("axis", 0)]
                limits.append(size if isinstance(size, int) else None)
            elif use.node.op_type in _KEEP_ELEMENTS and use.idx == 0:
                waiting.append(use.node.outputs[0])
    return min((limit for limit in limits if limit is not None), default=None)


def check(
    model: ir.Model,
    fused: ir.Model,
    report: Report,
    feeds: Sequence[Mapping[str, npt.NDArray[Any]]],
    tolerance: Tolerance,
    *,
    libraries: Sequence[str] = (),
) -> Report:
    """Compare the fused graph's outputs with the graph's before, on ONNX Runtime's CPU provider.

    Outputs of graphs with explicit quantization are judged in quantization steps: 1 % of their elements may be another
    step, and without the quantization of activations the graphs must agree as all others do.

    Args:
        model: the graph before.
        fused: the graph after.
        report: of the fusion.
        feeds: sets of inputs by name.
        tolerance: what may differ; outputs of whole numbers may differ by one more, and what is in half precision by
            some of its steps (`verify.for_type`).
        libraries: shared libraries with custom operators.

    Returns:
        The report with the differences.

    Raises:
        UsageError: the inputs do not fit the graph.
        VerificationError: one of the graphs does not run.
    """
    real = without_quantization(model), without_quantization(fused)
    steps = output_steps(model.graph)
    found = []
    for i, inputs in enumerate(feeds):
        references, values = _both(model, fused, inputs, libraries)
        # Fusion renames no output, but other tools may: compare by position.
        for (name, reference), y in zip(references.items(), values.values(), strict=True):
            allowed = for_type(tolerance, reference)
            if real[0] is not None:
                # Only where the output's own is the one quantizer, no value can be off by more than its step.
                single = name in steps and len(steps) == len(pairs(model.graph))
                limit = 1.001 * steps[name] + tolerance.atol if single else None
                allowed = replace(allowed, share=_TIPPED, limit=limit)
            found.append(compare(f"{name}[{i}]", y, reference, allowed))
        if real[0] is not None and real[1] is not None:
            references, values = _both(real[0], real[1], inputs, libraries)
            for (name, reference), y in zip(references.items(), values.values(), strict=True):
                title = f"{name}[{i}] without quantization"
                found.append(compare(title, y, reference, for_type(tolerance, reference)))
    return replace(report, differences=(*report.differences, *found))


def _both(
    model: ir.Model, fused: ir.Model, inputs: Mapping[str, npt.NDArray[Any]], libraries: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs of both graphs."""
    references = _run_given(model, inputs, libraries, "the comparison (--no-check)")
    with loadable(fused) as after:
        return references, run_graph(after, inputs, libraries=libraries)


def _run_given(
    model: ir.Model, inputs: Mapping[str, npt.NDArray[Any]], libraries: Sequence[str], without: str
) -> dict[str, Any]:
    """Outputs of the graph as it came.

    Args:
        model: the graph.
        inputs: by name.
        libraries: with custom operators.
        without: what the user can do without, in words.

    Raises:
        UsageError: the inputs do not fit it.
        VerificationError: it does not run.
    """
    shapes = ", ".join(f"{name}={'x'.join(map(str, a.shape))}" for name, a in inputs.items()) or "no inputs"
    with loadable(model) as data:
        try:
            return run_graph(data, inputs, libraries=libraries, given=True)
        except (UsageError, VerificationError) as error:
            if NO_BFLOAT16 in str(error):
                raise VerificationError(f"{NO_BFLOAT16}: do without {without}. {error.__cause__}") from error
            raise type(error)(
                f"the graph as it was given does not run with {shapes}; give shapes that fit together (--shape) or "
                "inputs (--inputs), a library for operators that are not ONNX's own (--custom-ops), or do without "
                f"{without}. {error}"
            ) from error


def fuse_measured(
    model: ir.Model,
    threads: int,
    *,
    multiple: int = 1,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seconds: float = 4.0,
    opset: int | None = None,
    freeze: bool = False,
    libraries: Sequence[str] = (),
) -> tuple[ir.Model, Report]:
    """Rewrite the octave convolutions of a graph as this machine's ONNX Runtime runs it fastest.

    Forms are measured place by place first. What surrounds a place counts too, above all the layout that its neighbors
    leave and expect; so the whole graph is measured with those forms, with the cost model's, and as it was, and
    the fastest is taken.

    Args:
        model: any ONNX model; it is not changed.
        threads: threads per run.
        multiple: as in `fuse`.
        shapes: as in `fuse`.
        seconds: time to spend on whole graphs, at least.
        opset: as in `fuse`.
        freeze: as in `fuse`.
        libraries: shared libraries with custom operators.

    Returns:
        The fastest model and its report; `kept` says that it is the graph as it was.

    Raises:
        UsageError: as `fuse`; or the inputs do not fit the graph.
        VerificationError: the graph does not run.
        DependencyError: ONNX Runtime is not installed.
    """
    before = normalize(model, opset=opset, freeze=freeze)
    feeds = random_inputs(before, sample_shapes(before.graph, multiple, shapes))
    _run_given(before, feeds, libraries, "measuring (--measure) and the comparison (--no-check)")
    choosers: dict[str, ChooserFactory] = {
        "forms measured one by one": lambda sizes: Measured(sizes, threads),
        "forms by the cost model": lambda sizes: CostModel("onnxruntime", sizes),
    }
    fused = {
        name: fuse(model, chooser, multiple=multiple, shapes=shapes, opset=opset, freeze=freeze)
        for name, chooser in choosers.items()
    }
    report = next(iter(fused.values()))[1]
    nothing = tuple(replace(rule, hits=0, near_misses=()) for rule in report.rules)
    unchanged = replace(report, rules=nothing, choices=(), after=report.before, kept=True)
    candidates = {_AS_IT_WAS: (before, unchanged), **fused}
    models = {name: candidate for name, (candidate, _) in candidates.items()}
    times = measure(models, feeds, threads, seconds, libraries=libraries)
    name = times.best(_AS_IT_WAS)
    result, report = candidates[name]
    return result, replace(report, timing=f"{times.describe(_AS_IT_WAS)}: taken {name}")
