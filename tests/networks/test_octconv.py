"""Octave convolutions against plain formulas, and the fused form against the naive one."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from oslic.networks.kernels import upsampled_as_transposed, upsampled_strided
from oslic.networks.octconv import (
    FusedOctConv2d,
    Octave,
    OctBatchNorm2d,
    OctConv2d,
    OctResidualBlock,
    fuse,
    split,
)
from oslic.runtime.errors import UsageError

CASES = list(
    itertools.product(
        ("upsample_first", "convolve_first"),
        (1, 2),
        (1, 3, 5, 7),
        ((0.0, 0.5), (0.25, 0.75), (0.5, 0.0), (0.0, 0.0)),
    )
)


def features(channels: int, alpha: float, seed: int = 0) -> Octave:
    generator = torch.Generator().manual_seed(seed)
    high, low = split(channels, alpha)
    return Octave(
        torch.randn(2, high, 16, 24, generator=generator, dtype=torch.float64),
        torch.randn(2, low, 8, 12, generator=generator, dtype=torch.float64) if low else None,
    )


def repeat(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halve(x: torch.Tensor) -> torch.Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


@pytest.mark.parametrize(("order", "stride", "kernel", "alphas"), CASES)
def test_layer_is_its_formula(order, stride, kernel, alphas):
    torch.manual_seed(1)
    layer = OctConv2d(8, 16, kernel, stride, alpha_in=alphas[0], alpha_out=alphas[1], lh_order=order).double()
    x = features(8, alphas[0])
    y = layer(x)

    def convolve(value, part):
        return F.conv2d(value, part.weight, None, stride, kernel // 2)

    high = convolve(x.high, layer.hh) + layer.hh.bias.view(1, -1, 1, 1)
    if x.low is not None:
        up_first = order == "upsample_first"
        high = high + (convolve(repeat(x.low), layer.lh) if up_first else repeat(convolve(x.low, layer.lh)))
    torch.testing.assert_close(y.high, high, rtol=0, atol=1e-12)
    assert y.high.shape == (2, split(16, alphas[1])[0], 16 // stride, 24 // stride)
    if alphas[1] == 0:
        assert y.low is None
        return
    low = convolve(halve(x.high), layer.hl) + layer.hl.bias.view(1, -1, 1, 1)
    if x.low is not None:
        low = low + convolve(x.low, layer.ll)
    torch.testing.assert_close(y.low, low, rtol=0, atol=1e-12)
    assert y.low.shape[2:] == (8 // stride, 12 // stride)


@pytest.mark.parametrize(("order", "stride", "kernel", "alphas"), CASES)
def test_fused_equals_naive_borders_included(order, stride, kernel, alphas):
    torch.manual_seed(2)
    layer = OctConv2d(8, 16, kernel, stride, alpha_in=alphas[0], alpha_out=alphas[1], lh_order=order).double()
    x = features(8, alphas[0])
    naive, fused = layer(x), FusedOctConv2d(layer)(x)
    torch.testing.assert_close(fused.high, naive.high, rtol=0, atol=1e-12)
    if naive.low is None:
        assert fused.low is None
    else:
        torch.testing.assert_close(fused.low, naive.low, rtol=0, atol=1e-12)


def test_fused_is_wrong_at_odd_sizes_as_the_rules_say():
    """The identities need even sizes: this is why the exporter asks for a multiple."""
    torch.manual_seed(3)
    kernel = torch.randn(4, 4, 3, 3, dtype=torch.float64)
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    fused, _ = upsampled_strided(kernel)
    cropped = F.conv2d(repeat(x)[..., :9, :9], kernel, stride=2, padding=1)
    assert (F.conv2d(F.pad(x, (1, 0, 1, 0)), fused) - cropped).abs().max() > 0.1


@pytest.mark.parametrize(
    ("kernel", "taps", "padding"), [(1, 1, (0, 0)), (3, 2, (1, 0)), (5, 3, (1, 1)), (7, 4, (2, 1))]
)
def test_strided_kernel_sizes(kernel, taps, padding):
    fused, found = upsampled_strided(torch.ones(1, 1, kernel, kernel))
    assert fused.shape == (1, 1, taps, taps)
    assert found == padding
    assert float(fused.sum()) == kernel**2


def test_strided_kernel_of_three_adds_its_last_two_taps():
    fused, _ = upsampled_strided(torch.tensor([[[[1.0, 2, 4], [0, 0, 0], [0, 0, 0]]]]))
    assert fused.tolist() == [[[[1.0, 6.0], [0.0, 0.0]]]]


def test_transposed_kernel_is_the_flipped_kernel_with_a_box():
    fused = upsampled_as_transposed(torch.tensor([[[[1.0, 2, 3], [0, 0, 0], [0, 0, 0]]]]))
    assert fused[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [3, 5, 3, 1], [3, 5, 3, 1]]


def test_even_kernels_are_refused():
    with pytest.raises(UsageError, match="must be odd"):
        OctConv2d(8, 8, 4)
    with pytest.raises(UsageError, match="square and odd"):
        upsampled_strided(torch.ones(1, 1, 3, 5))


@pytest.mark.parametrize(
    ("arguments", "message"), [({"stride": 3}, "stride is 3"), ({"lh_order": "both"}, "lh_order is")]
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(UsageError, match=message):
        OctConv2d(8, 8, **arguments)


@pytest.mark.parametrize("alpha", [1.0, -0.1, 0.01])
def test_alpha_that_empties_a_rate_is_refused(alpha):
    with pytest.raises(UsageError, match="alpha"):
        split(8, alpha)


def test_batch_normalization_normalizes_each_rate():
    torch.manual_seed(4)
    x = features(8, 0.5)
    y = OctBatchNorm2d(8, 0.5).double()(Octave(x.high * 3 + 1, x.low * 5 - 2))
    for part in y:
        torch.testing.assert_close(
            part.mean((0, 2, 3)), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-6
        )
        torch.testing.assert_close(
            part.var((0, 2, 3), unbiased=False), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-4
        )


def test_fuse_replaces_every_layer_and_keeps_the_values():
    torch.manual_seed(5)
    block = OctResidualBlock(8, 0.5, "upsample_first").double()
    x = features(8, 0.5)
    before = block(x)
    fuse(block)
    assert not any(isinstance(m, OctConv2d) for m in block.modules())
    after = block(x)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
