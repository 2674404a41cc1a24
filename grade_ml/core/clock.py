"""The clock that gives the present time everywhere; tests and replays pass another.

A command or Dagster's definitions create it and pass it on; no other code reads the time of the
machine. Durations are measured with `time.perf_counter` and `time.monotonic`, which are no dates.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """The time of this machine, and waiting; a virtual clock overrides both."""

    def now(self) -> datetime:
        """Return the moment, in UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)
