"""Engines that are none, with their sidecars, and arrays on a device that is none."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from oslic.runtime.backends.cuda.driver import gpus
from oslic.runtime.bundle import engine_trust
from oslic.runtime.bundle.engine_files import EngineInfo

NO_GPU = not gpus()[0]
without_gpu = pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
HERE = {"version": "11.4.0", "gpu": "9.0", "precision": None}


class Interface:
    """A device array as CuPy, PyCUDA or Numba show theirs; only its description is read here."""

    def __init__(self, **changes):
        self.__cuda_array_interface__ = {
            "shape": (2, 3),
            "typestr": "|u1",
            "data": (0x7000, False),
            "version": 3,
            "strides": None,
            "stream": 7,
        } | changes


def profile(least, best, most):
    sizes = [(1, side, side) for side in (least, best, most)]
    return {"image": tuple((*s, 3) for s in sizes), "labels": tuple(sizes)}


INFO = EngineInfo(
    file="analyse.tensorrt.fp16.engine",
    sha256=hashlib.sha256(b"plan").hexdigest(),
    graph="analyse",
    graph_sha256="ab" * 32,
    backend="tensorrt",
    version="11.4.0",
    precision="fp16",
    gpu="9.0",
    profiles=(profile(32, 64, 96), profile(64, 128, 256)),
)


def put_engine(bundle, graph, *, built_here=True, **changes):
    """An engine file with its sidecar, as `oslic build` writes them."""
    shapes = {
        "segment": {"image": ((1, 32, 32, 3), (1, 512, 768, 3), (4, 1088, 1920, 3))},
        "analyse": {
            "image": ((1, 32, 32, 3), (1, 512, 768, 3), (4, 1088, 1920, 3)),
            "labels": ((1, 8, 8), (1, 128, 192), (4, 272, 480)),
        },
        "synthesise": {
            "compact": ((1, 4, 4, 3), (1, 64, 96, 3), (4, 136, 240, 3)),
            "labels": ((1, 8, 8), (1, 128, 192), (4, 272, 480)),
        },
        "refine": {
            "decoded": ((1, 32, 32, 3), (1, 512, 768, 3), (4, 1088, 1920, 3)),
            "estimate": ((1, 32, 32, 3), (1, 512, 768, 3), (4, 1088, 1920, 3)),
            "settings": ((1, 2), (1, 2), (4, 2)),
        },
    }
    info = dataclasses.replace(
        INFO,
        graph=graph,
        graph_sha256=bundle.manifest.graphs[graph].sha256,
        profiles=(shapes[graph],),
        **changes,
    )
    stem = f"{graph}.{info.backend}.{info.precision}"
    info = dataclasses.replace(info, file=f"{stem}.engine")
    folder = bundle.path / "engines"
    folder.mkdir(exist_ok=True)
    (folder / info.file).write_bytes(b"plan")
    (folder / f"{stem}.json").write_text(info.to_json())
    if built_here:
        engine_trust.record(info)
    return info
