"""Fixtures: an exact bundle of small networks, made by the real command; a plug-in of pytest (tests/conftest.py)."""

from __future__ import annotations

from pathlib import Path

import integer_graphs
import onnx
import pytest
import small_bundle
from oslic.cli.main import main
from oslic.runtime.bundle.folder import Bundle
from PIL import Image

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
DOMAINS = {
    "synthesise": {"compact": small_bundle.LEVELS - 1, "labels": integer_graphs.CLASSES - 1},
    "refine": {"decoded": 255, "estimate": 255, "settings": 100},
}


@pytest.fixture(scope="session")
def float_bundle(tmp_path_factory) -> Bundle:
    """The same networks in float32."""
    graphs = {"synthesise": integer_graphs.synthesise(), "refine": integer_graphs.refine()}
    return small_bundle.write(tmp_path_factory.mktemp("bundles") / "float", graphs, refines=True)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """A folder of small photographs."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("chelsea.png", "coffee.png", "astronaut.png"):
        with Image.open(SAMPLES / name) as image:
            image.convert("RGB").resize((160, 128)).save(folder / name)
    return folder


@pytest.fixture(scope="session")
def exact_bundle(float_bundle, photographs, tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles") / "exact"
    arguments = ["calibrate", str(float_bundle.path), "--integer", "--graphs", "synthesise", "--images"]
    arguments += [
        str(photographs),
        "-o",
        str(folder),
        "--threads",
        "1",
        "--cache",
        str(folder.parent / "cache"),
    ]
    assert main(arguments) == 0
    return Bundle.open(folder)


@pytest.fixture(scope="session")
def exact_models(exact_bundle) -> dict[str, onnx.ModelProto]:
    """Its graphs of integers by name."""
    return {name: onnx.load_model_from_string(exact_bundle.read_graph(name)) for name in DOMAINS}
