"""Installed packages, under whatever name they came."""

from __future__ import annotations

import importlib.metadata

import onnxruntime
import pytest
from oslic.cli.main import main
from oslic.runtime.bundle.folder import default_bundle
from oslic.runtime.dependencies import installed


@pytest.fixture
def without_distribution(monkeypatch):
    """ONNX Runtime as onnxruntime-gpu installs it: the module without a distribution of that name."""
    own = importlib.metadata.version

    def version(name):
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return own(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_only_what_is_installed_is_named():
    assert set(installed("numpy", "no-such-package")) == {"numpy"}


def test_onnxruntime_is_found_under_every_name(without_distribution):
    assert installed("onnxruntime") == {"onnxruntime": onnxruntime.__version__}


def test_calibration_names_an_onnxruntime_that_is_too_old(monkeypatch, tmp_path, capsys):
    own = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "1.22.1" if name == "onnxruntime" else own(name)
    )
    words = ["calibrate", str(default_bundle()), "--images", str(tmp_path), "-o", str(tmp_path / "int8")]
    assert main(words) == 11
    error = capsys.readouterr().err
    assert "needs ONNX Runtime 1.23 or later" in error
    assert "here is 1.22.1" in error
