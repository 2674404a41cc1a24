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
    for one in range(len(SETTINGS.buckets) + 1):
        if (number == one).any():
            yield (ALL, one), np.flatnonzero(number == one)
        for course, name in enumerate(known):
            own = np.flatnonzero((number == one) & (place == course))
            if len(own):
                yield (name, one), own


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
    for which in np.unique(place):
        for one in np.unique(number[place == which]):
            names = (known[which], ALL) if which >= 0 else (ALL,)
            tried = [(name, nearer) for name in names for nearer in range(one, -1, -1)]
            cell = next((one for one in tried if one in learned), next(iter(learned)))
            yield np.flatnonzero((place == which) & (number == one)), learned[cell]


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
        for cell, some in by_cell(rows, courses):
            truths = (rows.truth[some], rows.submitted[some])
            of_all = weights.get((ALL, cell[1]))
            losses = [
                ((answers[some, :, k] - truth[:, None]) ** 2).mean(0)
                for k, truth in enumerate(truths)
            ]
            weights[cell] = np.stack(
                [
                    _weigh(
                        answers[some, :, k],
                        truth,
                        _allowed(methods, losses[k]),
                        None if of_all is None else of_all[k],
                    )
                    for k, truth in enumerate(truths)
                ]
            )
            table += [
                {"course": cell[0], "bucket": cell[1], "method": str(name), "rows": len(some)}
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
        last-named of `answers` that has an answer speaks alone. NaN: no method has one.
        """
        there = [name for name in self.methods if name in answers]
        found, dominant = np.empty((len(horizon), 2)), np.empty(len(horizon), dtype=object)
        for some, weights in in_cells(self.weights, self.courses, course, horizon):
            told = np.stack([answers[name][some] for name in there])
            known = np.isfinite(told)
            own = weights[:, [self.methods.index(name) for name in there]].T[:, None, :] * known
            total = own.sum(0)
            last = known & (known[::-1].cumsum(0)[::-1] == 1)
            own = np.where(total > 1e-9, own / np.maximum(total, 1e-9), last)
            combined = (own * np.where(known, told, 0.0)).sum(0)
            # Shares that sum to 1 up to a rounding lead past the ends: 100.00000000000001.
            found[some] = np.where(known.any(0), np.clip(combined, 0, HIGHEST), np.nan)
            dominant[some] = np.array([str(name) for name in there], object)[own[..., 0].argmax(0)]
        return found, dominant

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
    def from_dict(cls, kept: Mapping[str, Any]) -> Combination:
        """Read what `to_dict` returned."""
        return cls(
            tuple(Method(name) for name in kept["methods"]),
            tuple(kept["courses"]),
            {(name, one): np.array(values) for name, one, values in kept["weights"]},
            pd.DataFrame(kept["table"]),
        )


def _allowed(methods: Sequence[Method], loss: Floats) -> npt.NDArray[np.bool_]:
    """Return which methods may have weight: the naive ones, and those that beat them."""
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

    some = np.flatnonzero(allowed)
    gram, target = gram[np.ix_(some, some)], target[some]
    size = float(np.trace(gram)) / len(some) or 1.0
    root = np.linalg.cholesky(gram + 1e-6 * size * np.eye(len(some)))
    heavy = 1e3 * np.sqrt(size)
    found, _ = nnls(
        np.vstack([root.T, np.full((1, len(some)), heavy)]),
        np.append(np.linalg.solve(root, target), heavy),
    )
    weights = np.zeros(len(allowed))
    weights[some] = found / max(found.sum(), 1e-12)
    return weights
