"""SegNet, ComNet, GNet, DNet, their configurations and the deployable modules."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oslic.export.cost import count
from oslic.export.onnx_export import export_graph
from oslic.networks.checkpoint import Checkpoint, read, write
from oslic.networks.codec import create
from oslic.networks.comnet import quantize
from oslic.networks.config import PRESETS, MobileSegNetConfig, ModelConfig, RefineConfig, preset
from oslic.networks.deploy import deployable
from oslic.networks.dnet import DNet
from oslic.networks.embedding import LabelEmbedding
from oslic.networks.octconv import fuse
from oslic.networks.segnet import InvertedResidual, SegNet
from oslic.runtime.errors import BundleError, UsageError


def picture(height=64, width=96, seed=0):
    return torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    )


@pytest.mark.parametrize("size", [(64, 96), (32, 32)])
def test_deployable_modules_shapes_types_and_ranges(size):
    networks = create("tiny", 1)
    modules = deployable(networks)
    image = picture(*size)
    with torch.no_grad():
        labels = modules["segment"](image)
        compact = modules["analyse"](image, labels)
        estimate = modules["synthesise"](compact, labels)
    height, width = size
    assert (labels.dtype, labels.shape) == (torch.uint8, (2, height // 4, width // 4))
    assert (compact.dtype, compact.shape) == (torch.uint8, (2, height // 8, width // 8, 3))
    assert (estimate.dtype, estimate.shape) == (torch.uint8, (2, height, width, 3))
    assert int(labels.max()) < 17
    assert int(compact.max()) < 32


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": 0.0, "comnet": dataclasses.replace(PRESETS["tiny"].comnet, label_entry="image")},
        {"alpha": 0.25},
        {"lh_order": "convolve_first"},
        {"embedding": 0},
        {"levels": 256},
        {"label_scale": 4, "comnet": dataclasses.replace(PRESETS["tiny"].comnet, blocks=0)},
        {"gnet": dataclasses.replace(PRESETS["full"].gnet, stem=8, down=(8, 8, 8), blocks=1, up=(8, 8, 8))},
    ],
)
def test_designs_build_run_and_fuse(changes):
    networks = create(dataclasses.replace(preset("tiny"), **changes), 2)
    image = picture()
    with torch.no_grad():
        modules = deployable(networks)
        labels = modules["segment"](image)
        compact = modules["analyse"](image, labels)
        x = compact.float().permute(0, 3, 1, 2)
        naive = networks.gnet(x, labels)
        fused = fuse(networks.gnet)(x, labels)
    torch.testing.assert_close(fused, naive, rtol=0, atol=2e-5)


def test_labels_matter_only_with_an_embedding():
    for embedding, matters in ((4, True), (0, False)):
        networks = create(dataclasses.replace(preset("tiny"), embedding=embedding), 3)
        compact = torch.full((1, 3, 8, 12), 9.0)
        a, b = (networks.gnet(compact, torch.full((1, 16, 24), k, dtype=torch.uint8)) for k in (0, 7))
        assert bool((a != b).any()) is matters


def test_untrained_codec_is_box_average_and_bilinear_upsampling():
    """The heads start at zero, so training starts from the plain scheme."""
    networks = create("tiny", 4)
    for head in (networks.comnet.head, networks.gnet.head):
        for parameter in head.parameters():
            torch.nn.init.zeros_(parameter)
    image = picture()
    labels = torch.zeros(2, 16, 24, dtype=torch.uint8)
    modules = deployable(networks)
    with torch.no_grad():
        compact = modules["analyse"](image, labels)
        estimate = modules["synthesise"](compact, labels)
    means = image.double().reshape(2, 8, 8, 12, 8, 3).mean((2, 4))
    # The network adds 1/2 level where a gray level stands for its cell's center.
    expected = (means / 256 * 32 + 32 / 512 - 0.5).round().clamp(0, 31)
    assert torch.equal(compact.double(), expected)
    centers = (expected + 0.5) * 8 - 0.5
    upsampled = F.interpolate(centers.permute(0, 3, 1, 2), scale_factor=8.0, mode="bilinear").permute(
        0, 2, 3, 1
    )
    assert (estimate.double() - upsampled).abs().max() <= 0.5 + 1e-3


def test_the_channel_mix_starts_as_the_identity_and_mixes():
    tiny = preset("tiny")
    mixed = dataclasses.replace(tiny, gnet=dataclasses.replace(tiny.gnet, mix=True))
    plain, networks = create("tiny", 4), create(mixed, 4)
    state = networks.state_dict()
    state.update(plain.state_dict())
    networks.load_state_dict(state)
    x = torch.rand(1, 3, 32, 64)
    labels = torch.zeros(1, 8, 16, dtype=torch.uint8)
    with torch.no_grad():
        compact = quantize(plain.comnet(x, labels), 32)
        torch.testing.assert_close(networks.gnet(compact, labels), plain.gnet(compact, labels))
        # A mix that only keeps the green channel makes the upsampled part gray.
        networks.gnet.mix.weight.copy_(torch.tensor([[0.0, 1.0, 0.0]] * 3)[:, :, None, None])
        for parameter in networks.gnet.head.parameters():
            torch.nn.init.zeros_(parameter)
        estimate = networks.gnet(compact, labels)
    torch.testing.assert_close(estimate[:, 0], estimate[:, 2])


def test_256_levels_keep_the_box_average():
    networks = create(dataclasses.replace(preset("tiny"), levels=256), 4)
    for parameter in networks.comnet.head.parameters():
        torch.nn.init.zeros_(parameter)
    flat = torch.full((1, 3, 32, 32), 77 / 256)
    y = networks.comnet(flat, torch.zeros(1, 8, 8, dtype=torch.uint8))
    torch.testing.assert_close(quantize(y, 256), torch.full((1, 3, 4, 4), 77.0))


def test_quantize_rounds_halves_to_even_and_clips():
    y = torch.tensor([-3.0, 0.5, 1.5, 2.5, 30.6, 99.0])
    assert quantize(y, 32).tolist() == [0, 0, 2, 2, 31, 31]


def test_segnet_unpools_to_where_the_maximum_was():
    """Identity convolutions: what leaves is the maximum of each 2x2 block at its own place, else 0."""
    config = dataclasses.replace(preset("full").segnet, widths=(3,), depths=(1,), decoder_depths=(1,))
    segnet = SegNet(config, 3, 1).eval()
    identity = torch.zeros(3, 3, 3, 3)
    for channel in range(3):
        identity[channel, channel, 1, 1] = 1
    with torch.no_grad():
        for unit in (segnet.encoder[0][0], segnet.decoder[0][0]):
            unit.convolution.weight.copy_(identity)
        segnet.classifier.weight.copy_(identity)
        segnet.classifier.bias.zero_()
        x = torch.rand(1, 3, 8, 8) * 0.5 + 0.5
        y = segnet(x)
    factor = 1 / (1 + 1e-5)  # two batch normalizations with unit statistics
    shifted = (x - 0.5).reshape(1, 3, 4, 2, 4, 2)
    largest = shifted.amax((3, 5), keepdim=True)
    expected = torch.where(shifted == largest, shifted, torch.zeros(())).reshape(1, 3, 8, 8) * factor
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)
    assert int((y > 0).sum()) == 3 * 16


def test_segnet_smoothing_averages_inside_the_map():
    config = dataclasses.replace(preset("tiny").segnet, smoothing=3)
    plain = SegNet(preset("tiny").segnet, 17, 4).eval()
    smooth = SegNet(config, 17, 4).eval()
    smooth.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 32, 32)
    logits, averaged = plain(x), smooth(x)
    torch.testing.assert_close(averaged[0, :, 3, 3], logits[0, :, 2:5, 2:5].mean((1, 2)))
    torch.testing.assert_close(averaged[0, :, 0, 0], logits[0, :, :2, :2].mean((1, 2)))


def mobile(**changes):
    """A narrow SegNet of inverted residual blocks: 3 poolings behind a stem with stride 2, 2 unpoolings."""
    config = MobileSegNetConfig(
        stem=4,
        stages=(((1, 4, 3),), ((2, 6, 5), (2, 6, 3)), ((2, 8, 3),)),
        bottom=((2, 8, 5), (3, 12, 3)),
        decoder=((8, 6), (6, 4)),
    )
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize(
    ("decoder", "scale"), [(((8, 6), (6, 4), (5,)), 2), (((8, 6), (6, 4)), 4), (((7,),), 8)]
)
def test_mobile_segnet_shapes(decoder, scale):
    config = mobile(decoder=decoder)
    assert (config.scale, config.multiple) == (scale, 16)
    segnet = SegNet(config, 17, scale).eval()
    with torch.no_grad():
        assert segnet(torch.rand(2, 3, 48, 80)).shape == (2, 17, 48 // scale, 80 // scale)
        labels = segnet.labels(torch.rand(2, 3, 48, 80))
    assert (labels.dtype, labels.shape) == (torch.uint8, (2, 48 // scale, 80 // scale))
    # The label map may be coarser than the logits.
    assert SegNet(config, 17, 8).eval()(torch.rand(1, 3, 32, 32)).shape == (1, 17, 4, 4)


@pytest.mark.parametrize("skip", [False, True])
def test_mobile_segnet_unpools_by_the_indices_of_its_poolings(skip):
    """What each stage of the decoder is given, against what a loop over 2x2 blocks makes of the tensors around it."""
    torch.manual_seed(0)
    segnet = SegNet(mobile(skip=skip), 17, 4).eval()
    seen = {}
    for name, part in (*segnet.encoder.named_children(), ("bottom", segnet.bottom)):
        part.register_forward_hook(lambda _m, _i, y, name=name: seen.setdefault(f"after {name}", y))
    for name, part in segnet.decoder.named_children():
        part.register_forward_hook(
            lambda _m, x, y, name=name: seen.update({f"in {name}": x[0], f"out {name}": y})
        )
    with torch.no_grad():
        segnet(torch.rand(1, 3, 32, 48))
    for decoder, encoder, below in (("0", "2", "after bottom"), ("1", "1", "out 0")):
        before, low = seen[f"after {encoder}"][0], seen[below][0]
        expected = before.clone() if skip else torch.zeros_like(before)
        channels, height, width = low.shape
        assert before.shape == (channels, 2 * height, 2 * width)
        for c in range(channels):
            for i in range(height):
                for j in range(width):
                    block = before[c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                    at = int(block.flatten().argmax())
                    expected[c, 2 * i + at // 2, 2 * j + at % 2] += low[c, i, j]
        torch.testing.assert_close(seen[f"in {decoder}"][0], expected)


def test_inverted_residual_blocks_are_those_of_the_paper():
    """Expansion, depthwise convolution, projection without activation; the input is added where widths are equal."""
    torch.manual_seed(0)
    for channels, expansion in ((6, 3), (8, 3), (6, 1)):
        block = InvertedResidual(6, channels, expansion, 5).eval()
        x = torch.randn(1, 6, 9, 7)
        kernels = [m for m in block.layers if isinstance(m, torch.nn.Conv2d)]
        assert [m.groups for m in kernels] == ([1, 6 * expansion, 1] if expansion > 1 else [6, 1])
        y = x
        for number, kernel in enumerate(kernels):
            y = F.conv2d(y, kernel.weight, None, 1, kernel.kernel_size[0] // 2, 1, kernel.groups)
            y = y / (1 + 1e-3) ** 0.5
            y = y.clamp(0, 6) if number < len(kernels) - 1 else y
        with torch.no_grad():
            torch.testing.assert_close(block(x), y + x if channels == 6 else y)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stem": 0}, "stem is 0"),
        ({"stages": (((1, 4, 3),), ())}, "must have a block"),
        ({"decoder": ()}, "must have 1 to"),
        ({"decoder": ((8, 6), (6, 4), (4,), (4,))}, "must have 1 to"),
        ({"decoder": ((8, 5), (6, 4))}, r"must be those of the poolings: \[6, 4\]"),
    ],
)
def test_mobile_segnets_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(preset("tiny"), segnet=mobile(**changes))


def test_a_mobile_segnet_survives_json_and_a_checkpoint(tmp_path):
    config = dataclasses.replace(preset("tiny"), segnet=mobile(), refine=RefineConfig(4, 1))
    assert ModelConfig.from_json(config.to_json()) == config
    networks = create(config, 1)
    write(tmp_path, Checkpoint(config, dict(networks.state_dict())))
    back = read(tmp_path)
    assert back.config == config
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(back.networks().segnet(x), networks.segnet(x))


def test_lite_segments_within_its_budget():
    """At the size at which the runtime shows it a photograph of 768 x 512, as the exporter writes it."""
    config = preset("lite")
    module = deployable(create(config, 1))["segment"]
    model = export_graph(module, "segment", config.label_scale, config.multiple)
    cost = count(model.graph, {"image": (1, 256, 384, 3)})
    assert 1e9 < cost.macs <= 2.2e9
    # Its parts by hand: the stem at half the size, and the first unpooled stage of the decoder.
    assert 128 * 192 * 32 * 27 in cost.by_node.values()
    assert 16 * 24 * 192 * 192 * 9 in cost.by_node.values()


def test_embedding_is_a_table_repeated_or_averaged():
    labels = torch.tensor([[[0, 1], [2, 1]]], dtype=torch.uint8)
    same, coarse, fine = (LabelEmbedding(3, 5, 4, scale) for scale in (4, 8, 2))
    assert torch.equal(same(labels)[0, :, 1, 0], same.table[2])
    torch.testing.assert_close(
        coarse(labels)[0, :, 0, 0], (coarse.table[0] + 2 * coarse.table[1] + coarse.table[2]) / 4
    )
    assert fine(labels).shape == (1, 5, 4, 4)
    assert torch.equal(fine(labels)[0, :, 3, 2], fine.table[1])


def test_dnet_judges_at_two_scales():
    dnet = DNet(preset("tiny"), widths=(4, 4, 8))
    outputs = dnet(torch.rand(1, 3, 64, 96), torch.zeros(1, 16, 24, dtype=torch.uint8))
    assert len(outputs) == 2
    assert all(o[-1].shape[1] == 1 for o in outputs)
    assert outputs[1][-1].shape[-1] < outputs[0][-1].shape[-1]


@pytest.mark.parametrize("name", list(PRESETS))
def test_configurations_survive_json(name):
    config = preset(name)
    assert ModelConfig.from_json(config.to_json()) == config


def test_parameter_counts_are_those_of_the_design():
    def millions(name):
        with torch.device("meta"):
            from oslic.networks.codec import CodecNetworks

            networks = CodecNetworks(preset(name))
        return [sum(p.numel() for p in n.parameters()) / 1e6 for n in networks.children()]

    assert millions("full") == pytest.approx([29, 1.5, 46], rel=0.03)
    assert sum(millions("base")) < 32
    assert sum(millions("lite")) < 5.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": 20}, "levels is 20"),
        ({"label_scale": 3}, "label_scale is 3"),
        ({"multiple": 8}, "multiple is 8"),
        ({"alpha": 1.0}, "alpha is 1.0"),
        ({"lh_order": "x"}, "lh_order is 'x'"),
        ({"label_scale": 2}, "coarser than labels"),
        ({"alpha": 0.0}, "needs alpha above 0"),
    ],
)
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(preset("tiny"), **change)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "x", "color": 1}'])
def test_text_that_is_no_configuration_is_refused(text):
    with pytest.raises(BundleError, match="configuration"):
        ModelConfig.from_json(text)


def test_unknown_preset_is_refused():
    with pytest.raises(UsageError, match="there are full, base, lite"):
        preset("huge")


def test_create_is_reproducible_and_leaves_the_global_seed_alone():
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    a, b, c = create("tiny", 1), create("tiny", 1), create("tiny", 2)
    assert torch.equal(torch.rand(1), expected)
    assert all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )
    assert not torch.equal(a.gnet.stem.hh.weight, c.gnet.stem.hh.weight)


def test_what_cannot_be_told_is_the_last_class():
    torch.manual_seed(3)
    segnet = SegNet(mobile(), 5, 4).eval()
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        probabilities = torch.softmax(segnet(x), dim=1)
        least = float(probabilities.amax(1).median())
        unsure = dataclasses.replace(mobile(), least=least)
        other = SegNet(unsure, 5, 4).eval()
        other.load_state_dict(segnet.state_dict())
        labels, found = segnet.labels(x), other.labels(x)
    wanted = torch.where(probabilities.amax(1) < least, 4, labels)
    assert torch.equal(labels, probabilities.argmax(1).to(torch.uint8))
    assert (found != wanted).float().mean() < 0.01  # but for rounding at the bound itself
    assert 0.4 < float((found == 4).float().mean()) < 0.9
    with pytest.raises(UsageError, match=r"segnet\.least is 1"):
        dataclasses.replace(preset("lite"), segnet=dataclasses.replace(preset("lite").segnet, least=1.0))
