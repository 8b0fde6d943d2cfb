"""Every block of code of every page runs, in the order of the page; every option that a page names exists."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import oslic.runtime.pillow as plugin
import pages
import pytest
from conftest import ROOT
from oslic.cli.catalog import entries, options_of

WITH_CODE = [page for page in pages.PAGES if pages.runnable(page)]
SLOW = [page for page in WITH_CODE if any(block.mark == "slow" for block in pages.runnable(page))]
QUICK = [page for page in WITH_CODE if any(not block.mark for block in pages.runnable(page))]

# Options of other tools that pages name.
FOREIGN = {
    "--val-range",
    "--no-build-isolation",
    "--no-deps",
    "--shm-size",
    "--int8",
    "--input-shapes",
    "--load-inputs",
    "--platform",
    "--archs",
    "--output-dir",
}


def name_of(page: Path) -> str:
    return str(page.relative_to(pages.DOCS))


@pytest.fixture
def reader(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    yield pages.Reader(tmp_path)
    plugin.use_codec(None)
    for name in set(sys.modules) - modules:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.mark.parametrize("page", QUICK, ids=name_of)
def test_a_page_runs(page, reader):
    wanted = [block for block in pages.runnable(page) if not block.mark]
    reader.prepare(wanted)
    for block in wanted:
        reader.run(block)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=name_of)
def test_a_page_runs_with_its_slow_blocks(page, reader):
    wanted = [block for block in pages.runnable(page) if block.mark != "not run"]
    reader.prepare(wanted)
    for block in wanted:
        reader.run(block)


def test_there_is_enough_that_runs():
    """A page that came out of the mechanism would pass by running nothing."""
    assert len(QUICK) >= 10
    assert len(SLOW) >= 6
    assert (
        sum(
            len(block.commands())
            for page in WITH_CODE
            for block in pages.runnable(page)
            if block.language == "sh"
        )
        > 90
    )


@pytest.mark.parametrize("page", pages.PAGES, ids=name_of)
def test_nothing_that_looks_like_a_command_escapes(page):
    for block in pages.blocks(page):
        if block.language in pages.RUN:
            continue
        assert block.mark == "", f"{block.place}: a mark before a block that is not run anyway"
        looks = [
            line
            for line in block.text.splitlines()
            if re.match(r"\s*(\$ |>>> |pip |make |oslic \w+ [^A-Z])", line)
        ]
        assert not looks, f"{block.place}: {looks[0]}"


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_commands_that_are_not_run_have_the_options_they_say(page):
    options = {" ".join(entry.words): set() for entry in entries()}
    for entry in entries():
        if entry.parser is not None:
            options[" ".join(entry.words)] |= {
                name for action in options_of(entry.parser) for name in action.option_strings
            }
    for block in pages.runnable(page):
        if block.language != "sh" or block.mark != "not run":
            continue
        for command in block.commands():
            if pages.check_unrunnable(command, block.place) or not command.startswith("oslic "):
                continue
            words = re.split(r"[|>]", command)[0].split()[1:]
            known = options.get(" ".join(words[:2])) or options.get(words[0])
            assert known, f"{block.place}: no command {words[0]}"
            given = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)} - {"--debug"}
            assert given <= known, f"{block.place}: {given - known}"


def test_options_in_the_text_exist():
    known = {
        name
        for entry in entries()
        if entry.parser
        for a in options_of(entry.parser)
        for name in a.option_strings
    }
    known |= {"--debug", "--version", "--help"} | FOREIGN
    for page in pages.PAGES:
        for span in pages.code_spans(page):
            if not span.startswith(("oslic ", "--")):
                continue
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*(?![\w])", span))
            assert named <= known, f"{name_of(page)}: {named - known} in `{span}`"


def documented_modules() -> list[str]:
    """The modules in which the objects of the API reference are defined."""
    named = {
        name
        for page in (pages.DOCS / "reference" / "api").glob("*.md")
        for name in re.findall(r"auto\w+:: (oslic[\w.]+)", page.read_text(encoding="utf-8"))
    }
    modules = set()
    for name in named:
        parts = name.split(".")
        for length in range(len(parts), 1, -1):
            try:
                found = importlib.import_module(".".join(parts[:length]))
            except ModuleNotFoundError:
                continue
            modules.add(found.__name__)
            for part in parts[length:]:
                found = getattr(found, part)
            modules.add(getattr(found, "__module__", found.__name__))
            break
    return sorted(modules)


@pytest.mark.parametrize("name", documented_modules())
def test_the_examples_in_docstrings_run(name, reader):
    module = importlib.import_module(name)
    texts = [
        module.__doc__,
        *(
            getattr(value, "__doc__", None)
            for value in vars(module).values()
            if getattr(value, "__module__", "") == name
        ),
    ]
    reader.prepare([pages.Block(ROOT, 0, "pycon", "photo.jpg photo.png", "")])
    for text in filter(None, texts):
        if ">>>" in text:
            pages.run_examples(text, {}, name)
