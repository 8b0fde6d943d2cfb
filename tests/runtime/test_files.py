"""Reading within limits, and atomic writing."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from oslic.runtime.errors import BundleError, LimitError, OslicError, UsageError
from oslic.runtime.files import HEAD_BYTES, read_file, read_regular_file, write_atomically


def test_writes_and_replaces(tmp_path):
    target = tmp_path / "x"
    write_atomically(target, b"one")
    write_atomically(target, b"two")
    assert target.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [target]


def test_respects_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_atomically(tmp_path / "x", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_the_umask_is_not_touched(tmp_path, monkeypatch):
    """It can only be asked for by setting it: two threads that do so at once leave files that all may write."""
    calls = []
    umask = os.umask
    monkeypatch.setattr(os, "umask", lambda mask: calls.append(mask) or umask(mask))
    write_atomically(tmp_path / "x", b"")
    assert calls == []


def test_a_link_stays_and_its_file_is_written(tmp_path):
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder / "file")
    for content in (b"one", b"two"):
        write_atomically(link, content)
        assert link.is_symlink()
        assert (folder / "file").read_bytes() == content
    assert sorted(folder.iterdir()) == [folder / "file"]


def test_a_pipe_takes_the_bytes_and_stays(tmp_path):
    """As a device does: `-o /dev/null` must not put a file in its place."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        write_atomically(pipe, b"content")
        assert read.result() == b"content"
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_the_longest_name_is_taken(tmp_path):
    target = tmp_path / ("x" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    write_atomically(target, b"one")
    assert target.read_bytes() == b"one"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"the folder .*missing does not exist"):
        write_atomically(tmp_path / "missing" / "x", b"")


def test_a_folder_in_the_way_is_named(tmp_path):
    with pytest.raises(UsageError, match="it is a folder"):
        write_atomically(tmp_path, b"")


FULL = """
import resource, signal, sys
from oslic.runtime.errors import UsageError
from oslic.runtime.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomically(sys.argv[1], bytes(100000))
except UsageError as error:
    print(error)
"""


def test_no_partial_file_when_the_disk_takes_no_more(tmp_path):
    """A file size limit fails the write half-way, as a full disk does."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    target = tmp_path / "x"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(target)], capture_output=True, text=True, check=True
    )
    assert os.strerror(errno.EFBIG) in done.stdout
    assert "no partial file" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_read_up_to_its_limit(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(bytes(range(100)))
    for read in (read_file, read_regular_file):
        assert read(file, "thing", 100) == bytes(range(100))
        with pytest.raises(OslicError, match=r"the thing .*x has more than 99 bytes"):
            read(file, "thing", 99)


def test_a_longer_file_is_not_read(tmp_path):
    """8 GB, all holes: neither read nor allocated."""
    file = tmp_path / "x"
    with file.open("wb") as handle:
        handle.truncate(8 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_file, read_regular_file):
        with pytest.raises(OslicError, match="has more than"):
            read(file, "thing", 1 << 30)
    assert read_file(file, "thing", 1 << 40, expected=len) == bytes(HEAD_BYTES + 1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_an_endless_device_is_read_up_to_the_limit():
    with pytest.raises(LimitError, match="more than 5000000 bytes"):
        read_file("/dev/zero", "stream", 5000000)


@pytest.mark.parametrize("length", [0, 1, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, 3 << 20])
def test_one_byte_more_than_expected_is_read(tmp_path, length):
    content = bytes(i % 251 for i in range(length))
    file = tmp_path / "x"
    file.write_bytes(content)
    assert read_file(file, "thing", 1 << 30, expected=lambda _: length) == content
    file.write_bytes(content + b"more than that")
    found = read_file(file, "thing", 1 << 30, expected=lambda _: length)
    assert found.startswith(content)
    assert length < len(found) <= max(length + 1, HEAD_BYTES)


@pytest.mark.parametrize("size", [10, 70000, 3 << 20])
def test_a_pipe_is_read_to_its_end(tmp_path, size):
    pipe, content = tmp_path / "pipe", os.urandom(size)
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(pipe.write_bytes, content)
        assert read_file(pipe, "thing", 3 << 20) == content


def test_only_regular_files_are_read_where_one_must_stand(tmp_path):
    """A pipe without a writer would be waited for without end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for path, kind in ((pipe, "a pipe"), (link, "a pipe"), ("/dev/zero", "a device"), (tmp_path, "a folder")):
        with pytest.raises(BundleError, match=f"cannot read the graph .*: it is {kind}, not a regular file"):
            read_regular_file(path, "graph", 100, BundleError)
    with pytest.raises(BundleError, match="No such file"):
        read_regular_file(tmp_path / "missing", "graph", 100, BundleError)
    with pytest.raises(UsageError, match="holds a NUL"):
        read_regular_file("a\0b", "graph", 100)
    with pytest.raises(UsageError, match="File name too long"):
        read_file("x" * 300, "image", 100)
