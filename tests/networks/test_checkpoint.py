"""Checkpoints: round trips, fingerprints, and files that are not checkpoints."""

import dataclasses
import json
import os

import pytest
import torch
from oslic.networks import checkpoint as module
from oslic.networks.checkpoint import Checkpoint, exact_dtype, fingerprint, read, write
from oslic.networks.codec import create, load
from oslic.networks.config import preset
from oslic.runtime.errors import BundleError
from safetensors import safe_open
from safetensors.torch import load_file, save_file


@pytest.fixture
def made():
    networks = create("tiny", 1)
    return Checkpoint(networks.config, dict(networks.state_dict()), {"data": "none"}, {"psnr": 1.5})


def test_round_trip(made, tmp_path):
    (path,) = write(tmp_path / "c", made)
    assert path.name == "weights.safetensors"
    back = read(tmp_path / "c")
    assert (back.config, back.provenance, back.scores) == (made.config, made.provenance, made.scores)
    assert back.fingerprint == made.fingerprint
    assert read(path).fingerprint == made.fingerprint
    x = torch.zeros(1, 3, 4, 4)
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    original = create("tiny", 1)
    with torch.no_grad():
        assert torch.equal(load(path).gnet(x, labels), original.gnet(x, labels))


def test_weights_are_written_again_in_the_type_that_they_came_in(made, tmp_path):
    assert exact_dtype(made) == "float32"
    write(tmp_path, made, "float16")
    assert exact_dtype(read(tmp_path)) == "float16"


def test_float16_shards(made, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 20_000)
    paths = write(tmp_path, made, "float16")
    assert len(paths) > 1
    assert all(path.stat().st_size < 30_000 for path in paths)
    back = read(tmp_path)
    name = "gnet.stem.hh.weight"
    assert torch.equal(back.state[name], made.state[name].half().float())
    assert torch.equal(back.state["segnet.stem.norm.running_var"], made.state["segnet.stem.norm.running_var"])
    paths[0].unlink()
    with pytest.raises(BundleError, match=f"holds {len(paths) - 1} of {len(paths)} files"):
        read(tmp_path)


def test_writing_again_replaces_older_shards(made, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "SHARD_BYTES", 20_000)
        write(tmp_path, made)
    write(tmp_path, made)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_fingerprint_follows_what_defines_the_estimate_and_nothing_else(made):
    def with_change(name):
        state = dict(made.state)
        state[name] = state[name] + 1e-3
        return fingerprint(state, made.config)

    assert with_change("gnet.stem.hh.weight") != made.fingerprint
    assert with_change("gnet.embedding.table") != made.fingerprint
    assert with_change("segnet.classifier.bias") == made.fingerprint
    assert with_change("comnet.head.hh.weight") == made.fingerprint
    assert fingerprint(made.state, dataclasses.replace(made.config, name="other")) == made.fingerprint
    assert fingerprint(made.state, dataclasses.replace(made.config, levels=64)) != made.fingerprint
    assert len(bytes.fromhex(made.fingerprint)) == 32


def test_weights_that_do_not_fit_are_named(made):
    state = dict(made.state)
    state["gnet.stem.hh.weight"] = torch.zeros(1)
    with pytest.raises(BundleError, match=r"gnet\.stem\.hh\.weight is \(1,\), should be"):
        Checkpoint(made.config, state).networks()
    del state["gnet.stem.hh.weight"]
    with pytest.raises(BundleError, match="is missing"):
        Checkpoint(made.config, state).networks()


def test_weights_that_are_not_finite_are_not_written(made, tmp_path):
    write(tmp_path, made)
    state = dict(made.state)
    state["gnet.stem.hh.bias"] = torch.full_like(state["gnet.stem.hh.bias"], float("nan"))
    with pytest.raises(BundleError, match=r"gnet\.stem\.hh\.bias holds values that are not finite"):
        write(tmp_path, dataclasses.replace(made, state=state))
    assert read(tmp_path).fingerprint == made.fingerprint


def test_what_is_no_checkpoint_is_refused(made, tmp_path):
    with pytest.raises(BundleError, match="there is no checkpoint at"):
        read(tmp_path / "absent")
    with pytest.raises(BundleError, match=r"holds no weights\*\.safetensors"):
        read(tmp_path)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(BundleError, match="not a readable safetensors file"):
        read(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(BundleError, match="its metadata do not say oslic-checkpoint"):
        read(path)
    save_file({"x": torch.zeros(1)}, path, {"format": "oslic-checkpoint", "version": "9"})
    with pytest.raises(BundleError, match="version 9"):
        read(path)
    save_file({"x": torch.zeros(1)}, path, {"format": "oslic-checkpoint", "version": "1", "shards": "1"})
    with pytest.raises(BundleError, match="the description's config is not JSON"):
        read(path)


def test_a_truncated_file_is_refused(made, tmp_path):
    (path,) = write(tmp_path, made)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match="not a readable safetensors file"):
        read(path)


def test_the_file_is_plain_safetensors(made, tmp_path):
    (path,) = write(tmp_path, made)
    tensors = load_file(path)
    assert set(tensors) == {k for k in made.state if not k.endswith("num_batches_tracked")}
    assert preset("tiny").to_json().encode().replace(b'"', b'\\"') in path.read_bytes()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"config": "[" * 100_000}, "nested"),
        ({"scores": "7"}, "not a JSON object"),
        ({"provenance": '{"a": "\\u0000"}'}, "NUL"),
        ({"config": "{}"}, "not a configuration"),
    ],
)
def test_absurd_descriptions_are_errors_of_ours(made, tmp_path, metadata, message):
    (path,) = write(tmp_path, made)
    whole = {
        "format": "oslic-checkpoint", "version": "1", "shards": "1", "config": made.config.to_json(),
        "provenance": "{}", "scores": "{}",
    }  # fmt: skip
    save_file(load_file(path), path, whole | metadata)
    with pytest.raises(BundleError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("gnet", "blocks"), 10**9, "must be 0 to"),  # would never end
        (("segnet", "bottom_depth"), 10**9, "must be 0 to"),
        (("gnet", "stem"), 10**9, "must be 0 to"),
        (("gnet", "stem"), 60_000, "should be"),  # 100 GB if it took memory
        (("gnet", "stem"), -4, "must be 0 to"),
        (("gnet", "stem"), "wide", "no networks follow"),
        (("gnet", "stem"), 1.5, "no networks follow|should be"),
        (("comnet", "widths"), [4], "no networks follow|should be"),
        (("comnet", "widths"), 4, "no networks follow"),
        (("segnet", "widths"), [[4]] * 4, "no networks follow"),
        (("gnet", "down"), [1] * 300, "entries|not a configuration|multiple"),
        (("embedding",), 50_000, "should be"),
    ],
    ids=str,
)
def test_absurd_configurations_are_errors_of_ours(made, tmp_path, place, value, message):
    (path,) = write(tmp_path, made)
    body = made.config.to_dict()
    part = body
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    metadata = {
        "format": "oslic-checkpoint", "version": "1", "shards": "1", "config": json.dumps(body), "provenance": "{}",
        "scores": "{}",
    }  # fmt: skip
    save_file(load_file(path), path, metadata)
    with pytest.raises(BundleError, match=message):
        read(path).networks()


def test_missing_weights_and_other_types_are_named(made, tmp_path):
    (path,) = write(tmp_path, made)
    tensors = load_file(path)
    with safe_open(path, "pt") as stored:
        metadata = stored.metadata()
    without = {k: v for k, v in tensors.items() if k != "gnet.stem.hh.weight"}
    save_file(without, path, metadata)
    with pytest.raises(BundleError, match=r"gnet\.stem\.hh\.weight is missing"):
        read(path).networks()
    save_file(tensors | {"gnet.stem.hh.weight": torch.zeros(3, dtype=torch.int64)}, path, metadata)
    with pytest.raises(BundleError, match=r"gnet\.stem\.hh\.weight is torch\.int64"):
        read(path)


def test_weights_are_regular_files(tmp_path):
    os.mkfifo(tmp_path / "weights.safetensors")
    with pytest.raises(BundleError, match="a pipe, not a regular file"):
        read(tmp_path)
    with pytest.raises(BundleError, match="a pipe, not a regular file"):
        read(tmp_path / "weights.safetensors")


def test_scores_of_nothing_are_null(made, tmp_path):
    write(tmp_path, dataclasses.replace(made, scores={"iou": [0.5, float("nan")]}))
    assert read(tmp_path).scores == {"iou": [0.5, None]}
