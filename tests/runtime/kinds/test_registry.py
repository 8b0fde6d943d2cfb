"""Kinds that other packages register: found by their entry points, refused where they do not keep the contract."""

import dataclasses
import importlib
import sys
import textwrap

import numpy as np
import pytest
from kind_bundles import write_transform
from oslic.cli.main import main
from oslic.runtime.errors import BundleError, DependencyError, StreamError
from oslic.runtime.kinds.opening import open_codec
from oslic.runtime.kinds.registry import find_kind, installed_kinds


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package of one module that registers the kind `mine`."""

    def write(module: str, entry: str = "mine_package:Mine") -> None:
        folder = tmp_path / "site"
        info = folder / "mine_package-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / "mine_package.py").write_text(textwrap.dedent(module))
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine-package\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[oslic.codecs]\nmine = {entry}\n")
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, "mine_package", raising=False)

    return write


MINE = """
from oslic.runtime.kinds import LearnedCodec

class Mine(LearnedCodec):
    kind = "mine"
    graphs = ("analysis", "synthesis")
    decoding_graphs = ("synthesis",)
    sections = {"latents": 5}

    def __init__(self, bundle):
        self.channels = bundle.manifest.settings["latents"]

    def encode(self, image, run):
        latents = run("analysis", image=image[None]).round()
        run.check("latents", latents.astype("int32"))
        return {"latents": latents.astype("<i2").tobytes()}

    def decode(self, sections, run):
        import numpy as np
        shape = (1, self.channels, run.height // 16, run.width // 16)
        latents = np.frombuffer(sections["latents"], "<i2").reshape(shape).astype(np.float32)
        run.check("latents", latents.astype("int32"))
        return run("synthesis", latents=latents)[0]
"""


@pytest.fixture
def bundle(tmp_path):
    """A bundle of the kind `mine`."""
    made = write_transform(tmp_path / "bundle", "none")
    manifest = dataclasses.replace(made.manifest, kind="mine", package="mine-package")
    (made.path / "manifest.json").write_text(manifest.to_json())
    return made.path


def test_a_registered_kind_compresses_and_decompresses(install, bundle, photo):
    install(MINE)
    assert installed_kinds() == ["oslic", "transform", "mine"]
    with open_codec(bundle, "onnxruntime-cpu") as codec:
        decoded = codec.decode(codec.encode(photo).data).image
    assert decoded.shape == photo.shape
    assert np.abs(decoded.astype(int).mean((0, 1)) - photo.mean((0, 1))).max() < 3


def test_what_a_kind_raises_of_damaged_sections_becomes_our_error(install, bundle, photo):
    install(MINE.replace('.astype("<i2").tobytes()', '.astype("<i2").tobytes()[:-2]'))
    with open_codec(bundle, "onnxruntime-cpu") as codec:
        data = codec.encode(photo).data
        with pytest.raises(StreamError, match="cannot decode tile 0: ValueError"):
            codec.decode(data)


def test_without_its_package_a_bundle_and_a_stream_name_it(
    install, bundle, photo, tmp_path, monkeypatch, capsys
):
    install(MINE)
    with open_codec(bundle, "onnxruntime-cpu") as codec:
        stream = tmp_path / "photo.oslic"
        stream.write_bytes(codec.encode(photo).data)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(tmp_path / "site")])
    importlib.invalidate_caches()
    assert "mine" not in installed_kinds()
    with pytest.raises(BundleError, match="the package mine-package brings: pip install mine-package"):
        open_codec(bundle)
    assert main(["decompress", str(stream), "-o", str(tmp_path / "a.png")]) == 5
    assert "pip install mine-package" in capsys.readouterr().err
    # What needs no codec works all the same.
    assert main(["info", str(stream)]) == 0
    assert "mine-package" in capsys.readouterr().out
    assert main(["verify", "--checksums", str(stream)]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('kind = "mine"', 'kind = "yours"'), "its kind is 'yours'"),
        (('{"latents": 5}', '{"latents": 0x7f}'), "its sections are"),
        (('{"latents": 5}', "{}"), "its sections are"),
        (('("synthesis",)', '("other",)'), "its decoding_graphs are"),
        (("(LearnedCodec)", ""), "derives from LearnedCodec"),
    ],
)
def test_a_class_that_does_not_keep_the_contract_is_refused(install, change, message):
    install(MINE.replace(*change))
    with pytest.raises(BundleError, match=message):
        find_kind("mine")


def test_a_class_that_is_not_there_or_does_not_load_is_refused(install):
    install("import a_package_that_nobody_has")
    with pytest.raises(DependencyError, match="a_package_that_nobody_has"):
        find_kind("mine")


def test_a_kind_that_nobody_brings_is_refused():
    with pytest.raises(BundleError, match=r"no installed package brings .*installed: oslic, transform"):
        find_kind("unheard_of")
