"""The FLIF decoder on damaged and hostile files: an error that says what is wrong, never anything else."""

import re
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from flif_streams import chain_tree, head, huge_palette, unknown_transform, varint
from oslic.runtime import flif

ROOT = Path(__file__).parents[3]
VECTORS = ROOT / "tests" / "data" / "flif"
CORPUS = ROOT / "tests" / "fuzz" / "corpus"


def message(data, **options):
    with pytest.raises(flif.FlifError) as caught:
        flif.decode(data, **options)
    text = str(caught.value)
    assert text.startswith("FLIF: ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "truncated"),
        (b"FLIF", "truncated"),
        (b"GIF89a..", "signature"),
        (b"FLIFS1\0\0\0\0\0\0", "animation"),
        (b"FLIFC1\0\0\x1f\0\0\0", "version 31"),
        (b"FLIF21\0\0\0\0\0\0", "kind of picture"),
        (b"FLIF32\0\0\0", "truncated"),
        (b"FLIF13\0\0\0\0\0\0", "bit depth"),
        (b"FLIF11\xff\xff\xff\xff\xff\xff\x01", "longer than 5 bytes"),
        (head(1 << 20, 1 << 20) + b"\0" * 8, "max_pixels"),
        (head(1 << 30, 1) + b"\0" * 8, "a side may have"),
        (head(4, 4, chunks=b"ABCD\0") + b"\0" * 8, "critical metadata chunk ABCD"),
        (head(4, 4, chunks=b"eXif" + varint(1 << 60)) + b"\0" * 8, "truncated"),
        (unknown_transform(10), "transform 10"),
        (unknown_transform(2), "transform 2"),
        (huge_palette(30000), "truncated|corrupt"),
    ],
)
def test_messages(data, what):
    assert re.search(what, message(data))


def test_limit_errors_name_the_limit():
    data = flif.encode(np.zeros((100, 100), np.uint8))
    with pytest.raises(flif.FlifLimitError, match=r"100 x 100 pixels; the limit is 9999"):
        flif.decode(data, max_pixels=9999)
    with pytest.raises(flif.FlifLimitError):
        flif.read_header(data, max_pixels=9999)
    assert flif.decode(data, max_pixels=10000).shape == (100, 100)


def test_chain_trees_end_in_an_error():
    # Deeper than any call stack would bear; a 2 x 2 picture may have 65536 + 8 nodes.
    with pytest.raises(flif.FlifLimitError, match="nodes"):
        flif.decode(chain_tree(33_000))
    assert "truncated" in message(chain_tree(4_000))


@pytest.mark.parametrize(
    "name", ["rgb_natural_1", "palette_alpha_2", "buckets_rgba_1", "gray16_2", "hand_order_rgba"]
)
def test_every_truncation_is_an_error(name):
    data = (VECTORS / f"{name}.flif").read_bytes()
    for length in range(0, len(data), max(1, len(data) // 150)):
        message(data[:length])
    for missing in (1, 2, 3):
        message(data[:-missing])


def test_trailing_bytes_are_refused():
    data = flif.encode(np.eye(9, dtype=np.uint8))
    assert flif.decode(data + b"\0").shape == (9, 9)  # the reference library's own files may have that
    assert "behind the end" in message(data + bytes(9))


def test_metadata_bombs():
    pixels = np.zeros((2, 2), np.uint8)
    data = flif.encode(pixels, metadata={"eXmp": bytes(40 << 20)})
    assert len(data) < 50_000
    assert np.array_equal(flif.decode(data), pixels)  # skipped by its length
    with pytest.raises(flif.FlifLimitError, match="max_bytes"):
        flif.read_metadata(data)
    raw = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = raw.compress(b"x" * 99) + raw.flush()
    cut = head(2, 2, chunks=b"eXif" + varint(len(content) - 3) + content[:-3])
    with pytest.raises(flif.FlifError, match="DEFLATE"):
        flif.read_metadata(cut + data[-20:])


def test_flipped_bits_raise_or_decode():
    random = np.random.default_rng(11)
    files = [path.read_bytes() for path in sorted(VECTORS.glob("*.flif"))]
    outcomes = {True: 0, False: 0}
    for _ in range(2000):
        data = bytearray(files[random.integers(len(files))])
        for place in random.integers(0, min(len(data), 60), 1 + random.integers(3)):
            data[place] ^= 1 << random.integers(8)
        try:
            flif.decode(bytes(data), max_pixels=1 << 16)
            outcomes[True] += 1
        except flif.FlifError:
            outcomes[False] += 1
    assert outcomes[False] > 1000


def run_fuzzer(executions, seed):
    subprocess.run(["make", "-s", "-C", str(ROOT), "build/sanitize/flif_fuzz"], check=True)
    inputs = [*sorted(VECTORS.glob("*.flif")), *sorted(CORPUS.glob("*"))]
    done = subprocess.run(
        [ROOT / "build" / "sanitize" / "flif_fuzz", str(executions), str(seed), *inputs],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"replayed {len(inputs)} files" in done.stdout
    executed = re.search(rf"executed {executions} mutations: (\d+) pictures", done.stdout)
    assert int(executed[1]) >= 0.12 * executions  # fewer, and it is the checks of the end that are fuzzed


def test_fuzzing_under_sanitizers():
    run_fuzzer(10_000, 1)


@pytest.mark.slow
def test_long_fuzzing_under_sanitizers():
    run_fuzzer(200_000, 2)
