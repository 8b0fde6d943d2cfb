"""Metrics against published packages and against formulas worked out by hand."""

from __future__ import annotations

import itertools

import bjontegaard
import numpy as np
import pytest
import torch
from oslic.measure import metrics
from pytorch_msssim import ms_ssim
from skimage import data
from skimage.metrics import peak_signal_noise_ratio


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    image = data.astronaut()[:351, :400]
    noise = np.random.default_rng(7).normal(0, 12, image.shape)
    return image, np.clip(image + noise, 0, 255).astype(np.uint8)


def test_psnr_agrees_with_skimage(pair):
    image, other = pair
    assert metrics.psnr(image, other) == pytest.approx(
        peak_signal_noise_ratio(image, other, data_range=255), abs=1e-9
    )


def test_psnr_of_equal_images_is_infinite(pair):
    assert metrics.psnr(pair[0], pair[0]) == float("inf")


def test_a_color_shift_is_the_mean_over_blocks_of_what_their_means_differ():
    image = np.full((70, 130, 3), 100, np.uint8)
    assert metrics.color_shift(image, image) == 0
    # Six blocks, of which the lower right one is 2x6: one channel of it, and noise that cancels within blocks.
    other = image.copy()
    other[64:, 128:, 1] += 9
    other[:64:2, :64] += 5
    other[1:64:2, :64] -= 5
    assert metrics.color_shift(image, other) == pytest.approx(9 / 6 / 3)
    assert metrics.color_shift(image[..., 0], other[..., 1]) == pytest.approx(9 / 6)


def test_psnr_ycbcr_of_a_gray_shift_counts_luma_alone():
    image = np.full((8, 8, 3), 100, np.uint8)
    other = image.copy()
    other[0] += 4
    luma = 10 * np.log10(255**2 / (16 / 8))
    assert metrics.psnr_ycbcr(image, other) == float("inf")
    other[:, :, 2] += 10
    assert metrics.psnr_ycbcr(image, other) < luma


@pytest.mark.parametrize("size", [(351, 400), (350, 399), (176, 176)])
def test_ms_ssim_agrees_with_pytorch_msssim(pair, size):
    image, other = (x[: size[0], : size[1]] for x in pair)
    a, b = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None].double() for x in (image, other))
    # The package computes its window in float32: some 4e-6 of difference.
    assert metrics.ms_ssim(image, other) == pytest.approx(float(ms_ssim(a, b, data_range=255)), abs=1e-5)


def test_ms_ssim_names_the_size_that_is_too_small():
    small = np.zeros((160, 300), np.uint8)
    with pytest.raises(ValueError, match="above 160 pixels, the image is 300x160"):
        metrics.ms_ssim(small, small)


CURVES = [
    (np.array([0.12, 0.25, 0.48, 0.9, 1.6]), np.array([27.9, 30.2, 32.8, 35.6, 38.7])),
    (np.array([0.1, 0.22, 0.5, 0.85, 1.5]), np.array([28.3, 30.6, 33.6, 35.9, 38.9])),
    (np.array([0.15, 0.31, 0.52, 1.1, 1.7, 2.2]), np.array([27.0, 30.0, 32.1, 35.8, 38.0, 39.9])),
    (np.array([0.2, 0.3, 0.7, 1.3]), np.array([29.5, 30.9, 34.6, 37.8])),
]


@pytest.mark.parametrize("method", ["cubic", "pchip", "akima"])
@pytest.mark.parametrize("pair_of_curves", list(itertools.permutations(range(4), 2)))
def test_bd_rate_agrees_with_the_bjontegaard_package(method, pair_of_curves):
    (rate_a, quality_a), (rate_b, quality_b) = (CURVES[i] for i in pair_of_curves)
    ours = metrics.bd_rate(rate_a, quality_a, rate_b, quality_b, method=method)
    theirs = bjontegaard.bd_rate(
        rate_a, quality_a, rate_b, quality_b, method=method, require_matching_points=False
    )
    assert ours == pytest.approx(theirs, abs=0.01)


def test_bd_rate_of_a_curve_that_costs_a_tenth_more():
    rate, quality = CURVES[0]
    assert metrics.bd_rate(rate, quality, rate * 1.1, quality) == pytest.approx(10, abs=1e-9)
    within = metrics.bd_rate(rate, quality, rate * 1.1, quality, quality_range=(30, 34))
    assert within == pytest.approx(10, abs=1e-9)


@pytest.mark.parametrize(
    ("rate", "quality", "message"),
    [
        ([0.1], [30], "at least 2"),
        ([0.1, 0.2], [30, 30], "equal quality"),
        ([0, 0.2], [30, 31], "not positive"),
        ([0.1, 0.2], [50, 51], "no quality in common"),
    ],
)
def test_bd_rate_refuses_curves_it_cannot_use(rate, quality, message):
    with pytest.raises(ValueError, match=message):
        metrics.bd_rate(*CURVES[0], rate, quality)


def test_mean_iou_ignores_void_and_absent_classes():
    truth = np.array([[0, 0, 1, 1], [1, 11, 11, 3]])
    found = np.array([[0, 1, 1, 1], [0, 2, 3, 3]])
    confusion = metrics.confusion_matrix(truth, found, 11)
    iou = metrics.class_iou(confusion)
    assert iou[0] == pytest.approx(1 / 3)
    assert iou[1] == pytest.approx(2 / 4)
    assert iou[3] == 1
    assert np.isnan(iou[2])
    assert metrics.mean_iou(confusion) == pytest.approx((1 / 3 + 0.5 + 1) / 3)
