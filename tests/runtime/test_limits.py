"""Limits on pixels and memory: what is free, what would fit, who waits, and what refusing costs."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from oslic.bench.experiments.memory import predictions
from oslic.cli.limit_arguments import byte_size
from oslic.cli.main import main
from oslic.runtime import flif
from oslic.runtime.bundle.finder import open_bundle
from oslic.runtime.bundle.folder import Bundle, default_bundle
from oslic.runtime.codec import Codec
from oslic.runtime.codec.batch import compress_many, decompress_many
from oslic.runtime.codec.container import Header, Payload, SectionType
from oslic.runtime.codec.parameters import Parameters, ResidualMode, TileRecord
from oslic.runtime.codec.stream import identity_of
from oslic.runtime.errors import LimitError
from oslic.runtime.image.arrays import Layout
from oslic.runtime.limits import Limits, available_memory
from oslic.runtime.memory import MemoryBudget, MemoryUse
from oslic.runtime.tiling import single
from PIL import Image
from stream_tools import put_together

HOSTILE = Path(__file__).parents[1] / "data" / "hostile"


def _write(root, files):
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


MACHINE = {"proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable:    8000000 kB\n"}


def test_free_memory_is_the_machines(tmp_path):
    _write(tmp_path, MACHINE)
    assert available_memory(tmp_path) == 8_000_000 << 10


def test_without_any_answer_four_gigabytes_are_assumed(tmp_path):
    assert available_memory(tmp_path) == 4 << 30


def test_groups_of_version_1_count(tmp_path):
    group = "sys/fs/cgroup/memory/jobs/ours"
    files = {
        "proc/self/cgroup": "5:cpu,cpuacct:/jobs/ours\n4:memory:/jobs/ours\n1:name=systemd:/jobs\n0::/\n",
        f"{group}/memory.limit_in_bytes": "629145600\n",
        f"{group}/memory.usage_in_bytes": "129145600\n",
        f"{group}/memory.stat": "cache 50\ninactive_file 7\ntotal_inactive_file 20000000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "5\n",
    }
    _write(tmp_path, MACHINE | files)
    assert available_memory(tmp_path) == 500_000_000 + 20_000_000


def test_a_containers_group_is_the_top_of_what_it_sees(tmp_path):
    """Its path is the host's, and does not exist inside."""
    files = {
        "proc/self/cgroup": "4:memory:/docker/0123456789\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "600000000",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "100000000",
    }
    _write(tmp_path, MACHINE | files)
    assert available_memory(tmp_path) == 500_000_000


@pytest.mark.parametrize("tightest", ["", "a/", "a/b/", "a/b/c/"])
def test_the_tightest_of_nested_groups_of_version_2_counts(tmp_path, tightest):
    files = {"proc/self/cgroup": "0::/a/b/c\n"}
    for group in ("a/", "a/b/", "a/b/c/"):
        files[f"sys/fs/cgroup/{group}memory.max"] = "max\n"
        files[f"sys/fs/cgroup/{group}memory.current"] = "1000\n"
    files |= {
        f"sys/fs/cgroup/{tightest}memory.max": "600000000\n",
        f"sys/fs/cgroup/{tightest}memory.current": "150000000\n",
        f"sys/fs/cgroup/{tightest}memory.stat": "anon 3\ninactive_file 50000000\n",
    }
    _write(tmp_path, MACHINE | files)
    assert available_memory(tmp_path) == 500_000_000


def test_this_machines_free_memory_is_plausible():
    assert 64 << 20 < available_memory() < 1 << 46


@pytest.mark.parametrize("size", [(4000, 3000), (3000, 4000), (40_000, 10), (33, 2_000_000), (5000, 6000)])
@pytest.mark.parametrize("multiple", [1, 32, 64])
def test_what_would_fit_fits(size, multiple):
    use = MemoryUse(50 << 20, 400)
    limits = Limits(memory=100 << 20)
    limits.check_memory(320, 320, use, multiple)
    with pytest.raises(LimitError, match="would fit") as caught:
        limits.check_memory(*size, use, multiple)
    width, height = (int(x) for x in str(caught.value).rsplit("; ", 1)[1].split()[0].split("x"))
    limits.check_memory(width, height, use, multiple)
    assert (width >= height) == (size[0] >= size[1])
    assert use.at(width * height) > 0.75 * limits.memory


def test_where_nothing_fits_no_size_is_named():
    with pytest.raises(LimitError, match="no image would fit"):
        Limits(memory=10 << 20).check_memory(5, 5, MemoryUse(50 << 20, 400), 32)


def test_default_limits():
    assert Limits.pixels == 64_000_000
    assert Limits().memory < available_memory() * 0.7


@pytest.mark.parametrize(
    ("text", "size"),
    [("2G", 2 << 30), ("500m", 500 << 20), ("1.5GiB", 3 << 29), ("9", 9), ("64kB", 1 << 16)],
)
def test_sizes_on_the_command_line(text, size):
    assert byte_size(text) == size


@pytest.mark.parametrize("text", ["", "-1G", "0", "2X", "1e9", "nan", "\u0662G"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(Exception, match="not a size"):
        byte_size(text)


def test_who_does_not_fit_beside_the_others_waits():
    budget = MemoryBudget(100)
    inside, release, order = threading.Event(), threading.Event(), []

    def first():
        with budget.reserve(60):
            inside.set()
            assert release.wait(20)
            order.append("first")

    def second():
        with budget.reserve(50):
            order.append("second")

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert inside.wait(20)
    with budget.reserve(40):  # fits beside it
        pass
    threads.append(threading.Thread(target=second))
    threads[1].start()
    threads[1].join(0.2)
    assert threads[1].is_alive()
    release.set()
    for thread in threads:
        thread.join(20)
    assert order == ["first", "second"]
    with budget.reserve(500):  # alone: nobody to wait for
        pass


def test_a_batch_keeps_within_what_one_image_needs(photo):
    """With memory for one image at a time, the images of a batch follow each other."""
    image = photo[:64, :96]
    with Codec.open(threads=1) as codec:
        expected = codec.compress(image, 30, effort=0)
        need = codec.decoding.at(64 * 96)
    most, working = [0], [0]
    lock = threading.Lock()
    with Codec.open(threads=1, limits=Limits(memory=max(need, codec.encoding.at(64 * 96)))) as codec:
        synthesise = codec.graphs.synthesise

        def counted(*arguments):
            with lock:
                working[0] += 1
                most[0] = max(most[0], working[0])
            try:
                return synthesise(*arguments)
            finally:
                with lock:
                    working[0] -= 1

        codec.graphs.synthesise = counted
        assert list(compress_many(codec, [image] * 3, quality=30, effort=0)) == [expected] * 3
        assert all(
            np.array_equal(x, codec.decompress(expected)) for x in decompress_many(codec, [expected] * 4)
        )
    assert most == [1]


def _flat_png(width: int, height: int) -> bytes:
    """One bit a pixel: small here, and as large as any in memory."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = bytes(height * (1 + (width + 7) // 8))
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def _peak(*arguments: str) -> tuple[int, str, int]:
    """Exit code, what was said, and the peak of memory of an `oslic` command, in bytes."""
    done = subprocess.run(
        [sys.executable, "-m", "oslic.cli.peak", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr, int(done.stdout.splitlines()[-1])


def _bomb(width: int, height: int) -> bytes:
    """A stream of a few bytes that says it holds a large flat picture."""
    planes = {
        SectionType.LABELS: np.zeros((-(-height // 104), -(-width // 104)), np.uint8),
        SectionType.COMPACT: np.zeros((-(-height // 8), -(-width // 8)), np.uint8),
    }
    parts = {kind: [Payload(flif.encode(plane, crc=False))] for kind, plane in planes.items()}
    parts[SectionType.RESIDUAL] = [Payload(b"", TileRecord(ResidualMode.NONE, 1, 8, bytes(4)).to_bytes())]
    identity = identity_of(open_bundle(None))
    parameters = Parameters(0, 104).to_bytes()
    header = Header(Layout.RGB, "oslic", identity, single(width, height), parameters)
    data = put_together(header, parts)
    assert len(data) < 120
    return data


@pytest.mark.parametrize("name", ["16000x16000.png", "slow-small.tiff", "bomb-11000x11000.oslic"])
def test_refusing_costs_little(tmp_path, name):
    source = HOSTILE / name
    if name.endswith(".png"):
        source = tmp_path / name
        source.write_bytes(_flat_png(16000, 16000))
    if name.endswith(".oslic"):
        source = tmp_path / name
        source.write_bytes(_bomb(11000, 11000))
    command = "decompress" if name.endswith(".oslic") else "compress"
    code, said, peak = _peak(command, str(source), "-o", str(tmp_path))
    assert code == LimitError.exit_code
    assert "more than the limit of 64000000" in said
    assert peak < 250 << 20


def test_memory_is_that_of_a_streams_own_tiles(tmp_path):
    """A picture of 16 megapixels that the encoder would cut into 16 tiles, and a stream has as one."""
    source = tmp_path / "x.oslic"
    source.write_bytes(_bomb(4096, 4096))
    with Codec.open() as codec:
        limit = codec.decoding.for_picture(4096, 4096)
    for command in (["decompress", str(source), "-o", str(tmp_path / "x.png")], ["verify", str(source)]):
        code, said, peak = _peak(*command, "--max-memory", str(limit))
        assert (code, "in tiles of 4096x4096" in said) == (LimitError.exit_code, True)
        assert peak < 300 << 20


def test_memory_is_checked_before_a_picture_is_decoded(tmp_path):
    source = tmp_path / "x.png"
    source.write_bytes(_flat_png(8000, 7900))
    code, said, peak = _peak("compress", str(source), "-o", str(tmp_path / "x.oslic"), "--max-memory", "250M")
    assert code == LimitError.exit_code
    assert "would need" in said
    assert "the limit is 250 MiB" in said
    assert peak < 250 << 20


def test_the_command_lines_limits_hold(tmp_path, samples):
    source, stream = str(samples / "chelsea.png"), str(tmp_path / "x.oslic")
    code, said, _ = _peak("compress", source, "-o", stream, "--max-pixels", "1000")
    assert (code, "451x300" in said) == (LimitError.exit_code, True)
    assert _peak("compress", source, "-o", stream, "--max-pixels", "200000")[0] == 0
    for command in (["decompress", stream, "-o", str(tmp_path / "x.png")], ["info", stream]):
        code, said, _ = _peak(*command, "--max-pixels", "1000")
        assert (code, "more than the limit of 1000" in said) == (LimitError.exit_code, True)


def test_measured_peaks_lie_near_their_predictions():
    """Of one file and of several: within 15 percent."""
    file = Path(__file__).parents[2] / "bench" / "results" / "memory-lite-cpu.json"
    result = json.loads(file.read_text())
    rows, cores = result["rows"], result["cores"]
    found = sorted((row["command"], row["files"], round(row["width"] * row["height"] / 1e6)) for row in rows)
    commands = ("compress", "decompress")
    assert found == [
        (command, files, size) for command in commands for files in (1, 3) for size in (2, 6, 12)
    ]
    known = Bundle.open(default_bundle())
    for row in rows:
        now = predictions(known, row["width"], row["height"], cores)[row["command"], row["files"]]
        assert 0.85 <= now / row["measured_bytes"] <= 1.15


def test_a_batch_holds_no_more_than_the_limit(tmp_path, photo):
    """Freed arrays go back to the system: kept, they made three pictures of this size hold half as much again."""
    width, height = 1632, 1216
    picture = Image.fromarray(photo).resize((width, height))
    names = [str(tmp_path / f"{number}.png") for number in range(3)]
    for name in names:
        picture.save(name, compress_level=1)
    with Codec.open() as codec:
        need = codec.encoding.for_picture(width, height)
    options = ["--backend", "onnxruntime-cpu", "--threads", "1", "--effort", "0", "--max-memory", str(need)]
    code, said, peak = _peak("compress", *names, "-o", str(tmp_path), *options)
    assert (code, said) == (0, "")
    assert peak < 1.15 * need


@pytest.mark.parametrize(
    "words",
    [
        ["bench", "rd", "{images}", "-o", "{out}.json", "--peers", "jpeg"],
        ["bench", "seams", "{images}", "-o", "{out}.json"],
        ["bench", "flif", "--labels", "{images}", "--photos", "{images}"],
        ["cast", "{bundle}", "-o", "{out}", "--images", "{images}"],
    ],
)
def test_commands_of_other_rooms_have_the_limits(float_lite, tmp_path, samples, capsys, words):
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(samples / "chelsea.png", images)
    places = {"images": str(images), "out": str(tmp_path / "out"), "bundle": str(float_lite.path)}
    command = [word.format(**places) for word in words]
    for limit, message in (
        (["--max-pixels", "1000"], "more than the limit of 1000"),
        (["--max-memory", "1M"], "1 MiB"),
    ):
        assert main([*command, *limit]) == LimitError.exit_code
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [images]
