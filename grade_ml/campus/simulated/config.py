"""The options of a simulated campus: size, seed, differences between terms, known disturbances."""

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
        now submits: a probability p of submitting becomes p + rescued (1 - p).
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
    """The help of the campus's advisers, and its effect.

    Parameters
    ----------
    since
        The first day of help by section_id and student_id.
    rescued
        Share, 0-1, of the work after that day that a helped student who still takes part would
        have missed without help and now hands in.
    """

    since: Mapping[tuple[str, str], date]
    rescued: float = 0.4

    def __post_init__(self) -> None:
        if not 0 <= self.rescued <= 1:
            raise ValueError(f"rescued is {self.rescued}, not between 0 and 1")


@dataclass(frozen=True)
class Differences:
    """How much the terms of a campus differ beyond chance; with 0, in nothing.

    Parameters
    ----------
    base_rate
        SD, over terms, of the log hazard of leaving.
    cohort
        SD, over terms, of the mean ability (in SD) of the students who enter in a term.
    policy
        SD, over terms and courses, of the points by which all scores of a section are shifted.
    redesigned
        Chance, 0-1, that a course has other assignments, dates and weights from a term on.
    new_courses
        How many courses, the last ones, are offered only in the newest two terms.
    """

    base_rate: float = 0.0
    cohort: float = 0.0
    policy: float = 0.0
    redesigned: float = 0.0
    new_courses: int = 0

    def __post_init__(self) -> None:
        for name in ("base_rate", "cohort", "policy", "new_courses"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, less than 0")
        if not 0 <= self.redesigned <= 1:
            raise ValueError(f"redesigned is {self.redesigned}, not between 0 and 1")


@dataclass(frozen=True)
class CampusConfig:
    """The size and the seed of a campus.

    Parameters
    ----------
    students
        Students over all terms; each takes 3 or 4 courses in each of up to `stay` terms in a row.
    courses
        Courses, each offered in every term, except for `differences.new_courses`.
    terms
        Terms up to and including the newest, which always runs.
    seed
        0 or more; the same configuration and day give the same bytes.
    stay
        Consecutive terms in which a student studies; 1: no term shares students with another.
    """

    students: int = 600
    courses: int = 8
    terms: int = 5
    seed: int = 0
    drift: Drift | None = None
    intervention: Intervention | None = None
    differences: Differences = Differences()
    stay: int = 4

    def __post_init__(self) -> None:
        for name, least in (
            ("students", 1),
            ("courses", 1),
            ("terms", 1),
            ("stay", 1),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, less than {least}")
        new = self.differences.new_courses
        if new >= self.courses:
            raise ValueError(f"new_courses is {new}, not less than {self.courses} courses")
