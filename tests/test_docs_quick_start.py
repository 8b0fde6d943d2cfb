"""docs/getting-started.md: its commands and its Python run, in the order given; its table is that of the results."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import shlex

import numpy as np
import oslic.runtime.pillow as plugin
from conftest import ROOT
from oslic.bench.quality_table import quality_table
from oslic.runtime.cli import main
from PIL import Image

PAGE = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")


def _blocks(kind, heading):
    part = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{kind}\n(.*?)```", part, re.DOTALL)


def test_the_commands_run_in_the_order_given(tmp_path, photo, monkeypatch):
    (tmp_path / "photos" / "inner").mkdir(parents=True)
    Image.fromarray(photo[:64, :80]).save(tmp_path / "photo.jpg")
    for name in ("a.png", "a.jpg", "inner/b.png"):
        Image.fromarray(photo[:40, :48]).save(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    commands = [
        line
        for heading in ("Files", "Folders")
        for block in _blocks("sh", heading)
        for line in block.splitlines()
        if line
    ]
    assert len(commands) == 8
    for command in commands:
        assert main(shlex.split(command, comments=True)[1:]) == 0, command
    assert Image.open("back.png").size == (80, 64)
    assert Image.open("photos2/inner/b.png.jpg").size == (48, 40)


def test_the_python_runs(tmp_path, photo, monkeypatch):
    Image.fromarray(photo[:64, :80]).save(tmp_path / "photo.jpg")
    Image.fromarray(photo[:64, :80]).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    code, through_pillow = _blocks("python", "From Python")
    names = {"array": photo[:48, :64], "paths": ["photo.png", "photo.jpg", "none.png"]}
    coroutine = eval(compile(code, "quick-start.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    asyncio.run(coroutine)
    assert names["image"].shape == (64, 80, 3)
    assert isinstance(names["data"], bytes)
    (tmp_path / "photo.oslic").write_bytes(names["data"])
    try:
        exec(compile(through_pillow, "quick-start.md", "exec"), names)
    finally:
        plugin.use_codec(None)
    assert np.asarray(names["image"]).shape == (64, 80, 3)
    names["codec"].close()


def test_the_table_is_that_of_the_results():
    result = json.loads((ROOT / "bench" / "results" / "rd-kodak-lite.json").read_text(encoding="utf-8"))
    assert quality_table(result) in PAGE, (
        "oslic bench report bench/results/rd-kodak-lite.json --readme docs/getting-started.md"
    )
