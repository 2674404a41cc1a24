"""Processes: which is which, what this one takes of the machine, and what it leaves on it."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass

import psutil

from grade_ml.core.errors import OutOfMemoryError

#: MB that stay free for the database and the UI.
_RESERVE = 500


def keep_apart() -> None:
    """Make what this process and its children write its user's alone, and import nothing from cwd.

    Every process of grade_ml calls it before anything else. The current folder may be a delivery:
    one with a `yaml.py` in it was executed.
    """
    os.umask(0o077)
    os.environ["PYTHONSAFEPATH"] = "1"


@dataclass(frozen=True)
class Identity:
    """A process, told apart from a later one of the same id; also the leader of its group."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Return the identity of the running process `pid`."""
        return cls(pid, psutil.Process(pid).create_time())

    def is_alive(self) -> bool:
        """Return whether this very process still runs."""
        try:
            process = psutil.Process(self.pid)
            return (
                process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False


def peak_megabytes() -> float:
    """Return the most memory that this process has had so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def guard_memory(step: str, reserve_mb: float = _RESERVE) -> None:
    """Stop before the machine runs out of memory, which would kill whatever is largest.

    Raises
    ------
    OutOfMemoryError
        Less than `reserve_mb` MB are left; the error names `step`.
    """
    left = psutil.virtual_memory().available / 2**20
    if left < reserve_mb:
        raise OutOfMemoryError(
            f"{step} was stopped: {left:.0f} MB of memory are left, and {reserve_mb:.0f} MB have "
            f"to stay free. This process has {peak_megabytes():.0f} MB at its peak.",
            "Give the machine more memory, let fewer runs go at once, or train fewer courses.",
        )
