"""Bundles of a kind of one's own: what names them, and graphs that engines can be built from."""

import numpy as np
import onnx
import pytest
import torch
from conftest import SAMPLES
from oslic.export.kind_bundle import export_kind
from oslic.export.kind_source import IMAGE, KindGraph, KindSource, TensorInput
from oslic.export.verify import run


class Encoder(torch.nn.Module):
    def forward(self, image):
        small = torch.nn.functional.avg_pool2d(image.permute(0, 3, 1, 2).float(), 8)
        return torch.round(small).permute(0, 2, 3, 1).to(torch.uint8)


class Decoder(torch.nn.Module):
    def __init__(self, offset):
        super().__init__()
        self.offset = offset

    def forward(self, latent):
        large = torch.nn.functional.interpolate(latent.permute(0, 3, 1, 2).float(), scale_factor=8.0)
        return torch.clamp(large + self.offset, 0, 255).permute(0, 2, 3, 1).to(torch.uint8)


def export(folder, offset):
    source = KindSource(
        kind="means",
        name="means",
        package="means",
        multiple=8,
        graphs={
            "encode": KindGraph(Encoder(), {"image": IMAGE}, "latent"),
            "decode": KindGraph(Decoder(offset), {"latent": TensorInput(8, 3, "uint8", "NHWC")}, "picture"),
        },
    )
    return export_kind(source, folder, [SAMPLES / "coffee.png"], progress=lambda _: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kinds")


def test_networks_that_differ_by_a_constant_are_not_the_same(folder):
    one, same, other = (
        export(folder / name, offset).fingerprint
        for name, offset in (("one", 0.0), ("same", 0.0), ("other", 40.0))
    )
    assert one == same != other


def test_pictures_are_converted_before_they_are_transposed(folder):
    export(folder / "order", 0.0)
    for name in ("encode", "decode"):
        model = onnx.load(folder / "order" / f"{name}.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert [node.op_type for node in model.graph.node][:2] == ["Cast", "Transpose"]
    picture = np.random.default_rng(0).integers(0, 256, (1, 24, 32, 3), np.uint8)
    latent = run((folder / "order" / "encode.onnx").read_bytes(), {"image": picture})["latent"]
    wanted = picture.reshape(1, 3, 8, 4, 8, 3).mean((2, 4))
    assert np.abs(latent - wanted).max() <= 0.5 + 1e-3
