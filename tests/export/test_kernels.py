"""Kernels of the fused forms against PyTorch's convolution of the upsampled image."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oslic.export.kernels import behind, embed, phases, pooled, strided, transposed
from oslic.networks.kernels import upsampled_as_transposed, upsampled_strided

rng = np.random.default_rng(0)


def problem(height, width):
    weight = rng.standard_normal((4, 3, height, width)).astype(np.float32)
    low = torch.from_numpy(rng.standard_normal((2, 3, 5, 6)).astype(np.float32))
    return weight, low, F.interpolate(low, scale_factor=2, mode="nearest")


def padded(x, pads):
    return F.pad(x, (pads[1], pads[3], pads[0], pads[2]))


GEOMETRIES = [
    ((1, 1), (0, 0, 0, 0), (1, 1)),
    ((3, 3), (1, 1, 1, 1), (1, 1)),
    ((5, 5), (2, 2, 2, 2), (1, 1)),
    ((7, 7), (3, 3, 3, 3), (1, 1)),
    ((3, 5), (1, 2, 1, 2), (1, 1)),
    ((3, 3), (2, 2, 2, 2), (2, 2)),
    ((2, 2), (1, 1, 0, 0), (1, 1)),
    ((4, 4), (1, 2, 2, 1), (1, 1)),
]


@pytest.mark.parametrize(("kernel", "pads", "dilations"), GEOMETRIES)
def test_phases_are_exact(kernel, pads, dilations):
    weight, low, up = problem(*kernel)
    y = F.conv2d(padded(up, pads), torch.from_numpy(weight), None, 1, 0, dilations)
    found = phases(weight, pads, dilations)
    if y.shape[2] % 2 or y.shape[3] % 2:
        assert found is None
        return
    assert set(found) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for (a, b), small in found.items():
        part = F.conv2d(padded(low, small.pads), torch.from_numpy(small.weight))
        assert torch.allclose(part, y[:, :, a::2, b::2], atol=2e-5)


@pytest.mark.parametrize(("kernel", "pads", "dilations"), GEOMETRIES)
def test_strided_is_exact(kernel, pads, dilations):
    weight, low, up = problem(*kernel)
    y = F.conv2d(padded(up, pads), torch.from_numpy(weight), None, 2, 0, dilations)
    small = strided(weight, pads, dilations)
    if small is None:
        # Only where the low rate would have to be cropped.
        assert kernel in {(2, 2), (4, 4)}
        return
    part = F.conv2d(padded(low, small.pads), torch.from_numpy(small.weight))
    assert part.shape == y.shape
    assert torch.allclose(part, y, atol=2e-5)


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_transposed_is_exact_and_the_networks_own(size):
    weight, low, up = problem(size, size)
    p = size // 2
    y = F.conv2d(up, torch.from_numpy(weight), None, 1, p)
    small = transposed(weight, (p, p, p, p))
    part = F.conv_transpose2d(low, torch.from_numpy(small.weight), stride=2, padding=small.pads[0])
    assert torch.allclose(part, y, atol=2e-5)
    own = upsampled_as_transposed(torch.from_numpy(weight))
    assert np.allclose(small.weight, own.numpy(), atol=1e-6)
    merged, (before, after) = upsampled_strided(torch.from_numpy(weight))
    mine = strided(weight, (p, p, p, p))
    assert np.allclose(mine.weight, merged.numpy(), atol=1e-6)
    assert mine.pads == (before, before, after, after)


def repeated(low, factors):
    return low.repeat_interleave(factors[0], 2).repeat_interleave(factors[1], 3)


def pool(x, factors, pads):
    return F.avg_pool2d(padded(x, pads), factors, stride=1)


def cut(x, pads):
    """Less than nothing at the borders: what ConvTranspose's pads do."""
    top, left, bottom, right = pads
    return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]


@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (3, 5), (5, 5), (7, 7)])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 1, 0), (2, 2, 2, 2)])
@pytest.mark.parametrize("factors", [(2, 2), (3, 3), (4, 2), (1, 2)])
def test_pooled_is_exact_borders_included(kernel, pads, factors):
    weight, _, _ = problem(*kernel)
    low = torch.from_numpy(rng.standard_normal((2, 3, 9, 8)).astype(np.float32))
    up = repeated(low, factors)
    found = pooled(weight, pads, factors=factors)
    if found is None:
        assert any(pad >= size for pad, size in zip(pads, kernel * 2, strict=True))
        return
    small, around = found
    y = F.conv2d(padded(up, pads), torch.from_numpy(weight))
    whole = F.conv_transpose2d(low, torch.from_numpy(small.weight), stride=factors)
    part = pool(cut(whole, small.pads), factors, around)
    assert part.shape == y.shape
    assert torch.allclose(part, y, atol=4e-5)


@pytest.mark.parametrize("factors", [(2, 2), (3, 3), (4, 4), (2, 3), (1, 2)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 3), (4, 4), (1, 2)])
@pytest.mark.parametrize("group", [1, 2, 6])
def test_phases_of_any_factor_stride_and_group_are_exact(factors, strides, group):
    weight = rng.standard_normal((6, 6 // group, 3, 5)).astype(np.float32)
    low = torch.from_numpy(rng.standard_normal((2, 6, 5, 6)).astype(np.float32))
    pads = (1, 2, 1, 2)
    y = F.conv2d(padded(repeated(low, factors), pads), torch.from_numpy(weight), None, strides, 0, 1, group)
    found = phases(weight, pads, strides=strides, factors=factors)
    if found is None:
        assert any(s % f and f % s for s, f in zip(strides, factors, strict=True))
        return
    m, n = (f // math.gcd(s, f) for s, f in zip(strides, factors, strict=True))
    assert set(found) == set(itertools.product(range(m), range(n)))
    for (a, b), small in found.items():
        part = F.conv2d(
            padded(low, small.pads), torch.from_numpy(small.weight), None, small.strides, 0, 1, group
        )
        assert torch.allclose(part, y[:, :, a::m, b::n], atol=4e-5)
    if strides == (1, 1):
        small = transposed(weight, pads, factors=factors, group=group)
        part = F.conv_transpose2d(low, torch.from_numpy(small.weight), stride=factors, groups=group)
        assert torch.allclose(cut(part, small.pads), y, atol=4e-5)
        small, around = pooled(weight, pads, factors=factors, group=group)
        part = F.conv_transpose2d(low, torch.from_numpy(small.weight), stride=factors, groups=group)
        assert torch.allclose(pool(cut(part, small.pads), factors, around), y, atol=4e-5)


@pytest.mark.parametrize("factors", [(2, 2), (3, 2)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 1)])
def test_a_transposed_convolution_behind_an_upsampling_is_one(factors, strides):
    weight = rng.standard_normal((3, 4, 4, 3)).astype(np.float32)
    low = torch.from_numpy(rng.standard_normal((2, 3, 5, 6)).astype(np.float32))
    y = F.conv_transpose2d(repeated(low, factors), torch.from_numpy(weight), stride=strides, padding=1)
    kernel, own = behind(weight, strides, factors=factors)
    part = F.conv_transpose2d(low, torch.from_numpy(kernel), stride=own, padding=1)
    assert part.shape == y.shape
    assert torch.allclose(part, y, atol=4e-5)
    assert behind(weight, strides, (2, 2), factors=factors) is None


def test_taps_are_as_few_as_they_should_be():
    sizes = {}
    for size in (1, 3, 5, 7):
        weight, _, _ = problem(size, size)
        p = size // 2
        sizes[size] = strided(weight, (p,) * 4).weight.shape[2]
    assert sizes == {1: 1, 3: 2, 5: 3, 7: 4}
    weight, _, _ = problem(3, 3)
    assert sum(np.prod(s.weight.shape[2:]) for s in phases(weight, (1,) * 4).values()) == 16
    assert np.prod(pooled(weight, (1,) * 4)[0].weight.shape[2:]) == 9


def test_embedding_pads_with_zero_taps_or_refuses():
    weight, _, up = problem(1, 3)
    large = embed(weight, (0, 1, 0, 1), (5, 5), (2, 2, 2, 2))
    y = F.conv2d(up, torch.from_numpy(weight), None, 1, (0, 1))
    assert torch.allclose(F.conv2d(up, torch.from_numpy(large), None, 1, 2), y, atol=2e-5)
    assert embed(weight, (0, 0, 0, 0), (5, 5), (2, 2, 2, 2)) is None
