"""ONNX Runtime on GPUs: nothing runs elsewhere in silence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import types
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from oslic.cli.main import main
from oslic.runtime import backends
from oslic.runtime.backends import Options, PassedOverWarning, select
from oslic.runtime.backends.base import Availability
from oslic.runtime.backends.cuda import bindings as cuda
from oslic.runtime.backends.cuda import driver as cuda_driver
from oslic.runtime.backends.cuda.driver import Gpu, gpus
from oslic.runtime.backends.onnxruntime import gpu as onnxruntime_gpu
from oslic.runtime.backends.onnxruntime import sessions
from oslic.runtime.backends.onnxruntime.gpu import _TRIAL
from oslic.runtime.bundle.folder import Bundle, default_bundle
from oslic.runtime.bundle.manifest import LAYER_GRAPHS
from oslic.runtime.errors import BackendError
from stand_in_engines import without_gpu


@pytest.fixture(scope="module")
def ort():
    return sessions.find_onnxruntime()[0]


def test_the_default_logger_is_silenced_unless_a_caller_may_have_set_it(monkeypatch):
    said = []
    module = types.SimpleNamespace(InferenceSession=object, set_default_logger_severity=said.append)
    monkeypatch.setattr(sessions.importlib, "import_module", lambda name: module)
    assert sessions.find_onnxruntime() == (module, "")
    assert not said
    monkeypatch.delitem(sys.modules, "onnxruntime")
    assert sessions.find_onnxruntime() == (module, "")
    assert said == [4]


def test_the_trial_model_is_a_relu():
    model = onnx.load_model_from_string(_TRIAL)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Relu"]


@without_gpu
@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_a_session_that_would_run_on_the_cpu_is_refused(ort, provider):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        silent = ort.InferenceSession(_TRIAL, providers=[provider])
    assert silent.get_providers() == ["CPUExecutionProvider"]  # what ONNX Runtime does by itself
    options = sessions.session_options(ort, 1)
    with pytest.raises(BackendError, match=f"{provider} does not start"):
        sessions.open_session(ort, _TRIAL, sessions.Provider(provider, {}), options)


def test_libraries_of_nvidias_packages_are_loaded_before_a_provider_needs_them(capsys):
    """ONNX Runtime does not find them by itself, and prints what it misses."""
    calls = []

    def preload_dlls():
        calls.append("preload")
        print("Failed to load libcudnn.so.9")

    kind = backends.backend_class("onnxruntime-cuda")
    module = types.ModuleType("stand_in")
    module.get_available_providers, module.preload_dlls = list, preload_dlls
    assert kind._provider(module, Options()) is None
    assert not calls
    module.get_available_providers = lambda: [kind.provider]
    for _ in range(2):
        assert kind._provider(module, Options()).name == kind.provider
    assert calls == ["preload"]
    assert capsys.readouterr().out == ""


def test_providers_whose_recordings_hold_for_one_shape_record_none():
    """Their documentation: input shapes must be fixed across runs. Ours are as the images are."""
    module = types.ModuleType("stand_in")
    kinds = [backends.backend_class(name) for name in ("onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx")]
    module.get_available_providers = lambda: [kind.provider for kind in kinds]
    for kind, option in zip(kinds, ("trt_cuda_graph_enable", "enable_cuda_graph"), strict=True):
        assert kind._provider(module, Options(cuda_graphs=True)).options[option] == "0"


def test_a_plugin_that_does_not_load_is_an_error_of_ours(ort, tmp_path, monkeypatch):
    (tmp_path / "onnxruntime_ep_nv_tensorrt_rtx.py").write_text("raise ImportError('libcudart.so.13')")
    monkeypatch.syspath_prepend(tmp_path)
    kind = backends.backend_class("onnxruntime-tensorrt-rtx")
    with pytest.raises(
        BackendError, match=r"onnxruntime_ep_nv_tensorrt_rtx does not load: libcudart\.so\.13"
    ):
        kind._provider(ort, Options())


def test_nodes_on_another_provider_are_named(ort):
    options = sessions.session_options(ort, 1)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    data = Bundle.open(default_bundle()).read_graph("synthesise")
    real = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    assert not sessions._misplaced(real, {"CPUExecutionProvider"})
    found = sessions._misplaced(real, {"CUDAExecutionProvider"})
    assert found["Conv"] > 10
    assert "Shape" not in found  # computing sizes on the CPU is right
    with pytest.raises(BackendError, match=r"1\.24 or later"):
        sessions._misplaced(object(), set())


@without_gpu
@pytest.mark.parametrize(
    "name", [name for name in backends.BACKENDS if name not in {"onnxruntime-cpu", "openvino"}]
)
def test_gpu_backends_say_why_they_cannot_be_used(name):
    with pytest.raises(BackendError, match=f"{name} cannot be used: .*(pip install|no GPU can be used)"):
        select(name, Bundle.open(default_bundle()))


@without_gpu
def test_the_driver_is_asked_not_guessed():
    found, reason = gpus()
    assert (found, bool(reason)) == ([], True)
    with pytest.raises(BackendError, match="no GPU can be used"):
        cuda.open_driver()


def test_a_precision_that_the_graphs_do_not_have_is_refused(float_lite, capsys):
    bundle = float_lite
    with pytest.raises(BackendError, match="runs graphs as they are, and segment is fp32, not fp16"):
        select("onnxruntime-cpu", bundle, Options(precision="fp16"))
    assert select("onnxruntime-cpu", bundle, Options(precision="fp32"))
    with pytest.raises(BackendError, match="no usable backend"):
        select("auto", bundle, Options(precision="int8"))


def test_auto_says_aloud_what_it_passed_over(monkeypatch, tmp_path, photo, capsys):
    """Two backends of the table report what they would on a GPU machine with a stale engine."""
    stale = Availability(False, "11.4.0", "the engine x cannot be used: built with 11.3.0", expected=True)
    for kind in ("tensorrt", "tensorrt-rtx"):
        monkeypatch.setattr(
            backends.backend_class(kind), "probe", classmethod(lambda cls, bundle, options: stale)
        )
    bundle = Bundle.open(default_bundle())
    with pytest.warns(PassedOverWarning, match=r"tensorrt is passed over: the engine x cannot be used"):
        chosen = select("auto", bundle)
    assert chosen.passed_over["tensorrt"] == stale.reason
    assert "by name only" in chosen.passed_over["onnxruntime-tensorrt"]
    from PIL import Image

    Image.fromarray(photo[:40, :64]).save(tmp_path / "x.png")
    assert main(["compress", str(tmp_path / "x.png"), "-o", str(tmp_path / "x.oslic")]) == 0
    assert "oslic: warning: tensorrt is passed over" in capsys.readouterr().err


def test_the_command_lists_every_backend_with_version_and_reason(capsys):
    assert main(["backends", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["backends"]) == list(backends.BACKENDS)
    assert all(row["reason"] for row in found["backends"].values())
    assert found["auto"] in found["backends"]
    assert main(["backends"]) == 0
    text = capsys.readouterr().out
    assert text.count("(auto takes this one)") == 1
    assert all(name in text for name in backends.BACKENDS)


@pytest.mark.parametrize("graph", LAYER_GRAPHS)
def test_bound_sessions_compute_what_plain_ones_do(ort, graph):
    """I/O binding on the CPU's memory: the same code as on a GPU's, but for the device's name."""
    bundle = Bundle.open(default_bundle())
    data = bundle.read_graph(graph)

    def session():
        options = sessions.session_options(ort, 1)
        return sessions.open_session(ort, data, sessions.Provider(sessions.CPU, {}), options)

    plain = sessions.HostRunner(ort, session(), graph)
    bound = sessions.BoundRunner(ort, session(), graph, device="cpu", capture=True)
    random = np.random.default_rng(0)
    scale = {"image": (1, (3,)), "labels": (bundle.manifest.label_scale, ()), "compact": (8, (3,))}
    kept = []
    for h, w in ((32, 64), (64, 32), (32, 64), (32, 64), (32, 64)):
        x = [
            random.integers(0, 11, (1, h // s, w // s, *c), np.uint8)
            for s, c in (scale[name] for name in bundle.manifest.graphs[graph].inputs)
        ]
        wanted, y = plain(*x), bound(*[torch.from_numpy(part) for part in x])
        assert np.array_equal(y, wanted)
        kept.append((y, wanted))
    assert all(np.array_equal(y, wanted) for y, wanted in kept)  # each call's output is its own
    assert [slot.state._recorded for slot in bound._slots.values()] == [False, True]
    with pytest.raises(BackendError, match="ONNX Runtime failed in the"):
        bound(*[part[:, :3] for part in x])
    with pytest.raises(BackendError, match=r"takes \d inputs"):
        bound()
    bound.close()
    with pytest.raises(BackendError, match="was closed"):
        bound(*x)


@pytest.mark.parametrize(
    "image", [np.zeros((1, 32, 32), np.uint8), np.zeros((1, 32, 32, 3), np.float32)], ids=["rank", "type"]
)
def test_what_onnx_runtime_refuses_is_an_error_of_ours(image):
    """Its `InvalidArgument` is neither a RuntimeError nor a ValueError."""
    runner = select("onnxruntime-cpu", Bundle.open(default_bundle())).backend.load("segment")
    with pytest.raises(BackendError, match="ONNX Runtime failed in the segment graph on inputs") as caught:
        runner(image)
    assert "\n" not in str(caught.value)
    page = sessions._failure("segment", [(1, 2)], RuntimeError("a\n  b\n" + 2000 * "c"))
    assert str(page).startswith("ONNX Runtime failed in the segment graph on inputs (1, 2): a b ccc")
    assert len(str(page)) < 1100


def test_a_gpus_sessions_are_called_on_one_thread_whoever_calls(ort):
    """ONNX Runtime records for each thread anew, and what one thread records, another one's call would spoil."""
    data = Bundle.open(default_bundle()).read_graph("segment")
    threads = set()

    class Watched:
        """The session, and who calls it."""

        def __init__(self):
            options = sessions.session_options(ort, 1)
            self._session = sessions.open_session(ort, data, sessions.Provider(sessions.CPU, {}), options)

        def __getattr__(self, name):
            threads.add(threading.get_ident())
            return getattr(self._session, name)

    bound = [
        sessions.BoundRunner(
            ort, Watched(), "segment", device="cpu", capture=True, call=sessions.on_device_thread
        )
        for _ in range(2)
    ]
    threads.clear()
    plain = select("onnxruntime-cpu", Bundle.open(default_bundle())).backend.load("segment")
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (1, 32 * n, 64, 3), np.uint8) for n in (1, 2, 3)]

    def work(k):
        return [bound[(k + i) % 2](x) for i, x in enumerate(images * 3)]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, range(4)):
            for x, y in zip(images * 3, found, strict=True):
                assert np.array_equal(y, plain(x))
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert sessions.on_device_thread(lambda: sessions.on_device_thread(threading.get_ident)) in threads
    with pytest.raises(BackendError, match="ONNX Runtime failed in the segment graph"):
        bound[0](images[0][0])
    for runner in bound:
        runner.close()
    with pytest.raises(BackendError, match="was closed"):
        bound[0](images[0])


def test_a_gpus_sessions_can_be_closed_while_the_interpreter_shuts_down():
    """Python ends the threads of its pools before it calls what is registered for its exit."""
    program = (
        "import atexit, threading\n"
        "from oslic.runtime.backends.onnxruntime.sessions import on_device_thread\n"
        "name = lambda: print(threading.current_thread().name)\n"
        "atexit.register(on_device_thread, name)\n"
        "on_device_thread(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["oslic-gpu_0", "MainThread"]
    assert not done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_has_a_device_thread_of_its_own():
    """Its parent's would never answer."""
    program = (
        "import os, signal\n"
        "from oslic.runtime.backends.onnxruntime.sessions import on_device_thread\n"
        "parent = on_device_thread(os.getpid)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(20)\n"
        "    os._exit(0 if on_device_thread(os.getpid) not in {parent, 0} else 1)\n"
        "raise SystemExit(os.waitpid(child, 0)[1])\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def test_bundles_in_int8_are_refused_where_cuda_would_leave_layers_to_the_cpu(
    float_lite, tmp_path, monkeypatch
):
    shutil.copytree(float_lite.path, tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    manifest["quantization"] = {"scheme": "int8"}
    for graph in manifest["graphs"].values():
        graph["precision"] = "int8"
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    asked = []

    def session(data, options):
        asked.append(options.cuda_graphs)
        raise BackendError("CUDAExecutionProvider leaves nodes to another provider: 13 DequantizeLinear")

    kind = onnxruntime_gpu.OnnxRuntimeCuda
    monkeypatch.setattr(kind, "session", session)
    monkeypatch.setattr(kind, "require_present", lambda options: (onnxruntime, None))
    monkeypatch.setattr(onnxruntime_gpu, "_open", lambda *arguments: None)
    monkeypatch.setattr(cuda_driver, "gpus", lambda: ([Gpu("a stand-in", "9.0")], ""))
    found = kind.probe(Bundle.open(tmp_path / "b"), Options())
    assert not found.usable
    assert found.reason.startswith(
        "CUDAExecutionProvider leaves nodes to another provider: 13 DequantizeLinear;"
    )
    assert found.reason.endswith(f"oslic build {tmp_path / 'b'} --backend tensorrt --precision int8-fp16")
    assert asked == [False]  # a recording would be refused in other words
    assert kind.probe(float_lite, Options()).usable


def test_slots_are_bounded(ort):
    data = Bundle.open(default_bundle()).read_graph("segment")
    options = sessions.session_options(ort, 1)
    session = sessions.open_session(ort, data, sessions.Provider(sessions.CPU, {}), options)
    bound = sessions.BoundRunner(ort, session, "segment", device="cpu", capture=True)
    for n in range(1, 15):
        bound(np.zeros((1, 32, 32 * n, 3), np.uint8))
    assert len(bound._slots) <= sessions._MOST_SLOTS + 1
