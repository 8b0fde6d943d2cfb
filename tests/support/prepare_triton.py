"""Prepares a Triton server in a folder: `python tests/support/prepare_triton.py build/triton`.

The wheel of nvidia-pytriton carries Triton's binary and its Python backend. It is unpacked, not installed: it wants
NumPy below 2, and so does its backend's stub, which gets an environment of its own with that, and all else from the
environment that runs this script.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

WHEEL = "nvidia-pytriton==0.7.0"
NUMPY = "numpy<2"
READY = ".ready"


def prepare(folder: Path) -> None:
    """Download and unpack the server."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    wheel.unlink()
    server = folder / "pytriton" / "tritonserver"
    (server / "bin" / "tritonserver").chmod(0o755)
    backend = folder / "backends" / "python"
    shutil.copytree(server / "backends" / "python", backend)
    stubs = server / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copytree(stubs, backend, dirs_exist_ok=True)
    (backend / "triton_python_backend_stub").chmod(0o755)
    # The stub ignores PYTHONPATH, and takes the environment of the first python3 in PATH.
    venv.create(folder / "env", symlinks=True)
    site = folder / "env" / "lib" / stubs.name.join(("python", "")) / "site-packages"
    subprocess.run(
        [*pip, "install", "--quiet", "--no-warn-conflicts", "--target", str(site), NUMPY], check=True
    )
    (site / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")
    (folder / READY).touch()


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
