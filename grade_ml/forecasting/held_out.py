"""Forecasts of sections that the forecasters had not seen, and which sections those are.

What weights and bands are learned from these rows is in `combination` and `bands`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from grade_ml.forecasting.contract import Estimate, Floats, Ints, Method, Panel

#: Sections that start this many days apart or less are of one term.
_ONE_TERM = 31
#: A section and 0, or some of its students and which: in the same fold on all days.
_Part = tuple[str, int]
#: A forward fold has at least this many terms behind it: with fewer it would lack whole courses.
_LEAST_TERMS = 3


@dataclass(frozen=True)
class HeldOut:
    """N rows (student, day, remaining assignment) with their truth and every method's answer.

    `answers` holds (N, 2) by method: mean and chance to hand in. `truth` is 0-100 and `submitted`
    1 or 0.
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

    def only(self, methods: Collection[Method]) -> HeldOut:
        """Return the rows with the answers of `methods`, in their order."""
        return replace(self, answers={name: self.answers[name] for name in methods})

    @classmethod
    def together(cls, parts: Sequence[HeldOut]) -> HeldOut:
        """Return the rows of all parts, which have the same methods."""
        return cls(
            course=np.concatenate([one.course for one in parts]),
            horizon=np.concatenate([one.horizon for one in parts]),
            truth=np.concatenate([one.truth for one in parts]),
            submitted=np.concatenate([one.submitted for one in parts]),
            answers={
                name: np.concatenate([one.answers[name] for one in parts])
                for name in parts[0].answers
            },
        )


def stacked(estimates: Sequence[Estimate]) -> Floats:
    """Return all estimates as rows (N, 2): mean and chance to hand in."""
    return np.concatenate(
        [np.stack([one.mean.ravel(), one.submit.ravel()], axis=1) for one in estimates]
    )


def folds(panels: Sequence[Panel], count: int) -> Iterator[tuple[list[Panel], list[Panel]]]:
    """Yield (panels to learn from, panels to forecast), `count` times at most.

    Forward in time, a term by those before it, where enough terms are there; else whole sections by
    the other sections. A course's only section is divided by its students: models that have never
    seen the course err more there than the one that will forecast its next section.
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
    parts = list(_parts(panels, count))
    fold = _balanced(parts, count)
    for held in sorted(set(fold.values())):
        yield (
            [one for name, one in parts if fold[name] != held],
            [one for name, one in parts if fold[name] == held],
        )


def _parts(panels: Sequence[Panel], count: int) -> Iterator[tuple[_Part, Panel]]:
    """Yield whole panels, and in `count` parts those of a course's only section."""
    sections: dict[str, set[str]] = {}
    students: dict[str, set[str]] = {}
    for one in panels:
        sections.setdefault(one.course_id, set()).add(one.section_id)
        students.setdefault(one.section_id, set()).update(one.students)
    for one in panels:
        if len(sections[one.course_id]) > 1:
            yield (one.section_id, 0), one
            continue
        side = {name: k % count for k, name in enumerate(sorted(students[one.section_id]))}
        sides = np.array([side[name] for name in one.students])
        for part in np.unique(sides):
            yield (one.section_id, int(part)), one.of(np.flatnonzero(sides == part))


def _balanced(parts: Sequence[tuple[_Part, Panel]], count: int) -> dict[_Part, int]:
    """Return a fold per part: the largest first, into the emptiest that lacks its course."""
    size: dict[_Part, int] = {}
    course: dict[_Part, str] = {}
    for name, one in parts:
        size[name] = size.get(name, 0) + one.shape[0] * one.shape[1]
        course[name] = one.course_id
    count = min(count, len(size))
    filled = [0] * count
    held: list[set[str]] = [set() for _ in range(count)]
    fold: dict[_Part, int] = {}
    for name in sorted(size, key=lambda name: (-size[name], name)):
        best = min(range(count), key=lambda k: (course[name] in held[k], filled[k]))
        fold[name] = best
        filled[best] += size[name]
        held[best].add(course[name])
    return fold
