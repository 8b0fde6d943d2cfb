"""Training for integers: the rounding of steps, and how near it comes to a graph of integers that was calibrated."""

from __future__ import annotations

import pytest
import torch
from oslic.networks.config import preset
from oslic.networks.refine import RefineNet
from oslic.training.quantization import IntegerForm, Steps
from oslic.training.refinement import integer_form


def test_values_on_the_grid_stay_and_others_go_to_the_nearest_or_are_clipped():
    steps = Steps(torch.tensor([0.25, 0.5]), signed=True)
    x = torch.tensor([[0.25, 0.3, 40.0, -40.0], [0.5, 0.8, 70.0, -70.0]]).view(1, 2, 2, 2)
    assert steps.rounded(x).flatten(2)[0].tolist() == [[0.25, 0.25, 31.75, -32.0], [0.5, 1.0, 63.5, -64.0]]


def test_values_that_are_never_negative_end_at_zero():
    steps = Steps(torch.tensor([1.0]), signed=False)
    assert steps.rounded(torch.tensor([[[[-3.0, 0.4, 200.0]]]])).flatten().tolist() == [0.0, 0.0, 127.0]


def test_the_step_of_least_squared_error_clips_a_lone_outlier_and_nothing_of_a_flat_range():
    flat = torch.linspace(0.0, 127.0, 1000).view(1, 1, 10, 100)
    assert Steps.of(flat).steps.tolist() == [1.0]
    outlier = torch.linspace(0.0, 1.0, 100_000).view(1, 1, 100, 1000).clone()
    outlier[0, 0, 0, 0] = 4.0
    # Steps of 1/32 would clip nothing; those of 1/64 lose less.
    assert Steps.of(outlier).steps.item() < 1 / 32


def test_the_parts_of_a_value_have_steps_of_their_own():
    x = torch.cat([torch.full((1, 2, 4, 4), 127.0), torch.full((1, 1, 4, 4), -127.0 / 8)], 1)
    steps = Steps.of(x, (2, 1))
    assert steps.signed
    assert steps.steps.tolist() == [1.0, 1.0, 0.125]


def test_weights_lie_on_a_power_of_two_for_each_output_channel_and_behind_signed_values_have_7_bits():
    weight = torch.tensor([[1.0, 0.49], [0.013, -0.03]]).view(2, 2, 1, 1)
    unsigned = Steps(torch.ones(2), signed=False).rounded_weight(weight).flatten(1)
    signed = Steps(torch.ones(2), signed=True).rounded_weight(weight).flatten(1)
    # 1 needs steps of 1/64 to be at most 127, and may have them with 64 as well; 0.03 needs 1/4096 and 1/2048.
    assert (unsigned * torch.tensor([[64.0], [4096.0]])).tolist() == [[64.0, 31.0], [53.0, -123.0]]
    assert (signed * torch.tensor([[64.0], [2048.0]])).tolist() == [[64.0, 31.0], [27.0, -61.0]]


def test_a_weight_behind_parts_is_rounded_as_the_integers_see_it():
    steps = Steps(torch.tensor([1.0, 0.25]), signed=False)
    weight = torch.tensor([1.0, 1.0 / 3]).view(1, 2, 1, 1)
    rounded = steps.rounded_weight(weight).flatten()
    # The second channel's integers are worth a quarter: its weight has a step four times as large.
    assert rounded[0] == 1.0
    assert rounded[1] * 16 == round(16 / 3)


def test_gradients_pass_through_the_rounding_but_not_through_clips():
    x = torch.tensor([[[[0.3, 500.0]]]], requires_grad=True)
    Steps(torch.tensor([1.0]), signed=True).rounded(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1.0, 0.0]


@pytest.fixture
def refine() -> RefineNet:
    torch.manual_seed(3)
    config = preset("lite").refine
    assert config is not None
    network = RefineNet(config)
    torch.nn.init.normal_(network.head.weight, std=0.05)
    return network.eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    decoded = torch.randint(0, 256, (2, 3, 32, 32), generator=generator) / 256
    estimate = (decoded + torch.randn(decoded.shape, generator=generator) / 32).clamp(0, 1)
    return decoded, estimate, torch.tensor([[30, 0], [70, 1]])


def test_the_integer_form_is_near_the_network_and_leaves_it_as_it_was(refine):
    before = {name: value.clone() for name, value in refine.state_dict().items()}
    form = integer_form(refine)
    assert not form.calibrated
    form.calibrate(*inputs())
    assert form.calibrated
    with torch.no_grad():
        expected = refine(*inputs())
        found = form(*inputs())
        moved = (refine(*inputs()) - expected).abs().max()
    change = (expected - inputs()[0]).square().mean().sqrt()
    error = (found - expected).square().mean().sqrt()
    assert 0 < error < 0.1 * change
    assert moved == 0
    assert all(torch.equal(refine.state_dict()[name], value) for name, value in before.items())


def test_every_weight_learns_through_the_integer_form(refine):
    form = integer_form(refine)
    form.calibrate(*inputs())
    form(*inputs()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in refine.parameters())


def test_hooks_do_not_outlive_a_failure(refine):
    form = integer_form(refine)
    form.calibrate(*inputs())
    decoded, estimate, settings = inputs()
    with pytest.raises(RuntimeError):
        form(decoded, estimate[..., :16], settings)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in refine.modules())


def test_a_network_without_parts_has_one_step_a_value():
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(2, 1, 1))
    form = IntegerForm(network, ["0", "2"], ["2"], {})
    x = torch.randn(1, 2, 8, 8)
    form.calibrate(x)
    with torch.no_grad():
        assert (form(x) - network(x)).abs().max() < 0.2
