"""What the site is made of agrees with the code: figures, commands, results."""

from __future__ import annotations

import re
import sys

import oslic.runtime
import pages
from conftest import ROOT
from oslic.cli import main as cli
from oslic.cli.main import main

sys.path.insert(0, str(ROOT / "docs" / "site"))
import figures


def test_the_figures_are_those_that_the_script_draws():
    drawn = figures.figures()
    assert {path.name: path.read_text(encoding="utf-8") for path in figures.FOLDER.glob("*.svg")} == drawn


def test_every_figure_is_shown():
    shown = {
        name
        for page in pages.PAGES
        for name in re.findall(r"figures/([\w-]+\.svg)", page.read_text(encoding="utf-8"))
    }
    assert shown == set(figures.figures())


def test_every_command_has_its_place_in_the_reference():
    named = [
        name
        for page in (pages.DOCS / "reference" / "commands").glob("*.md")
        for name in re.findall(r"\{oslic-command\} (\w+)", page.read_text(encoding="utf-8"))
    ]
    assert sorted(named) == sorted(cli.COMMANDS)


def test_the_results_are_those_of_the_result_files(tmp_path):
    """`make figures` changes nothing."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (names,) = re.findall(r"^RESULTS := (.*)", makefile, re.MULTILINE)
    files = [str(ROOT / "bench" / "results" / f"{name}.json") for name in names.split()]
    for page in ("results/figures.md", "guides/compress.md"):
        text = (pages.DOCS / page).read_text(encoding="utf-8")
        copy = tmp_path / "docs" / page
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")
        charts = tmp_path / "docs" / "charts"
        assert main(["bench", "report", *files, "--readme", str(copy), "--pictures", str(charts)]) == 0
        assert copy.read_text(encoding="utf-8") == text, "run `make figures`"


def test_all_that_the_runtime_exports_is_documented():
    named = {
        name
        for page in (pages.DOCS / "reference" / "api").glob("*.md")
        for name in re.findall(r"auto\w+:: ([\w.]+)", page.read_text(encoding="utf-8"))
    }
    # Errors come with their module.
    wanted = {f"oslic.runtime.{name}" for name in oslic.runtime.__all__ if name != "OslicError"}
    assert wanted | {"oslic.runtime.errors"} <= named
