"""OpenVINO beside ONNX Runtime: the same numbers, in the precision that was asked for, and nothing sent anywhere."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import foreign_networks
import numpy as np
import pytest
import small_bundle
from oslic.cli.main import main
from oslic.runtime.backends import Options, probe, select
from oslic.runtime.codec import Codec
from oslic.runtime.errors import BackendError, UsageError
from oslic.runtime.model import random_feeds, read_model
from oslic.runtime.model.running import load

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None,
    reason="OpenVINO is not installed: pip install 'oslic[openvino]'",
)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    return {
        make.__name__: read_model(foreign_networks.save(make(), folder / f"{make.__name__}.onnx"))
        for make in (foreign_networks.unet, foreign_networks.two_headed, foreign_networks.arithmetic)
    }


def outputs(model, feeds, backend, **options):
    loaded = load(model, backend, Options(threads=1, **options))
    try:
        return loaded.run(feeds)
    finally:
        loaded.close()


@pytest.mark.parametrize("name", ["unet", "two_headed", "arithmetic"])
def test_float_graphs_are_computed_in_float32(graphs, name):
    model = graphs[name]
    feeds = random_feeds(model.inputs, {"input": (2, 3, 32, 48)} if name == "unet" else {}, seed=1)
    ours, reference = (outputs(model, feeds, backend) for backend in ("openvino", "onnxruntime-cpu"))
    assert list(ours) == list(reference)
    for key, y in reference.items():
        assert ours[key].dtype == y.dtype
        # bfloat16, which OpenVINO takes by itself where the processor has it, is off by 1e-3 and more.
        np.testing.assert_allclose(ours[key], y, rtol=2e-5, atol=2e-6)


def test_other_precisions_must_be_asked_for(graphs):
    model = graphs["unet"]
    feeds = random_feeds(model.inputs, {"input": (1, 3, 32, 48)})
    reference = outputs(model, feeds, "openvino")["mask"]
    try:
        off = np.abs(outputs(model, feeds, "openvino", precision="bf16")["mask"] - reference).max()
    except BackendError:
        pytest.skip("this processor has no bfloat16")
    assert 1e-5 < off < 2e-2


def test_bundles_run_on_it(photo, tmp_path):
    bundle = small_bundle.write(tmp_path / "small")
    found = {
        name: select(name, bundle, Options(threads=1)).backend for name in ("openvino", "onnxruntime-cpu")
    }
    image = np.ascontiguousarray(photo[None, :64, :96])
    labels = [backend.load("segment")(image) for backend in found.values()]
    assert np.mean(labels[0] == labels[1]) > 0.999
    compact = [backend.load("analyse")(image, labels[1]) for backend in found.values()]
    assert np.mean(compact[0] == compact[1]) > 0.99
    estimates = [backend.load("synthesise")(compact[1], labels[1]).astype(int) for backend in found.values()]
    assert np.abs(estimates[0] - estimates[1]).max() <= 1


def test_the_shipped_codec_runs_on_it(float_lite, photo):
    with Codec.open(float_lite, backend="openvino", threads=1) as codec:
        image = photo[:96, :128]
        back = codec.decompress(codec.compress(image, quality=60))
    assert np.abs(back.astype(int) - image).mean() < 5


def test_layer_times_tell_the_kernels(graphs):
    model = graphs["unet"]
    loaded = load(model, "openvino", Options(threads=1))
    found = loaded.runner.layer_times(random_feeds(model.inputs, {"input": (1, 3, 64, 64)}), 3)
    assert sum(layer.operator.startswith(("Convolution", "Deconvolution")) for layer in found) == 8
    assert all(layer.milliseconds > 0 for layer in found)
    loaded.close()
    with pytest.raises(BackendError, match="was closed"):
        loaded.run({})


def test_what_it_cannot_do_is_said(graphs, tmp_path, capsys):
    assert not probe("openvino", None, Options(timeout=1)).usable
    with pytest.raises(BackendError, match="not in int8"):
        outputs(graphs["unet"], {}, "openvino", precision="int8")
    with pytest.raises(BackendError, match="no running it unoptimized"):
        outputs(graphs["unet"], {}, "openvino", optimize=False)
    loaded = load(graphs["unet"], "openvino")
    with pytest.raises(UsageError, match="OpenVINO failed in the unet graph on inputs"):
        loaded.run({"input": np.zeros((1, 5, 8, 8), np.float32)})
    model = foreign_networks.arithmetic()
    model.graph.node[0].op_type = "NoSuchOperator"
    path = foreign_networks.save(model, tmp_path / "m.onnx")
    assert main(["run", str(path), "--backend", "openvino"]) == 6
    error = capsys.readouterr().err
    assert "m.onnx: OpenVINO cannot load the graph" in error
    assert error.count("\n") == 1


def test_nothing_is_sent_or_written_when_it_is_imported(tmp_path):
    code = (
        "import sys\n"
        "from oslic.runtime.backends.openvino import find_openvino\n"
        "assert find_openvino()[0].Core().available_devices\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
