"""What can be asked of a simulated campus: its size, its seed, and two known disturbances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class DriftKind(StrEnum):
    """What changes on a drift's date."""

    GRADING_POLICY = "grading_policy"
    """Scores graded from then on are shifted by so many points (cut off at 0 and 100)."""
    COHORT_MIX = "cohort_mix"
    """Students who enter in terms that start from then on have their ability shifted (in SD)."""


@dataclass(frozen=True)
class Drift:
    """A lasting change from a date on.

    Parameters
    ----------
    on
        First day of the new regime.
    kind
        What changes.
    shift
        By how much: score points, or standard deviations of ability.
    """

    on: date
    kind: DriftKind
    shift: float


@dataclass(frozen=True)
class Intervention:
    """Help for some students, chosen at random, with work that is due from a date on.

    Parameters
    ----------
    on
        Work due from this day on is affected.
    share
        Share of the students who are helped, 0-1.
    rescued
        Share, 0-1, of the work that a helped student who still takes part would have missed and
        now submits: a chance p of submitting becomes p + rescued (1 - p).
    """

    on: date
    share: float = 0.5
    rescued: float = 0.4

    def __post_init__(self) -> None:
        for name in ("share", "rescued"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, not between 0 and 1")


@dataclass(frozen=True)
class Help:
    """What the campus's advisers did, and how much it helps.

    Parameters
    ----------
    since
        The first day of help by section_id and student_id.
    rescued
        Share, 0-1, of the work handed in after that day that a helped student who still takes part
        would have missed without.
    """

    since: Mapping[tuple[str, str], date]
    rescued: float = 0.4

    def __post_init__(self) -> None:
        if not 0 <= self.rescued <= 1:
            raise ValueError(f"rescued is {self.rescued}, not between 0 and 1")


@dataclass(frozen=True)
class CampusConfig:
    """The size and the seed of a campus.

    Parameters
    ----------
    students
        Students over all terms; each takes 3 or 4 courses in each of up to 4 consecutive terms.
    courses
        Courses, each offered in every term.
    terms
        Terms up to and including the newest, which always runs.
    seed
        0 or more; the same configuration and day give the same bytes.
    """

    students: int = 600
    courses: int = 8
    terms: int = 5
    seed: int = 0
    drift: Drift | None = None
    intervention: Intervention | None = None

    def __post_init__(self) -> None:
        for name, least in (("students", 1), ("courses", 1), ("terms", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, less than {least}")
