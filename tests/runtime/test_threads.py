"""How many cores a process may use, and threads that cannot start."""

from __future__ import annotations

import os
import subprocess
import sys

from oslic.runtime.threads import usable_cores


def test_cores_are_those_that_the_system_allots():
    assert usable_cores() == len(os.sched_getaffinity(0))


def test_without_affinities_all_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == os.cpu_count()


def test_a_thread_that_cannot_start_is_a_lack_of_memory():
    code = """
import resource, threading
from oslic.runtime.threads import Workers
workers = Workers(4)
threading.stack_size(256 << 20)
held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (64 << 20), resource.RLIM_INFINITY))
try:
    workers.submit(print, 'ran')
except MemoryError as error:
    print('no memory:', error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("no memory: can't start new thread")
