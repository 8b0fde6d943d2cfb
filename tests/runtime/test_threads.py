"""How many cores a process may use, and threads that cannot start."""

from __future__ import annotations

import os

from oslic.runtime.threads import usable_cores


def test_cores_are_those_that_the_system_allots():
    assert usable_cores() == len(os.sched_getaffinity(0))


def test_without_affinities_all_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == os.cpu_count()
