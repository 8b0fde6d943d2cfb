"""`oslic bench gpu`: the plan, sections in processes of their own, resuming; for real on the CPU at tiny sizes."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import platform
import time
import types
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from host_product import Engine, HostDriver, install, product
from oslic.bench.gpu import network_candidates
from oslic.bench.gpu import runner as gpu
from oslic.bench.gpu import worker as gpu_section
from oslic.bench.gpu.runner import QUICK, Plan, Section, line, read_earlier, run, run_section, sections
from oslic.bench.report.sections.registry import read_result
from oslic.bench.report.sections.registry import sections as report_sections
from oslic.cli.main import main
from oslic.runtime.backends import BACKENDS
from oslic.runtime.backends.cuda.driver import gpus
from oslic.runtime.errors import BackendError, DataError, DependencyError, UsageError, VerificationError

NO_GPU = not gpus()[0]
without_gpu = pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
TINY = Plan(device="cpu", **QUICK)
FIRST = "latency tiny synthesise 96x64 fp32 onnxruntime"


def test_the_plan_covers_everything_once_and_the_most_wanted_first():
    found = [section.name for section in sections(Plan())]
    assert len(found) == len(set(found))
    assert found[0] == "machine"
    first = next(name for name in found if name.startswith("latency"))
    assert first == "latency base synthesise 768x512 fp16 tensorrt"
    for backend in BACKENDS:
        # The shipped bundle has graphs of integers, and runs as it is.
        assert (f"correctness {backend} int8" in found) == (backend != "onnxruntime-cpu")
        assert f"correctness {backend} fp32" not in found
    for network in ("base", "full"):
        for graph in ("segment", "analyse", "synthesise"):
            for size in ("768x512", "1920x1080"):
                for precision in ("fp32", "fp16"):
                    for engine in gpu.ENGINES:
                        assert f"latency {network} {graph} {size} {precision} {engine}" in found
    # The whole first comparison stands before anything of a second kind.
    assert found.index("latency base synthesise 768x512 fp16 torch-eager") < found.index(
        "latency base analyse 768x512 fp16 tensorrt"
    )


def test_images_are_padded_to_the_multiple_and_ports_follow():
    section = next(s for s in sections(Plan()) if "1920x1080" in s.name and "synthesise" in s.name)
    assert (section.spec["height"], section.spec["width"]) == (1088, 1920)
    work = network_candidates.Work("base", "synthesise", 1088, 1920, "fp32", "cpu")
    found = work.inputs()
    assert {name: x.shape for name, x in found.items()} == {
        "compact": (1, 136, 240, 3),
        "labels": (1, 272, 480),
    }
    assert found["compact"].max() == work.config.levels - 1
    assert network_candidates.Work("base", "segment", 32, 32, "fp32", "cpu").forms() == ("naive",)
    assert set(work.forms()) == {"naive", "plain", "convolve_first", *network_candidates.FUSED}


@without_gpu
def test_without_a_gpu_it_says_so_with_an_exit_code_of_its_own(tmp_path, capsys):
    output = tmp_path / "g.json"
    assert main(["bench", "gpu", "-o", str(output)]) == 12
    error = capsys.readouterr().err
    assert "needs an NVIDIA GPU" in error
    assert "--device cpu --quick" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@without_gpu
@pytest.mark.parametrize("engine", ["onnxruntime", "torch-eager"])
def test_engines_that_are_not_installed_are_named(engine):
    with pytest.raises(DependencyError, match="pip"):
        network_candidates.require_engine(engine, "cuda")


def command(output, *more):
    """The quick plan's first section on the CPU."""
    return ["bench", "gpu", "-o", str(output), "--device", "cpu", "--quick", "--only", FIRST, *more]


def test_a_run_for_real_and_another_that_goes_on_from_it(tmp_path, capsys):
    output = tmp_path / "g.json"
    words = command(output, "--only", "machine")
    assert main(words) == 0
    result = json.loads(output.read_text())
    assert (result["format"], result["device"], result["weights"]) == (gpu.FORMAT, "cpu", "random")
    assert result["environment"]["python"] == platform.python_version()
    machine, latency = result["sections"]["machine"], result["sections"][FIRST]
    assert machine["status"] == latency["status"] == "done"
    assert set(machine["result"]["backends"]) == set(BACKENDS)
    found = latency["result"]
    assert set(found["timings"]) == set(network_candidates.FORMS)
    assert all(t["wall"]["total"]["n"] >= 4 for t in found["timings"].values())
    # Fused forms compute what the naive one does: a rounding may tip by one.
    assert set(found["agreement"]) == network_candidates.SAME_NUMBERS
    assert all(row["maximum"] <= 1 and row["differing"] < 0.01 for row in found["agreement"].values())
    assert found["ratios"]["fused"]["best_form"] in network_candidates.FUSED
    assert {"naive/fused", "plain/fused", "convolve_first/fused"} <= set(found["ratios"]["fused"])
    assert not (tmp_path / "g.json.work").exists()
    (section,) = report_sections([read_result(output)])
    relations, table = section.tables
    best = found["ratios"]["fused"]
    assert relations.rows[0][:2] == ("tiny synthesise at 96x64, fp32", f"onnxruntime, {best['best_form']}")
    assert relations.rows[0][3:] == tuple(
        f"{best[f'{form}/fused']:.2f}" for form in ("naive", "plain", "convolve_first")
    )
    assert f"{best['naive/fused']:.2f}x as fast as the naive graph and" in section.headline
    assert table.title == "tiny synthesise at 96x64, fp32"
    assert {row[0] for row in table.rows} == {f"onnxruntime, {form}" for form in network_candidates.FORMS}
    assert table.rows[0][1] == f"{found['timings']['naive']['wall']['total']['p50_ms']:.3f}"
    text = capsys.readouterr().out
    assert "2 done" in text
    assert "fused:transposed" in text
    assert main([*words, "--only", "tensorrt int8"]) == 0
    text = capsys.readouterr().out
    assert f"{FIRST}: kept from the earlier run" in text
    again = json.loads(output.read_text())["sections"]
    assert again[FIRST] == latency
    assert again["correctness tensorrt int8"]["status"] == "skipped"
    (section,) = report_sections([read_result(output)])
    assert section.tables[-1].title == "Not measured"
    assert ("correctness tensorrt int8", "skipped", "tensorrt runs on GPUs only") in section.tables[-1].rows


def test_the_report_names_the_fastest_engine_first():
    def measured(engine, p50, ratio):
        timing = {"wall": {"total": {"p50_ms": p50, "p90_ms": p50, "p99_ms": p50, "n": 20}}}
        work = {"network": "base", "graph": "synthesise", "size": [512, 768], "precision": "fp16"}
        ratios = {"best_form": "fused:pooled", "naive/fused": ratio, "plain/fused": 2 * ratio}
        found = {
            **work,
            "engine": engine,
            "timings": {"fused:pooled": timing},
            "ratios": {"fused + graphs": ratios},
        }
        return {"status": "done", "result": found}

    (section,) = report_sections(
        [
            {
                "format": gpu.FORMAT,
                "gpu": "NVIDIA H200",
                "environment": {},
                "sections": {"a": measured("tensorrt", 2.5, 1.7), "b": measured("torch-compile", 1.5, 1.2)},
            }
        ]
    )
    assert section.headline == (
        "Fused octave convolutions on NVIDIA H200 (base synthesise at 768x512, fp16, torch-compile, fused:pooled): "
        "1.500 ms, 1.20x as fast as the naive graph and 2.40x as fast as plain convolutions of equal width."
    )
    assert [row[1:4] for row in section.tables[0].rows] == [
        ("torch-compile, fused:pooled", "1.500", "1.20"),
        ("tensorrt, fused:pooled", "2.500", "1.70"),
    ]


def test_a_section_that_did_not_end_makes_the_command_fail(tmp_path, capsys):
    output = tmp_path / "g.json"
    assert main(command(output, "--limit", "0.3")) == VerificationError.exit_code
    assert f"did not run to its end: {FIRST}" in capsys.readouterr().err
    assert json.loads(output.read_text())["sections"][FIRST]["status"] == "timeout"


def test_correctness_is_judged_in_a_section(tmp_path):
    (section,) = [s for s in sections(TINY) if s.name == "correctness onnxruntime-cpu int8"]
    found = run_section(section, tmp_path, 120)
    assert found["status"] == "done", found
    assert found["result"]["ok"]
    assert [row["output"] for row in found["result"]["outputs"]] == [
        "labels",
        "compact",
        "estimate",
        "refined",
    ]


def test_a_section_that_hangs_is_stopped_and_loses_no_other(tmp_path):
    (section,) = [s for s in sections(TINY) if s.name == FIRST]
    found = run_section(section, tmp_path, 0.3)
    assert (found["status"], found["reason"], found["result"]) == ("timeout", "stopped after 0 s", None)


def test_a_section_that_fails_says_why(tmp_path):
    section = Section("x", {"kind": "latency", "network": "none", "graph": "analyse"})
    found = run_section(section, tmp_path, 60)
    assert found["status"] == "failed"
    assert found["reason"].startswith("exit code 1: ")
    assert "KeyError" in found["reason"]


def test_what_would_not_be_ready_in_time_is_left_out_and_the_rest_is_measured(monkeypatch):
    now = [0.0]

    def make(*_, **__):
        now[0] += 40
        return network_candidates.Candidate(lambda: None, lambda: np.zeros(3, np.uint8), {})

    monkeypatch.setattr(gpu_section, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(network_candidates, "make", make)
    (section,) = [s for s in sections(TINY) if s.name == FIRST]
    found = {}
    gpu_section.latency({**section.spec, "work": "", "limit": 130}, found.update)
    # After two, at 80 s, a third would be ready at 120 s of 130: too late to measure all three.
    assert list(found["timings"]) == list(network_candidates.FORMS[:2])
    assert set(found["left_out"]) == set(network_candidates.FORMS[2:])


def stand_in_for_python(tmp_path, monkeypatch, script):
    """Sections run this instead; `$4` is the result file."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(gpu.sys, "executable", str(path))


def test_what_a_section_leaves_behind_holds_up_no_other(tmp_path, monkeypatch):
    """Compilers work in processes of their own, which may outlive the section and hold its pipes."""
    stand_in_for_python(tmp_path, monkeypatch, f'sleep 60 & echo $! > {tmp_path}/pid; echo "{{}}" > "$4"')
    found = run_section(Section("x", {"kind": "machine"}), tmp_path, 30)
    assert (found["status"], found["result"]) == ("done", {})
    assert found["seconds"] < 20
    left = Path("/proc") / (tmp_path / "pid").read_text().strip()
    deadline = time.monotonic() + 10
    while (left / "cmdline").exists() and (left / "cmdline").read_bytes():  # empty: dead, and not yet buried
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_errors_that_are_no_text_are_kept_as_far_as_they_are(tmp_path, monkeypatch):
    stand_in_for_python(tmp_path, monkeypatch, "printf 'nvcc: \\377 failed' >&2; kill -SEGV $$")
    found = run_section(Section("x", {"kind": "machine"}), tmp_path, 30)
    assert (found["status"], found["reason"]) == ("failed", "killed by SIGSEGV: nvcc: \ufffd failed")


def test_what_the_time_does_not_reach_is_listed(tmp_path):
    plan = dataclasses.replace(TINY, budget=1e-9)
    lines = []
    result = run(plan, tmp_path / "g.json", only=[FIRST], progress=lines.append)
    assert result["sections"][FIRST]["status"] == "not reached"
    assert "goes on from here" in lines[0]
    with pytest.raises(UsageError, match="no section's name holds nothing"):
        run(plan, tmp_path / "g.json", only=["nothing"])


def test_a_later_run_keeps_what_it_does_not_repeat_and_tries_failures_last(tmp_path):
    output = tmp_path / "g.json"
    second = FIRST.replace("fp32", "fp16")
    other = {"status": "timeout", "seconds": 90.0, "result": {"notes": {}}, "reason": "stopped after 90 s"}
    earlier = {
        "machine": {"status": "failed", "reason": "x"},
        "of another plan": other,
        second: {"status": "done"},
    }
    body = {"format": gpu.FORMAT, "device": "cpu", "gpu": "cpu", "sections": earlier}
    output.write_text(json.dumps(body))
    lines = []
    plan = dataclasses.replace(TINY, budget=1e-9)
    result = run(plan, output, only=["machine", FIRST, second], progress=lines.append)
    assert [text.partition(":")[0] for text in lines] == [second, FIRST, "machine"]
    assert result["sections"]["of another plan"] == other
    assert json.loads(output.read_text())["sections"][second] == {"status": "done"}


def test_a_section_that_was_cut_short_is_tried_again_and_loses_nothing(tmp_path, monkeypatch):
    output = tmp_path / "g.json"

    def part(status, *forms, left_out=()):
        timings = {
            form: {"wall": {"total": dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "n"), 1)}} for form in forms
        }
        result = {"timings": timings, "left_out": dict.fromkeys(left_out, gpu_section.CUT)}
        return {"status": status, "seconds": 1.0, "result": result}

    cut = part("done", "naive", "plain", left_out=["fused:pooled"])
    whole = part("done", "naive", "plain", "fused:pooled")
    body = {"format": gpu.FORMAT, "device": "cpu", "gpu": "cpu", "sections": {FIRST: cut}}

    def again(found, budget=TINY.budget):
        output.write_text(json.dumps(body))
        monkeypatch.setattr(gpu, "run_section", lambda *_: found)
        plan = dataclasses.replace(TINY, budget=budget)
        return run(plan, output, only=[FIRST], progress=lambda _: None)["sections"][FIRST]

    assert again(whole) == whole
    assert again(part("timeout", "naive")) == cut
    assert again(None, budget=1e-9) == cut  # not reached
    assert gpu.unfinished(body)  # what it built so far is kept for the next run
    body["sections"][FIRST] = whole
    assert again(None) == whole
    assert not gpu.unfinished(body)


def test_files_of_others_are_not_overwritten(tmp_path):
    path = tmp_path / "x.json"
    assert read_earlier(path, TINY) == {}
    path.write_text("{}")
    with pytest.raises(DataError, match="not a result of"):
        read_earlier(path, TINY)
    path.write_text("no json")
    with pytest.raises(DataError, match="is not JSON"):
        read_earlier(path, TINY)
    path.write_text(json.dumps({"format": gpu.FORMAT, "device": "cuda", "gpu": "NVIDIA X", "sections": {}}))
    with pytest.raises(DataError, match="was measured on NVIDIA X"):
        read_earlier(path, TINY)


def test_failures_are_lines_too():
    assert (
        line("x", {"status": "timeout", "reason": "stopped after 90 s"}) == "x: timeout: stopped after 90 s"
    )


@pytest.mark.parametrize("form", ["naive", "fused:transposed", "plain"])
def test_pytorch_forms_run_and_agree(form):
    work = network_candidates.Work("tiny", "synthesise", 64, 96, "fp32", "cpu")
    candidate = network_candidates.torch_candidate(work, form, compiled=False, cuda_graphs=False)
    candidate.run()
    y = candidate.output()
    assert (y.shape, y.dtype) == ((1, 64, 96, 3), np.uint8)
    if form == "fused:transposed":
        naive = network_candidates.torch_candidate(work, "naive", compiled=False, cuda_graphs=False)
        found = network_candidates.agreement({"fused": candidate, "naive": naive}, "naive")
        assert found["fused"]["maximum"] <= 1


def test_a_recording_keeps_the_weights_that_it_reads(monkeypatch):
    stream = types.SimpleNamespace(wait_stream=lambda other: None)
    recording = types.SimpleNamespace(replay=lambda: None)
    stand_in = types.SimpleNamespace(
        Stream=lambda: stream,
        current_stream=lambda: stream,
        stream=contextlib.nullcontext,
        CUDAGraph=lambda: recording,
        graph=contextlib.nullcontext,
    )
    monkeypatch.setattr(network_candidates.torch, "cuda", stand_in)
    module, x = torch.nn.Linear(2, 3), torch.ones(1, 2)
    weights = weakref.ref(module.weight)
    replay = network_candidates._recorded(module, [x])
    del module
    gc.collect()
    assert weights() is not None
    assert replay(x).shape == (1, 3)
    del replay
    gc.collect()
    assert weights() is None


@pytest.mark.parametrize("capturable", [True, False])
def test_engines_that_cannot_be_recorded_are_not_measured_as_recorded(tmp_path, monkeypatch, capturable):
    driver = HostDriver()
    module = product(driver)
    module.Runtime.deserialize_cuda_engine = lambda _, plan: Engine(plan, [], driver, capturable=capturable)
    install(monkeypatch, driver, module)
    work = network_candidates.Work("tiny", "synthesise", 64, 96, "fp32", "cuda")
    plain = network_candidates.make(work, "tensorrt", "naive", tmp_path, cuda_graphs=False)
    assert plain.run().wall == {"device": 1.25e-3}
    if capturable:
        recorded = network_candidates.make(work, "tensorrt", "naive", tmp_path, cuda_graphs=True)
        assert driver.log.count("replay") == 1
        assert np.array_equal(recorded.output(), plain.output())
        assert driver.log.count("replay") == 2
    else:
        with pytest.raises(BackendError, match="cannot record the engine's launches"):
            network_candidates.make(work, "tensorrt", "naive", tmp_path, cuda_graphs=True)


def test_more_compiled_forms_than_pytorch_keeps_by_itself_are_all_compiled(monkeypatch):
    """Beyond its limit it runs a form eagerly, and says so on stderr only."""
    compiled = []

    def backend(graph, _):
        compiled.append(graph)
        return graph.forward

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, *, mode: compiler(module, backend=backend))
    modules = [torch.nn.Sequential(*[torch.nn.ReLU()] * n) for n in range(1, 13)]
    monkeypatch.setattr(network_candidates, "torch_module", lambda work, form: _First(modules.pop()))
    work = network_candidates.Work("tiny", "synthesise", 64, 96, "fp32", "cpu")
    for n in range(1, 13):
        network_candidates.torch_candidate(work, "naive", compiled=True, cuda_graphs=False).run()
        assert len(compiled) == n


class _First(torch.nn.Module):
    """One code for all that it may hold, as the deployable modules are."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, labels):
        return self.inner(x)


@pytest.mark.slow
def test_every_section_of_the_quick_plan_runs_on_the_cpu(tmp_path):
    plan = dataclasses.replace(TINY, budget=3000, limit=600)
    result = run(plan, tmp_path / "g.json", progress=lambda _: None)
    statuses = {name: part["status"] for name, part in result["sections"].items()}
    assert not {name: status for name, status in statuses.items() if status not in {"done", "skipped"}}
    assert sum(status == "done" for status in statuses.values()) >= 10


@pytest.mark.gpu
def test_the_first_comparison_on_a_gpu(tmp_path):
    if NO_GPU:
        pytest.skip(f"needs an NVIDIA GPU: {gpus()[1]}")
    plan = Plan(networks=("lite",), sizes=((64, 96),), level=0)
    result = run(
        plan, tmp_path / "g.json", only=["latency lite synthesise 96x64 fp32"], progress=lambda _: None
    )
    found = [part for part in result["sections"].values() if part["status"] == "done"]
    assert found
    for part in found:
        assert all(row["maximum"] <= 1 for row in part["result"].get("agreement", {}).values())
