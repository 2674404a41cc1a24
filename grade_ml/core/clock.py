"""The one clock: everything that happens now asks it, and what tests or replays moves is another.

A command or the definitions of Dagster make one and hand it on; nothing else reads the time of the
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
