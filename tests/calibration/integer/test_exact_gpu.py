"""Exact bundles on GPUs: every backend that takes them gives the bytes of plain whole numbers."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from integer_interpreter import Interpreter
from oslic.cli.main import main
from oslic.runtime.backends import BACKENDS, Options, select
from oslic.runtime.backends.cuda.driver import gpus
from oslic.runtime.bundle.folder import Bundle
from oslic.runtime.errors import BackendError
from test_exact import DOMAINS, feeds_of

pytestmark = pytest.mark.gpu

ENGINES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@pytest.fixture(scope="module")
def with_engines(exact_bundle, tmp_path_factory):
    """The bundle with int8 engines of every product that is installed."""
    found, reason = gpus()
    if not found:
        pytest.skip(f"no GPU: {reason}")
    folder = tmp_path_factory.mktemp("bundles") / "engines"
    shutil.copytree(exact_bundle.path, folder)
    for product, module in ENGINES.items():
        try:
            __import__(module)
        except ImportError:
            continue
        words = [
            "build",
            str(folder),
            "--backend",
            product,
            "--precision",
            "int8",
            "--shapes",
            "1x32x32,1x64x96,1x128x128",
        ]
        assert main([*words, "--graph", "synthesise", "--graph", "refine"]) == 0
    return Bundle.open(folder)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "onnxruntime-cpu"])
@pytest.mark.parametrize("graph", list(DOMAINS))
def test_every_backend_of_a_gpu_agrees_with_whole_numbers(with_engines, exact_models, photo, backend, graph):
    try:
        runner = select(backend, with_engines, Options(trust_engines=True)).backend.load(graph)
    except BackendError as error:
        pytest.skip(f"{backend}: {error}")
    for kind in ("natural", "random", "extreme"):
        feeds = feeds_of(graph, kind, photo)
        wanted = Interpreter(exact_models[graph]).run(**feeds)
        assert np.array_equal(runner(*feeds.values()), wanted), kind


@pytest.mark.parametrize("graph", list(DOMAINS))
def test_pytorch_on_a_gpu(exact_models, photo, graph):
    torch = pytest.importorskip("torch")
    import torch_interpreter

    if not torch.cuda.is_available():
        pytest.skip("this PyTorch sees no GPU")
    # Winograd's fractions are not those of sums of products.
    with torch.backends.cudnn.flags(enabled=False):
        for kind in ("natural", "random", "extreme"):
            feeds = feeds_of(graph, kind, photo)
            wanted = Interpreter(exact_models[graph]).run(**feeds)
            assert np.array_equal(torch_interpreter.run(exact_models[graph], "cuda", **feeds), wanted), kind
