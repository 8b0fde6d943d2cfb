"""The pages of the documentation as a reader meets them: their blocks of code, and a folder in which these run."""

from __future__ import annotations

import ast
import asyncio
import doctest
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import foreign_networks
from conftest import ROOT, SAMPLES
from oslic.cli.main import main
from PIL import Image

DOCS: Final = ROOT / "docs"
PAGES: Final = sorted(DOCS.rglob("*.md"))
RUN: Final = frozenset({"sh", "python", "pycon"})
"""Languages of blocks that are run."""

_FENCE = re.compile(r"^(?P<indent>\s*)```(?P<language>[\w{}-]*)(?P<rest>.*)$")
_MARK = re.compile(r"^\s*<!-- (?P<mark>slow|not run): (?P<reason>.+) -->$")
_PIP = re.compile(r"^(\S*/)?(python -m )?pip install\b")
_FILE = re.compile(r"^# (?P<name>[\w-]+\.py)$")
_SHELL = re.compile(r"[|<>*$;&]|^\w+=")
_EXTRA = re.compile(r"(?:oslic|\.)\[([\w,-]+)\]")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: its page.
        line: of the fence, from 1.
        language: as the fence says.
        text: the code.
        mark: "slow", "not run", or "" for what runs at once.
        reason: what the mark says.
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str = ""
    reason: str = ""

    @property
    def place(self) -> str:
        """Page and line."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[str]:
        """The lines of a shell block, without comments, continued lines joined."""
        joined = self.text.replace("\\\n", " ")
        lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
        return [line for line in lines if line]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in their order."""
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opened = _FENCE.match(lines[number])
        if opened is None:
            number += 1
            continue
        end = next(i for i in range(number + 1, len(lines)) if lines[i].strip() == "```")
        indent = len(opened["indent"])
        text = "\n".join(line[indent:] for line in lines[number + 1 : end]) + "\n"
        marked = _MARK.match(lines[number - 1]) if number else None
        mark, reason = (marked["mark"], marked["reason"]) if marked else ("", "")
        found.append(Block(page, number + 1, opened["language"], text, mark, reason))
        number = end + 1
    return found


def runnable(page: Path) -> list[Block]:
    """The blocks of a page that are code to be run, whatever their mark."""
    return [block for block in blocks(page) if block.language in RUN]


def _photographs(folder: Path) -> None:
    (folder / "more").mkdir(parents=True)
    for name, target in (("coffee.png", "coffee.png"), ("rocket.jpg", "more/rocket.jpg")):
        Image.open(SAMPLES / name).convert("RGB").resize((96, 64)).save(folder / target)
    for number in range(3):
        with Image.open(SAMPLES / "chelsea.png") as photo:
            photo.convert("RGB").crop((number * 60, 0, number * 60 + 96, 64)).save(folder / f"{number}.png")


def _photo(path: Path) -> None:
    Image.open(SAMPLES / "astronaut.png").convert("RGB").resize((256, 256)).save(path)


FILES: Final[dict[str, Callable[[Path], Any]]] = {
    "photo.jpg": _photo,
    "photo.png": _photo,
    "photos": _photographs,
    "unet.onnx": lambda path: foreign_networks.save(foreign_networks.unet(), path),
}
"""What a reader is thought to have, and what makes it."""


@dataclass
class Reader:
    """Somebody who follows a page in a folder.

    Attributes:
        folder: the current one.
        names: of the Python blocks so far.
    """

    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})

    def prepare(self, wanted: list[Block]) -> None:
        """Make the files that the blocks name."""
        text = "\n".join(block.text for block in wanted)
        for name, make in FILES.items():
            if re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w.])", text):
                make(self.folder / name)

    def run(self, block: Block) -> None:
        """Do what a block says; an error is an AssertionError or the error of the code."""
        if block.language == "sh":
            for command in block.commands():
                self._command(command, block.place)
        elif ">>>" in block.text:
            run_examples(block.text, self.names, block.place)
        else:
            self._python(block)

    def _command(self, command: str, place: str) -> None:
        if check_unrunnable(command, place):
            return
        if command.startswith("oslic ") and not _SHELL.search(command):
            # In this process: starting another one takes longer than most commands.
            assert main(shlex.split(command)[1:]) == 0, f"{place}: {command}"
            return
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", command],
            cwd=self.folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        assert done.returncode == 0, f"{place}: {command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"

    def _python(self, block: Block) -> None:
        first = _FILE.match(block.text.splitlines()[0])
        if first:
            (self.folder / first["name"]).write_text(block.text, encoding="utf-8")
            return
        code = compile(block.text, block.place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, self.names)
        if inspect.iscoroutine(result):
            asyncio.run(result)


def check_unrunnable(command: str, place: str) -> bool:
    """Check commands that would change the environment: they are not run. Return whether it is one."""
    if _PIP.match(command):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for extras in _EXTRA.findall(command):
            missing = set(extras.split(",")) - set(project["optional-dependencies"])
            assert not missing, f"{place}: no extra {missing}"
        return True
    if command.startswith("make "):
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in command.split()[1:]:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{place}: no target {target}"
        return True
    return False


def run_examples(text: str, names: dict[str, Any], place: str) -> None:
    """Run `>>>` examples and compare what they print."""
    example = doctest.DocTestParser().get_doctest(text, names, place, place, 0)
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=told.append, clear_globs=False)
    assert not runner.failures, "".join(told)


def code_spans(page: Path) -> Iterator[str]:
    """What stands in single backquotes on a page, outside of blocks."""
    text = re.sub(r"^\s*```.*?^\s*```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", text)
