"""Atomic writing."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from oslic.runtime.errors import UsageError
from oslic.runtime.files import write_atomically


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
