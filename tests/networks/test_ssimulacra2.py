"""SSIMULACRA 2 in PyTorch against the package that the benchmarks use."""

import io

import numpy as np
import pytest
import torch
from oslic.bench.experiments.rate_distortion import METRICS
from oslic.networks.ssimulacra2 import Ssimulacra2
from oslic.training.losses import Reconstruction, VisualLoss
from PIL import Image

pytest.importorskip("ssimulacra2")


def planes(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file).convert("RGB"))


@pytest.mark.parametrize(("quality", "size"), [(5, (256, 288)), (20, (287, 301)), (85, (300, 451))])
def test_the_score_is_the_packages(photo, quality, size):
    image = photo[: size[0], : size[1]]
    other = jpeg(image, quality)
    expected = METRICS["ssimulacra2"](image, other)
    with torch.no_grad():
        found = Ssimulacra2()(planes(image), planes(other))
    assert found.shape == (1,)
    assert float(found) == pytest.approx(expected, abs=0.02)


def test_equal_pictures_score_100(photo):
    with torch.no_grad():
        assert float(Ssimulacra2()(planes(photo), planes(photo))) == pytest.approx(100, abs=0.01)


def test_a_step_along_the_gradient_makes_the_picture_better(photo):
    image = photo[:128, :160]
    other = (0.25 + 0.5 * planes(jpeg(image, 10))).requires_grad_()
    score = Ssimulacra2()
    before = score(planes(image), other).sum()
    before.backward()
    assert torch.isfinite(other.grad).all()
    with torch.no_grad():
        after = score(planes(image), other + 2e-3 * other.grad / other.grad.abs().max())
    assert float(after) > float(before) + 0.05


def test_gradients_are_finite_where_nothing_differs(photo):
    x = planes(photo[:96, :96])
    other = x.clone().requires_grad_()
    Ssimulacra2()(x, other).sum().backward()
    assert torch.isfinite(other.grad).all()


def test_the_loss_takes_gray_levels_of_256ths(photo):
    image, other = photo[:256, :256], jpeg(photo[:256, :256], 30)
    x = Reconstruction(
        planes(image) * 255 / 256,
        torch.zeros(1, 64, 64, dtype=torch.uint8),
        torch.zeros(1, 3, 32, 32),
        planes(other) * 255 / 256,
    )
    expected = METRICS["ssimulacra2"](image, other)
    with torch.no_grad():
        assert float(VisualLoss(Ssimulacra2())(x)) == pytest.approx((100 - expected) / 100, abs=5e-4)
