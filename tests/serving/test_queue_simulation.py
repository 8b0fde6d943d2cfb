"""The simulation behind docs/results/scaling.md against what queueing theory has in closed form."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "docs" / "site"))
import queue_simulation


@pytest.mark.parametrize("load", [0.5, 0.8, 0.95])
def test_one_by_one_it_is_the_queue_with_constant_service(load):
    """M/D/1: the mean wait is load / (2 (1 - load)) services."""
    times = queue_simulation.response_times(queue_simulation.poisson(load, 150_000, 3), lambda _: 1.0, 1)
    assert times.mean() == pytest.approx(1 + load / (2 * (1 - load)), rel=0.08)
    assert times.min() >= 1 - 1e-9


def test_without_batches_in_the_queue_nothing_is_shared():
    """A batch that takes as long as its tiles one by one saves nothing: the last of it is answered as late."""
    arrivals = queue_simulation.poisson(0.8, 50_000, 4)
    alone = queue_simulation.response_times(arrivals, lambda _: 1.0, 1)
    batched = queue_simulation.response_times(arrivals, float, 8)
    assert np.mean(batched) >= np.mean(alone)


def test_by_hand():
    """Three at once, limit 2, a batch of b takes 1 + b: the first alone (2), then the other two (3)."""
    times = queue_simulation.response_times(np.array([0.0, 0.5, 0.5]), lambda batch: 1.0 + batch, 2)
    assert times.tolist() == [2.0, 4.5, 4.5]


def test_measured_batches_are_joined_by_straight_lines():
    service = queue_simulation.measured_service({1: 3.0, 2: 5.0, 4: 9.0})
    assert [service(size) for size in (1, 2, 3, 4)] == [3.0, 5.0, 7.0, 9.0]


def test_batches_that_cannot_keep_up_are_said_to_have_no_end(monkeypatch):
    monkeypatch.setattr(queue_simulation, "REQUESTS", 1000)
    rows = queue_simulation.queue_rows(lambda batch: 1.2 * batch if batch > 1 else 1.0)
    assert rows[2][3:] == ["no end", "no end"]
    assert all(cell != "no end" for cell in rows[1])


def test_the_page_has_the_tables_of_the_committed_results():
    """After measuring anew: `python docs/site/queue_simulation.py --write`."""
    page = (ROOT / "docs" / "results" / "scaling.md").read_text(encoding="utf-8")
    for name, table in queue_simulation.tables().items():
        assert f"<!-- table: {name} -->\n\n{table}\n\n<!-- end -->" in page, name
