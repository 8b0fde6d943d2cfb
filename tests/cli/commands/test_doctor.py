"""`oslic doctor`: it is run where everything works, and where something was taken away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import oslic.runtime
from oslic.cli import main as cli
from oslic.cli.commands.doctor import _pip_commands


def _doctor(code="", **environment):
    script = (
        f"import sys\n{code}\nfrom oslic.cli import main as cli\nsys.exit(cli.main(['doctor', '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode
    return done.returncode, {finding["name"]: finding for finding in found["findings"]}


def test_where_everything_works(capsys, tmp_path):
    code, found = _doctor(HOME=str(tmp_path), XDG_DATA_HOME=str(tmp_path), SHELL="/bin/fish")
    assert code == 0
    for name in ("oslic", "AV1", "FLIF", "bundle lite", "onnxruntime-cpu", "there and back"):
        assert found[name]["state"] == "ok"
        assert found[name]["remedy"] is None
    assert found["MIME type"]["state"] == "missing"
    # What it says mends is done, and it is content.
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "PATH": commands}
    for name in ("completion", "file(1)"):
        subprocess.run(found[name]["remedy"], shell=True, check=True, env=environment)
    _, again = _doctor(HOME=str(tmp_path), XDG_DATA_HOME=str(tmp_path), SHELL="/bin/fish")
    assert again["completion"]["state"] == again["file(1)"]["state"] == "ok"
    assert cli.main(["doctor"]) == 0
    assert "pictures can be compressed and decompressed here" in capsys.readouterr().out


def test_without_onnx_runtime():
    code, found = _doctor(
        "sys.modules['onnxruntime'] = None; import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name in {'onnxruntime', 'openvino'} else find(name, *more)"
    )
    assert code == 6
    assert found["onnxruntime-cpu"]["state"] == "broken"
    assert found["onnxruntime-cpu"]["remedy"].endswith("-m pip install 'oslic[cpu]'")
    assert found["there and back"]["state"] == "broken"
    assert found["FLIF"]["state"] == "ok"


def test_a_bundle_that_was_changed(tmp_path):
    shutil.copytree(oslic.runtime.default_bundle(), tmp_path / "other")
    graph = next((tmp_path / "other").glob("synth*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    code, found = _doctor(OSLIC_BUNDLES=str(tmp_path))
    assert code == 5
    assert "broken" in {finding["state"] for name, finding in found.items() if "bundle" in name}
    assert found["there and back"]["state"] == "ok"


def test_commands_are_taken_from_reasons():
    commands = _pip_commands("has no X: pip uninstall onnxruntime; pip install onnxruntime-gpu tensorrt")
    assert commands.endswith("-m pip install onnxruntime-gpu tensorrt")
    assert "-m pip uninstall -y onnxruntime && " in commands
    assert _pip_commands("not here: pip install 'oslic[cpu]' (or 'oslic[gpu]')").endswith(
        " install 'oslic[cpu]'"
    )
    assert _pip_commands("no GPU can be used") is None
