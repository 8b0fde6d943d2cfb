"""docs/guides/any-graph.md: every example runs, in the order given; every command that it names has the options it says."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil

import foreign_networks
import pytest
from conftest import ROOT
from oslic.runtime.cli import main

PAGE = (ROOT / "docs" / "guides" / "any-graph.md").read_text(encoding="utf-8")
EXAMPLES = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def test_every_example_runs_in_the_order_given(tmp_path, monkeypatch, samples):
    commands = [line for line in EXAMPLES if line.startswith("oslic ")]
    assert len(commands) == len(EXAMPLES) > 10
    foreign_networks.save(foreign_networks.unet(), tmp_path / "unet.onnx")
    shutil.copytree(samples, tmp_path / "photos")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for command in commands:
        if "tensorrt-rtx" in command and importlib.util.find_spec("tensorrt_rtx") is None:
            continue
        assert main(shlex.split(command)[1:]) == 0, command
    for made in ("out.npz", "difference.json", "unet16.onnx", "unet8.calibration.html", "latency.json"):
        assert (tmp_path / made).stat().st_size > 0


def test_the_options_that_the_table_names_exist(capsys):
    told = {}
    for name in ("build", "run", "compare", "calibrate", "cast", "inspect", "bench latency"):
        with pytest.raises(SystemExit):
            main([*name.split(), "--help"])
        told[name] = capsys.readouterr().out
    ours = [row.split("|")[2] for row in re.findall(r"^\| .* \|$", PAGE, re.MULTILINE)[2:]]
    options = {option for cell in ours for option in re.findall(r"(--[a-z-]+)", cell)}
    assert len(options) > 15
    everything = "\n".join(told.values())
    assert not {option for option in options if option not in everything}
