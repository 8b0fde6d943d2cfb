"""The fuzzing harnesses: that they reach behind the checks, and that they fail when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import campaign
import decoder_fuzz
import pytest
from oslic.runtime.codec import Codec

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def target():
    return campaign.TARGETS["decoder"]()


def test_mutated_streams_decode_or_are_errors_of_ours(target):
    row = campaign.execute(target, "decoder", 3000, 77)
    assert "failed" not in row, row
    assert row["decoded"] >= 0.12 * 3000
    assert row["decoded"] < 0.5 * 3000  # and most are damaged
    assert row["slowest_ms"] < campaign.SECONDS * 1e3
    assert row["peak_bytes"] < target.memory


def test_mutated_streams_of_another_kind_decode_or_are_errors_of_ours():
    target = campaign.TARGETS["transform"]()
    row = campaign.execute(target, "transform", 2000, 78)
    assert "failed" not in row, row
    assert 0.05 * 2000 <= row["decoded"] < 0.5 * 2000
    assert row["peak_bytes"] < target.memory


def test_the_same_seed_makes_the_same_damage():
    made = []
    for seed in (5, 5, 6):
        changed = [bytearray(b"some stream") for _ in range(50)]
        mutator = decoder_fuzz.Mutator([], seed)
        for data in changed:
            mutator._change(data)
        made.append(changed)
    assert made[0] == made[1] != made[2]


def test_an_error_that_is_not_the_librarys_ends_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        decoder_fuzz, "without_checksums", lambda: None
    )  # this process decodes other streams too
    monkeypatch.setattr(Codec, "decode", lambda *_: {}["a fault"])
    monkeypatch.setenv("FUZZ_LAST", str(tmp_path / "last"))
    with pytest.raises(KeyError, match="a fault"):
        decoder_fuzz.run(10, 1, tmp_path)
    assert (tmp_path / "last").stat().st_size > 0


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.abort()", "exit code -6"),
        ("raise KeyError('x')", "KeyError"),
        ("import signal, time; signal.alarm(1); time.sleep(9)", "exit code -14"),
        ("print('executed 5 mutations: 1 pictures, slowest 5000.1 ms, peak 5 kB')", "beyond the limit"),
        ("print('executed 5 mutations: 1 pictures, slowest 1.0 ms, peak 1025 kB')", "beyond the limit"),
        ("print('nothing')", "exit code 0"),
    ],
)
def test_runs_that_do_not_end_well_are_recorded_as_failures(code, message, tmp_path):
    bad = campaign.Target((sys.executable, "-c", code), (), 1 << 20, 5)
    row = campaign.execute(bad, "test", 5, 1)
    assert message in row["failed"]
    assert campaign.summarize([row])["failures"] == 1


def test_a_campaign_goes_on_behind_its_last_seed(tmp_path):
    output = tmp_path / "result.json"
    command = [sys.executable, "tests/fuzz/campaign.py", "decoder", "-o", str(output), "--executions"]
    for executions in ("40", "40", "100"):
        subprocess.run([*command, executions], cwd=ROOT, check=True, capture_output=True, env=os.environ)
    entry = json.loads(output.read_text())["targets"]["decoder"]
    assert [(run["seed"], run["executions"]) for run in entry["runs"]] == [(1, 40), (2, 60)]
    assert entry["executions"] == 100


def test_the_recorded_campaign_holds_what_it_promises():
    """docs/security.md names these figures."""
    body = json.loads(campaign.RESULTS.read_text())
    assert body["targets"]["flif"]["executions"] >= 1_500_000
    for entry in body["targets"].values():
        runs = entry["runs"]
        assert len({run["seed"] for run in runs}) == len(runs)
        assert {key: entry[key] for key in campaign.summarize(runs)} == campaign.summarize(runs)
        assert entry["failures"] == 0
        assert entry["decoded_share"] >= 0.12
        assert entry["slowest_ms"] < entry["limits"]["seconds"] * 1e3
        assert entry["peak_bytes"] < entry["limits"]["memory_bytes"]


def test_the_recorded_campaigns_are_complete():
    targets = json.loads(campaign.RESULTS.read_text())["targets"]
    for name, executions in (("flif", 1_500_000), ("decoder", 500_000)):
        found = targets[name]
        assert found["executions"] >= executions
        assert found["decoded_share"] >= 0.12
        assert found["failures"] == 0
        assert found["slowest_ms"] < 1e3 * campaign.SECONDS
        assert found["peak_bytes"] < found["limits"]["memory_bytes"]
