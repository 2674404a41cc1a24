"""Notices sections whose assignments differ from their course's past beyond what is usual.

The plan of a section (which assignments, how much they count, when they are due) is known at its
start, so a redesign is noticed before anything is handed in. What follows from it is not known
here.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.gradebook.grading import counting_weights, is_exam

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RedesignSettings:
    """The judgements about redesigns, each with its reason."""

    #: Differences that make a redesign, each alone, in the order of `Difference`. In OULAD,
    #: sections differ from the term before by 0, 0 and up to .05, and by .5, .25 and .01 where a
    #: course lost its computer-marked assignments.
    least: tuple[float, float, float] = (0.25, 0.2, 0.08)
    #: Beyond what is usual is so many times the usual difference. With 3, a course that was
    #: redesigned before hides the next redesign (see docs/decisions.md).
    times_usual: float = 2.0
    #: The usual difference of all courses counts as so many sections of the course's own.
    pool_sections: float = 4.0
    #: Smaller changes of a category's weight (0-1), and of dates (share of a section), are no news.
    told_weight: float = 0.05
    told_dates: float = 0.02
    #: Changes that one sentence names.
    most_told: int = 4


SETTINGS = RedesignSettings()


@dataclass(frozen=True)
class Plan:
    """The assignments of one section, without extra credit, in order of due date.

    Attributes
    ----------
    category
        (m,): texts, in one spelling where they differ by case only.
    weight
        (m,): shares of the final grade, 0-1, if every exam counts.
    due
        (m,): shares of the section's days that have passed on the due date.
    days
        The section's length.
    """

    category: npt.NDArray[np.object_]
    weight: Floats
    due: Floats
    days: float

    @property
    def design(self) -> Hashable:
        """A key that is equal for plans without any difference that counts."""
        return (
            tuple(self.category),
            *(tuple(values.round(3)) for values in (self.weight, self.due)),
        )


@dataclass(frozen=True)
class Difference:
    """How far two plans differ, each 0 (not at all) to 1 (in everything).

    Attributes
    ----------
    assignments
        Share of the assignments of both that have no counterpart of their category in the other.
    weights
        Share of the final grade that other assignments decide.
    dates
        Mean distance of counterparts' due dates, as a share of the section.
    """

    assignments: float
    weights: float
    dates: float

    @classmethod
    def between(cls, one: Plan, other: Plan) -> Self:
        """Compare two plans; counterparts are those nearest in time within a category."""
        from scipy.optimize import linear_sum_assignment

        matched, moved, distances = 0, 0.0, [0.0]
        for category in sorted({*one.category} & {*other.category}):
            own, theirs = (np.flatnonzero(plan.category == category) for plan in (one, other))
            gaps = np.abs(one.due[own][:, None] - other.due[theirs])
            rows, columns = linear_sum_assignment(gaps)
            matched += len(rows)
            moved += np.minimum(one.weight[own[rows]], other.weight[theirs[columns]]).sum()
            distances += gaps[rows, columns].tolist()
        either = len(one.category) + len(other.category) - matched
        return cls(
            1 - matched / max(either, 1),
            float(np.clip(1 - moved, 0, 1)),
            sum(distances) / max(matched, 1),
        )

    @property
    def values(self) -> Floats:
        """The three as an array."""
        return np.array([self.assignments, self.weights, self.dates])

    @property
    def size(self) -> float:
        """All three in one number; 1 or more is a redesign where courses usually stay the same."""
        return float((self.values / SETTINGS.least).sum())


def plans(sections: pd.DataFrame, assignments: pd.DataFrame) -> dict[str, Plan]:
    """Return the plan of each section that has assignments.

    Parameters
    ----------
    sections
        Columns section_id, starts_on, ends_on and grading_policy.
    assignments
        Columns of the table `gradebook.assignment`.
    """
    rows = assignments[~assignments["extra_credit"].astype(bool)].assign(personal=False)
    shares = counting_weights(rows, sections, rows["assignment_id"][is_exam(rows["category"])])
    rows = rows.merge(sections[["section_id", "starts_on", "ends_on"]], on="section_id")
    days = (rows["ends_on"] - rows["starts_on"]).dt.days.clip(lower=1)
    due = (rows["due_on"].fillna(rows["ends_on"]) - rows["starts_on"]).dt.days
    category = rows["category"].astype(object).str.strip()
    rows = pd.DataFrame(
        {
            "section_id": rows["section_id"].astype(object),
            "category": category.groupby(category.str.casefold()).transform("first"),
            # An assignment that does not count in the grade weighs 0; that is known.
            "weight": rows["assignment_id"].map(shares).fillna(0.0).to_numpy(np.float64) / 100,
            "due": (due / days).to_numpy(np.float64),
            "days": days.to_numpy(np.float64),
        }
    ).sort_values(["section_id", "due", "category"])
    return {
        str(name): Plan(
            own["category"].to_numpy(object),
            own["weight"].to_numpy(np.float64),
            own["due"].to_numpy(np.float64),
            float(own["days"].iloc[0]),
        )
        for name, own in rows.groupby("section_id", sort=False)
    }


@dataclass(frozen=True)
class Redesign:
    """What a section has other than every ended section of its course.

    Attributes
    ----------
    unlike
        The most similar ended section.
    difference
        How far the two differ.
    allowed
        Up to which `Difference.size` that is usual.
    changes
        What changed, in words, such as "all 7 CMA are gone".
    """

    section_id: str
    course_id: str
    unlike: str
    difference: Difference
    allowed: float
    changes: tuple[str, ...]

    def __str__(self) -> str:
        changed = ", ".join(self.changes[: SETTINGS.most_told])
        if more := len(self.changes[SETTINGS.most_told :]):
            changed += f", and {more} more"
        return f"{self.section_id} was redesigned: {changed} (compared with {self.unlike})"


def redesigns(
    sections: pd.DataFrame, assignments: pd.DataFrame, as_of: date
) -> dict[str, Redesign]:
    """Return the sections running on a day that were redesigned, by section_id.

    A section is compared with the most similar one of its course that has ended, for that design is
    known. It was redesigned if the two differ by more than twice what is usual: the median
    difference of ended sections from the most similar before them, over all courses and over its
    own, which counts the more, the more sections it has. A section without assignments, or of a
    course of which none has ended, has nothing to compare.

    Parameters
    ----------
    sections, assignments
        Of all courses; columns of the tables.
    """
    begun = sections[sections["starts_on"] <= pd.Timestamp(as_of)]
    known = plans(begun, assignments[assignments["section_id"].isin(begun["section_id"])])
    begun = begun[begun["section_id"].isin(known)]
    over = begun["ends_on"] < pd.Timestamp(as_of)
    past = {str(name): own for name, own in begun[over].groupby("course_id")}
    running = {str(name): own for name, own in begun[~over].groupby("course_id") if name in past}
    usual_of = {name: _of_ended(own, known) for name, own in past.items()}
    pool = _median([values for own in usual_of.values() for values in own])
    found = {}
    for course, now in running.items():
        own = usual_of[course]
        share = len(own) / (len(own) + SETTINGS.pool_sections)
        usual = pool + share * (_median(own) - pool)
        allowed = max(SETTINGS.times_usual * usual, 1.0)
        ended = past[course]["section_id"]
        for name in now["section_id"]:
            unlike, difference = _nearest(known[name], {other: known[other] for other in ended})
            if difference.size > allowed:
                changed = changes(known[name], known[unlike])
                found[name] = Redesign(name, course, unlike, difference, allowed, changed)
    return found


def _of_ended(sections: pd.DataFrame, known: Mapping[str, Plan]) -> list[float]:
    """Return how far each ended section of a course differs from those that began before it."""
    began = sections["starts_on"].to_numpy()
    names = sections["section_id"].to_numpy(object)
    before = {name: names[began < day] for name, day in zip(names, began, strict=True)}
    return [
        _nearest(known[name], {other: known[other] for other in others})[1].size
        for name, others in before.items()
        if len(others)
    ]


def _nearest(plan: Plan, others: Mapping[str, Plan]) -> tuple[str, Difference]:
    """Return the most similar of other plans by name; plans of one design are compared once."""
    designs = {other.design: name for name, other in others.items()}
    differences = {name: Difference.between(plan, others[name]) for name in designs.values()}
    nearest = min(differences, key=lambda name: differences[name].size)
    return nearest, differences[nearest]


def _median(differences: Sequence[float]) -> float:
    """Return the median; 0 without any difference."""
    return float(np.median(differences)) if differences else 0.0


def changes(now: Plan, before: Plan) -> tuple[str, ...]:
    """Return in words what `now` has other than `before`.

    Examples
    --------
    >>> def plan(*names: str) -> Plan:
    ...     due = np.linspace(0.1, 0.9, len(names))
    ...     return Plan(np.array(names, object), np.full(len(names), 1 / len(names)), due, 200.0)
    >>> changes(plan("Essay", "Test"), plan("Essay", "Quiz", "Quiz", "Test"))
    ('all 2 Quiz are gone', 'Essay counts 50% instead of 25%', 'Test counts 50% instead of 25%')
    """
    texts: list[str] = []
    weighed: list[str] = []
    for category in sorted({*now.category, *before.category}):
        new, old = ((plan.category == category).sum() for plan in (now, before))
        if new < old:
            share = f"{old - new} of {old}" if new else f"all {old}" if old > 1 else "the only"
            texts.append(f"{share} {category} {'is' if old - new == 1 else 'are'} gone")
        elif new > old:
            texts.append(f"{new - old} {category} {'is' if new - old == 1 else 'are'} new")
        counts, counted = (plan.weight[plan.category == category].sum() for plan in (now, before))
        if new and old and abs(counts - counted) >= SETTINGS.told_weight:
            weighed.append(f"{category} counts {counts:.0%} instead of {counted:.0%}")
    difference = Difference.between(now, before)
    if not texts and not weighed and difference.weights >= SETTINGS.told_weight:
        weighed.append(f"{difference.weights:.0%} of the grade moved to other assignments")
    if difference.dates >= SETTINGS.told_dates:
        days = difference.dates * now.days
        weighed.append(f"due dates moved by {days:.0f} days on average")
    return (*texts, *weighed)
