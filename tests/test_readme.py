"""What the README tells a newcomer: its commands run, its names exist, its figures are generated."""

from __future__ import annotations

import re
import shlex
import shutil

import numpy as np
import pytest
from conftest import ROOT
from oslic.cli import main as cli
from oslic.runtime.image.arrays import psnr
from PIL import Image

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def _commands(prefix: str) -> list[str]:
    return [line.split("#")[0].strip() for line in SHELL.splitlines() if line.startswith(prefix)]


def test_oslic_commands_run_in_the_order_given(tmp_path, monkeypatch, samples):
    commands = _commands("oslic ")
    assert len(commands) >= 3
    shutil.copy(samples / "chelsea.png", tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert cli.main(shlex.split(command)[1:]) == 0, command
    assert Image.open("back.png").size == Image.open("photo.png").size


def test_the_python_example_runs(photo):
    (example,) = PYTHON
    names = {"image": photo}
    exec(compile(example, "README.md", "exec"), names)
    assert names["image"].shape == photo.shape
    assert psnr(photo, np.asarray(names["image"])) > 29


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {command.split()[1] for command in _commands("make ")}
    assert targets >= {"run", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_command_is_in_the_table_of_commands():
    (table,) = re.findall(r"^## What it does\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| **")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(cli.COMMANDS)


def test_it_stays_short():
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:docs|runtime|checkpoints|bench)/[\w./-]*)`", README)))
)
def test_files_that_the_readme_names_exist(path):
    assert (ROOT / path).exists()


def _results(name: str) -> list[str]:
    """Paths of the result files that a variable of the Makefile names."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (names,) = re.findall(rf"^{name} := (.*)", makefile, re.MULTILINE)
    return [str(ROOT / "bench" / "results" / f"{name}.json") for name in names.split()]


@pytest.mark.parametrize(
    ("file", "results"),
    [("README.md", "README_RESULTS"), ("docs/results/figures.md", "RESULTS")],
)
def test_the_figures_are_those_of_the_result_files(tmp_path, file, results):
    text = (ROOT / file).read_text(encoding="utf-8")
    copy, charts = tmp_path / file, tmp_path / "docs" / "charts"
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(text, encoding="utf-8")
    words = ["bench", "report", *_results(results), "--readme", str(copy), "--pictures", str(charts)]
    assert cli.main(words) == 0
    assert copy.read_text(encoding="utf-8") == text, "run `make figures`"
    if results == "RESULTS":
        shown = {path.name: path.read_bytes() for path in charts.iterdir()}
        assert {path.name: path.read_bytes() for path in (ROOT / "docs" / "charts").iterdir()} == shown


def test_the_exit_codes_are_those_of_the_errors():
    from oslic.runtime import errors

    text = (ROOT / "docs" / "reference" / "exit-codes.md").read_text(encoding="utf-8")
    listed = {
        name: int(code)
        for code, names in re.findall(r"^\| (\d+) \| (`.*?`) \|", text, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    actual = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.OslicError)
    }
    assert listed == actual
