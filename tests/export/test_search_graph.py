"""The graph of a search: its gradients are those of autograd, whatever operators they are written in."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from oslic.cli.main import main
from oslic.export import search_graph
from oslic.export.byte_weights import with_byte_weights
from oslic.export.ir_queries import serialize
from oslic.export.search_graph import LayersLoss, Weights, compacted, enlarge
from oslic.export.verify import run
from oslic.measure.metrics import ms_ssim
from oslic.networks.codec import create
from oslic.runtime.codec.search import OUTPUTS

pytest.importorskip("ssimulacra2")
ATEN = torch.ops.aten


def test_enlarging_is_bilinear_interpolation():
    x = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(1))
    wanted = F.interpolate(x, scale_factor=8.0, mode="bilinear", align_corners=False)
    assert torch.allclose(enlarge(x), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("stride", "padding", "groups", "transposed"),
    [
        (1, 1, 1, False),
        (1, 0, 1, False),
        (2, 1, 1, False),
        (1, 2, 6, False),
        (1, 1, 2, False),
        (8, 4, 6, True),
    ],
)
def test_gradients_of_convolutions(stride, padding, groups, transposed):
    generator = torch.Generator().manual_seed(2)
    kernel = 16 if transposed else 5 if groups == 6 else 3
    x = torch.rand(2, 6, 12, 10, generator=generator, requires_grad=True)
    shape = (
        (6, 6 // groups, kernel, kernel)
        if transposed
        else (4 if groups != 6 else 6, 6 // groups, kernel, kernel)
    )
    weight = torch.rand(shape, generator=generator)
    forward = F.conv_transpose2d if transposed else F.conv2d
    y = forward(x, weight, stride=stride, padding=padding, groups=groups)
    upstream = torch.rand(y.shape, generator=generator)
    (wanted,) = torch.autograd.grad(y, x, upstream)
    step, pad, one = [stride] * 2, [padding] * 2, [1, 1]
    found, *others = search_graph._GRADIENTS[ATEN.convolution_backward.default](
        upstream, x, weight, None, step, pad, one, transposed, [0, 0], groups, [True, False, False]
    )
    assert others == [None, None]
    assert torch.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize(("start", "end"), [(0, 2), (1, 3), (-2, 1 << 62)])
def test_gradients_of_slices(axis, start, end):
    x = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(3), requires_grad=True)
    y = ATEN.slice.Tensor(x, axis, start, end, 1)
    upstream = torch.rand(y.shape)
    (wanted,) = torch.autograd.grad(y, x, upstream)
    found = search_graph._GRADIENTS[ATEN.slice_backward.default](upstream, x.shape, axis, start, end, 1)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("index", [0, 2, -1])
def test_gradients_of_selections(index):
    x = torch.rand(3, 4, 5, requires_grad=True)
    y = x.select(1, index)
    upstream = torch.rand(y.shape)
    (wanted,) = torch.autograd.grad(y, x, upstream)
    found = search_graph._GRADIENTS[ATEN.select_backward.default](upstream, x.shape, 1, index)
    assert torch.equal(found, wanted)


def test_gradients_of_pools_and_upsamplings():
    x = torch.rand(1, 2, 6, 4, requires_grad=True)
    y = F.avg_pool2d(x, 2)
    upstream = torch.rand(y.shape)
    (wanted,) = torch.autograd.grad(y, x, upstream)
    found = search_graph._GRADIENTS[ATEN.avg_pool2d_backward.default](upstream, x, [2, 2])
    assert torch.allclose(found, wanted)
    y = F.interpolate(x, scale_factor=2.0, mode="nearest")
    with search_graph._NearestByRepeating():
        repeated = F.interpolate(x, scale_factor=2.0, mode="nearest")
        with pytest.raises(NotImplementedError):
            F.interpolate(x, scale_factor=3.0, mode="nearest")
    assert torch.equal(repeated, y)
    upstream = torch.rand(y.shape)
    (wanted,) = torch.autograd.grad(y, x, upstream)
    assert torch.allclose(torch.autograd.grad(repeated, x, upstream)[0], wanted)


@pytest.mark.parametrize("operator", ["avg_pool2d_backward", "slice_backward"])
def test_what_has_no_gradient_here_is_not_guessed(operator):
    gradient = search_graph._GRADIENTS[getattr(ATEN, operator).default]
    with pytest.raises(NotImplementedError):
        gradient(
            torch.rand(1, 1, 2, 2),
            *([torch.rand(1, 1, 6, 6), [3, 3]] if "pool" in operator else [(1,), 0, 0, 1, 2]),
        )


def convolution_model(weight):
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, weight.shape[1], 9, 9]))
    w = ir.Value(name="w", const_value=ir.tensor(weight, name="w"))
    node = ir.node("Conv", [x, w])
    node.outputs[0].name = "y"
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 18}, name="g")
    return ir.Model(graph, ir_version=10)


def test_weights_as_bytes_are_off_by_half_a_step():
    random = np.random.default_rng(5)
    weight = (random.standard_normal((24, 16, 3, 3)) * np.exp(random.uniform(-4, 2, (24, 1, 1, 1)))).astype(
        np.float32
    )
    weight[3] = 0
    x = {"x": random.standard_normal((1, 16, 9, 9)).astype(np.float32)}
    before, size = (
        run(serialize(convolution_model(weight)), x)["y"],
        len(serialize(convolution_model(weight))),
    )
    data = serialize(with_byte_weights(convolution_model(weight)))
    assert len(data) < 0.4 * size
    after = run(data, x)["y"]
    step = np.abs(weight).max((1, 2, 3)) / 127
    allowed = 0.5 * step[None, :, None, None] * np.abs(x["x"]).sum() + 1e-5
    assert np.all(np.abs(after - before) <= allowed)
    assert not np.array_equal(after, before)
    for channel in (0, 1, 2):
        assert np.linalg.norm((after - before)[:, channel]) < 0.02 * np.linalg.norm(before[:, channel])
    assert not after[:, 3].any()


def test_few_weights_stay_as_they_are():
    weight = np.ones((4, 4, 3, 3), np.float32)
    assert serialize(with_byte_weights(convolution_model(weight))) == serialize(convolution_model(weight))


def test_the_distortion_is_that_of_the_measures(photo):
    picture = np.ascontiguousarray(photo[:288, :416])
    networks = create("lite", 1).eval()
    loss = LayersLoss(networks.gnet, Weights(ms_ssim=1.0, ssimulacra2=0.0))
    compact = torch.from_numpy(picture.reshape(36, 8, 52, 8, 3).mean((1, 3)) / 16).float()[None]
    labels = torch.zeros(1, 72, 104, dtype=torch.uint8)
    with torch.no_grad():
        found = float(loss.distortion(compact, labels, torch.from_numpy(picture)[None]))
        made = networks.gnet(compact.permute(0, 3, 1, 2), labels)
    estimate = (made * 256).round().clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).numpy()
    # Without the finest scale, whose weight in the product is 0.0448.
    assert found == pytest.approx(1 - ms_ssim(picture, estimate), rel=0.2)
    assert found < 1 - ms_ssim(picture, estimate)


@pytest.mark.slow
def test_the_exported_graph_is_that_of_autograd_at_other_sizes():
    networks = create("lite", 7).eval()
    with torch.no_grad():
        for parameter in networks.gnet.head.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(8)))
    config = networks.config
    model = search_graph.search_graph(networks.gnet, config.label_scale, config.multiple)
    loss = LayersLoss(networks.gnet, Weights())
    generator = torch.Generator().manual_seed(9)
    for height, width in ((256, 416), (448, 288)):
        compact = 15 * torch.rand(1, height // 8, width // 8, 3, generator=generator)
        labels = torch.randint(0, 17, (1, height // 4, width // 4), dtype=torch.uint8, generator=generator)
        image = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=generator)
        feeds = {"compact": compact.numpy(), "labels": labels.numpy(), "image": image.numpy()}
        found = run(serialize(model), feeds)
        with torch.no_grad():
            wanted = loss(compact, labels, image)
        for name, value in zip(OUTPUTS, wanted, strict=True):
            off = np.linalg.norm(found[name] - value.numpy()) / np.linalg.norm(value.numpy())
            assert off < 0.02, name
    assert len(compacted(model)) < 2_000_000


def test_other_kinds_have_no_search(capsys, tmp_path):
    checkpoint = "checkpoints/hyperprior-64"
    assert main(["export", checkpoint, "-o", str(tmp_path / "b"), "--search"]) == 2
    assert "of the kind transform" in capsys.readouterr().err
