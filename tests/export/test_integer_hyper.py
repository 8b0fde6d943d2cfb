"""A hyper-synthesis of integers: exact in any order of additions, and near the trained one."""

import pytest
import torch
from oslic.export.integer_hyper import IntegerHyperSynthesis
from oslic.networks.transform.codec import TransformNetworks
from oslic.networks.transform.config import TransformConfig


@pytest.fixture(params=["scale", "mean_scale"])
def layers(request):
    torch.manual_seed(3)
    networks = TransformNetworks(TransformConfig("small", request.param, 32, 24)).eval()
    assert networks.hyper_synthesis is not None
    with torch.no_grad():
        networks.hyper_synthesis[-1 if request.param == "mean_scale" else -2].bias += 1.0
    return networks.hyper_synthesis


@pytest.fixture
def hyper():
    generator = torch.Generator().manual_seed(4)
    return [torch.round(6 * torch.randn(1, 32, 5, 7, generator=generator)) for _ in range(3)]


@torch.inference_mode()
def test_sums_are_the_same_in_every_order(layers, hyper):
    integer = IntegerHyperSynthesis(layers, hyper[:2]).eval()
    wanted = integer(hyper[2])
    assert torch.equal(integer.double()(hyper[2].double()).float(), wanted)
    integer.float()
    order = torch.randperm(32, generator=torch.Generator().manual_seed(5))
    first = integer.layers[0]
    first.weight = first.weight[order].contiguous()
    assert torch.equal(integer(hyper[2][:, order].contiguous()), wanted)


@torch.inference_mode()
def test_values_are_near_the_trained_ones(layers, hyper):
    integer = IntegerHyperSynthesis(layers, hyper[:2]).eval()
    trained, made = layers(hyper[2]), integer(hyper[2])
    assert float((made - trained).abs().mean()) < 0.01 * float(trained.abs().mean())
    # Far beyond what was measured, values end; they do not wrap or lose their exactness.
    wild = 1000 * hyper[2]
    assert torch.equal(integer(wild), integer.double()(wild.double()).float())


def test_each_layer_is_proved(layers, hyper):
    proofs = IntegerHyperSynthesis(layers, hyper).proofs
    assert len(proofs) == 3
    for proof in proofs:
        # As fine a grid as the sums allow: with one of half the step they would not be.
        assert proof.allowed / 8 < proof.largest < proof.allowed
