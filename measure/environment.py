"""What a measurement was made on."""

from __future__ import annotations

import datetime as dt
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from ..runtime.dependencies import installed
from ..runtime.threads import usable_cores

_PACKAGES: Final = (
    "oslic",
    "numpy",
    "pillow",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "torch",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "onnxruntime-ep-nv-tensorrt-rtx",
    "cuda-bindings",
    "pycuda",
    "pillow-jxl-plugin",
)
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ORT_NUM_THREADS")


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _cpu() -> dict[str, Any]:
    model, flags, clock = platform.processor() or platform.machine(), set[str](), None
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        match key.strip():
            case "model name":
                model = value.strip()
            case "flags":
                flags = set(value.split())
            case "cpu MHz":
                clock = float(value)
    notable = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    return {
        "model": model,
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "features": [flag for flag in notable if flag in flags],
        "clock_mhz": clock,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    }


def gpus() -> list[dict[str, str]]:
    """What `nvidia-smi` says of each GPU now: name, driver, memory, clocks, heat, power; nothing without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    known = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.mem", "clocks.max.sm")
    # The last field has been renamed; one unknown field makes the whole question fail.
    more = ("temperature.gpu", "power.draw")
    for fields in (
        (*known, *more, "clocks_event_reasons.active"),
        (*known, *more, "clocks_throttle_reasons.active"),
        known,
    ):
        try:
            done = subprocess.run(
                [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
                capture_output=True,
                text=True,
                check=False,
                timeout=30,
            )
        except (OSError, subprocess.TimeoutExpired):  # a driver that hangs must not end a measurement
            return []
        rows = [line.split(",") for line in done.stdout.splitlines()]
        if done.returncode == 0 and all(len(row) == len(fields) for row in rows):
            return [dict(zip(fields, map(str.strip, row), strict=True)) for row in rows]
    return []


def _revision() -> str | None:
    """The git revision of the working tree that this file lies in, with `+` if it has changes."""
    folder = Path(__file__).resolve().parent
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*words: str) -> str | None:
        done = subprocess.run([git, "-C", str(folder), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    revision = ask("rev-parse", "--short=12", "HEAD")
    return None if revision is None else revision + ("+" if ask("status", "--porcelain", "-uno") else "")


def describe() -> dict[str, Any]:
    """Return the machine, its load, and the versions of what matters, ready for JSON."""
    return {
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cpu": _cpu(),
        "gpus": gpus(),
        "load_average": list(os.getloadavg()),
        "threads": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
        "versions": installed(*_PACKAGES),
        "revision": _revision(),
    }
