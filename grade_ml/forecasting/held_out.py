"""Forecasts of sections that the forecasters had not seen, and which sections those are.

What weights and bands are learned from these rows stands in `combination` and `intervals`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grade_ml.forecasting.contract import Estimate, Floats, Ints, Method, Panel

#: Sections that start this many days apart or less are of one term.
_ONE_TERM = 31
#: A forward fold has at least this many terms behind it: with fewer it would lack whole courses.
_LEAST_TERMS = 3


@dataclass(frozen=True)
class HeldOut:
    """N rows (student, day, remaining assignment) with their truth and every method's answer.

    `answers` holds (N, 3) by method: mean, median, chance to hand in. `truth` is 0-100 and
    `submitted` 1 or 0.
    """

    course: npt.NDArray[np.object_]
    horizon: Ints
    truth: Floats
    submitted: Floats
    answers: Mapping[Method, Floats]

    @classmethod
    def of(cls, panels: Sequence[Panel], answers: Mapping[Method, Sequence[Estimate]]) -> HeldOut:
        """Return the rows whose truth is known."""
        shapes = [one.shape for one in panels]
        truth = np.concatenate([one.truth[:, one.remaining].ravel() for one in panels])
        known = ~np.isnan(truth)
        submitted = np.concatenate(
            [one.truth_submitted[:, one.remaining].ravel() for one in panels]
        )
        course = np.repeat(
            np.array([one.course_id for one in panels], dtype=object), [n * r for n, r in shapes]
        )
        horizon = np.concatenate([np.tile(np.arange(1, r + 1), n) for n, r in shapes])
        return cls(
            course[known],
            horizon[known],
            truth[known],
            submitted[known],
            {name: stacked(found)[known] for name, found in answers.items()},
        )

    @classmethod
    def together(cls, parts: Sequence[HeldOut]) -> HeldOut:
        """Return the rows of all parts, with the methods that all of them have."""
        shared = [name for name in parts[0].answers if all(name in one.answers for one in parts)]
        return cls(
            course=np.concatenate([one.course for one in parts]),
            horizon=np.concatenate([one.horizon for one in parts]),
            truth=np.concatenate([one.truth for one in parts]),
            submitted=np.concatenate([one.submitted for one in parts]),
            answers={name: np.concatenate([one.answers[name] for one in parts]) for name in shared},
        )


def stacked(estimates: Sequence[Estimate]) -> Floats:
    """Return all estimates as rows (N, 3): mean, median, chance to hand in."""
    return np.concatenate(
        [
            np.stack([one.mean.ravel(), one.median.ravel(), one.submit.ravel()], axis=1)
            for one in estimates
        ]
    )


def folds(panels: Sequence[Panel], count: int) -> Iterator[tuple[list[Panel], list[Panel]]]:
    """Yield (panels to learn from, panels to forecast), `count` times at most.

    Forward in time, a term by those before it, where enough terms are there; else whole sections by
    the other sections; a single section's students are divided.
    """
    starts = sorted({one.started_on for one in panels})
    term, of_start = 0, {}
    for before, start in zip([starts[0], *starts], starts, strict=False):
        term += start - before > _ONE_TERM
        of_start[start] = term
    forward = range(max(term + 1 - count, _LEAST_TERMS), term + 1)
    if len(forward) > 1:
        for held in forward:
            terms = [of_start[one.started_on] for one in panels]
            yield (
                [one for one, other in zip(panels, terms, strict=True) if other < held],
                [one for one, other in zip(panels, terms, strict=True) if other == held],
            )
        return
    fold = _balanced(panels, count)
    if len(set(fold.values())) > 1:
        for held in sorted(set(fold.values())):
            yield (
                [one for one in panels if fold[one.section_id] != held],
                [one for one in panels if fold[one.section_id] == held],
            )
        return
    for held in range(2):
        yield _half(panels, 1 - held), _half(panels, held)


def _half(panels: Sequence[Panel], which: int) -> list[Panel]:
    """Return every second student; a student is on the same side on all days."""
    sides = {
        student: number % 2
        for number, student in enumerate(sorted({s for one in panels for s in one.students}))
    }
    parts = (
        one.of(np.flatnonzero([sides[student] == which for student in one.students]))
        for one in panels
    )
    return [part for part in parts if len(part.students)]


def _balanced(panels: Sequence[Panel], count: int) -> dict[str, int]:
    """Return a fold per section: the largest first, into the emptiest that lacks its course."""
    size: dict[str, int] = {}
    course: dict[str, str] = {}
    for one in panels:
        size[one.section_id] = size.get(one.section_id, 0) + one.shape[0] * one.shape[1]
        course[one.section_id] = one.course_id
    count = min(count, len(size))
    filled = [0] * count
    held: list[set[str]] = [set() for _ in range(count)]
    fold: dict[str, int] = {}
    for name in sorted(size, key=lambda name: (-size[name], name)):
        best = min(range(count), key=lambda k: (course[name] in held[k], filled[k]))
        fold[name] = best
        filled[best] += size[name]
        held[best].add(course[name])
    return fold
