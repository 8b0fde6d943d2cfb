"""Who may import what: the room stands on the runtime alone, and other packages are loaded when they are used."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

FILES = sorted((ROOT / "serving").rglob("*.py"))
LAZY = ("ray", "pyarrow", "fsspec", "tritonclient", "triton_python_backend_utils", "webdataset", "zarr")


def imports(path):
    """Modules that a file imports, relative ones as oslic's, each with whether it does so when it is loaded."""
    package = ["oslic", *path.relative_to(ROOT).with_suffix("").parts[:-1]]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_once = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])]), id(node) in at_once


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_of_our_rooms_it_imports_the_runtime_only(path):
    ours = {name for name, _ in imports(path) if name.split(".")[0] == "oslic"}
    assert {name.split(".")[1] for name in ours} <= {"runtime", "serving"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_other_packages_are_imported_where_they_are_used(path):
    assert not [name for name, at_once in imports(path) if at_once and name.split(".")[0] in LAZY]


def test_the_commands_load_without_any_of_them():
    code = f"""
import sys
for name in {LAZY!r}:
    sys.modules[name] = None
import oslic.cli.commands.batch, oslic.cli.commands.triton, oslic.serving.ray, oslic.serving.webdataset
print("loaded")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "loaded\n", done.stderr
