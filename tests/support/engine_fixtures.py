"""Fixtures, a plug-in of pytest: a bundle that tests may change, and one whose engines a stand-in runs."""

from __future__ import annotations

import hashlib
import shutil

import pytest
from host_product import HostDriver, product
from oslic.runtime.backends.cuda import bindings as cuda
from oslic.runtime.backends.cuda import driver as cuda_driver
from oslic.runtime.backends.cuda.driver import Gpu
from oslic.runtime.backends.tensorrt import backend as tensorrt
from oslic.runtime.bundle.folder import Bundle, default_bundle
from stand_in_engines import put_engine


@pytest.fixture
def bundle(tmp_path):
    """A copy of the shipped bundle."""
    return Bundle.open(shutil.copytree(default_bundle(), tmp_path / "lite"))


@pytest.fixture
def stand_in(bundle, monkeypatch):
    """The bundle with "engines" that hold its graphs, and a product that runs them on host memory."""
    driver = HostDriver()
    module = product(driver)
    monkeypatch.setattr(tensorrt, "load_product", lambda name: module)
    monkeypatch.setattr(cuda_driver, "gpus", lambda: ([Gpu("a stand-in", "9.0")], ""))
    monkeypatch.setattr(cuda, "package", lambda: "host")
    monkeypatch.setattr(cuda, "open_driver", lambda: driver)
    for graph in bundle.manifest.graph_names:
        data = bundle.read_graph(graph)
        info = put_engine(bundle, graph, precision="fp32", sha256=hashlib.sha256(data).hexdigest())
        (bundle.path / "engines" / info.file).write_bytes(data)
    return bundle, module, driver
