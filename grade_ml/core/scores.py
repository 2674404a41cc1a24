"""Scores from 0 to 100 whose parts stay visible: what they make together, and what costs most.

A part that cannot be judged counts neither way, and is named. What is judged, and how strictly, is
up to each package.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One part: points of 100, `None` if it cannot be judged, its weight, and a description."""

    points: float | None
    weight: float
    says: str

    @property
    def lost(self) -> float:
        """What it costs, in points times weight; 0 if it cannot be judged."""
        return 0.0 if self.points is None else (100 - self.points) * self.weight


def between(value: float, best: float, worst: float) -> float:
    """Return 100 at `best` or better, 0 at `worst` or worse, and a straight line between.

    >>> [between(free, best=20, worst=5) for free in (30, 12.5, 1)]
    [100.0, 50.0, 0.0]
    """
    return 100.0 - 100.0 * min(max((value - best) / (worst - best), 0.0), 1.0)


def mean(parts: Iterable[Part]) -> float | None:
    """Return the weighted mean of the known parts, `None` if no part is known.

    >>> mean([Part(100, 3, ""), Part(60, 1, ""), Part(None, 9, "nothing yet")])
    90.0
    """
    known = [(part.points, part.weight) for part in parts if part.points is not None]
    weight = sum(weight for _, weight in known)
    return min(sum(points * share for points, share in known) / weight, 100.0) if weight else None


def worst(parts: Mapping[str, Part]) -> str | None:
    """Return the name of the part that costs most, `None` if none costs any."""
    name = max(parts, key=lambda name: parts[name].lost, default=None)
    return name if name is not None and parts[name].lost else None
