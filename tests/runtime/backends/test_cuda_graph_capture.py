"""When a run is recorded as a CUDA graph, replayed, or neither."""

from __future__ import annotations

from oslic.runtime.backends.cuda.graph_capture import CaptureState, Step


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
