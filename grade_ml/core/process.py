"""What this process takes of the machine."""

from __future__ import annotations

import resource
import sys


def peak_megabytes() -> float:
    """Return the most memory that this process has had so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
