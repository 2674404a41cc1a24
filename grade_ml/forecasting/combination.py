"""How much each forecaster counts: weights learned on held-out errors, by course and horizon.

Weights are not negative and sum to 1 (stacking, Wolpert 1992; on the simplex, Breiman 1996), apart
for the mean (squared error) and the chance to hand in (Brier). A forecaster that does not beat the
naive ones there has weight 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.forecasting.contract import NAIVE, Floats, Ints, Method
from grade_ml.forecasting.held_out import HeldOut
from grade_ml.forecasting.settings import SETTINGS

#: The group of courses without enough rows of their own.
ALL = ""
#: What is weighed, in the order of a row of answers.
PARTS = ("mean", "submit")
#: The largest value of each part; the least is 0.
HIGHEST = (100.0, 1.0)
#: Rows that the weights of all courses count beside a course's own.
_TOWARDS_ALL = 2000.0

Cell = tuple[str, int]


def bucket(horizon: Ints) -> Ints:
    """Return the number of the bucket that each horizon falls in, from 0."""
    return np.searchsorted(SETTINGS.buckets, horizon).astype(np.int64)


def own_courses(rows: HeldOut) -> list[str]:
    """Return the courses with rows enough in every bucket that they reach."""
    size = pd.DataFrame({"course": rows.course, "bucket": bucket(rows.horizon)}).value_counts()
    least = size.groupby("course").min()
    return sorted(str(name) for name in least.index[least >= SETTINGS.own_rows])


def by_cell(rows: HeldOut, known: Sequence[str]) -> Iterator[tuple[Cell, Ints]]:
    """Yield each cell and its rows; those of `ALL` are all rows of the bucket."""
    place, number = _places(rows.course, known), bucket(rows.horizon)
    for of_bucket in range(len(SETTINGS.buckets) + 1):
        if (number == of_bucket).any():
            yield (ALL, of_bucket), np.flatnonzero(number == of_bucket)
        for course, name in enumerate(known):
            own = np.flatnonzero((number == of_bucket) & (place == course))
            if len(own):
                yield (name, of_bucket), own


def in_cells(
    learned: Mapping[Cell, Floats],
    known: Sequence[str],
    course: npt.NDArray[np.object_],
    horizon: Ints,
) -> Iterator[tuple[Ints, Floats]]:
    """Yield groups of rows and what was learned for their cell.

    Where a cell has nothing of its own, that is the next nearer bucket's, else that of all courses.
    """
    place, number = _places(course, known), bucket(horizon)
    for of_course in np.unique(place):
        for of_bucket in np.unique(number[place == of_course]):
            names = (known[of_course], ALL) if of_course >= 0 else (ALL,)
            tried = [(name, nearer) for name in names for nearer in range(of_bucket, -1, -1)]
            cell = next(
                (candidate for candidate in tried if candidate in learned), next(iter(learned))
            )
            yield np.flatnonzero((place == of_course) & (number == of_bucket)), learned[cell]


def _places(course: npt.NDArray[np.object_], known: Sequence[str]) -> Ints:
    """Return the place of each course in `known`, -1 where it is not there."""
    return np.asarray(pd.Index(list(known), dtype=object).get_indexer(pd.Index(course)))


@dataclass(frozen=True)
class Combination:
    """Weights (2, methods) by cell, and the table that shows what they rest on.

    `table` has course ("" for all), bucket, method, rows, rmse, brier and the two weights.
    """

    methods: tuple[Method, ...]
    courses: tuple[str, ...]
    weights: Mapping[Cell, Floats]
    table: pd.DataFrame

    @classmethod
    def learn(cls, rows: HeldOut) -> Combination:
        """Learn from held-out rows."""
        methods, courses = tuple(rows.answers), tuple(own_courses(rows))
        answers = np.stack([rows.answers[name] for name in methods], axis=1)
        weights: dict[Cell, Floats] = {}
        table: list[dict[str, Any]] = []
        for cell, places in by_cell(rows, courses):
            truths = (rows.truth[places], rows.submitted[places])
            of_all = weights.get((ALL, cell[1]))
            losses = [
                ((answers[places, :, k] - truth[:, None]) ** 2).mean(0)
                for k, truth in enumerate(truths)
            ]
            weights[cell] = np.stack(
                [
                    _weigh(
                        answers[places, :, k],
                        truth,
                        _allowed(methods, losses[k]),
                        None if of_all is None else of_all[k],
                    )
                    for k, truth in enumerate(truths)
                ]
            )
            table += [
                {"course": cell[0], "bucket": cell[1], "method": str(name), "rows": len(places)}
                | {"rmse": np.sqrt(losses[0][k]), "brier": losses[1][k]}
                | {f"weight_{part}": weights[cell][i, k] for i, part in enumerate(PARTS)}
                for k, name in enumerate(methods)
            ]
        return cls(methods, courses, weights, pd.DataFrame(table).round(4))

    def combine(
        self,
        answers: Mapping[Method, Floats],
        course: npt.NDArray[np.object_],
        horizon: Ints,
    ) -> tuple[Floats, npt.NDArray[np.object_]]:
        """Return the combined (N, 2) and the method that counts most in each row's mean.

        Methods without a finite answer hand their weight to the others; where those have none, the
        last-named of `answers` that has an answer counts alone. NaN if no method has an answer.
        """
        answering = [name for name in self.methods if name in answers]
        estimates, dominant = np.empty((len(horizon), 2)), np.empty(len(horizon), dtype=object)
        for places, weights in in_cells(self.weights, self.courses, course, horizon):
            offered = np.stack([answers[name][places] for name in answering])
            known = np.isfinite(offered)
            own = weights[:, [self.methods.index(name) for name in answering]].T[:, None, :] * known
            total = own.sum(0)
            last = known & (known[::-1].cumsum(0)[::-1] == 1)
            own = np.where(total > 1e-9, own / np.maximum(total, 1e-9), last)
            combined = (own * np.where(known, offered, 0.0)).sum(0)
            # Shares that sum to 1 up to a rounding lead past the ends: 100.00000000000001.
            estimates[places] = np.where(known.any(0), np.clip(combined, 0, HIGHEST), np.nan)
            dominant[places] = np.array([str(name) for name in answering], object)[
                own[..., 0].argmax(0)
            ]
        return estimates, dominant

    def used(self) -> set[Method]:
        """Return the methods with weight anywhere."""
        total = sum(self.weights.values(), np.zeros((2, len(self.methods))))
        return {name for k, name in enumerate(self.methods) if total[:, k].sum() > 1e-6}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "parts": list(PARTS),
            "methods": [str(name) for name in self.methods],
            "courses": list(self.courses),
            "weights": [[*cell, values.tolist()] for cell, values in self.weights.items()],
            "table": self.table.to_dict("records"),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Combination:
        """Read what `to_dict` returned."""
        return cls(
            tuple(Method(name) for name in stored["methods"]),
            tuple(stored["courses"]),
            {(name, of_bucket): np.array(values) for name, of_bucket, values in stored["weights"]},
            pd.DataFrame(stored["table"]),
        )


def _allowed(methods: Sequence[Method], loss: Floats) -> npt.NDArray[np.bool_]:
    """Return which methods may have weight: the naive methods, and those that beat them."""
    naive = np.array([name in NAIVE for name in methods])
    return np.asarray(naive | (loss < loss[naive].min()))


def _weigh(
    answers: Floats,
    truth: Floats,
    allowed: npt.NDArray[np.bool_],
    of_all: Floats | None,
) -> Floats:
    """Return weights of least squared error, drawn towards those of all courses."""
    start = np.where(allowed, 1.0 if of_all is None else of_all, 0.0)
    total = start.sum()
    start = np.asarray(start / total if total > 1e-9 else allowed / allowed.sum())
    strength = 0.0 if of_all is None else _TOWARDS_ALL * float(answers.var())
    gram = answers.T @ answers + strength * np.eye(len(start))
    return _on_simplex(gram, answers.T @ truth + strength * start, allowed)


def _on_simplex(gram: Floats, target: Floats, allowed: npt.NDArray[np.bool_]) -> Floats:
    """Return w >= 0 with sum 1 that minimises w'Gw/2 - t'w, 0 where not allowed."""
    from scipy.optimize import nnls

    places = np.flatnonzero(allowed)
    gram, target = gram[np.ix_(places, places)], target[places]
    size = float(np.trace(gram)) / len(places) or 1.0
    root = np.linalg.cholesky(gram + 1e-6 * size * np.eye(len(places)))
    heavy = 1e3 * np.sqrt(size)
    solution, _ = nnls(
        np.vstack([root.T, np.full((1, len(places)), heavy)]),
        np.append(np.linalg.solve(root, target), heavy),
    )
    weights = np.zeros(len(allowed))
    weights[places] = solution / max(solution.sum(), 1e-12)
    return weights
