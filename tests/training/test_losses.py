"""Loss terms against numeric references."""

import math

import numpy as np
import pytest
import torch
from oslic.measure import metrics
from oslic.networks.compact_bits import laplace_bits
from oslic.networks.config import EVERYDAY_CLASSES, preset
from oslic.networks.dnet import DNet
from oslic.networks.ms_ssim import ms_ssim_index
from oslic.runtime.errors import DataError, UsageError
from oslic.training.data import PERSON, SKIN_HAIR, VOID
from oslic.training.losses import (
    Adversarial,
    CompactRate,
    Perceptual,
    Reconstruction,
    ResidualRate,
    StreamRate,
    clamp_inwards,
    color_shift,
    dct_matrix,
    l1,
    lattice,
    log_mse,
    mean_absolute_difference,
    ms_ssim,
    mse,
    straight_through,
)
from oslic.training.segmentation import (
    block_shares,
    class_weights,
    cross_entropy,
    merge_person,
    smoothness_loss,
    soft_iou_loss,
)
from oslic.training.vgg import Vgg16Features

K = len(EVERYDAY_CLASSES)


def images(seed=0, size=(192, 208)):
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (size[0] // 16, size[1] // 16, 3)).repeat(16, 0).repeat(16, 1)
    image = np.clip(base * 0.8 + rng.normal(20, 10, base.shape), 0, 255).astype(np.uint8)
    other = np.clip(image + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8)
    return image, other


def reconstruction(image, other):
    planes = [torch.from_numpy(a).permute(2, 0, 1)[None].float() / 256 for a in (image, other)]
    labels = torch.zeros(1, image.shape[0] // 4, image.shape[1] // 4, dtype=torch.uint8)
    return Reconstruction(
        planes[0], labels, torch.zeros(1, 3, image.shape[0] // 8, image.shape[1] // 8), planes[1]
    )


def test_distances_are_those_of_the_metrics():
    image, other = images()
    x = reconstruction(image, other)
    expected = metrics.mse(image, other)
    assert float(mse(x)) == pytest.approx(expected / 100, rel=1e-5)
    assert float(log_mse(x)) == pytest.approx(0.18 * math.log10(expected + 1), rel=1e-5)
    assert float(l1(x)) == pytest.approx(np.abs(image.astype(int) - other).mean(), rel=1e-5)


def test_a_lattice_is_told_from_texture():
    """Dots and lines that stand still count with what they differ by; noise of the same strength next to nothing."""
    image = torch.full((1, 3, 128, 128), 0.5)
    place = torch.arange(128)
    lines = 1.0 - 2.0 * (place % 2)
    dots = ((place % 4 == 0)[:, None] & (place % 4 == 1)[None]).float() * 8.0
    patterns = {
        "lines": lines[None].expand(128, 128),
        "checks": torch.outer(lines, lines),
        "dots": dots,
        "noise": torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(4)).sign(),
        "shift": 1.0,
        "waves of eight": torch.sin(place * math.pi / 4)[None].expand(128, 128),
    }
    found = {
        name: float(lattice(Reconstruction(image, None, None, image + 4.0 / 256.0 * pattern)))
        for name, pattern in patterns.items()
    }
    assert found["lines"] == pytest.approx(4.0, rel=1e-3)
    assert found["checks"] == pytest.approx(4.0, rel=1e-3)
    # One pixel of sixteen stands out by h: the means differ from theirs by 15 h/16 once and by h/16 otherwise.
    assert found["dots"] == pytest.approx(4.0 * 8.0 * 2 * 15 / 256, rel=1e-3)
    assert found["noise"] < 0.5
    assert found["shift"] == pytest.approx(0.0, abs=1e-4)
    assert found["waves of eight"] == pytest.approx(0.0, abs=1e-3)
    with pytest.raises(UsageError, match="lattice needs crops of 64"):
        lattice(Reconstruction(image[..., :48], None, None, image[..., :48]))


def test_a_shift_of_color_counts_as_it_stands_in_blocks():
    """One color channel off by 6 gray levels in all of the picture, or in its left half; noise next to nothing."""
    image = torch.full((1, 3, 128, 128), 0.5)
    shifted, half = image.clone(), image.clone()
    shifted[:, 0] += 6.0 / 256.0
    half[:, 0, :, :64] += 6.0 / 256.0
    noise = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(5)) * 6.0 / 256.0
    found = [float(color_shift(Reconstruction(image, None, None, x))) for x in (shifted, half, image + noise)]
    # Blocks overlap by half: those at 0, 32 and 64 hold all, half and nothing of the left half.
    assert found[:2] == pytest.approx([2.0, 1.0], rel=1e-4)
    assert found[2] < 0.2
    with pytest.raises(UsageError, match="crops of 64"):
        color_shift(Reconstruction(image[..., :48], None, None, image[..., :48]))


def test_a_mean_absolute_difference_has_the_gradient_that_autograd_gives():
    generator = torch.Generator().manual_seed(6)
    wanted = torch.randn(2, 5, 7, 3, generator=generator)
    found = torch.randn(2, 5, 7, 3, generator=generator).requires_grad_(requires_grad=True)
    (plain,) = torch.autograd.grad(3.0 * (wanted - found).abs().mean(), found)
    value = mean_absolute_difference(wanted, found)
    (own,) = torch.autograd.grad(3.0 * value, found)
    expected = float((wanted - found).abs().mean().detach())
    assert float(value.detach()) == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(own, plain)


def test_ms_ssim_is_that_of_the_metrics():
    image, other = images(1)
    x = reconstruction(image, other)
    expected = metrics.ms_ssim(image, other)
    assert float(1 - ms_ssim(x)) == pytest.approx(expected, abs=2e-4)
    assert float(ms_ssim_index(x.image, x.image, 1.0)) == pytest.approx(1.0, abs=1e-6)


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other():
    value = torch.tensor([0.4, 1.7], requires_grad=True)
    result = straight_through(value, torch.round(value))
    assert result.tolist() == [0.0, 2.0]
    (result * torch.tensor([3.0, 5.0])).sum().backward()
    assert value.grad.tolist() == [3.0, 5.0]


def test_clamp_keeps_the_gradient_that_leads_inwards():
    value = torch.tensor([-2.0, -2.0, 3.0, 40.0, 40.0], requires_grad=True)
    clipped = clamp_inwards(value, 0.0, 31.0)
    assert clipped.tolist() == [0.0, 0.0, 3.0, 31.0, 31.0]
    # A step against the gradient: the first and the last would move further outside.
    (clipped * torch.tensor([1.0, -1.0, 5.0, 1.0, -1.0])).sum().backward()
    assert value.grad.tolist() == [0.0, -1.0, 5.0, 1.0, 0.0]


def test_laplace_bits_are_a_code():
    """The probabilities of all whole numbers sum to 1, and the mean length is the entropy."""
    errors = torch.arange(-300, 301).double()
    for scale in (0.2, 1.0, 7.5):
        probability = 2.0 ** -laplace_bits(errors, torch.full_like(errors, scale))
        inside = probability[laplace_bits(errors, torch.full_like(errors, scale)) < 29]
        assert float(inside.sum()) == pytest.approx(1.0, abs=1e-6)
    assert float(laplace_bits(torch.zeros(1).double(), torch.full((1,), 1.0).double())) == pytest.approx(
        -math.log2(1 - math.exp(-0.5)), rel=1e-6
    )


def test_compact_rate_orders_images_and_has_a_gradient():
    rate = CompactRate()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 32, (1, 3, 24, 24), generator=generator).float()
    ramp = torch.arange(24.0).view(1, 1, 1, 24).expand(1, 3, 24, 24).contiguous()
    flat = torch.full((1, 3, 24, 24), 7.0)
    bits = [float(rate.bits(v).detach()[0]) / flat.numel() for v in (flat, ramp, noise)]
    # Both are predicted without error: the diagonal gradient is exact on a ramp.
    assert bits[0] == bits[1] < 0.5
    # Uniform noise has 5 bits per sample; a misfitting model pays more, never less.
    assert 5.0 < bits[2] < 8.0
    noise.requires_grad_(requires_grad=True)
    rate.bits(noise).sum().backward()
    assert float(noise.grad.abs().sum()) > 0
    assert float(rate.scales.grad.abs().sum()) > 0


def test_compact_rate_is_of_each_image():
    rate = CompactRate()
    generator = torch.Generator().manual_seed(2)
    pair = torch.randint(0, 32, (2, 3, 8, 8), generator=generator).float()
    pair[1] = 3.0
    alone = [float(rate.bits(pair[i : i + 1]).detach()) for i in range(2)]
    assert rate.bits(pair).tolist() == pytest.approx(alone, rel=1e-5)
    assert alone[0] > 10 * alone[1]


def test_compact_rate_learns_a_shorter_code():
    rate = CompactRate()
    generator = torch.Generator().manual_seed(1)
    walk = torch.randn(1, 3, 32, 32, generator=generator).cumsum(3).round()
    optimizer = torch.optim.Adam(rate.parameters(), lr=0.1)
    before = float(rate.bits(walk).detach())
    for _ in range(30):
        optimizer.zero_grad()
        rate.bits(walk).sum().backward()
        optimizer.step()
    assert float(rate.bits(walk).detach()) < 0.99 * before


@pytest.mark.parametrize("size", [8, 16])
def test_dct_is_orthonormal_and_that_of_scipy(size):
    fft = pytest.importorskip("scipy.fft")
    matrix = dct_matrix(size)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size), rtol=0, atol=1e-5)
    samples = np.random.default_rng(0).normal(size=size)
    np.testing.assert_allclose(matrix.numpy() @ samples, fft.dct(samples, norm="ortho"), atol=1e-5)


def one_wave(amplitude, u, v, color):
    matrix = dct_matrix(16)
    wave = amplitude * torch.outer(matrix[u], matrix[v]) / 256
    image = torch.tensor(color).view(1, 3, 1, 1) * wave
    return Reconstruction(
        image, torch.zeros(1, 4, 4), torch.zeros(1, 3, 2, 2), torch.zeros_like(image), torch.full((1, 1), 0.5)
    )


def test_residual_rate_of_one_coefficient():
    """A gray cosine is one coefficient of Y: log2(1 + (d/q)^2) / 2 bits times the factor of its band."""
    x = one_wave(100.0, 3, 5, (1.0, 1.0, 1.0))
    factor = 3.4  # u + v = 8
    expected = factor * 0.5 * math.log2(1 + (100 / 24) ** 2) / 256
    assert float(ResidualRate((24.0,))(x)) == pytest.approx(expected, rel=1e-3)
    assert float(ResidualRate()(x._replace(estimate=x.image))) == 0.0


def test_residual_rate_is_of_each_image_at_each_step():
    x = one_wave(80.0, 0, 1, (1.0, 1.0, 1.0))
    rate = ResidualRate((10.0, 40.0))
    both = torch.cat([x.image, 0 * x.image])
    values = rate.per_step(both, torch.zeros_like(both))
    assert values.shape == (2, 2)
    assert values[1].tolist() == [0.0, 0.0]
    assert float(values[0, 0] / values[0, 1]) == pytest.approx(math.log2(1 + 64) / math.log2(1 + 4), rel=1e-4)


def test_stream_rate_is_relative_to_the_picture():
    x = one_wave(100.0, 2, 2, (1.0, 1.0, 1.0))
    compact, residual = CompactRate(), ResidualRate((24.0,))
    relative = StreamRate(compact, residual)
    expected = (float(compact(x).detach()) + float(residual(x))) / 0.5
    assert float(relative(x).detach()) == pytest.approx(expected, rel=1e-5)
    halved = x._replace(picture_rates=torch.full((1, 1), 1.0))
    assert float(relative(halved).detach()) == pytest.approx(expected / 2, rel=1e-5)
    with pytest.raises(UsageError, match="rates of the whole pictures"):
        relative(x._replace(picture_rates=None))


def test_discriminator_losses():
    torch.manual_seed(0)
    dnet = DNet(preset("tiny"), widths=(4, 8))
    image, other = images(2, (64, 64))
    x = reconstruction(image, other)
    adversarial = Adversarial(dnet)
    scores = [o[-1] for o in dnet(x.estimate, x.labels)]
    expected = np.mean([float(((s - 1) ** 2).mean()) for s in scores])
    assert float(adversarial.generator(x)) == pytest.approx(expected, rel=1e-5)
    same = Reconstruction(x.image, x.labels, x.compact, x.image)
    assert float(adversarial.feature_matching(same)) == 0.0
    assert float(adversarial.feature_matching(x)) > 0.0
    estimate = x.estimate.clone().requires_grad_(requires_grad=True)
    adversarial.discriminator(x._replace(estimate=estimate)).backward()
    assert estimate.grad is None


def test_perceptual_is_a_relative_difference_of_frozen_features():
    torch.manual_seed(0)
    weights = {}
    channels = 3
    for name, width in (("conv1_1", 64), ("conv1_2", 64), ("conv2_1", 128), ("conv2_2", 128)):
        weights[f"{name}.weight"] = torch.randn(width, channels, 3, 3) * 0.05
        weights[f"{name}.bias"] = torch.zeros(width)
        channels = width
    features = Vgg16Features(weights, stages=2)
    image, other = images(3, (32, 32))
    x = reconstruction(image, other)
    a, b = features(x.image), features(x.estimate)
    expected = 0.5 * (a[0] - b[0]).abs().mean() / a[0].mean() + (a[1] - b[1]).abs().mean() / a[1].mean()
    assert float(Perceptual(features)(x)) == pytest.approx(float(expected), rel=1e-4)
    assert not any(p.requires_grad for p in features.parameters())
    assert float(Perceptual(features.lowered())(x)) == pytest.approx(float(expected), rel=0.01)


def test_class_weights_are_median_frequency_balancing():
    shares = np.array([[0.75, 0.25, 0.0], [1 / 3, 0.0, 2 / 3]])
    # Frequencies where present: class 0: (3/4 + 1/3) / 2 = 13/24, class 1: 1/4, class 2: 2/3.
    np.testing.assert_allclose(
        class_weights(shares, 1.0), [1.0, (13 / 24) / (1 / 4), (13 / 24) / (2 / 3)], rtol=1e-6
    )
    np.testing.assert_allclose(class_weights(shares, 0.5)[1], math.sqrt(13 / 6), rtol=1e-6)
    assert class_weights(shares, 0.0).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(DataError, match="class 1 occurs in no label map"):
        class_weights(shares * [1, 0, 1], 1.0)


def test_block_shares_of_classes_people_and_nobody():
    labels = torch.tensor(
        [[0, 0, 7, PERSON], [0, 2, PERSON, PERSON], [VOID, VOID, 8, 8], [VOID, VOID, VOID, 1]],
        dtype=torch.uint8,
    )
    shares = block_shares(labels, K, 2)
    assert shares.shape == (K + 1, 2, 2)
    expected = torch.zeros(K + 1, 2, 2)
    expected[0, 0, 0], expected[2, 0, 0] = 0.75, 0.25
    expected[7, 0, 1], expected[K, 0, 1] = 0.25, 0.75
    expected[8, 1, 1], expected[1, 1, 1] = 0.5, 0.25
    assert torch.equal(shares, expected)
    # What is missing to 1 has no label.
    assert shares.sum(0).tolist() == [[1.0, 1.0], [0.0, 0.75]]


def test_cross_entropy_is_that_of_repeated_logits():
    torch.manual_seed(0)
    logits = torch.randn(2, K, 4, 6)
    labels = torch.randint(0, K + 3, (2, 16, 24))
    labels[labels >= K] = VOID
    weights = torch.rand(K + 1) + 0.5
    full = logits.repeat_interleave(4, 2).repeat_interleave(4, 3)
    expected = torch.nn.functional.cross_entropy(full, labels, weights[:K], ignore_index=VOID)
    targets = torch.stack([block_shares(each.byte(), K, 4) for each in labels])
    torch.testing.assert_close(cross_entropy(logits, targets, weights), expected)
    assert float(targets.sum() * 16) == pytest.approx(float((labels < K).sum()), rel=1e-6)


def test_a_person_asks_for_skin_and_clothes_together():
    torch.manual_seed(1)
    logits = torch.randn(1, K, 2, 2)
    p = torch.softmax(logits, 1)
    person = torch.zeros(1, K + 1, 2, 2)
    person[:, K] = 1.0
    weights = torch.ones(K + 1)
    expected = -torch.log(p[:, 7] + p[:, 8]).mean()
    torch.testing.assert_close(cross_entropy(logits, person, weights), expected)
    # Beside another class it counts by its weight: here three times.
    person[..., 1] = 0.0
    person[:, 3, :, 1] = 1.0
    weights[K] = 3.0
    parts = -3 * torch.log(p[:, 7, :, 0] + p[:, 8, :, 0]) - torch.log(p[:, 3, :, 1])
    torch.testing.assert_close(cross_entropy(logits, person, weights), parts.sum() / (2 * 3 + 2))
    # Which of the two takes it does not matter, so there is no gradient between them.
    logits = logits.requires_grad_()
    only = torch.zeros(1, K + 1, 2, 2)
    only[:, K] = 1.0
    cross_entropy(logits, only, torch.ones(K + 1)).backward()
    ratio = logits.grad[:, 7] / logits.grad[:, 8]
    torch.testing.assert_close(ratio, p[:, 7] / p[:, 8])
    assert (logits.grad[:, 7:9] < 0).all()
    assert (logits.grad[:, :7] > 0).all()


def test_soft_iou_of_certain_predictions_is_the_iou():
    """Of the merged classes: skin, clothes and people of unknown parts are one."""
    torch.manual_seed(2)
    labels = torch.randint(0, K + 2, (1, 32, 32))
    labels[labels == K] = PERSON
    labels[labels == K + 1] = VOID
    found = torch.where(
        torch.rand(1, 32, 32) < 0.5, labels.clamp_max(K - 1), torch.randint(0, K, (1, 32, 32))
    )
    logits = 50.0 * torch.nn.functional.one_hot(found, K).permute(0, 3, 1, 2).float()
    merged = (merge_person(each.byte().numpy()) for each in (labels, found))
    iou = metrics.class_iou(metrics.confusion_matrix(*merged, K))
    targets = block_shares(labels[0].byte(), K, 1)[None]
    assert np.isnan(iou[SKIN_HAIR])
    assert float(soft_iou_loss(logits, targets)) == pytest.approx(1 - np.nanmean(iou), abs=1e-4)
    # Skin for clothes is no error.
    swapped = logits.clone()
    swapped[:, [7, 8]] = logits[:, [8, 7]]
    assert float(soft_iou_loss(swapped, targets)) == pytest.approx(
        float(soft_iou_loss(logits, targets)), abs=1e-6
    )


def test_soft_iou_leaves_out_what_nobody_labeled():
    logits = 50.0 * torch.nn.functional.one_hot(torch.zeros(1, 4, 4, dtype=torch.int64), K)
    logits = logits.permute(0, 3, 1, 2).float()
    labels = torch.zeros(4, 4, dtype=torch.uint8)
    labels[2:] = VOID
    assert float(soft_iou_loss(logits, block_shares(labels, K, 1)[None])) == pytest.approx(0.0, abs=1e-5)
    labels[2:] = 5
    # Class 0: 8 of 16; class 5: none of 8.
    assert float(soft_iou_loss(logits, block_shares(labels, K, 1)[None])) == pytest.approx(0.75, abs=1e-5)


def test_smoothness_counts_borders():
    found = torch.zeros(1, 4, 4, dtype=torch.int64)
    found[:, :, 2:] = 1
    logits = 50.0 * torch.nn.functional.one_hot(found, 2).permute(0, 3, 1, 2).float()
    # 4 of the 12 pairs along rows differ, none along columns; each counts 2 in the sum of differences.
    assert float(smoothness_loss(logits)) == pytest.approx(0.25 * 2 * 4 / 12, abs=1e-4)
