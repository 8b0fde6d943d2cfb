"""The timing core on work of known size (no assertion on absolute times)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from oslic.measure import environment, timing


def test_percentile_agrees_with_numpy():
    samples = list(np.random.default_rng(0).random(37))
    for percent in (0, 10, 50, 90, 99, 100):
        assert timing.percentile(samples, percent) == pytest.approx(np.percentile(samples, percent))


def test_relative_error_follows_its_formula():
    series = timing.Series([1.0, 2.0, 3.0, 4.0, 5.0])
    assert series.relative_error == pytest.approx(1.57 * 2 / math.sqrt(5) / 3)
    assert timing.Series([1.0, 1.0, 1.0]).relative_error == math.inf
    assert timing.Series([1.0] * 4).relative_error == 0


def test_candidates_are_interleaved_and_stop_by_the_rule():
    calls: list[str] = []

    def candidate(name):
        def call():
            calls.append(name)
            sum(range(1000))
            return timing.StageTimes({"stage": 0.25}, {"stage": 0.125})

        return call

    rule = timing.Settings(warmup=2, min_samples=6, min_seconds=0, max_error=math.inf, timeout=60)
    found = timing.measure({"a": candidate("a"), "b": candidate("b")}, rule)
    assert calls[:4] == ["a", "a", "b", "b"]
    rounds = [set(calls[i : i + 2]) for i in range(4, len(calls), 2)]
    assert rounds == [{"a", "b"}] * 6
    assert all(t.finished and len(t.total.samples) == 6 for t in found.values())
    assert found["a"].wall["stage"].samples == [0.25] * 6
    assert found["a"].stage_cpu["stage"].samples == [0.125] * 6
    assert found["a"].first_call > 0


def test_the_timeout_ends_a_measurement_that_never_settles():
    values = iter(range(10**9))

    def noisy():
        sum(range((next(values) % 7) * 20_000))

    rule = timing.Settings(warmup=1, min_samples=10**9, timeout=0.05)
    found = timing.measure({"noisy": noisy}, rule)["noisy"]
    assert not found.finished
    assert len(found.total.samples) >= 4


def test_ratio_pairs_the_rounds():
    a, b = timing.Timing(), timing.Timing()
    a.total.samples = [2.0, 20.0, 3.0]
    b.total.samples = [1.0, 10.0, 1.0]
    assert timing.ratio(a, b) == 2.0


def test_json_keeps_the_raw_samples():
    body = timing.Series([0.001, 0.002, 0.003, 0.004]).to_json()
    assert body["samples_ms"] == [1.0, 2.0, 3.0, 4.0]
    assert body["p50_ms"] == pytest.approx(2.5)


def test_environment_names_the_machine():
    found = environment.describe()
    assert found["cpu"]["cores"] >= 1
    assert found["cpu"]["model"]
    assert found["versions"]["numpy"] == np.__version__
    assert len(found["load_average"]) == 3
