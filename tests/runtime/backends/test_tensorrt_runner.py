"""The TensorRT runner, on a stand-in for the product."""

from __future__ import annotations

import ctypes
import gc
import types

import numpy as np
import pytest
import torch
from host_product import PRODUCT, DataType, Engine, HostDriver
from onnx import TensorProto, helper
from oslic.runtime.backends.tensorrt.bindings import Log
from oslic.runtime.backends.tensorrt.runner import TensorRtRunner
from oslic.runtime.errors import BackendError
from stand_in_engines import INFO, Interface


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
