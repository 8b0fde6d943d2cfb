"""Kernels of the fused forms against PyTorch's convolution of the upsampled image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oslic.export.kernels import embed, phases, pooled, strided, transposed
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


@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (3, 5), (5, 5), (7, 7)])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 1, 0), (2, 2, 2, 2)])
def test_pooled_is_exact_borders_included(kernel, pads):
    weight, low, up = problem(*kernel)
    small = pooled(weight, pads)
    if small is None:
        assert min(size - 2 - pad for size in kernel for pad in pads) < 0
        return
    y = F.conv2d(padded(up, pads), torch.from_numpy(weight))
    # torch's padding is the same at both ends: take the whole and cut.
    whole = F.conv_transpose2d(low, torch.from_numpy(small.weight), stride=2)
    top, left, bottom, right = small.pads
    whole = whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right]
    part = F.avg_pool2d(whole, 2, stride=1)
    assert part.shape == y.shape
    assert torch.allclose(part, y, atol=2e-5)


def test_taps_are_as_few_as_they_should_be():
    sizes = {}
    for size in (1, 3, 5, 7):
        weight, _, _ = problem(size, size)
        p = size // 2
        sizes[size] = strided(weight, (p,) * 4).weight.shape[2]
    assert sizes == {1: 1, 3: 2, 5: 3, 7: 4}
    weight, _, _ = problem(3, 3)
    assert sum(np.prod(s.weight.shape[2:]) for s in phases(weight, (1,) * 4).values()) == 16
    assert np.prod(pooled(weight, (1,) * 4).weight.shape[2:]) == 9


def test_embedding_pads_with_zero_taps_or_refuses():
    weight, _, up = problem(1, 3)
    large = embed(weight, (0, 1, 0, 1), (5, 5), (2, 2, 2, 2))
    y = F.conv2d(up, torch.from_numpy(weight), None, 1, (0, 1))
    assert torch.allclose(F.conv2d(up, torch.from_numpy(large), None, 1, 2), y, atol=2e-5)
    assert embed(weight, (0, 0, 0, 0), (5, 5), (2, 2, 2, 2)) is None
