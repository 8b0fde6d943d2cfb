"""`oslic bench gpu`: all that needs a GPU, in one command, section by section, within a given time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ...measure import environment
from ...measure.result_files import read_json
from ...networks.config import preset
from ...runtime.backends import BACKENDS
from ...runtime.backends.cuda import driver as cuda_driver
from ...runtime.bundle.engine_files import PRODUCTS
from ...runtime.bundle.folder import Bundle, default_bundle
from ...runtime.errors import DataError, DependencyError, DeviceError, UsageError
from ...runtime.files import write_atomically
from .worker import AS_IT_IS, CUT, held_back

FORMAT: Final = "oslic-bench-gpu"
VERSION: Final = 1
SIZES: Final = ((512, 768), (1080, 1920))
ENGINES: Final = ("tensorrt", "tensorrt-rtx", "onnxruntime", "torch-compile", "torch-eager")
"""In the order of their weight."""

_LEAST_SECONDS: Final = 10.0
_TAIL: Final = 2000
_WORK_MARK: Final = ".oslic-bench-gpu"


@dataclass(frozen=True)
class Plan:
    """What a run of the command is to do.

    Attributes:
        device: `cuda`, or `cpu` for trying the command out.
        networks: configurations, by weight.
        graphs: graphs, by weight.
        sizes: heights and widths of images, by weight.
        precisions: `fp16`, `fp32`, by weight.
        engines: which engines.
        budget: seconds for everything.
        limit: seconds for one section at most.
        level: TensorRT's optimization level.
        samples: samples of each candidate at the least.
        seconds: time of each candidate at the least.
        measuring: time of a section's measuring at most.
        side: of the images on which correctness is judged.
        int8: folders of a float bundle and of the int8 bundle made from it, to be held against each other; or None.
    """

    device: str = "cuda"
    networks: tuple[str, ...] = ("base", "full")
    graphs: tuple[str, ...] = ("synthesise", "analyse", "segment")
    sizes: tuple[tuple[int, int], ...] = SIZES
    precisions: tuple[str, ...] = ("fp16", "fp32")
    engines: tuple[str, ...] = ENGINES
    budget: float = 600.0
    limit: float = 120.0
    level: int = 3
    samples: int = 20
    seconds: float = 0.2
    measuring: float = 15.0
    side: int = 256
    int8: tuple[str, str] | None = None


QUICK: Final[dict[str, Any]] = {
    "networks": ("tiny",),
    "sizes": ((64, 96),),
    "samples": 4,
    "seconds": 0.0,
    "measuring": 2.0,
    "level": 0,
    "side": 64,
}
"""What `--quick` changes: the same code at tiny sizes."""


@dataclass(frozen=True)
class Section:
    """One process.

    Attributes:
        name: in the results.
        spec: for `gpu_section`.
    """

    name: str
    spec: dict[str, Any] = field(default_factory=dict)


def _timing(plan: Plan, size: tuple[int, int], multiple: int) -> dict[str, Any]:
    """What sections that time engines have in common."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return {
        "height": height,
        "width": width,
        "device": plan.device,
        "level": plan.level,
        "samples": plan.samples,
        "seconds": plan.seconds,
        "measuring": plan.measuring,
    }


def sections(plan: Plan) -> list[Section]:
    """The sections of a plan, the most wanted first."""
    weighted: list[tuple[tuple[int, ...], Section]] = []
    backends = [name for name in BACKENDS if name != "onnxruntime-cpu" or plan.device == "cpu"]
    quantized = Bundle.open(default_bundle()).manifest.quantization is not None
    precisions = (AS_IT_IS,) if quantized else plan.precisions
    for b, backend in enumerate(backends):
        for p, precision in enumerate(precisions):
            spec = {"kind": "correctness", "backend": backend, "precision": precision, "side": plan.side}
            # Providers that build their engines for minutes come behind the first latencies.
            weight = 2 if BACKENDS[backend].by_name else min(1, p)
            weighted.append(((weight, 0, b, p), Section(f"correctness {backend} {precision}", spec)))
    for s, size in enumerate(plan.sizes):
        for n, network in enumerate(plan.networks):
            multiple = preset(network).multiple
            for g, graph in enumerate(plan.graphs):
                for p, precision in enumerate(plan.precisions):
                    for e, engine in enumerate(plan.engines):
                        spec = {
                            "kind": "latency",
                            "network": network,
                            "graph": graph,
                            "precision": precision,
                            "engine": engine,
                            **_timing(plan, size, multiple),
                        }
                        name = f"latency {network} {graph} {size[1]}x{size[0]} {precision} {engine}"
                        # The first of everything on all engines, then what differs in one thing from it, ...
                        weighted.append(((s + n + g + p, 1, e, s, n, g, p), Section(name, spec)))
    weighted += _int8_sections(plan)
    weighted.sort(key=lambda entry: entry[0])
    return [Section("machine", {"kind": "machine"}), *(section for _, section in weighted)]


def _int8_sections(plan: Plan) -> list[tuple[tuple[int, ...], Section]]:
    """INT8 against FP16 on the products that take explicit quantization; behind the first fused network."""
    if plan.int8 is None:
        return []
    before, after = plan.int8
    multiple = Bundle.open(Path(before)).manifest.multiple
    weighted: list[tuple[tuple[int, ...], Section]] = []
    for s, size in enumerate(plan.sizes):
        for g, graph in enumerate(plan.graphs):
            for e, engine in enumerate(PRODUCTS):
                spec = {
                    "kind": "int8",
                    "float": before,
                    "int8": after,
                    "graph": graph,
                    "engine": engine,
                    **_timing(plan, size, multiple),
                }
                name = f"int8 {graph} {size[1]}x{size[0]} {engine}"
                weighted.append(((1 + s + g, 0, e, s, g), Section(name, spec)))
    return weighted


def require_device(device: str) -> None:
    """Say before anything is run that there is no GPU.

    Raises:
        DeviceError: naming the reason, and what works without one.
    """
    if device != "cuda":
        return
    found, reason = cuda_driver.gpus()
    if not found:
        raise DeviceError(
            f"`oslic bench gpu` needs an NVIDIA GPU: {reason}; `--device cpu --quick` tries the command out without one"
        )


def work_folder(output: Path) -> Path:
    """The folder for graphs and engines beside a result file, made if it is not there.

    Raises:
        UsageError: something is there that this command has not made, and would remove when it is done.
    """
    folder = output.with_name(output.name + ".work")
    mark = folder / _WORK_MARK
    try:
        folder.mkdir(exist_ok=True)
        if not mark.is_file():
            if any(folder.iterdir()):
                raise UsageError(f"{folder} holds files that are not of `oslic bench gpu`; give another name")
            mark.touch()
    except OSError as error:
        raise UsageError(f"cannot write into {folder}: {error.strerror}") from error
    return folder


def read_earlier(path: Path, plan: Plan) -> dict[str, dict[str, Any]]:
    """Sections of an earlier run on the same GPU, by name, to go on from; none where there is no file.

    Raises:
        DataError: the file holds something else.
    """
    if not path.exists():
        return {}
    earlier = read_json(path, "result")
    if earlier.get("format") != FORMAT:
        raise DataError(f"{path} is not a result of `oslic bench gpu`; give another name")
    if (earlier.get("device"), earlier.get("gpu")) != (plan.device, _gpu_name(plan.device)):
        raise DataError(f"{path} was measured on {earlier.get('gpu')}; give another name for this machine")
    found = earlier.get("sections")
    if not isinstance(found, dict):
        raise DataError(f"{path} has no sections; give another name")
    return found


def _gpu_name(device: str) -> str:
    found, _ = cuda_driver.gpus()
    return found[0].name if device == "cuda" and found else "cpu"


def _why_skipped(section: Section, plan: Plan) -> str:
    """Why a section needs no process; empty where it does."""
    spec = section.spec
    if plan.device == "cpu" and spec.get("engine") in PRODUCTS:
        return f"{spec['engine']} runs on GPUs only"
    if spec["kind"] == "latency" and plan.device == "cpu" and spec["engine"] == "torch-compile":
        return "compiled PyTorch is measured on GPUs only"
    if spec["kind"] == "latency" and plan.device == "cpu" and spec["engine"].startswith("torch-"):
        return "PyTorch in float16 is measured on GPUs only" if spec["precision"] == "fp16" else ""
    if spec["kind"] == "correctness" and plan.device == "cpu" and spec["backend"] != "onnxruntime-cpu":
        return f"{spec['backend']} runs on GPUs only"
    return ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop a section, and whatever it has started and left behind: its session is its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs in the driver cannot be stopped
        process.wait(_LEAST_SECONDS)


def run_section(section: Section, work: Path, limit: float) -> dict[str, Any]:
    """Run one section in a process of its own.

    Args:
        section: which.
        work: folder for graphs and engines that sections share.
        limit: seconds after which it is stopped.

    Returns:
        Its status (`done`, `failed`, `timeout`, `skipped` where something is not installed), seconds, result as far
        as it got, and the reason where it failed.
    """
    with tempfile.TemporaryDirectory() as name:
        spec, out = Path(name) / "spec.json", Path(name) / "out.json"
        spec.write_text(json.dumps({**section.spec, "work": str(work), "limit": limit}), encoding="utf-8")
        start = time.perf_counter()
        module = f"{(__package__ or 'oslic.bench.gpu')}.worker"
        status, reason = "done", ""
        # Not a pipe: what a section has started may hold it open, or fill it.
        with (Path(name) / "errors.txt").open("w+b") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(spec), str(out)],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
            try:
                code = process.wait(limit)
                if code:
                    status = "failed"
                    how = f"exit code {code}: "
                    if code < 0:
                        how = f"killed by {signal.Signals(-code).name}: "
                    elif code == DependencyError.exit_code:
                        status, how = "skipped", ""
                    errors.seek(0)
                    reason = how + errors.read().decode(errors="replace")[-_TAIL:].strip()
            except subprocess.TimeoutExpired:
                status, reason = "timeout", f"stopped after {limit:.0f} s"
            finally:
                _end(process)
        result = None
        if out.is_file():
            result = json.loads(out.read_text(encoding="utf-8"))
        timed = section.spec["kind"] in {"latency", "int8"}
        if status == "done" and timed and not (result or {}).get("timings"):
            status = "failed"
            reason = "; ".join(sorted(set((result or {}).get("left_out", {}).values())))
        seconds = round(time.perf_counter() - start, 2)
    found: dict[str, Any] = {"status": status, "seconds": seconds, "result": result}
    return found | ({"reason": reason} if reason else {})


def run(
    plan: Plan, output: Path, *, only: Iterable[str] = (), progress: Callable[[str], Any] = print
) -> dict[str, Any]:
    """Run the sections of a plan that an earlier run has not done, until the time is up.

    The result is written after each section. What an earlier run skipped is tried again: it may be installed now.

    Args:
        plan: what to do.
        output: the result file; sections of an earlier run in it are kept.
        only: words; sections whose names hold none of them are left out.
        progress: gets lines for the user.

    Returns:
        The result.

    Raises:
        DeviceError: no GPU, and the plan needs one.
        DataError: the file holds something else.
        UsageError: `only` names nothing.
    """
    require_device(plan.device)
    words = list(only)
    wanted = [s for s in sections(plan) if not words or any(word in s.name for word in words)]
    if not wanted:
        raise UsageError(f"no section's name holds {' or '.join(words)}")
    parts = read_earlier(output, plan)
    earlier = {name: "cut" if _cut(part) else part["status"] for name, part in parts.items()}
    deadline = time.perf_counter() + plan.budget
    work = work_folder(output)
    machine = environment.describe()

    def result() -> dict[str, Any]:
        # In the plan's order, and what earlier runs did beyond it.
        order = [s.name for s in wanted if s.name in parts]
        return {
            "format": FORMAT,
            "version": VERSION,
            "device": plan.device,
            "gpu": _gpu_name(plan.device),
            "environment": machine,
            "weights": "random",
            "sections": {name: parts[name] for name in dict.fromkeys([*order, *parts])},
        }

    missing: dict[str, str] = {}  # engines that are not installed, and why
    # What failed or was cut short before comes again last: it must not eat the time of what was not reached.
    for section in sorted(wanted, key=lambda s: earlier.get(s.name) in {"failed", "timeout", "cut"}):
        if earlier.get(section.name) == "done":
            progress(f"{section.name}: kept from the earlier run")
            continue
        found = _attempt(section, plan, work, deadline - time.perf_counter(), missing)
        before = parts.get(section.name, {})
        parts[section.name] = before if _timings(before) > _timings(found) else found
        write_atomically(output, to_text(result()).encode())
        progress(line(section.name, parts[section.name]))
    return result()


def _attempt(
    section: Section, plan: Plan, work: Path, left: float, missing: dict[str, str]
) -> dict[str, Any]:
    """Run a section if it can be run and there is time for it.

    Args:
        section: the section.
        plan: that it is of.
        work: folder of what is built.
        left: seconds until the time is up.
        missing: engines that are not installed, and why; one that turns out to be is added.

    Returns:
        What the result file says of it.
    """
    engine = section.spec.get("engine", "")
    skipped = _why_skipped(section, plan) or missing.get(engine, "")
    if skipped:
        return {"status": "skipped", "reason": skipped}
    if left < min(_LEAST_SECONDS, plan.budget):
        over = f"the {plan.budget:.0f} s were over; the same command goes on from here"
        return {"status": "not reached", "reason": over}
    found = run_section(section, work, min(plan.limit, left))
    if engine and found["status"] == "skipped":
        missing[engine] = found["reason"]
    return found


def _timings(part: dict[str, Any]) -> int:
    """How many candidates of a section were measured."""
    return len((part.get("result") or {}).get("timings", {}))


def _cut(part: dict[str, Any]) -> bool:
    """Whether a section was measured in part, for want of time."""
    return _timings(part) > 0 and CUT in (part["result"].get("left_out") or {}).values()


def unfinished(result: dict[str, Any]) -> bool:
    """Whether the same command would measure more: what it built so far is needed again."""
    parts = result["sections"].values()
    return any(part["status"] == "not reached" or _cut(part) for part in parts)


def slower_in_int8(layers: dict[str, Any], most: int = 5) -> list[str]:
    """What holds INT8 back, in words; the most first."""
    return [
        f"{what}: {before:.3f} ms in {layers['before']}, {after:.3f} ms in {layers['after']}"
        for what, before, after in held_back(layers)[:most]
    ]


def to_text(result: dict[str, Any]) -> str:
    """The result file's text."""
    return json.dumps(result, indent=1) + "\n"


def line(name: str, part: dict[str, Any]) -> str:
    """One section in a line or a few."""
    if part["status"] != "done":
        return f"{name}: {part['status']}: {part.get('reason', '')}"[:600]
    found = part["result"] or {}
    head = f"{name}: {part['seconds']:.1f} s"
    if "timings" in found:
        rows = [
            f"    {candidate:<26} p50 {t['wall']['total']['p50_ms']:9.3f} ms, p90 {t['wall']['total']['p90_ms']:9.3f}, "
            f"p99 {t['wall']['total']['p99_ms']:9.3f}, n {t['wall']['total']['n']}"
            for candidate, t in found["timings"].items()
        ]
        for kind, values in {**found.get("ratios", {}), **found.get("speedup", {})}.items():
            numbers = ", ".join(f"{k} {v:.3f}" for k, v in values.items() if isinstance(v, float))
            rows.append(f"    {kind} ({values['best_form']}): {numbers}")
        if "layers" in found:
            rows += [f"    {text}" for text in slower_in_int8(found["layers"])]
        rows += [f"    without {name}: {reason}"[:300] for name, reason in found["left_out"].items()]
        return "\n".join([head, *rows])
    if "outputs" in found:
        rows = [
            f"    {row['output']}: {'within' if row['ok'] else 'BEYOND'} the tolerance, maximum {row['maximum']}, "
            f"{100 * row['differing']:.4f} % differ"
            for row in found["outputs"]
        ]
        return "\n".join([head, *rows])
    if "backends" in found:
        rows = [
            f"    {backend:<26} {'yes' if a['usable'] else 'no':<4} {a['version'] or '-':<12} {a['reason']}"
            for backend, a in found["backends"].items()
        ]
        return "\n".join([head, *rows])
    return head
