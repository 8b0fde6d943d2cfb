"""The commands in the READMEs of the examples run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SAMPLES

QUICK = ("01-previews", "07-service")
"""The others export networks, or build engines: that takes minutes."""
FOLDERS = [
    pytest.param(
        path.parent, id=path.parent.name, marks=() if path.parent.name in QUICK else pytest.mark.slow
    )
    for path in sorted((ROOT / "examples").glob("*/README.md"))
]


def commands(readme: Path) -> str:
    """The shell blocks of a README, one after another."""
    return "\n".join(re.findall(r"```sh\n(.*?)```", readme.read_text(), re.DOTALL))


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_commands_of_a_readme(folder, tmp_path):
    copy = tmp_path / "examples" / folder.name
    shutil.copytree(folder, copy)
    (tmp_path / "samples").symlink_to(SAMPLES)
    script = commands(folder / "README.md")
    assert script
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=copy,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_previews_are_of_a_few_kilobytes(tmp_path):
    script = ROOT / "examples" / "01-previews" / "make_previews.py"
    subprocess.run([sys.executable, str(script), str(tmp_path), str(SAMPLES / "rocket.jpg")], check=True)
    page = (tmp_path / "index.html").read_text()
    (size,) = re.findall(r"<figcaption>([\d,]+) bytes: ", page)
    assert 1000 < int(size.replace(",", "")) < 640 * 427 / 8 * 0.14
    for name in re.findall(r'(?:url\(|data-src=")([^)"]+)', page):
        assert (tmp_path / name).is_file()
    assert "sky" in page
