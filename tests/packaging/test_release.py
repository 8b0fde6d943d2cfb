"""What a release is made of agrees: version, changelog, and the script that tries its wheels."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_newest_section_of_the_changelog_is_the_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(.+)\] - \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    assert released[0] == PROJECT["project"]["version"]


def test_wheels_are_tried_by_a_script_that_is_there_and_works():
    command = PROJECT["tool"]["cibuildwheel"]["test-command"]
    script = ROOT / command.removeprefix("python {project}/")
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith("the package works\n")
