"""Backends for GPUs, as far as a machine without one can tell: decisions, memory, sidecars, refusals."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from host_product import PRODUCT, DataType, Engine, Heap, HostDriver, product
from onnx import TensorProto, helper
from oslic.cli.commands.inspect import describe
from oslic.cli.main import main
from oslic.runtime import backends
from oslic.runtime.backends import Options, PassedOverWarning, probe_all, select
from oslic.runtime.backends.base import Availability
from oslic.runtime.backends.cuda import bindings as cuda
from oslic.runtime.backends.cuda import driver as cuda_driver
from oslic.runtime.backends.cuda.arrays import contiguous, view
from oslic.runtime.backends.cuda.driver import Gpu, gpus
from oslic.runtime.backends.cuda.graph_capture import CaptureState, Step
from oslic.runtime.backends.cuda.memory import Buffer, Pool, Resource
from oslic.runtime.backends.onnxruntime import gpu as onnxruntime_gpu
from oslic.runtime.backends.onnxruntime import sessions
from oslic.runtime.backends.onnxruntime.gpu import _TRIAL
from oslic.runtime.backends.tensorrt import backend as tensorrt
from oslic.runtime.backends.tensorrt.bindings import Log, require_gpu, require_valid
from oslic.runtime.backends.tensorrt.runner import TensorRtRunner
from oslic.runtime.bundle import engine_trust
from oslic.runtime.bundle.engine_files import (
    PRODUCTS,
    EngineInfo,
    choose_engine,
    rebuild_command,
    wanted_precision,
)
from oslic.runtime.bundle.folder import Bundle, default_bundle
from oslic.runtime.bundle.manifest import LAYER_GRAPHS
from oslic.runtime.codec import Codec
from oslic.runtime.errors import BackendError
from oslic.runtime.model.source import bundle_shapes, model_of

NO_GPU = not gpus()[0]
without_gpu = pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")


# -- when to record a CUDA graph --------------------------------------------------------------------------------------


def steps(state, *keys):
    found = []
    for key in keys:
        step, drop = state.step(key)
        if step is Step.RECORD:
            state.recorded()
        found.append(step.value + ("!" if drop else ""))
    return found


def test_the_first_run_is_plain_the_second_recorded_the_others_replayed():
    assert steps(CaptureState(), "a", "a", "a", "a") == ["run", "record", "replay", "replay"]


def test_another_key_drops_the_recording_and_the_old_one_is_never_replayed():
    assert steps(CaptureState(), "a", "a", "a", "b", "a", "a") == [
        "run",
        "record",
        "replay",
        "run!",
        "run",
        "record",
    ]


def test_changing_keys_record_nothing():
    assert steps(CaptureState(), "a", "b", "a", "b") == ["run"] * 4


def test_more_plain_runs_and_none_at_all():
    assert steps(CaptureState(plain_runs=3), *"aaaaa") == ["run"] * 3 + ["record", "replay"]
    assert steps(CaptureState(enabled=False), *"aaa") == ["run"] * 3


def test_a_refused_recording_is_not_tried_again():
    state = CaptureState()
    assert steps(state, "a") == ["run"]
    assert state.step("a")[0] is Step.RECORD
    state.refused()
    assert not state.enabled
    assert steps(state, "a", "b", "b", "b") == ["run"] * 4


def test_reset_says_whether_there_is_something_to_destroy():
    state = CaptureState()
    assert not state.reset()
    steps(state, "a", "a")
    assert state.reset()
    assert not state.reset()
    assert steps(state, "a", "a") == ["run", "record"]


# -- arrays of other libraries ----------------------------------------------------------------------------------------


class Interface:
    """A device array as CuPy, PyCUDA or Numba show theirs; only its description is read here."""

    def __init__(self, **changes):
        self.__cuda_array_interface__ = {
            "shape": (2, 3),
            "typestr": "|u1",
            "data": (0x7000, False),
            "version": 3,
            "strides": None,
            "stream": 7,
        } | changes


def test_numpy_is_read_where_it_lies():
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    found = view(array)
    assert (found.address, found.shape, found.on_device) == (array.ctypes.data, (3, 4), False)
    found.host()[5] = 99
    assert array[1, 1] == 99


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_dlpack_is_read_where_it_lies_and_kept_alive(library):
    class Wrapped:
        """A numpy array that shows nothing but DLPack."""

        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    source = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4)
    if library == "numpy":
        source = Wrapped(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    found = view(source)
    assert found.shape == (2, 3, 4)
    assert not found.on_device
    if library == "torch":
        assert found.address == source.data_ptr()
    del source
    gc.collect()
    assert np.array_equal(found.host(), np.arange(24))


def test_a_producer_that_refuses_dlpack_is_named():
    class Refusing:
        def __dlpack__(self, **options):
            raise BufferError("it needs gradients")

        def __dlpack_device__(self):
            return (1, 0)

    with pytest.raises(BackendError, match="Refusing does not give its memory by DLPack: it needs gradients"):
        view(Refusing())


def test_a_dlpack_tensor_is_given_back_exactly_once():
    array = np.zeros(1000, np.uint8)

    class Counting:
        def __dlpack__(self, **options):
            return array.__dlpack__()

        def __dlpack_device__(self):
            return (1, 0)

    before = sys.getrefcount(array)
    for _ in range(50):
        found = view(Counting())
        assert sys.getrefcount(array) == before + 1
        del found
    assert sys.getrefcount(array) == before


def test_a_part_of_a_dlpack_tensor_starts_at_its_own_byte():
    source = torch.arange(20, dtype=torch.uint8)[5:]
    assert view(source).host()[0] == 5


def test_an_array_with_both_interfaces_is_told_the_stream_that_reads_it():
    """As torch's are: its array interface, of version 2, says nothing of the stream that its contents come by."""
    told = []

    class Both(Interface):
        def __dlpack__(self, *, stream):
            told.append(stream)
            return np.zeros((2, 3), np.uint8).__dlpack__()

        def __dlpack_device__(self):
            return (2, 0)

    array = Both(version=2)
    del array.__cuda_array_interface__["stream"]
    found = view(array, 5)
    assert (found.on_device, found.stream, told) == (True, None, [5])


def test_the_cuda_array_interface_is_read_without_a_copy():
    found = view(Interface())
    assert (found.address, found.shape, found.on_device, found.stream, found.size) == (
        0x7000,
        (2, 3),
        True,
        7,
        6,
    )
    assert view(Interface(strides=(3, 1))).shape == (2, 3)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2), np.float32), "is float32; the graphs take uint8"),
        (np.zeros((4, 4), np.uint8)[:, ::2], "not in C order"),
        (torch.zeros(3), "DLPack's type 2, 32 bits"),
        (torch.zeros((4, 4), dtype=torch.uint8).T[1:], "not in C order"),
        (Interface(typestr="<f4"), "<f4"),
        (Interface(strides=(1, 2)), "not in C order"),
        ([1, 2], "is a list; give a numpy array"),
    ],
)
def test_other_types_and_layouts_are_refused(array, message):
    with pytest.raises(BackendError, match=message):
        view(array)


def test_contiguity():
    assert contiguous((2, 3), (3, 1))
    assert contiguous((1, 3), (99, 1))
    assert contiguous((0, 3), (1, 1))
    assert not contiguous((2, 3), (4, 1))


# -- memory -----------------------------------------------------------------------------------------------------------


def test_a_resource_is_released_once():
    gone = []
    resource = Resource(5, gone.append)
    assert not resource.closed
    resource.close()
    resource.close()
    assert gone == [5]
    del resource
    Resource(6, gone.append)
    gc.collect()
    assert gone == [5, 6]


def test_buffers_grow_and_give_back_what_they_had():
    heap = Heap()
    buffer = Buffer(heap.allocate, heap.free)
    first = buffer.require(100)
    assert buffer.require(50) == first
    buffer.require(1000)
    assert list(heap.live.values()) == [1000]
    owner = buffer.hand_over()
    buffer.close()
    assert len(heap.live) == 1
    owner.close()
    assert not heap.live


def test_pooled_arrays_own_their_memory():
    heap = Heap()
    pool = Pool(heap.allocate, heap.free, most=1)
    one, two = pool.array((4, 5)), pool.array((20,))
    one[:], two[:] = 1, 2
    part = one[1:, 2]  # a view keeps the memory too
    del one
    gc.collect()
    assert (pool.idle, part.tolist()) == (0, [1, 1, 1])
    del part, two
    gc.collect()
    assert pool.idle == 1  # the other piece went back to the heap
    assert len(heap.live) == 1
    again = pool.array((18,))
    assert len(heap.live) == 1
    assert pool.array((1000,)).size == 1000
    pool.close()
    again[:] = 7
    assert again.sum() == 7 * 18  # lent memory outlives the pool
    del again
    gc.collect()
    assert not heap.live


def test_pools_are_safe_for_threads():
    heap = Heap()
    pool = Pool(heap.allocate, heap.free)
    failures = []

    def work(number):
        for i in range(200):
            array = pool.array((100 + i % 7,))
            array[:] = number
            if not (array == number).all():
                failures.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.close()
    gc.collect()
    assert not failures
    assert not heap.live


# -- the TensorRT runner, on a stand-in for the product ---------------------------------------------------------------


def doubling():
    """y = x + labels, with the ports of a graph of ours: a model whose result depends on every byte."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["a"], to=TensorProto.INT32),
            helper.make_node("Cast", ["labels"], ["b"], to=TensorProto.INT32),
            helper.make_node("Unsqueeze", ["b", "axis"], ["c"]),
            helper.make_node("Add", ["a", "c"], ["d"]),
            helper.make_node("Cast", ["d"], ["y"], to=TensorProto.UINT8),
        ],
        "sum",
        [
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3]),
            helper.make_tensor_value_info("labels", TensorProto.UINT8, ["N", "H", "W"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [3])],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    ).SerializeToString()


def profile(least, best, most):
    sizes = [(1, side, side) for side in (least, best, most)]
    return {"image": tuple((*s, 3) for s in sizes), "labels": tuple(sizes)}


INFO = EngineInfo(
    file="analyse.tensorrt.fp16.engine",
    sha256=hashlib.sha256(b"plan").hexdigest(),
    graph="analyse",
    graph_sha256="ab" * 32,
    backend="tensorrt",
    version="11.4.0",
    precision="fp16",
    gpu="9.0",
    profiles=(profile(32, 64, 96), profile(64, 128, 256)),
)


def make_runner(driver, *, capture=True, info=INFO, **engine):
    made = Engine(doubling(), info.profiles, driver, **engine)
    with driver.current():
        context = made.create_execution_context()
    return TensorRtRunner(
        PRODUCT,
        made,
        context,
        driver,
        info=info,
        names=(("image", "labels"), ("y",)),
        rebuild="oslic build B",
        capture=capture,
        log=Log(),
    )


def placed(driver, array, offset=0):
    """An array on the "device" of a stand-in, some bytes behind the beginning of its memory."""
    address = driver.allocate(array.nbytes + offset) + offset
    ctypes.memmove(address, array.ctypes.data, array.nbytes)
    return Interface(shape=array.shape, data=(address, False), stream=None)


def inputs(side, seed=0):
    random = np.random.default_rng(seed)
    return (
        random.integers(0, 100, (1, side, side, 3), np.uint8),
        random.integers(0, 100, (1, side, side), np.uint8),
    )


def expected(image, labels):
    return image + labels[..., None]


def test_the_runner_computes_records_and_replays():
    driver = HostDriver()
    runner = make_runner(driver)
    for seed in range(4):
        x = inputs(32, seed)
        assert np.array_equal(runner(*x), expected(*x))
    assert [entry for entry in driver.log if entry != "synchronize"] == [
        "launch",
        "replay",
        "replay",
        "replay",
    ]
    x = inputs(64)  # other shapes: recorded anew, the old recording destroyed
    for _ in range(2):
        assert np.array_equal(runner(*x), expected(*x))
    assert len(driver.graphs) == 1
    assert (
        runner.device_milliseconds == 1.25
    )  # what the driver says of the two events, of which it knows both
    runner.close()
    runner.close()
    gc.collect()
    assert not driver.device.live
    assert not driver.pinned.live
    assert not driver.handles
    with pytest.raises(BackendError, match="was closed"):
        runner(*x)


def test_closing_on_a_broken_device_hides_no_earlier_error(monkeypatch):
    driver = HostDriver()
    runner = make_runner(driver)
    for _ in range(3):
        runner(*inputs(32))

    def broken(*arguments):
        raise BackendError("an illegal memory access was encountered")

    monkeypatch.setattr(driver, "synchronize", broken)
    monkeypatch.setattr(driver.device, "free", broken)
    monkeypatch.setattr(driver.pinned, "free", broken)
    driver.handles = types.SimpleNamespace(remove=broken)
    runner.close()
    assert (runner._context, runner._engine) == (None, None)


def test_profiles_are_chosen_by_shape_and_a_change_resets_the_recording():
    driver = HostDriver()
    runner = make_runner(driver)
    for side in (32, 32, 32, 160, 160, 160, 32, 64, 128):
        x = inputs(side)
        assert np.array_equal(runner(*x), expected(*x))
    with pytest.raises(
        BackendError, match=r"no profile of the engine .* takes image 1x300x300x3.*--shapes MIN,OPT,MAX"
    ):
        runner(*inputs(300))
    with pytest.raises(BackendError, match="image has 3 dimensions, must have 4"):
        runner(inputs(32)[1], inputs(32)[1])
    with pytest.raises(BackendError, match="takes 2 inputs, not 1"):
        runner(inputs(32)[0])
    x = inputs(64)
    assert np.array_equal(runner(*x), expected(*x))  # it still works


def test_a_run_that_fails_leaves_no_recording_of_the_context_before_it(monkeypatch):
    driver = HostDriver()
    runner = make_runner(driver)
    x = inputs(32)
    for _ in range(3):
        runner(*x)
    assert driver.graphs

    def full(size):
        raise BackendError("out of memory")

    with monkeypatch.context() as m:
        m.setattr(runner._results[0], "_allocate", full)
        with pytest.raises(BackendError, match="out of memory"):
            runner(*inputs(64))  # the context has its shapes by now
    assert not driver.graphs
    assert np.array_equal(runner(*x), expected(*x))


def test_an_engine_that_cannot_be_recorded_runs_plainly():
    driver = HostDriver()
    runner = make_runner(driver, capturable=False)
    for _ in range(4):
        x = inputs(32)
        assert np.array_equal(runner(*x), expected(*x))
    assert not runner.records_graphs
    assert not driver.graphs
    runner = make_runner(HostDriver(), capture=False)
    assert not runner.records_graphs


def test_shapes_that_the_engine_cannot_run_are_an_error_of_ours(monkeypatch):
    runner = make_runner(HostDriver())

    def fail():
        raise RuntimeError("infer_shapes error code: -1")

    monkeypatch.setattr(runner._context, "infer_shapes", fail)
    with pytest.raises(BackendError, match=r"host cannot run .*32.*infer_shapes error code: -1"):
        runner(*inputs(32))


def test_outputs_stay_valid_and_are_the_callers_own():
    driver = HostDriver()
    runner = make_runner(driver)
    kept = [(x := inputs(32, seed), runner(*x)) for seed in range(5)]
    runner.close()
    assert all(np.array_equal(y, expected(*x)) for x, y in kept)
    del kept
    gc.collect()
    assert not driver.pinned.live


def test_device_arrays_are_read_in_place_and_results_can_stay_there():
    driver = HostDriver()
    runner = make_runner(driver)
    x = inputs(32)
    image = placed(driver, x[0])
    (address,) = driver.device.live
    allocated = len(driver.device.live)
    y = runner.on_device(image, torch.from_numpy(x[1]))
    # The labels' staging and the result: the image was read where it lies.
    assert len(driver.device.live) == allocated + 2
    described = y.__cuda_array_interface__
    assert described["shape"] == (1, 32, 32, 3)
    result = np.frombuffer((ctypes.c_uint8 * 3072).from_address(described["data"][0]), np.uint8)
    assert np.array_equal(result.reshape(y.shape), expected(*x))
    assert np.array_equal(runner(image, x[1]), expected(*x))
    before = len(driver.device.live)
    del y
    gc.collect()
    assert len(driver.device.live) == before - 1
    runner.close()
    assert list(driver.device.live) == [address]


def test_a_device_array_that_starts_between_two_addresses_is_copied():
    driver = HostDriver()
    runner = make_runner(driver)
    x = inputs(32)
    image = placed(driver, x[0], 5)
    for _ in range(3):
        assert np.array_equal(runner(image, x[1]), expected(*x))


def test_a_device_array_of_another_context_is_refused():
    """Kernels cannot read it: without the check this would be an illegal memory access, after which CUDA is dead."""
    driver = HostDriver()
    runner = make_runner(driver)
    x = inputs(32)
    image = placed(driver, x[0])
    driver.elsewhere |= set(driver.device.live)
    with pytest.raises(BackendError, match=r"another CUDA context .* `import pycuda\.autoprimaryctx`"):
        runner(image, x[1])
    driver.elsewhere.clear()
    assert np.array_equal(runner(image, x[1]), expected(*x))


def test_engines_with_other_ports_are_refused():
    with pytest.raises(BackendError, match=r"image is DataType\.FLOAT, not uint8"):
        make_runner(HostDriver(), dtype=DataType.FLOAT)
    made = Engine(doubling(), INFO.profiles, driver := HostDriver())
    with driver.current():
        context = made.create_execution_context()
    with pytest.raises(
        BackendError, match="has the tensors image, labels, y instead of compact, estimate, labels"
    ):
        TensorRtRunner(
            PRODUCT,
            made,
            context,
            driver,
            info=INFO,
            names=(("compact", "labels"), ("estimate",)),
            rebuild="",
            capture=True,
            log=Log(),
        )


# -- sidecars ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path):
    return Bundle.open(shutil.copytree(default_bundle(), tmp_path / "lite"))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("gpu", "new", "not a compute capability"),
        ("precision", "int3", "known are int8"),
        ("backend", "other", "known are tensorrt"),
        ("profiles", [{}], "a profile has no shapes"),
        ("graph", "../segment", "must be a name"),
        ("profiles", [{"image": [[1, 32, 32, 3]] * 2}], "not three of equal rank"),
        ("profiles", [{"image": [[1, 32, 32, 3], [1, 64, 64, 3], [1, 64, 64]]}], "not three of equal rank"),
        ("profiles", [{"image": [[1, 32, 32, 3], [1, 0, 64, 3], [1, 64, 64, 3]]}], "not in order"),
    ],
)
def test_sidecars_that_make_no_sense_are_refused_when_read(bundle, field, value, reason):
    info = put_engine(bundle, "segment")
    path = bundle.path / "engines" / f"{Path(info.file).stem}.json"
    assert EngineInfo.read(path) == info
    body = json.loads(path.read_text()) | {field: value}
    path.write_text(json.dumps(body))
    with pytest.raises(BackendError, match=reason):
        EngineInfo.read(path)
    (engine,) = describe(bundle)["engines"]
    assert reason in engine["damage"]


def put_engine(bundle, graph, *, built_here=True, **changes):
    """An engine file with its sidecar, as `oslic build` writes them."""
    shapes = {
        "segment": {"image": ((1, 32, 32, 3), (1, 512, 768, 3), (4, 1088, 1920, 3))},
        "analyse": {
            "image": ((1, 32, 32, 3), (1, 512, 768, 3), (4, 1088, 1920, 3)),
            "labels": ((1, 8, 8), (1, 128, 192), (4, 272, 480)),
        },
        "synthesise": {
            "compact": ((1, 4, 4, 3), (1, 64, 96, 3), (4, 136, 240, 3)),
            "labels": ((1, 8, 8), (1, 128, 192), (4, 272, 480)),
        },
        "refine": {
            "decoded": ((1, 32, 32, 3), (1, 512, 768, 3), (4, 1088, 1920, 3)),
            "estimate": ((1, 32, 32, 3), (1, 512, 768, 3), (4, 1088, 1920, 3)),
            "settings": ((1, 2), (1, 2), (4, 2)),
        },
    }
    info = dataclasses.replace(
        INFO,
        graph=graph,
        graph_sha256=bundle.manifest.graphs[graph].sha256,
        profiles=(shapes[graph],),
        **changes,
    )
    stem = f"{graph}.{info.backend}.{info.precision}"
    info = dataclasses.replace(info, file=f"{stem}.engine")
    folder = bundle.path / "engines"
    folder.mkdir(exist_ok=True)
    (folder / info.file).write_bytes(b"plan")
    (folder / f"{stem}.json").write_text(info.to_json())
    if built_here:
        engine_trust.record(info)
    return info


HERE = {"version": "11.4.0", "gpu": "9.0", "precision": None}


def test_a_fitting_engine_is_chosen(bundle):
    info = put_engine(bundle, "synthesise")
    path, found = choose_engine(bundle, "synthesise", "tensorrt", **HERE)
    assert (path.name, found) == (info.file, info)


@pytest.mark.parametrize(
    ("changes", "here", "message"),
    [
        ({"gpu": "8.9"}, {}, r"built for compute capability 8\.9, here is 9\.0"),
        ({"version": "11.3.0"}, {}, r"built with tensorrt 11\.3\.0, here is 11\.4\.0"),
        ({}, {"precision": "fp32"}, "is fp16, not fp32"),
        ({"gpu": "9.1+"}, {}, r"capability 9\.1\+"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_with_the_command_that_rebuilds_it(
    bundle, changes, here, message
):
    put_engine(bundle, "synthesise", **changes)
    with pytest.raises(BackendError, match=message) as caught:
        choose_engine(bundle, "synthesise", "tensorrt", **(HERE | here))
    precision = here.get("precision", "fp16")
    assert f"oslic build {bundle.path} --backend tensorrt --precision {precision}" in str(caught.value)


def test_an_engine_of_another_graph_is_refused(bundle):
    info = put_engine(bundle, "synthesise")
    sidecar = bundle.path / "engines" / "synthesise.tensorrt.fp16.json"
    sidecar.write_text(dataclasses.replace(info, graph_sha256="cd" * 32).to_json())
    with pytest.raises(BackendError, match="built from another graph"):
        choose_engine(bundle, "synthesise", "tensorrt", **HERE)


def test_compatible_engines_fit_other_gpus_and_versions(bundle):
    put_engine(bundle, "synthesise", gpu="8.0+", version="11.1.0", version_compatible=True)
    assert choose_engine(bundle, "synthesise", "tensorrt", **HERE)
    with pytest.raises(BackendError, match=r"8\.0\+, here is 7\.5"):
        choose_engine(bundle, "synthesise", "tensorrt", **(HERE | {"gpu": "7.5"}))
    assert choose_engine(bundle, "synthesise", "tensorrt", **(HERE | {"gpu": "10.0"}))


def test_the_fastest_precision_is_wanted_and_no_other_taken_instead(bundle):
    assert wanted_precision(bundle, "tensorrt") is None
    with pytest.raises(BackendError, match="has no tensorrt engine of segment; build it: oslic build"):
        choose_engine(bundle, "segment", "tensorrt", **HERE)
    for graph in bundle.manifest.graph_names:
        put_engine(bundle, graph, precision="fp32")
    put_engine(bundle, "synthesise", precision="fp16", version="11.3.0")
    assert wanted_precision(bundle, "tensorrt") == "fp16"
    with pytest.raises(BackendError, match=r"built with tensorrt 11\.3\.0"):  # the fp32 one would fit
        choose_engine(bundle, "synthesise", "tensorrt", **HERE)
    with pytest.raises(BackendError, match="is fp32, not fp16; build it"):
        choose_engine(bundle, "segment", "tensorrt", **HERE)
    assert choose_engine(bundle, "segment", "tensorrt", **(HERE | {"precision": "fp32"}))


def test_the_command_that_rebuilds_asks_for_the_same_engine(bundle):
    from oslic.cli.commands import build
    from oslic.export.engines import Profile

    info = put_engine(bundle, "synthesise", version_compatible=True, optimization_level=5, gpu="8.0+")
    info = dataclasses.replace(info, profiles=(*info.profiles, *info.profiles))
    words = rebuild_command(bundle.path, info).split()
    assert words[:2] == ["oslic", "build"]
    import argparse

    parser = argparse.ArgumentParser()
    build.configure(parser)
    args = parser.parse_args(words[2:])
    manifest = bundle.manifest
    inputs = manifest.graphs["synthesise"].inputs
    profiles = [Profile.parse(text) for text in args.shapes]
    assert (
        tuple(
            p.shapes(inputs, manifest.multiple, partial(bundle_shapes, manifest.label_scale))
            for p in profiles
        )
        == info.profiles
    )
    assert (args.backend, args.precision, args.graph) == ("tensorrt", "fp16", ["synthesise"])
    assert (args.optimization_level, args.version_compatible, args.hardware_compatible, args.stripped) == (
        5,
        True,
        True,
        False,
    )


def test_engines_without_weights_must_have_the_graphs_own_types():
    from oslic.export.engines import Options as BuildOptions
    from oslic.export.engines import require_supported
    from oslic.runtime.errors import UsageError

    class Product:
        __version__ = "0"
        BuilderFlag = DataType = type("Any", (), {"STRIP_PLAN": 1, "BF16": 2})

    with pytest.raises(UsageError, match="leave --stripped or --precision fp16 out"):
        require_supported(Product, "tensorrt", "fp16", BuildOptions(stripped=True))
    require_supported(Product, "tensorrt", "fp32", BuildOptions(stripped=True))


# -- the whole backend, on the stand-in -------------------------------------------------------------------------------


@pytest.fixture
def stand_in(bundle, monkeypatch):
    """The bundle with "engines" that hold its graphs, and a product that runs them on host memory."""
    driver = HostDriver()
    module = product(driver)
    monkeypatch.setattr(tensorrt, "load_product", lambda name: module)
    monkeypatch.setattr(cuda_driver, "gpus", lambda: ([Gpu("a stand-in", "9.0")], ""))
    monkeypatch.setattr(cuda, "package", lambda: "host")
    monkeypatch.setattr(cuda, "open_driver", lambda: driver)
    for graph in bundle.manifest.graph_names:
        data = bundle.read_graph(graph)
        info = put_engine(bundle, graph, precision="fp32", sha256=hashlib.sha256(data).hexdigest())
        (bundle.path / "engines" / info.file).write_bytes(data)
    return bundle, module, driver


def test_engines_run_only_if_built_here_or_trusted(bundle, monkeypatch, tmp_path):
    info = put_engine(
        bundle, "synthesise", built_here=False, sha256=hashlib.sha256(b"a stranger's").hexdigest()
    )
    with pytest.raises(
        BackendError, match=r"not built by this user .* can run code: .* --trust-engines.*oslic build"
    ):
        choose_engine(bundle, "synthesise", "tensorrt", **HERE)
    assert choose_engine(bundle, "synthesise", "tensorrt", **HERE, trust=True)[1] == info
    engine_trust.record(info)
    assert choose_engine(bundle, "synthesise", "tensorrt", **HERE)[1] == info
    # The sidecar of an engine that was built here cannot say that it may run code of its own.
    sidecar = bundle.path / "engines" / "synthesise.tensorrt.fp16.json"
    sidecar.write_text(dataclasses.replace(info, version_compatible=True).to_json())
    with pytest.raises(BackendError, match="not built by this user"):
        choose_engine(bundle, "synthesise", "tensorrt", **HERE)
    sidecar.write_text(info.to_json())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    with pytest.raises(BackendError, match="not built by this user"):
        choose_engine(bundle, "synthesise", "tensorrt", **HERE)


def test_untrusted_engines_are_neither_deserialized_nor_asked_about(stand_in, monkeypatch, tmp_path):
    bundle, module, _ = stand_in
    loaded = []
    real = module.Runtime.deserialize_cuda_engine
    monkeypatch.setattr(
        module.Runtime, "deserialize_cuda_engine", lambda self, plan: loaded.append(plan) or real(self, plan)
    )
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(BackendError, match="loading an engine can run code"):
        select("tensorrt", bundle)
    with pytest.raises(BackendError, match="loading an engine can run code"):
        tensorrt.TensorRt(bundle, Options()).load("segment")
    with pytest.warns(PassedOverWarning, match="loading an engine can run code"):
        assert select("auto", bundle).backend.name == "onnxruntime-cpu"
    assert not loaded
    trusting = select("tensorrt", bundle, Options(trust_engines=True)).backend
    trusting.load("segment").close()
    assert len(loaded) == 1


@pytest.mark.parametrize("version_compatible", [False, True])
def test_host_code_is_allowed_only_in_engines_that_were_built_with_it(
    stand_in, version_compatible, monkeypatch
):
    bundle, module, _ = stand_in
    allowed = []
    real = module.Runtime.deserialize_cuda_engine
    monkeypatch.setattr(
        module.Runtime,
        "deserialize_cuda_engine",
        lambda self, plan: allowed.append(self.engine_host_code_allowed) or real(self, plan),
    )
    data = bundle.read_graph("segment")
    put_engine(
        bundle, "segment", precision="fp32", sha256=hashlib.sha256(data).hexdigest(),
        version_compatible=version_compatible,
    )  # fmt: skip
    (bundle.path / "engines" / "segment.tensorrt.fp32.engine").write_bytes(data)
    tensorrt.TensorRt(bundle, Options()).load("segment").close()
    assert allowed == [version_compatible]


def test_engines_cannot_be_interrupted(stand_in):
    with pytest.raises(BackendError, match="cannot be interrupted: leave the time limit out"):
        select("tensorrt", stand_in[0], Options(timeout=5))


def test_the_layers_beside_an_engine_are_no_sidecar(bundle):
    info = put_engine(bundle, "segment")
    (bundle.path / "engines" / "segment.tensorrt.fp16.layers.json").write_text('{"Layers": []}')
    assert choose_engine(bundle, "segment", "tensorrt", **HERE)[1] == info
    assert [entry["file"] for entry in describe(bundle)["engines"]] == [info.file]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("file", "../../secret"), ("file", "/etc/hostname"), ("file", ""), ("file", "a\0b"), ("file", None),
        ("sha256", "xyz"), ("graph_sha256", 5), ("graph", "../other"), ("gpu", "9" * 5000), ("version", 11),
        ("version_compatible", "no"), ("stripped", 1), ("optimization_level", 1e300), ("optimization_level", True),
        ("profiles", []), ("profiles", {}), ("profiles", [[]]), ("profiles", [{"image": 7}]),
        ("profiles", [{"image": [[10**30] * 4] * 3}]), ("profiles", [{"image": [[1.5] * 4] * 3}]),
        ("build_seconds", "nan"), ("backend", ["tensorrt"]), ("surprise", "\ud800"),
    ],
)  # fmt: skip
def test_absurd_sidecars_are_errors_of_ours(bundle, field, value):
    info = put_engine(bundle, "segment")
    path = bundle.path / "engines" / f"{Path(info.file).stem}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(BackendError) as caught:
        EngineInfo.read(path)
    assert len(str(caught.value)) < 1000


def test_the_codec_runs_on_engines_as_on_the_cpu(stand_in, photo):
    bundle, _, driver = stand_in
    image = photo[:70, :90]
    with Codec.open(bundle, "onnxruntime-cpu") as reference:
        wanted = reference.compress(image, 40, effort=0)
    with Codec.open(bundle) as codec:
        assert codec.graphs.selection.reason.startswith(
            "tensorrt 11.4.0: the best here; engines of this bundle in fp32"
        )
        for _ in range(3):  # plain, recorded, replayed
            assert codec.compress(image, 40, effort=0) == wanted
        assert driver.log.count("replay") == 6
        back = codec.decompress(wanted)
        assert back.shape == image.shape
        with pytest.raises(BackendError, match="no profile of the engine"):
            codec.graphs.synthesise(
                np.zeros((140, 250, 3), np.uint8), np.zeros((280, 500), np.uint8), 1120, 2000
            )
    gc.collect()
    assert not driver.device.live
    assert not driver.handles


def test_auto_passes_over_stale_engines_aloud_and_by_name_they_are_refused(stand_in):
    bundle, module, _ = stand_in
    module.__version__ = "11.5.0"
    with pytest.warns(
        PassedOverWarning, match=r"tensorrt is passed over.*built with tensorrt 11\.4\.0, here is 11\.5\.0"
    ):
        chosen = select("auto", bundle)
    assert chosen.backend.name == "onnxruntime-cpu"
    with pytest.raises(BackendError, match=r"tensorrt cannot be used: the engine .*oslic build"):
        select("tensorrt", bundle)


def test_a_product_that_does_not_start_is_an_error_of_ours(stand_in, monkeypatch):
    """The bindings raise a TypeError where the library returns nothing, as it does if CUDA does not start."""
    bundle, module, _ = stand_in

    def nothing(logger):
        logger.log(module.ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(module, "Runtime", nothing)
    with pytest.raises(
        BackendError, match="host gives no Runtime: CUDA initialization failure with error: 35"
    ):
        select("tensorrt", bundle)
    from oslic.export.engines import Options as BuildOptions
    from oslic.export.engines import build_plan

    monkeypatch.setattr(module, "Builder", nothing, raising=False)
    module.NetworkDefinitionCreationFlag = None
    with pytest.raises(BackendError, match="host gives no Builder: CUDA initialization failure"):
        build_plan(module, b"", [], BuildOptions())


def test_a_driver_that_does_not_open_is_passed_over_aloud(stand_in, monkeypatch):
    bundle, _, _ = stand_in

    def too_old():
        raise BackendError("cudaSetDevice failed: CUDA driver version is insufficient")

    monkeypatch.setattr(cuda, "open_driver", too_old)
    with pytest.warns(PassedOverWarning, match="tensorrt is passed over: .*version is insufficient"):
        assert select("auto", bundle).backend.name == "onnxruntime-cpu"
    assert not probe_all()["tensorrt"].usable


def test_altered_and_missing_engines_are_refused(stand_in):
    bundle, _, _ = stand_in
    (file,) = (bundle.path / "engines").glob("analyse*.engine")
    backend = select("tensorrt", bundle).backend
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BackendError, match="was altered"):
        backend.load("analyse")
    file.unlink()
    with pytest.raises(BackendError, match="cannot read the engine"):
        backend.load("analyse")
    with pytest.raises(BackendError, match="is fp32, not fp16; build it: oslic build"):
        select("tensorrt", bundle, Options(precision="fp16"))


def test_gpus_that_a_product_has_no_kernels_for_are_refused(stand_in):
    """TensorRT-RTX goes on from 8.9 to 12.0, without the datacenter GPUs between them."""
    _, module, _ = stand_in
    module.ComputeCapability = types.SimpleNamespace(
        __members__=dict.fromkeys(("NONE", "CURRENT", "SM75", "SM89", "SM120"))
    )
    found = probe_all()
    assert found["tensorrt"].usable  # whatever the module knows of: its engines are built for this GPU
    assert not found["tensorrt-rtx"].usable
    assert "no kernels for compute capability 9.0, only for 7.5, 8.9, 12.0" in found["tensorrt-rtx"].reason
    require_gpu(module, "tensorrt-rtx", "12.0")


@without_gpu
def test_engines_in_a_bundle_do_not_promise_a_gpu(bundle):
    for graph in bundle.manifest.graph_names:
        put_engine(bundle, graph)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert select("auto", bundle).backend.name == "onnxruntime-cpu"


# -- ONNX Runtime: nothing runs elsewhere in silence ------------------------------------------------------------------


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


# -- the products that are installed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("product", PRODUCTS)
def test_the_bindings_have_what_the_runner_calls(product):
    if importlib.util.find_spec(PRODUCTS[product]) is None:
        pytest.skip(f"{product} is not installed")
    trt = importlib.import_module(PRODUCTS[product])
    needed = {
        trt.IExecutionContext: (
            "set_optimization_profile_async",
            "set_input_shape",
            "infer_shapes",
            "get_tensor_shape",
            "set_tensor_address",
            "execute_async_v3",
        ),
        trt.ICudaEngine: (
            "num_io_tensors",
            "get_tensor_name",
            "get_tensor_dtype",
            "create_execution_context",
            "create_runtime_config",
        ),
        trt.Runtime: ("deserialize_cuda_engine", "engine_host_code_allowed"),
        trt.Refitter: ("refit_cuda_engine",),
        trt.OnnxParserRefitter: ("refit_from_bytes",),
        trt.ILogger: ("ERROR", "INTERNAL_ERROR", "WARNING"),
        trt.BuilderFlag: ("TF32", "VERSION_COMPATIBLE", "STRIP_PLAN"),
        trt.DataType: ("UINT8",),
    }
    missing = [
        f"{kind.__name__}.{name}"
        for kind, names in needed.items()
        for name in names
        if not hasattr(kind, name)
    ]
    assert not missing
    if product == "tensorrt-rtx":
        assert hasattr(trt.IRuntimeConfig, "cuda_graph_strategy")
        assert {"DISABLED", "WHOLE_GRAPH_CAPTURE"} <= set(trt.CudaGraphStrategy.__members__)
        require_gpu(trt, product, "8.9")
        with pytest.raises(
            BackendError, match=r"no kernels for compute capability 9\.0, only for .*8\.9, 12\.0"
        ):
            require_gpu(trt, product, "9.0")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
@without_gpu
def test_a_product_is_asked_whether_it_can_run_an_engine(bundle):
    info = put_engine(bundle, "segment", backend="tensorrt-rtx")
    trt = importlib.import_module("tensorrt_rtx")
    with pytest.raises(BackendError, match=r"cannot run .*segment.* on this GPU"):
        require_valid(trt, bundle.path / "engines" / info.file, info)


def test_cuda_python_has_what_the_driver_calls():
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        pytest.skip("cuda-python is not installed")
    import ast
    import inspect

    api = importlib.import_module("cuda.bindings.runtime")
    calls = {
        node.value
        for node in ast.walk(ast.parse(inspect.getsource(cuda)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("cuda")
    }
    functions = {name for name in calls if name[4:5].isupper()}
    assert {"cudaMalloc", "cudaGraphLaunch", "cudaStreamBeginCapture"} <= functions
    assert not [name for name in functions if not hasattr(api, name)]
    assert api.cudaMemcpyKind.cudaMemcpyHostToDevice is not None
    assert api.cudaMemcpyKind.cudaMemcpyDeviceToDevice is not None
    assert api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal is not None
    # Every call answers with a tuple that starts with the error.
    assert isinstance(api.cudaGetDeviceCount(), tuple)


@without_gpu
@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("allocate", (16,)),
        ("free", (4096,)),
        ("allocate_pinned", (16,)),
        ("free_pinned", (4096,)),
        ("create_stream", ()),
        ("destroy_stream", (4096,)),
        ("create_event", ()),
        ("destroy_event", (4096,)),
        ("record", (4096, 8192)),
        ("elapsed", (4096, 8192)),
        ("to_device", (4096, np.zeros(4, np.uint8), 8192)),
        ("to_host", (np.zeros(4, np.uint8), 4096, 8192)),
        ("copy", (4096, 8192, 4, 8192)),
        ("synchronize", (4096,)),
        ("begin_capture", (4096,)),
        ("end_capture", (4096,)),
        ("launch", (4096, 8192)),
        ("destroy_graph", (4096,)),
    ],
)
def test_cuda_python_takes_our_arguments(call, arguments):
    """Without a driver every call fails, and with CUDA's own error: a wrong argument would be a TypeError."""
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        pytest.skip("cuda-python is not installed")
    driver = object.__new__(cuda._CudaPython)
    driver._api = importlib.import_module("cuda.bindings.runtime")
    driver.current = contextlib.nullcontext
    with pytest.raises(BackendError, match=r"cuda\w+ failed: .*driver.*\(35\); update NVIDIA's driver"):
        getattr(driver, call)(*arguments)


def test_pycudas_errors_are_ours_and_its_context_is_current_only_for_the_call(monkeypatch):
    """A stand-in for PyCUDA: what `_PyCuda` does around each of its calls."""
    stack = []
    api = types.ModuleType("pycuda.driver")
    api.Error = type("Error", (Exception,), {})

    def refuse(size):
        assert stack == ["context"]
        raise api.Error("cuMemAlloc failed: out of memory")

    def not_current():
        raise api.Error("cuCtxPushCurrent failed: invalid device context")

    context = types.SimpleNamespace(handle=4096, push=lambda: stack.append("context"), pop=stack.pop)
    api.init = list
    api.Device = lambda index: types.SimpleNamespace(retain_primary_context=lambda: context)
    api.mem_alloc = refuse
    monkeypatch.setattr(cuda.importlib, "import_module", lambda name: api)
    monkeypatch.setattr(cuda.importlib.metadata, "version", lambda name: "0")
    monkeypatch.setattr(cuda, "driver_library", lambda: None)
    driver = cuda._PyCuda()
    with pytest.raises(BackendError, match="PyCUDA failed: cuMemAlloc failed: out of memory"):
        driver.allocate(16)
    assert not stack
    with driver.current(), driver.current():
        assert stack == ["context"]
        with pytest.raises(BackendError, match="out of memory"):
            driver.allocate(16)
        assert stack == ["context"]
    assert not stack
    context.push = not_current
    with pytest.raises(BackendError, match="PyCUDA failed: cuCtxPushCurrent"):
        cuda._PyCuda().allocate(16)

    def no_device():
        raise api.Error("cuInit failed: no CUDA-capable device is detected")

    api.init = no_device
    cuda._pycuda_context.cache_clear()
    with pytest.raises(BackendError, match="PyCUDA failed: cuInit"):
        cuda._PyCuda()


GPU_BACKENDS = [name for name in backends.BACKENDS if name not in {"onnxruntime-cpu", "openvino"}]


def require_gpu_backend(name, bundle):
    """Build what it runs; skip where it cannot be used."""
    if NO_GPU:
        pytest.skip(f"needs an NVIDIA GPU: {gpus()[1]}")
    from oslic.export.engines import Options as BuildOptions
    from oslic.export.engines import build_engine, profiles_of

    if name in PRODUCTS and importlib.util.find_spec(PRODUCTS[name]) is not None:
        for graph in bundle.manifest.graph_names:
            model = model_of(bundle, graph)
            profiles = profiles_of(model, bundle=bundle)
            build_engine(model, name, "fp32", profiles, bundle.path / "engines", options=BuildOptions())
    found = probe_all(bundle)[name]
    if not found.usable:
        pytest.skip(found.reason)


@pytest.mark.gpu
@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_every_gpu_backend_agrees_with_the_cpu(name, bundle, photo):
    require_gpu_backend(name, bundle)
    with Codec.open(bundle, "onnxruntime-cpu") as reference, Codec.open(bundle, name) as codec:
        wanted = reference.layers(photo)
        for _ in range(3):  # plain, recorded, replayed
            y = codec.graphs.synthesise(wanted.compact, wanted.labels, *photo.shape[:2])
            difference = np.abs(y.astype(int) - wanted.estimate)
            assert difference.max() <= 1
            assert (difference > 0).mean() < 0.01


@pytest.mark.gpu
@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_a_gpu_is_used_from_several_threads(name, bundle, photo):
    """One thread records CUDA graphs while another one's networks run."""
    require_gpu_backend(name, bundle)
    images = [photo[: 64 + 32 * (k % 3), :96] for k in range(16)]
    with Codec.open(bundle, name) as codec, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(codec.layers, images))
        for image, layers in zip(images, found, strict=True):
            wanted = codec.layers(image)
            assert np.array_equal(layers.labels, wanted.labels)
            assert np.abs(layers.estimate.astype(int) - wanted.estimate).max() <= 1
