"""Fixtures that several test files share."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from oslic.cli.main import main
from oslic.runtime.bundle.folder import Bundle, default_bundle
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "fuzz"))
sys.path.insert(0, str(ROOT / "tests" / "support"))
pytest_plugins = ["engine_fixtures", "exact_fixtures"]
SAMPLES = ROOT / "samples"
SHARED = Path(os.environ.get("OSLIC_SHARED", ROOT.parent / "shared"))


def pytest_collection_modifyitems(items):
    if SHARED.is_dir():
        return
    skip = pytest.mark.skip(reason=f"needs the data folder {SHARED} (set OSLIC_SHARED)")
    for item in items:
        if "shared" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data folder; tests that use it carry the mark `shared`."""
    return SHARED


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of the sample photographs."""
    return SAMPLES


@pytest.fixture(scope="session")
def float_lite() -> Bundle:
    """The shipped networks in float32: the shipped bundle where it is that, else what its checkpoint exports."""
    shipped = Bundle.open(default_bundle())
    if shipped.manifest.quantization is None:
        return shipped
    fingerprint = shipped.manifest.quantization["float_fingerprint"]
    folder = ROOT / "build" / f"lite-{fingerprint[:16]}"
    folder.parent.mkdir(exist_ok=True)
    # Takes a minute or more: it is kept, and one process makes it for all.
    with (folder.parent / "lite.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            assert main(["export", str(ROOT / "checkpoints" / "lite"), "-o", str(folder), "--force"]) == 0
    bundle = Bundle.open(folder)
    assert bundle.manifest.fingerprint == fingerprint, "make bundle: the checkpoint is another one"
    return bundle


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A real photograph, uint8 (300, 451, 3)."""
    return np.array(Image.open(SAMPLES / "chelsea.png").convert("RGB"))


@pytest.fixture(autouse=True, scope="session")
def state_home(tmp_path_factory):
    """A state folder of the tests' own: they neither read nor write the user's."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with networks that are nobody's codec, which is the current one."""
    import foreign_networks

    foreign_networks.save_all(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
