"""The search for better compact images: on functions whose best is known, and with the shipped graph."""

import numpy as np
import pytest
from oslic.measure.metrics import ms_ssim
from oslic.runtime import Codec, flif
from oslic.runtime.backends.onnxruntime.cpu import thrifty_runner
from oslic.runtime.bundle.finder import open_bundle
from oslic.runtime.bundle.manifest import SEARCH_FILE
from oslic.runtime.codec.request import make_request
from oslic.runtime.codec.search import OUTPUTS, SearchSettings, search
from oslic.runtime.codec.settings import Settings
from oslic.runtime.errors import BundleError, UsageError

LEVELS = 16


class Parabola:
    """Distortion: the squared distance from a target; rate: the sum of the levels, times a factor."""

    def __init__(self, target, slope=0.0):
        self.target = target.astype(np.float32)
        self.slope = slope
        self.runs = 0

    def run(self, feeds, names=None):
        self.runs += 1
        off = feeds["compact"] - self.target[None]
        made = {
            "rate": self.slope * feeds["compact"].sum(keepdims=True).reshape(1),
            "distortion": np.square(off).sum(keepdims=True).reshape(1),
            "rate_gradient": np.full_like(off, self.slope),
            "distortion_gradient": 2 * off,
        }
        return {name: made[name].astype(np.float32) for name in names or OUTPUTS}


@pytest.fixture
def start():
    return np.random.default_rng(4).integers(0, LEVELS, (12, 10, 3), np.uint8)


def found(graph, start, settings):
    height, width = start.shape[0] * 8, start.shape[1] * 8
    labels = np.zeros((height // 4, width // 4), np.uint8)
    image = np.zeros((height, width, 3), np.uint8)
    return search(graph, start, labels, image, levels=LEVELS, settings=settings)


def test_the_search_comes_to_where_it_is_best(start):
    target = np.clip(start + np.random.default_rng(5).uniform(-1.4, 1.4, start.shape), 0, LEVELS - 1)
    graph = Parabola(target)
    result = found(graph, start, SearchSettings(80, 1.0))
    assert graph.runs == 80 + 2
    best = np.rint(target)
    assert result.dtype == np.uint8
    assert result.shape == start.shape
    assert np.abs(start - best).mean() > 0.4
    assert np.abs(result - best).mean() < 0.12


def test_a_bit_that_is_worth_more_makes_a_cheaper_image(start):
    graph = Parabola(start, slope=0.5)
    sums = [int(found(graph, start, SearchSettings(80, weight)).sum()) for weight in (0.5, 4.0, 20.0)]
    assert sums == sorted(sums, reverse=True)
    assert sums[2] < 0.8 * sums[0]
    # The minimum of (x - t)^2 + w s x lies at t - w s / 2.
    wanted = np.clip(start - 0.5 * 4.0 / 2, 0, LEVELS - 1)
    assert np.abs(found(graph, start, SearchSettings(120, 4.0)) - wanted).mean() < 0.15


def test_the_search_never_makes_it_worse(start):
    result = found(Parabola(start), start, SearchSettings(2, 1.0))
    assert np.array_equal(result, start)


def test_equal_input_gives_equal_output(start):
    graph = Parabola(np.flip(start, 0))
    first, second = (found(graph, start, SearchSettings(10, 1.0)) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, start)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_gradients_that_are_no_numbers_are_an_error_of_the_bundle(start, bad):
    graph = Parabola(start)
    graph.target[3, 2, 1] = bad
    with pytest.raises(BundleError, match="not finite"):
        found(graph, start, SearchSettings(3, 1.0))


def test_efforts_that_search():
    assert [Settings(0, effort).search.steps for effort in range(10)] == [0, 0, 0, 0, 0, 15, 30, 60, 100, 160]
    assert Settings(1, 9).search.steps == 0
    assert Settings(0, 9, class_quality=(("sky", 20.0),)).search.steps == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quality": 0, "effort": 7, "rate_weight": 0}, "out of range"),
        ({"quality": 0, "effort": 7, "rate_weight": 1001}, "out of range"),
        ({"quality": 0, "effort": 7, "rate_weight": float("nan")}, "rate_weight"),
        ({"quality": 0, "rate_weight": 3}, "effort of 5 or more"),
        ({"quality": 20, "effort": 7, "rate_weight": 3}, "quality 0"),
    ],
)
def test_rate_weights_that_mean_nothing_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        make_request(**arguments)


def test_a_rate_weight_needs_a_bundle_with_a_graph(photo):
    with Codec.open("lite") as codec, pytest.raises(UsageError, match="lite-preview"):
        codec.compress(photo, quality=0, effort=6, rate_weight=4)


@pytest.fixture(scope="module")
def graph():
    return thrifty_runner(open_bundle("lite-preview").read_file(SEARCH_FILE), SEARCH_FILE, 1)


@pytest.fixture(scope="module")
def layers(photo):
    """Compact image, labels and picture of 288x416, as the graph takes them."""
    picture = np.ascontiguousarray(photo[:288, :416])
    with Codec.open("lite-preview", threads=1) as codec:
        made = codec.layers(picture, Settings(0))
    assert made.label_scale == 4
    return made.compact, made.labels, picture


def asked(graph, compact, labels, picture, names):
    feeds = {"compact": compact[None].astype(np.float32), "labels": labels[None], "image": picture[None]}
    return graph.run(feeds, names)


def test_the_graph_knows_what_flif_takes(graph, layers):
    compact, labels, picture = layers
    rate = float(asked(graph, *layers, ["rate"])["rate"][0])
    flif_rate = len(flif.encode(compact, crc=False)) * 8 / (288 * 416)
    assert rate == pytest.approx(flif_rate, rel=0.15)
    smooth = np.repeat(np.repeat(compact[::4, ::4], 4, 0), 4, 1)
    assert float(asked(graph, smooth, labels, picture, ["rate"])["rate"][0]) < 0.5 * rate


def test_the_graphs_gradients_are_those_of_what_it_returns(graph, layers):
    compact, labels, picture = layers
    random = np.random.default_rng(6)
    # Between whole levels: at them the rate has kinks.
    place = np.clip(compact + random.uniform(-0.3, 0.3, compact.shape), 0.1, 14.9)
    made = asked(graph, place, labels, picture, OUTPUTS)
    for name in ("rate", "distortion"):
        gradient = made[f"{name}_gradient"][0].astype(np.float64)
        step = 0.02 * gradient / np.abs(gradient).max()
        up, down = (
            float(asked(graph, place + sign * step, labels, picture, [name])[name][0]) for sign in (1, -1)
        )
        assert up - down == pytest.approx(2 * float((gradient * step).sum()), rel=0.1)


def test_higher_efforts_make_better_layers_of_the_same_size(photo):
    """And of a size that no graph takes as it is."""
    picture = np.ascontiguousarray(photo[:250, :330])
    with Codec.open("lite-preview", threads=1) as codec:
        plain = codec.compress(picture, quality=0)
        searched = codec.compress(picture, quality=0, effort=6, rate_weight=2)
        before, after = (ms_ssim(picture, codec.decompress(data, strict=True)) for data in (plain, searched))
        assert len(searched) < 1.01 * len(plain)
        assert after > before + 0.001
