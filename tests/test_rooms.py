"""Which rooms a room may enter, and what the lean ones must never import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_ENTER = {
    "runtime": set(),
    "networks": {"runtime"},
    "measure": {"runtime"},
    "export": {"networks", "runtime", "measure"},
    "calibration": {"runtime", "measure"},
    "training": {"networks", "runtime", "measure"},
    "serving": {"runtime"},
    "bench": {"runtime", "networks", "measure", "export", "calibration", "training", "serving"},
    "cli": {"runtime", "networks", "measure", "export", "calibration", "training", "serving", "bench"},
}
WITHOUT_TORCH = ("runtime", "measure", "calibration", "serving")


def _imports(path: Path) -> list[tuple[str, int]]:
    """Absolute names of what a file imports, with their lines; those for type checkers count as well."""
    package = ("oslic", *path.relative_to(ROOT).parent.parts)
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            # `from .. import bench` names a room as well.
            found += [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def _files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", sorted(MAY_ENTER))
def test_a_room_enters_only_those_that_it_may(room):
    allowed = {*MAY_ENTER[room], room}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in _files(room)
        for name, line in _imports(path)
        if name.startswith("oslic.") and name.split(".")[1] not in allowed
    ]
    assert not wrong, "\n".join(wrong)
    assert _files(room)


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_rooms_without_torch(room):
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in _files(room)
        for name, line in _imports(path)
        if name.split(".")[0] == "torch"
    ]
    assert not wrong, wrong


def test_only_the_command_line_knows_argparse():
    wrong = [
        str(path.relative_to(ROOT))
        for room in MAY_ENTER
        if room != "cli"
        for path in _files(room)
        if any(name.split(".")[0] == "argparse" for name, _ in _imports(path))
    ]
    assert not wrong, wrong


def test_every_room_is_installed():
    stated = (ROOT / "pyproject.toml").read_text()
    assert all(f'"oslic/{room}" = "{room}"' in stated for room in MAY_ENTER)
