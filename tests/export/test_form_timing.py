"""Which form is called faster: ratios of rounds, their interval, ties; and what the cost model is sure of."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_builders import Builder
from oslic.export.form_costs import RATES, Estimate, work
from oslic.export.form_selection import CostModel
from oslic.export.form_timing import Times, measure, paired_ratio
from oslic.export.fusion import fuse, random_inputs
from oslic.runtime.errors import VerificationError


def series(seed, scale=1.0, spread=0.05, count=40):
    return (scale * np.random.default_rng(seed).normal(1, spread, count)).tolist()


def test_a_ratio_comes_with_its_uncertainty():
    base = series(0)
    ratio = paired_ratio([0.8 * x for x in base], base)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.8, 0.8, 0.8))
    ratio = paired_ratio(series(1, 0.9), base)
    assert ratio.low < 0.9 < ratio.high
    assert ratio.is_faster


def test_what_stands_stays_on_a_tie():
    times = Times({"keep": series(0), "other": series(1, 0.985), "noisy": series(2, 0.97, 0.4)}, "a clock")
    assert times.best("keep") == "keep"
    times = Times({"keep": series(0), "other": series(1, 0.8), "best": series(2, 0.7)}, "a clock")
    assert times.best("keep") == "best"
    assert times.describe("keep").startswith("a clock, 40 rounds: keep ")


def test_rounds_are_interleaved_and_all_counted():
    b = Builder(shape=(1, 8, 8, 8))
    b.conv("x", 8, 8)
    model = b.model()
    times = measure({"a": model, "b": model}, random_inputs(model, {"x": (1, 8, 8, 8)}), 1, 0.0)
    assert {name: len(samples) for name, samples in times.samples.items()} == {"a": 11, "b": 11}
    assert times.clock == "processor time of one thread"
    with pytest.raises(VerificationError, match="the graph a cannot be measured"):
        measure({"a": model}, {"x": np.zeros((1, 3, 8, 8), np.float32)}, 1, 0.0)


def chosen(shape, inputs, outputs, *, kernel=3, group=1):
    b = Builder(shape=shape)
    low = b.op("Relu", b.conv("x", inputs, inputs, 1))
    y = b.op("Relu", b.conv(b.up(low), inputs, outputs, kernel, group=group))
    b.conv(y, outputs, 16, 1)
    _, report = fuse(b.model(), lambda sizes: CostModel("onnxruntime", sizes), shapes={"x": shape})
    (choice,) = [c for c in report.choices if c["rule"] == "convolution-behind-upsampling"]
    return choice["form"]


@pytest.mark.parametrize(
    ("shape", "inputs", "outputs", "options", "form"),
    [
        # Few channels over a large image: whatever is saved, moving it costs as much.
        ((1, 32, 96, 96), 32, 64, {}, "keep"),
        # Many channels over a small one: the fewest multiplications.
        ((1, 256, 16, 16), 256, 256, {}, "pooled"),
        ((1, 64, 64, 64), 64, 64, {}, "phases-channels-last"),
        # Whole blocks of channels are computed, so three outputs cost as much as sixteen.
        ((1, 32, 32, 32), 32, 3, {"kernel": 5}, "phases-stacked"),
        # What the model knows nothing of.
        ((1, 64, 64, 64), 64, 64, {"group": 64}, "keep"),
    ],
)
def test_the_cost_model_takes_what_it_is_sure_of(shape, inputs, outputs, options, form):
    assert chosen(shape, inputs, outputs, **options) == form


def test_estimates_must_differ_by_more_than_their_error():
    keep = Estimate(1.0, 0.1)
    assert Estimate(0.89, 0.1).beats(keep)
    assert not Estimate(0.91, 0.1).beats(keep)
    assert not Estimate(0.01, 1.0).beats(keep)


def test_layouts_are_followed_through_a_place():
    """An interleaved image is reordered once before a convolution, and twice before everything else."""
    b = Builder(shape=(1, 64, 64, 64))
    last = b.op("Transpose", b.conv("x", 64, 64), perm=[0, 2, 3, 1])
    b.op("Transpose", last, perm=[0, 3, 1, 2])
    model, size = b.model(), 4 * 64 * 64 * 64
    model.graph.outputs[0].shape = None
    alone = work(model, {"x": (1, 64, 64, 64)}, 16)
    assert alone["convolution"] == 64 * 64 * 64 * 64 * 9
    assert alone["reorder"] == 4 * size
    assert "turned" not in alone
    among = work(model, {"x": (1, 64, 64, 64)}, 16, reader="others")
    assert (among["turned"], among["read plain"]) == (2 * size, 2 * size)
    ends = work(model, {"x": (1, 64, 64, 64)}, 16, reader="output")
    assert (ends["reorder"], ends["turned"]) == (2 * size, 2 * size)
    assert set(alone) <= {*RATES["onnxruntime"].seconds, "reorder", "node"}
