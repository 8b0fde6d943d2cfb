"""What breaks exactness when one thing is undone: the certificate names each, and numbers show that it matters.

Differences are told on random inputs: natural pictures hide most of them.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from integer_interpreter import Interpreter
from onnx import helper
from oslic.calibration.graph import Graph, attributes
from oslic.calibration.integer.certificate import PAIR_LIMIT, certify
from oslic.export.engines import prepare
from oslic.export.quantized import int8_form
from oslic.runtime.backends import Options
from oslic.runtime.backends.exactness import require_exact
from oslic.runtime.backends.onnxruntime.gpu import OnnxRuntimeCuda, _cuda_options
from oslic.runtime.bundle.uint8_form import UNSIGNED_ZERO_POINT
from oslic.runtime.errors import BackendError, UsageError
from test_exact import DOMAINS, LEVELS, feeds_of, run


@pytest.fixture
def graph(exact_models):
    """A copy of `synthesise` that may be spoiled."""
    model = onnx.ModelProto()
    model.CopyFrom(exact_models["synthesise"])
    return Graph(model)


def reasons(graph):
    return set(certify(graph, DOMAINS["synthesise"]).failures.values())


def differing_share(graph, photo):
    """Share of the samples that a session with all optimizations and one without do not agree on."""
    feeds = feeds_of("synthesise", "random", photo)
    one, other = (run(graph.model, feeds, level) for level in (LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_ALL))
    return float(np.mean(one != other))


def quantized_convolutions(graph):
    """Convolutions with the DQ node of their input and of their weight."""
    for node in graph.nodes:
        x, weight = (
            (graph.producers.get(name) for name in node.input[:2]) if node.op_type == "Conv" else (None, None)
        )
        if x is not None and weight is not None and x.op_type == weight.op_type == "DequantizeLinear":
            yield node, x, weight


def test_nothing_undone(graph, photo):
    assert reasons(graph) == set()
    assert differing_share(graph, photo) == 0


def test_biases_off_the_grid_of_products(graph, photo):
    """Int8 kernels have them as int32."""
    for node, _, _ in quantized_convolutions(graph):
        if len(node.input) > 2:
            graph.set_constant(node.input[2], graph.constant(node.input[2]) + np.float32(0.0123))
    graph.refresh()
    assert reasons(graph) == {"its bias is not on the grid of the products: int8 kernels round it"}
    assert differing_share(graph, photo) > 0.001


def test_arbitrary_scales_of_weights(graph, photo):
    for _, _, weight in quantized_convolutions(graph):
        graph.set_constant(
            weight.input[1], (graph.constant(weight.input[1]) * np.float32(1.07)).astype(np.float32)
        )
    graph.refresh()
    assert any("is no power of two" in reason for reason in reasons(graph))
    assert differing_share(graph, photo) > 0.001


def test_arbitrary_scales_of_activations(graph, photo):
    scales = {node.input[1] for node in graph.nodes if node.op_type == "QuantizeLinear"}
    for name in scales:
        graph.set_constant(name, np.float32(graph.constant(name) * np.float32(1.07)))
    graph.refresh()
    assert any("is no power of two" in reason for reason in reasons(graph))
    assert differing_share(graph, photo) > 0.0001


def saturating_sum(activations, weights):
    """A sum of products as `vpmaddubsw` and `vpmaddwd` form it: pairs in 16 bits, which saturate."""
    products = activations.astype(np.int64) * weights
    return int(np.clip(products[0::2] + products[1::2], -32768, 32767).sum())


def test_weights_of_8_bits_behind_activations_of_either_sign(graph):
    """Without VNNI, two products of 255 * 127 do not fit into 16 bits; 255 * 64 do, and so do 127 * 127."""
    for activation, weight, fits in ((255, 127, False), (255, 64, True), (127, 127, True)):
        sums = saturating_sum(np.full(8, activation), np.full(8, weight))
        assert (sums == 8 * activation * weight) is fits
        assert (2 * activation * weight <= PAIR_LIMIT) is fits
    for _, x, weight in quantized_convolutions(graph):
        if int(graph.constant(x.input[2])) == 128:
            graph.set_constant(weight.input[0], np.full_like(graph.constant(weight.input[0]), 127))
    graph.refresh()
    assert any("saturate at 32767" in reason for reason in reasons(graph))


def test_the_uint8_form_without_its_clips(graph, photo):
    """Where int8 ends at 127, uint8 goes on to 255: two functions."""
    kept, renamed = [], {}
    for node in graph.nodes:
        if node.op_type == "Clip" and graph.producers[node.input[0]].op_type == "QuantizeLinear":
            renamed[node.output[0]] = node.input[0]
            continue
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        kept.append(node)
    assert renamed
    graph.replace_nodes(kept)
    assert int8_form(ir.from_proto(graph.model)) is None
    feeds = feeds_of("synthesise", "random", photo)
    unclipped = Interpreter(graph.model)
    unclipped.run(**feeds)
    unsigned = [
        node.output[0] for node in graph.nodes
        if node.op_type == "QuantizeLinear" and node.input[2] == UNSIGNED_ZERO_POINT
    ]  # fmt: skip
    assert max(int(unclipped.values[name].n.max()) for name in unsigned) > 127


def test_conversions_that_fuse(graph):
    """x -> 1/2 -> 1 rounds twice, x -> 1 once: a tie moves by one step. What fuses two conversions would tell."""
    x = np.array([1.3, 0.3, 2.7])
    twice = np.rint(np.rint(x * 2) / 2)
    assert twice.tolist() != np.rint(x).tolist()
    node = next(
        n for n in graph.nodes if n.op_type == "DequantizeLinear" and n.output[0].endswith(".dequantized")
    )
    other = graph.add_constant("other.scale", np.float32(4 * graph.constant(node.input[1])))
    again = helper.make_node(
        "QuantizeLinear", [node.output[0], other, node.input[2]], ["again"], name="again"
    )
    back = helper.make_node("DequantizeLinear", ["again", other, node.input[2]], ["back"], name="back")
    nodes = graph.nodes
    place = nodes.index(node) + 1
    for reader in nodes[place:]:
        for i, name in enumerate(reader.input):
            if name == node.output[0]:
                reader.input[i] = "back"
    graph.replace_nodes([*nodes[:place], again, back, *nodes[place:]])
    assert "a conversion between scales behind another one: fused, they round once" in reasons(graph)


def test_resizing_with_weights_that_are_no_256ths(graph):
    for node in graph.nodes:
        if node.op_type == "Resize" and attributes(node)["mode"] == b"linear":
            node.input[2] = graph.add_constant("thrice", np.array([1, 1, 3, 3], np.float32))
    graph.refresh()
    assert any("its weights are 256ths for factors 1, 2, 4 and 8 only" in reason for reason in reasons(graph))


def tf32(x):
    """What the tensor cores of GPUs keep of a float32 factor: 10 bits behind the leading one."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32)


def test_factors_that_tf32_rounds(graph):
    """The mix is in float: its factors have 11 bits at most, which TF32 keeps; with more it is refused."""
    mix = next(n for n in graph.nodes if n.op_type == "Conv" and graph.constant(n.input[1]) is not None)
    weight = graph.constant(mix.input[1])
    assert np.array_equal(tf32(weight), weight)
    finer = weight + np.float32(2**-14)
    assert not np.array_equal(tf32(finer), finer)
    graph.set_constant(mix.input[1], finer)
    graph.refresh()
    assert any("TF32 keeps 11" in reason for reason in reasons(graph))
    for plain in (False, True):
        assert _cuda_options(graphs=False, plain_sums=plain)["use_tf32"] == "0"


def winograd(tile, kernel, *, fractions):
    """One output tile of a 3x3 convolution by Winograd's F(4x4, 3x3) in float32, or by sums of products."""
    b = np.array(
        [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0],
         [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]], np.float32)  # fmt: skip
    g = np.array(
        [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6],
         [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]], np.float32)  # fmt: skip
    a = np.array(
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float32
    )
    if fractions:
        return a @ ((g @ kernel @ g.T) * (b @ tile @ b.T)) @ a.T
    return np.array([[(tile[i : i + 3, j : j + 3] * kernel).sum() for j in range(4)] for i in range(4)])


def test_winograd_and_its_fractions(exact_bundle):
    """Sixths and twenty-fourths are on no grid: whole numbers go in, others come out. CUDA is told to leave it."""
    random = np.random.default_rng(2)
    tile = random.integers(-128, 128, (6, 6)).astype(np.float32)
    kernel = random.integers(-63, 64, (3, 3)).astype(np.float32)
    plain, fast = (winograd(tile, kernel, fractions=each) for each in (False, True))
    assert np.allclose(plain, fast, atol=1)
    assert np.array_equal(plain, np.rint(plain))
    assert not np.array_equal(plain, fast)
    assert _cuda_options(graphs=True, plain_sums=True)["cudnn_conv_algo_search"] == "DEFAULT"
    assert OnnxRuntimeCuda(exact_bundle, Options())._options.plain_sums


def test_accumulation_in_half_precision(exact_models):
    """A sum of products in float16 is not the sum; an engine whose rest is in half precision is refused."""
    x, w = np.full(64, 127), np.full(64, 63)
    total = np.float16(0)
    for product in (x[:4] * w[:4]).astype(np.float16):
        total += product
    assert float(total) != float((x[:4] * w[:4]).sum())
    with pytest.raises(UsageError, match="in half precision what stands between them would not be"):
        prepare(exact_models["synthesise"].SerializeToString(), "int8-fp16")


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx"])
def test_backends_that_compute_something_else_are_refused(exact_bundle, float_bundle, backend):
    with pytest.raises(BackendError, match="gives the same bytes on every machine"):
        require_exact(exact_bundle, backend)
    require_exact(float_bundle, backend)
    require_exact(exact_bundle, "onnxruntime-cpu")


def test_what_no_machine_computes_alike(graph):
    """A division, a hyperbolic tangent, an average of nine."""
    tail = next(n for n in graph.nodes if n.op_type == "Round")
    tail.op_type = "Tanh"
    graph.refresh()
    assert "Tanh is not known to be exact" in reasons(graph)
    pool = helper.make_node("AveragePool", ["x"], ["y"], name="pool", kernel_shape=[3, 3])
    ports = [helper.make_tensor_value_info(name, 1, None) for name in "xy"]
    other = helper.make_graph([pool], "pool", ports[:1], ports[1:], [])
    found = certify(Graph(helper.make_model(other)), {"x": 255})
    assert found.failures == {"pool": "an average of 9 values rounds"}


def test_sums_beyond_24_bits(graph):
    node = next(n for n, _, _ in quantized_convolutions(graph) if len(n.input) > 2)
    bias = graph.constant(node.input[2])
    graph.set_constant(node.input[2], np.full_like(bias, 2.0**20))
    graph.refresh()
    assert any("partial sums reach 2^" in reason for reason in reasons(graph))
