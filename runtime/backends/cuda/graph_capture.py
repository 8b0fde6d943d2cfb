"""When to record a CUDA graph, when to replay it, when to throw it away."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import Final


class Step(Enum):
    """What to do with the next run."""

    RUN = "run"
    """Launch every kernel as usual."""
    RECORD = "record"
    """Launch, and record the launches."""
    REPLAY = "replay"
    """Launch the recording."""


class CaptureState:
    """Decides, run by run, for one execution context.

    A recording holds addresses, shapes and the optimization profile, so it is good for one *key* made of these. When
    the key changes, the recording is dropped: it must not be replayed even if the old key comes back, because the
    context has been changed in between. The first runs of a key are plain: libraries allocate and choose kernels
    then, which cannot be recorded.

    Args:
        enabled: whether to record at all.
        plain_runs: runs of one key before it is recorded, at least 1.
    """

    def __init__(self, *, enabled: bool = True, plain_runs: int = 1) -> None:
        self._enabled = enabled
        self._plain_runs: Final = max(1, plain_runs)
        self._key: Hashable = None
        self._runs = 0
        self._recorded = False

    def step(self, key: Hashable) -> tuple[Step, bool]:
        """Say what to do with the next run.

        Args:
            key: whatever a recording depends on: profile, shapes, addresses.

        Returns:
            The step, and whether a recording of another key must be destroyed first.
        """
        drop = False
        if key != self._key:
            drop = self._recorded
            self._key, self._runs, self._recorded = key, 0, False
        if self._recorded:
            return Step.REPLAY, False
        if not self._enabled or self._runs < self._plain_runs:
            self._runs += 1
            return Step.RUN, drop
        return Step.RECORD, drop

    def recorded(self) -> None:
        """The recording that `step` asked for was made."""
        self._recorded = True

    def refused(self) -> None:
        """The recording that `step` asked for cannot be made: all further runs are plain."""
        self._enabled = False
        self._recorded = False

    def reset(self) -> bool:
        """Forget everything; returns whether a recording must be destroyed."""
        drop, self._recorded, self._key, self._runs = self._recorded, False, None, 0
        return drop

    @property
    def enabled(self) -> bool:
        """Whether runs are recorded."""
        return self._enabled
