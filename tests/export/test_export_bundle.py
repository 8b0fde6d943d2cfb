"""Export to a bundle: every graph against PyTorch, dynamic sizes, atomic writing, foreign networks."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import onnx_ir as ir
import pytest
import torch
from oslic.cli.main import main
from oslic.export import export_bundle, onnx_export, sources
from oslic.networks.checkpoint import Checkpoint, write
from oslic.networks.codec import create
from oslic.runtime.bundle.folder import Bundle
from oslic.runtime.bundle.manifest import GRAPH_NAMES
from oslic.runtime.errors import UsageError, VerificationError
from torch import nn

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    networks = create("tiny", 3)
    folder = tmp_path_factory.mktemp("checkpoint")
    write(folder, Checkpoint(networks.config, dict(networks.state_dict()), {"license": "none: random"}, {}))
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "tiny"
    assert main(["export", str(checkpoint), "-o", str(folder)]) == 0
    return Bundle.open(folder)


def test_the_bundle_is_complete(bundle, checkpoint):
    from oslic.networks.checkpoint import read

    manifest = bundle.manifest
    assert manifest.fingerprint == read(checkpoint).fingerprint
    assert manifest.license == "none: random"
    for name in GRAPH_NAMES:
        graph = manifest.graphs[name]
        assert (graph.form, graph.opset) == ("fused", onnx_export.OPSET)
        assert graph.macs_per_pixel > 0
        assert graph.working_bytes_per_pixel > 3
        assert bundle.read_graph(name)


def test_graphs_take_any_batch_and_size(bundle, checkpoint):
    from oslic.export.verify import run
    from oslic.networks.checkpoint import read

    source = sources._ours(read(checkpoint).networks(), {}, "0" * 64)
    generator = np.random.default_rng(0)
    for n, height, width in ((1, 32, 32), (3, 32, 96), (1, 128, 64)):
        image = generator.integers(0, 256, (n, height, width, 3), np.uint8)
        values = export_bundle._references(source, image)
        for name in GRAPH_NAMES:
            graph = bundle.manifest.graphs[name]
            y = run(bundle.read_graph(name), {key: values[key] for key in graph.inputs})[graph.output]
            wanted = values[graph.output]
            assert y.shape == wanted.shape
            assert np.mean(y != wanted) < 2e-3


def test_every_octave_layer_was_rewritten(bundle):
    model = ir.load(bundle.graph_path("synthesise"))
    counts = {}
    for node in model.graph:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    assert "BatchNormalization" not in counts
    segment = {node.op_type for node in ir.load(bundle.graph_path("segment")).graph}
    assert not segment & {"MaxUnpool", "ScatterND", "BatchNormalization"}


def test_an_existing_folder_is_not_overwritten(bundle, checkpoint, tmp_path, capsys):
    assert main(["export", str(checkpoint), "-o", str(bundle.path)]) == 2
    assert "--force" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(UsageError, match="is not a bundle"):
        export_bundle.write_bundle(tmp_path / "other", bundle.manifest, {}, replace=True)
    with pytest.raises(UsageError, match="does not exist"):
        export_bundle.write_bundle(tmp_path / "no" / "x", bundle.manifest, {}, replace=False)


def test_inspect_shows_the_bundle_and_finds_damage(bundle, tmp_path, capsys):
    import shutil

    assert main(["inspect", str(bundle.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["graphs"]["segment"]["intact"]
    copy = shutil.copytree(bundle.path, tmp_path / "copy")
    graph = copy / "analyse.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    assert main(["inspect", str(copy)]) == 5
    captured = capsys.readouterr()
    assert "DAMAGED" in captured.out
    assert "was altered" in captured.err


class Constant(nn.Module):
    """Its output's size does not follow the input's."""

    def forward(self, image):
        return image[:, :16, :16, 0] * 0


def test_a_dimension_that_became_constant_is_an_error():
    with pytest.raises((VerificationError, RuntimeError)):
        onnx_export.export_graph(Constant(), "segment", 4, 32)


def test_a_graph_that_computes_something_else_is_an_error(checkpoint, monkeypatch):
    from oslic.networks.checkpoint import read

    source = sources._ours(read(checkpoint).networks(), {}, "0" * 64)
    batches = [export_bundle._references(source, np.full((1, 64, 64, 3), 90, np.uint8))]
    batches[0]["labels"] = 10 - batches[0]["labels"]
    with pytest.raises(VerificationError, match="the graph segment does not match its reference"):
        export_bundle.build_graph(source, "segment", "naive", batches, 1)


def foreign():
    """A factory as a user would write it."""

    class Labels(nn.Module):
        def forward(self, image):
            return (image[:, ::2, ::2, 0] > 127).to(torch.uint8)

    class Compact(nn.Module):
        def forward(self, image, labels):
            x = image.to(torch.float32).permute(0, 3, 1, 2)
            y = nn.functional.avg_pool2d(x, 8) / 16 + 0 * labels.to(torch.float32).mean()
            return torch.round(y).clamp(0, 15).permute(0, 2, 3, 1).to(torch.uint8)

    class Estimate(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(1.0))

        def forward(self, compact, labels):
            x = compact.to(torch.float32).permute(0, 3, 1, 2) * self.gain
            y = nn.functional.interpolate(x, scale_factor=8.0, mode="nearest") * 16
            y = y + 0 * nn.functional.interpolate(labels[:, None].to(torch.float32), scale_factor=2.0)
            return torch.round(y).clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)

    from oslic.runtime.bundle.manifest import ClassInfo

    return sources.Source(
        name="foreign",
        graphs={"segment": Labels(), "analyse": Compact(), "synthesise": Estimate()},
        classes=(ClassInfo("dark", (0, 0, 0)), ClassInfo("bright", (255, 255, 255))),
        levels=16,
        label_scale=2,
        alpha=0.0,
        multiple=16,
    )


def test_networks_of_a_factory_are_exported(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules["my_networks"] = type(sys)("my_networks")
    sys.modules["my_networks"].make = foreign
    save_file({"synthesise.gain": torch.tensor(0.5)}, tmp_path / "w.safetensors")
    arguments = ["export", "my_networks:make", "-o", str(tmp_path / "b")]
    assert main([*arguments, "--weights", str(tmp_path / "w.safetensors")]) == 0
    manifest = Bundle.open(tmp_path / "b").manifest
    assert (manifest.name, manifest.label_scale, manifest.levels) == ("foreign", 2, 16)
    assert manifest.fingerprint != dataclasses.replace(foreign()).identity()
    del sys.modules["my_networks"]


@pytest.mark.parametrize("spec", ["no_such_module:f", "oslic.export.sources:nothing"])
def test_a_factory_that_is_not_there_is_named(spec):
    with pytest.raises(UsageError, match=spec.split(":", maxsplit=1)[0]):
        sources.from_factory(spec, None)
