"""Every GPU backend against the CPU, on a machine with a GPU."""

from __future__ import annotations

import importlib
import importlib.util
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from oslic.runtime import backends
from oslic.runtime.backends import probe_all
from oslic.runtime.backends.cuda.driver import gpus
from oslic.runtime.bundle.engine_files import (
    PRODUCTS,
)
from oslic.runtime.codec import Codec
from oslic.runtime.model.source import model_of
from stand_in_engines import NO_GPU

GPU_BACKENDS = [name for name in backends.BACKENDS if name not in {"onnxruntime-cpu", "openvino"}]


def require_gpu_backend(name, bundle):
    """Build what it runs; skip where it cannot be used."""
    if NO_GPU:
        pytest.skip(f"needs an NVIDIA GPU: {gpus()[1]}")
    from oslic.export.engines import Options as BuildOptions
    from oslic.export.engines import build_engine, profiles_of

    if name in PRODUCTS and importlib.util.find_spec(PRODUCTS[name]) is not None:
        for graph in bundle.manifest.graph_names:
            model = model_of(bundle, graph)
            profiles = profiles_of(model, bundle=bundle)
            build_engine(model, name, "fp32", profiles, bundle.path / "engines", options=BuildOptions())
    found = probe_all(bundle)[name]
    if not found.usable:
        pytest.skip(found.reason)


@pytest.mark.gpu
@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_every_gpu_backend_agrees_with_the_cpu(name, bundle, photo):
    require_gpu_backend(name, bundle)
    with Codec.open(bundle, "onnxruntime-cpu") as reference, Codec.open(bundle, name) as codec:
        wanted = reference.layers(photo)
        for _ in range(3):  # plain, recorded, replayed
            y = codec.graphs.synthesise(wanted.compact, wanted.labels, *photo.shape[:2])
            difference = np.abs(y.astype(int) - wanted.estimate)
            assert difference.max() <= 1
            assert (difference > 0).mean() < 0.01


@pytest.mark.gpu
@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_a_gpu_is_used_from_several_threads(name, bundle, photo):
    """One thread records CUDA graphs while another one's networks run."""
    require_gpu_backend(name, bundle)
    images = [photo[: 64 + 32 * (k % 3), :96] for k in range(16)]
    with Codec.open(bundle, name) as codec, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(codec.layers, images))
        for image, layers in zip(images, found, strict=True):
            wanted = codec.layers(image)
            assert np.array_equal(layers.labels, wanted.labels)
            assert np.abs(layers.estimate.astype(int) - wanted.estimate).max() <= 1
