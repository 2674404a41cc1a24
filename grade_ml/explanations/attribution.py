"""Attributes a prediction of the model that serves to its features, exactly.

A tree member computes its own Shapley values (TreeSHAP, Lundberg et al. 2020), the network the
contributions of DeepLIFT. The stack is linear in its members, the course's correction in the
stack, and the calibration in log-odds, so parts are weighted and added on the way to the number
that is served. What belongs to no feature, clipping and the course's own shift, is a named
remainder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain, combinations
from math import factorial

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.degradation import expected
from grade_ml.core.threads import limited_threads
from grade_ml.ensemble.baseline import BaselineModel
from grade_ml.ensemble.course import Correction, CourseModel
from grade_ml.ensemble.members import Member, Task
from grade_ml.ensemble.members.contract import Matrix
from grade_ml.ensemble.members.forest import Forest
from grade_ml.ensemble.pooled import Part, PooledModel
from grade_ml.ensemble.rows import (
    COLLECTED,
    NAIVE,
    attainable,
    bounded_grade,
    collected,
    log_odds_of,
    probability,
)
from grade_ml.ensemble.stacking import basis, naive_scores
from grade_ml.explanations import forest
from grade_ml.explanations.contract import CLIPPING, COURSE, Attributions, Breakdown
from grade_ml.explanations.settings import SETTINGS
from grade_ml.serving.models import Servable

Floats = npt.NDArray[np.float64]

logger = logging.getLogger(__name__)

#: The columns that the naive forecasts and the stack's weights read with any members.
_READ = ("progress", COLLECTED, NAIVE, "course_grade_mean")


def explain(model: Servable, rows: pd.DataFrame, seed: int = 0) -> Attributions:
    """Return the contributions of features to what `model` predicts for each row.

    Parameters
    ----------
    rows
        Snapshots, as for `model.predict`.
    seed
        Draws the orders of features if contributions can only be sampled; `degraded` states that.
    """
    known = rows.reset_index(drop=True)
    predictions = model.predict(known)
    features = tuple(dict.fromkeys((*model.features, *_READ)))
    problems: list[str] = []
    with limited_threads(len(known) * SETTINGS.work):
        if known.empty:
            grade = risk = _Sum.nothing(features, known)
        elif isinstance(model, BaselineModel):
            grade, risk = _of_baseline(model, known, features, seed)
            reason = _SAMPLED.format("the baseline", "its risk is no sum of trees")
            problems.append(expected(reason))
        else:
            pooled, correction = ensemble_of(model)
            grade, risk = _Ensemble(pooled, correction, known, features, seed, problems).sums()
    served = predictions["risk"].to_numpy(np.float64)
    return Attributions(
        features,
        known.reindex(columns=list(features)),
        predictions,
        grade.breakdown(predictions["grade"].to_numpy(np.float64)),
        risk.breakdown(np.log(served / (1 - served))),
        tuple(dict.fromkeys(problems)),
    )


def ensemble_of(model: PooledModel | CourseModel) -> tuple[PooledModel, Correction | None]:
    """Return the ensemble behind `model`, and the course's correction if there is one."""
    if isinstance(model, CourseModel):
        return model.pooled, model.correction
    return model, None


def pooled_of(model: Servable) -> PooledModel | None:
    """Return the ensemble behind `model`; None if `model` is the baseline."""
    return None if isinstance(model, BaselineModel) else ensemble_of(model)[0]


_SAMPLED = "contributions of {} are sampled by permutation: {}"


@dataclass(frozen=True)
class _Sum:
    """A number per row as baseline, contributions (rows, features) and named remainders."""

    features: tuple[str, ...]
    baseline: float
    contributions: Floats
    remainders: Mapping[str, Floats]

    @classmethod
    def nothing(cls, features: tuple[str, ...], rows: pd.DataFrame, baseline: float = 0.0) -> _Sum:
        return cls(features, baseline, np.zeros((len(rows), len(features))), {})

    @property
    def total(self) -> Floats:
        rest = sum(self.remainders.values(), np.zeros(len(self.contributions)))
        return np.asarray(self.baseline + self.contributions.sum(axis=1) + rest)

    def add(self, names: Iterable[str], parts: Floats) -> None:
        """Add to the contributions of `names`, one column each."""
        self.contributions[:, [self.features.index(name) for name in names]] += parts

    def and_baseline(self, more: float) -> _Sum:
        return _Sum(self.features, self.baseline + more, self.contributions, self.remainders)

    def and_rest(self, name: str, amount: Floats) -> _Sum:
        rest = {**self.remainders, name: self.remainders.get(name, 0) + amount}
        return _Sum(self.features, self.baseline, self.contributions, rest)

    def stretched(self, factor: Floats, name: str) -> _Sum:
        """Return the sum times a factor per row; the change of the baseline is a remainder."""
        rest = {key: value * factor for key, value in self.remainders.items()}
        scaled = _Sum(self.features, self.baseline, self.contributions * factor[:, None], rest)
        return scaled.and_rest(name, self.baseline * (factor - 1))

    def line(self, slope: float, shift: float) -> _Sum:
        """Return the sum times `slope` plus `shift`, which is added to the baseline."""
        rest = {key: value * slope for key, value in self.remainders.items()}
        base = self.baseline * slope + shift
        return _Sum(self.features, base, self.contributions * slope, rest)

    def breakdown(self, predicted: Floats) -> Breakdown:
        index = range(len(self.contributions))
        rest = pd.DataFrame(dict(self.remainders), index=index, dtype=np.float64)
        columns = [CLIPPING, COURSE]
        return Breakdown(
            predicted,
            self.baseline,
            self.contributions,
            rest.reindex(columns=columns, fill_value=0.0),
        )


class _Ensemble:
    """One pass over rows of an ensemble, with the course's correction if there is one.

    The baseline is that of an average row of the training terms, the same for every row: the
    members' base values there, combined by the stack's weights. These weights change along the
    section; that change counts as the contribution of `progress`.
    """

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        pooled: PooledModel,
        correction: Correction | None,
        rows: pd.DataFrame,
        features: tuple[str, ...],
        seed: int,
        problems: list[str],
    ) -> None:
        self.pooled, self.correction = pooled, correction
        self.rows, self.features, self.seed, self.problems = rows, features, seed, problems
        self.progress = rows["progress"].to_numpy(np.float64)
        usual = self.pooled.held_out
        self.usual_progress = usual["progress"].to_numpy(np.float64)
        self.usual = {
            COLLECTED: float(usual["collected"].mean()),
            NAIVE: float(usual["naive"].mean()),
            "course_grade_mean": float(usual["final_grade"].mean()),
        }

    def sums(self) -> tuple[_Sum, _Sum]:
        """Return the grade in points and the risk in log-odds."""
        return self._grade(), self._risk()

    def _grade(self) -> _Sum:
        part = self.pooled.parts.get(Task.GRADE)
        if part is None:
            unknown = _Sum.nothing(self.features, self.rows, np.nan)
            unknown.contributions[:] = np.nan
            return unknown
        certain, possible = collected(self.rows), attainable(self.rows)
        to_come = _bounded(self._stacked(part), certain, possible)
        if self.correction is not None:
            shift, stretch = self.correction.at(Task.GRADE, self.progress)
            moved = to_come.stretched(1 + stretch, COURSE)
            left = (possible - certain) / 100
            to_come = _bounded(moved.and_rest(COURSE, shift * left), certain, possible)
        to_come.add([COLLECTED], (certain - self.usual[COLLECTED])[:, None])
        return to_come.and_baseline(self.usual[COLLECTED])

    def _risk(self) -> _Sum:
        part, curve = self.pooled.parts.get(Task.RISK), self.pooled.calibration.risk_line
        if part is None:
            base = self.pooled.base_rate
            score = _Sum.nothing(self.features, self.rows, float(np.log(base / (1 - base))))
        else:
            score = self._stacked(part)
        if self.correction is not None:
            shift, stretch = self.correction.at(Task.RISK, self.progress)
            score = _limited(score).stretched(1 + stretch, COURSE).and_rest(COURSE, shift)
        return score if curve is None else _limited(score).line(*curve)

    def _stacked(self, part: Part) -> _Sum:
        stack = part.stack
        weights, usual_weights = stack.at(self.progress), stack.at(self.usual_progress)
        intercept = basis(self.progress, stack.knots) @ stack.intercept
        usual_intercept = float((basis(self.usual_progress, stack.knots) @ stack.intercept).mean())
        total = _Sum.nothing(self.features, self.rows, usual_intercept)
        total.add(["progress"], (intercept - usual_intercept)[:, None])
        naive = self._naive(part.task)
        for name in stack.used:
            if name in part.members:
                names, explained = self._member(part, part.members[name])
            else:
                names, explained = tuple(self.usual), naive[name]
            weight, usual = weights[name], float(usual_weights[name].mean())
            base = float(explained[0, -1])
            total.add(names, weight[:, None] * explained[:, :-1])
            total.add(["progress"], ((weight - usual) * base)[:, None])
            total = total.and_baseline(usual * base)
        return total

    def _member(self, part: Part, member: Member) -> tuple[tuple[str, ...], Floats]:
        encoder = part.encoders[member.view(part.task)]
        matrix = encoder.transform(self.rows)
        try:
            if isinstance(member, Forest) and find_spec("numba"):
                return encoder.features, forest.contributions(member, matrix)
            return encoder.features, member.contributions(matrix)
        except (ImportError, OSError) as error:  # the library, or one it is linked to, is missing
            logger.warning("%s (%s) is explained by permutation: %s", member.name, part.task, error)
            self.problems.append(_SAMPLED.format(member.name, error))
            (sampled,) = sampled_contributions(
                lambda inputs: (member.predict(inputs),), matrix, self.seed
            )
            return encoder.features, sampled

    def _naive(self, task: Task) -> dict[str, Floats]:
        """Return the contributions of the three columns to each naive forecast, and its base value.

        Exact Shapley values against the average row: there are only eight coalitions.
        """
        known = self.rows[list(self.usual)].astype(np.float64)
        known[COLLECTED] = collected(self.rows)
        names = tuple(self.usual)
        values = {}
        for coalition in chain.from_iterable(combinations(names, size) for size in range(4)):
            frame = known.assign(**{n: self.usual[n] for n in names if n not in coalition})
            values[frozenset(coalition)] = naive_scores(frame, frame[COLLECTED].to_numpy(), task)
        return {
            forecast: np.column_stack(
                [
                    *(_shapley({s: v[forecast] for s, v in values.items()}, n) for n in names),
                    values[frozenset()][forecast],
                ]
            )
            for forecast in values[frozenset()]
        }


def _bounded(to_come: _Sum, certain: Floats, possible: Floats) -> _Sum:
    total = to_come.total
    return to_come.and_rest(CLIPPING, bounded_grade(total, certain, possible) - certain - total)


def _limited(score: _Sum) -> _Sum:
    total = score.total
    return score.and_rest(CLIPPING, log_odds_of(pd.Series(probability(total))) - total)


def _shapley(values: Mapping[frozenset[str], Floats], player: str) -> Floats:
    """Return the Shapley value of `player` from the value of every coalition."""
    players = len(max(values, key=len))
    value_of_player = np.zeros(1)
    for coalition, value in values.items():
        if player not in coalition:
            share = (
                factorial(len(coalition))
                * factorial(players - len(coalition) - 1)
                / factorial(players)
            )
            value_of_player = value_of_player + share * (values[coalition | {player}] - value)
    return value_of_player


def sampled_contributions(
    predict: Callable[[Matrix], tuple[Floats, ...]], matrix: Matrix, seed: int
) -> list[Floats]:
    """Return the sampled contributions to each output of `predict`: (rows, columns + 1) each.

    Columns go from missing to known one by one in orders drawn by `seed`, and the changes of each
    are averaged (Castro, Gómez & Tejada 2009, in pairs of an order and its reverse). So each row
    sums exactly to its output; the last column is the output of a row without known values.
    """
    random = np.random.default_rng(seed)
    drawn = [random.permutation(matrix.shape[1]) for _ in range(SETTINGS.orders)]
    orders = [*drawn, *(order[::-1] for order in drawn)]
    at_once = max(SETTINGS.most_cells // (matrix.shape[1] + 1) ** 2, 1)
    parts = [
        _sampled(predict, matrix[first : first + at_once], orders)
        for first in range(0, len(matrix), at_once)
    ]
    return [np.concatenate(output) for output in zip(*parts, strict=True)]


def _sampled(
    predict: Callable[[Matrix], tuple[Floats, ...]],
    matrix: Matrix,
    orders: list[npt.NDArray[np.intp]],
) -> list[Floats]:
    rows, columns = matrix.shape
    total: list[Floats] = []
    for order in orders:
        stages = np.full((columns + 1, rows, columns), np.nan, dtype=np.float32)
        for stage, column in enumerate(order, start=1):
            stages[stage:, :, column] = matrix[:, column]
        # All stages in one call: a call costs more than the rows of a stage.
        outputs = [
            sampled.reshape(columns + 1, rows) for sampled in predict(stages.reshape(-1, columns))
        ]
        contributions = [np.empty((rows, columns + 1)) for _ in outputs]
        for sampled, output in zip(contributions, outputs, strict=True):
            sampled[:, order] = np.diff(output, axis=0).T
            sampled[:, -1] = output[0]
        total = (
            [a + b for a, b in zip(total, contributions, strict=True)] if total else contributions
        )
    return [sampled / len(orders) for sampled in total]


def _of_baseline(
    model: BaselineModel, rows: pd.DataFrame, features: tuple[str, ...], seed: int
) -> tuple[_Sum, _Sum]:
    place, curve = model.encoder.features.index(COLLECTED), model.calibration.risk_line

    def predict(matrix: Matrix) -> tuple[Floats, Floats]:
        raw = model.members.predict(matrix, np.nan_to_num(matrix[:, place].astype(np.float64)))
        share = raw["risk"].to_numpy(np.float64)
        if curve is None:
            return raw["grade"].to_numpy(np.float64), np.log(share / (1 - share))
        return raw["grade"].to_numpy(np.float64), curve[0] * log_odds_of(raw["risk"]) + curve[1]

    sums = []
    for explained in sampled_contributions(predict, model.encoder.transform(rows), seed):
        total = _Sum.nothing(features, rows, float(explained[0, -1]))
        total.add(model.encoder.features, explained[:, :-1])
        sums.append(total)
    return sums[0], sums[1]
