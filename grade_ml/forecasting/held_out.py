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
        shapes = [panel.shape for panel in panels]
        truth = np.concatenate([panel.truth[:, panel.remaining].ravel() for panel in panels])
        known = ~np.isnan(truth)
        submitted = np.concatenate(
            [panel.truth_submitted[:, panel.remaining].ravel() for panel in panels]
        )
        course = np.repeat(
            np.array([panel.course_id for panel in panels], dtype=object),
            [n * r for n, r in shapes],
        )
        horizon = np.concatenate([np.tile(np.arange(1, r + 1), n) for n, r in shapes])
        return cls(
            course[known],
            horizon[known],
            truth[known],
            submitted[known],
            {name: stacked(estimates)[known] for name, estimates in answers.items()},
        )

    def only(self, methods: Collection[Method]) -> HeldOut:
        """Return the rows with the answers of `methods`, in their order."""
        return replace(self, answers={name: self.answers[name] for name in methods})

    @classmethod
    def together(cls, parts: Sequence[HeldOut]) -> HeldOut:
        """Return the rows of all parts, which have the same methods."""
        return cls(
            course=np.concatenate([part.course for part in parts]),
            horizon=np.concatenate([part.horizon for part in parts]),
            truth=np.concatenate([part.truth for part in parts]),
            submitted=np.concatenate([part.submitted for part in parts]),
            answers={
                name: np.concatenate([part.answers[name] for part in parts])
                for name in parts[0].answers
            },
        )


def stacked(estimates: Sequence[Estimate]) -> Floats:
    """Return all estimates as rows (N, 2): mean and chance to hand in."""
    return np.concatenate(
        [
            np.stack([estimate.mean.ravel(), estimate.submit.ravel()], axis=1)
            for estimate in estimates
        ]
    )


def folds(panels: Sequence[Panel], count: int) -> Iterator[tuple[list[Panel], list[Panel]]]:
    """Yield (panels to learn from, panels to forecast), `count` times at most.

    Forward in time, a term by those before it, where enough terms are there; else whole sections by
    the other sections. A course's only section is divided by its students: models that have never
    seen the course have larger errors there than the model that will forecast its next section.
    """
    starts = sorted({panel.started_on for panel in panels})
    term, of_start = 0, {}
    for before, start in zip([starts[0], *starts], starts, strict=False):
        term += start - before > _ONE_TERM
        of_start[start] = term
    forward = range(max(term + 1 - count, _LEAST_TERMS), term + 1)
    if len(forward) > 1:
        for held in forward:
            terms = [of_start[panel.started_on] for panel in panels]
            yield (
                [panel for panel, other in zip(panels, terms, strict=True) if other < held],
                [panel for panel, other in zip(panels, terms, strict=True) if other == held],
            )
        return
    parts = list(_parts(panels, count))
    fold = _balanced(parts, count)
    for held in sorted(set(fold.values())):
        yield (
            [panel for name, panel in parts if fold[name] != held],
            [panel for name, panel in parts if fold[name] == held],
        )


def _parts(panels: Sequence[Panel], count: int) -> Iterator[tuple[_Part, Panel]]:
    """Yield whole panels, and in `count` parts those of a course's only section."""
    sections: dict[str, set[str]] = {}
    students: dict[str, set[str]] = {}
    for panel in panels:
        sections.setdefault(panel.course_id, set()).add(panel.section_id)
        students.setdefault(panel.section_id, set()).update(panel.students)
    for panel in panels:
        if len(sections[panel.course_id]) > 1:
            yield (panel.section_id, 0), panel
            continue
        side = {name: k % count for k, name in enumerate(sorted(students[panel.section_id]))}
        sides = np.array([side[name] for name in panel.students])
        for part in np.unique(sides):
            yield (panel.section_id, int(part)), panel.of(np.flatnonzero(sides == part))


def _balanced(parts: Sequence[tuple[_Part, Panel]], count: int) -> dict[_Part, int]:
    """Return a fold per part: the largest first, into the emptiest that lacks its course."""
    size: dict[_Part, int] = {}
    course: dict[_Part, str] = {}
    for name, panel in parts:
        size[name] = size.get(name, 0) + panel.shape[0] * panel.shape[1]
        course[name] = panel.course_id
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
