"""The running grade of each student, week by week, from the forecasts of what remains to do.

The running grade of a week is the weighted mean of all coursework due by its end, missed work
counting 0; in the last week it is the final grade. Here are its distribution, the chance that it
lies below the pass mark and the chance that something due in the week is not handed in. What
follows from them is in `risk_periods`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core import frames
from grade_ml.early_warning.settings import SETTINGS
from grade_ml.forecasting.contract import Floats, Ints, Panel
from grade_ml.forecasting.distribution import ScoreDistributions
from grade_ml.forecasting.panels import day_of, history_frame

if TYPE_CHECKING:
    from numpy.random import Generator

#: What identifies one enrollment on one day.
KEY = ["section_id", "student_id", "as_of"]
#: Levels of the running grade's quantiles by name.
QUANTILES = {"low95": 0.025, "low80": 0.1, "high80": 0.9, "high95": 0.975}
#: Columns of the paths: a row per enrollment and week in which something is due.
PATHS = (
    *("course_id", *KEY, "week", "day", "weight", "mean", *QUANTILES),
    *("below_pass_probability", "missed_probability"),
)
#: What a path's driver depends on, beside the path; features of the snapshot of the day.
STATE = (
    *("assignments_due", "assignments_submitted", "missed_streak", "score_last_step"),
    *("days_since_activity", "grade_if_all_perfect"),
)
_STANDING = (
    *("course_id", *KEY, "starts_on", "current_week", "settled_weight", "settled_points"),
    *("pass_mark", *STATE),
)
_RESULTS = (
    *("section_id", "student_id", "assignment_id", "due_day", "weight", "score", "submitted"),
    "running",
)
_TRUTHS = (*KEY, "assignment_id", "score", "submitted")
_TRUE_PATHS = (*KEY, "week", "grade", "below_pass", "missed")
#: Types of columns that are no float64.
_TYPES = {
    **dict.fromkeys(("course_id", "section_id", "student_id", "assignment_id"), "object"),
    **dict.fromkeys(("kind", "says", "driver"), "object"),
    **dict.fromkeys(("as_of", "starts_on"), "datetime64[ns]"),
    **dict.fromkeys(("week", "current_week", "row"), "int64"),
    **dict.fromkeys(("submitted", "below_pass", "missed"), "bool"),
}

Bools = npt.NDArray[np.bool_]


def week_of(day: Floats) -> Ints:
    """Return the section's week (1, 2, ...) of days since its start.

    >>> week_of(np.array([0.0, 6.5, 7.0])).tolist()
    [1, 1, 2]
    """
    return np.asarray(np.floor(day / 7) + 1).astype(np.int64)


def standing(panels: Sequence[Panel]) -> pd.DataFrame:
    """Return where each enrollment stood on its panel's day.

    Returns
    -------
    pandas.DataFrame
        course_id, section_id, student_id, as_of; starts_on: the section's start; current_week;
        settled_weight: share of the final grade (0-100) that is graded or missed; settled_points:
        points of it that were earned; pass_mark of the course; and the features that drivers
        depend on.
    """
    parts = []
    for panel in panels:
        past = panel.past
        known = np.isfinite(panel.score[:, past])
        weight = panel.weight[past]
        parts.append(
            pd.DataFrame(
                {
                    "course_id": panel.course_id,
                    "section_id": panel.section_id,
                    "student_id": panel.students,
                    "as_of": day_of(panel),
                    "starts_on": pd.Timestamp("1970-01-01")
                    + pd.Timedelta(days=int(panel.started_on)),
                    "current_week": int(week_of(np.array(panel.day))),
                    "settled_weight": known @ weight,
                    "settled_points": np.where(known, panel.score[:, past], 0.0) @ weight / 100,
                    "pass_mark": panel.pass_mark,
                    **{name: panel.feature(name) for name in STATE},
                }
            )
        )
    return pd.concat(parts, ignore_index=True) if parts else empty(_STANDING)


def empty(names: Sequence[str]) -> pd.DataFrame:
    """Return a frame without rows whose columns have the types that they have with rows."""
    return frames.empty({name: _TYPES.get(name, "float64") for name in names})


def results_so_far(panels: Sequence[Panel]) -> pd.DataFrame:
    """Return what was due of each student, in order, and the running grade after it.

    Returns
    -------
    pandas.DataFrame
        section_id, student_id, assignment_id, due_day, weight, score (0-100, 0 if missed, NaN if
        not graded yet), submitted (bool), running: the weighted mean of the scores up to it, 0-100.
    """
    if not panels:
        return empty(_RESULTS)
    rows = pd.concat([history_frame(panel) for panel in panels], ignore_index=True)
    weight = rows["weight"].where(rows["score"].notna(), 0.0)
    by = [rows["section_id"], rows["student_id"]]
    total = weight.groupby(by).cumsum()
    # A score that is unknown has no weight; NaN times 0 would be NaN.
    points = (weight * rows["score"].fillna(0.0)).groupby(by).cumsum()
    running = (points / total.where(total > 0)).clip(0, 100)
    return rows.drop(columns="slot").assign(running=running)


def truths(panels: Sequence[Panel]) -> pd.DataFrame:
    """Return the outcome of each remaining assignment that counts, of panels with `truth`.

    Returns
    -------
    pandas.DataFrame
        section_id, student_id, as_of, assignment_id, score (0-100), submitted (bool).
    """
    parts = []
    for panel in panels:
        truth = panel.truth[:, panel.remaining]
        student, place = np.nonzero(np.isfinite(truth))
        parts.append(
            pd.DataFrame(
                {
                    "section_id": panel.section_id,
                    "student_id": panel.students[student],
                    "as_of": day_of(panel),
                    "assignment_id": panel.assignments[panel.remaining][place],
                    "score": truth[student, place],
                    "submitted": panel.truth_submitted[:, panel.remaining][student, place] > 0,
                }
            )
        )
    return pd.concat(parts, ignore_index=True) if parts else empty(_TRUTHS)


@dataclass(frozen=True)
class Curve:
    """A logistic curve from simulated to calibrated chances (Platt 1999); rises or is flat."""

    slope: float = 1.0
    intercept: float = 0.0
    learned: bool = False

    @classmethod
    def fit(cls, simulated: Floats, happened: Bools) -> Self:
        """Learn from chances (0-1) and what happened; too few rows or events teach nothing."""
        from sklearn.linear_model import LogisticRegression

        events = min(happened.sum(), (~happened).sum())
        if happened.size < SETTINGS.least_rows or events < SETTINGS.least_events:
            return cls()
        # Chances are nearly calibrated before; a slope below 0 would turn the order around.
        model = LogisticRegression(C=1e3).fit(_log_odds(simulated)[:, None], happened)
        if model.coef_[0, 0] <= 0:
            return cls(0.0, float(_log_odds(happened.mean(keepdims=True))[0]), learned=True)
        return cls(float(model.coef_[0, 0]), float(model.intercept_[0]), learned=True)

    def apply(self, simulated: Floats) -> Floats:
        """Return calibrated chances, 0-1, in the same order as the simulated chances."""
        from scipy.special import expit

        return np.asarray(expit(self.slope * _log_odds(simulated) + self.intercept))


def _log_odds(chance: Floats) -> Floats:
    from scipy.special import logit

    # No number of draws shows that something is impossible.
    least = 0.5 / SETTINGS.draws
    return np.asarray(logit(np.clip(chance, least, 1 - least)))


@dataclass(frozen=True)
class PathModel:
    """What is learned from training terms about paths.

    Attributes
    ----------
    dependence
        Correlation, 0-1, between a student's remaining scores on the scale of a normal variable.
    below_pass, missed
        Curves that calibrate the two chances.
    """

    dependence: float = 0.4
    below_pass: Curve = Curve()
    missed: Curve = Curve()

    @property
    def uncalibrated(self) -> tuple[str, ...]:
        """The chances whose curves had too few cases to be learned, as text."""
        curves = {"a grade below the pass mark": self.below_pass, "a miss": self.missed}
        return tuple(name for name, curve in curves.items() if not curve.learned)

    @classmethod
    def fit(cls, forecasts: pd.DataFrame, truth: pd.DataFrame, state: pd.DataFrame) -> Self:
        """Learn from forecasts of which the outcome is known.

        Parameters
        ----------
        forecasts
            `contract.FORECASTS`, made by models that had not seen these sections.
        truth, state
            As `truths` and `standing` return them.
        """
        happened = true_paths(forecasts, truth, state)
        if happened.empty:
            return cls()
        dependence = _dependence(forecasts, happened, state)
        known = simulate(forecasts, state, dependence).merge(happened, on=[*KEY, "week"])
        return cls(
            dependence,
            *(
                Curve.fit(known[f"{name}_probability"].to_numpy(), known[name].to_numpy(bool))
                for name in ("below_pass", "missed")
            ),
        )


def grade_paths(
    forecasts: pd.DataFrame, state: pd.DataFrame, model: PathModel, seed: int = 0
) -> pd.DataFrame:
    """Return the paths with calibrated chances and, beside them, what their drivers depend on.

    An enrollment's path depends on its own forecasts and the seed alone, not on the other
    enrollments in the call.

    Parameters
    ----------
    forecasts
        `contract.FORECASTS`.
    state
        As `standing` returns it.

    Returns
    -------
    pandas.DataFrame
        `PATHS`: week from the section's start, last due day in it and weight due in it; mean and
        bounds of the running grade, 0-100 (NaN if nothing that counts is due by then); two chances,
        0-1. Then the columns of `state`.
    """
    rows = simulate(forecasts, state, model.dependence, seed)
    for name, curve in (
        ("below_pass_probability", model.below_pass),
        ("missed_probability", model.missed),
    ):
        rows[name] = curve.apply(rows[name].to_numpy())
    return rows.merge(state.drop(columns="course_id"), on=KEY, how="left")


def simulate(
    forecasts: pd.DataFrame, state: pd.DataFrame, dependence: float, seed: int = 0
) -> pd.DataFrame:
    """Return `PATHS` with chances as simulated.

    A student's remaining scores are drawn together: a normal variable that they share and one of
    each score's own give its level in its own distribution (a one-factor Gaussian copula, as in
    Li 2000).
    """
    rows = _ordered(forecasts, state)
    if rows.empty:
        return empty(PATHS)
    shared = _normal_draws(seed, 0)
    own = np.stack(
        [_normal_draws(seed, number) for number in range(1, int(rows["horizon"].max()) + 1)]
    )
    starts = np.flatnonzero(rows["first"])
    parts, begin = [], 0
    while begin < len(rows):
        later = starts[starts > begin + SETTINGS.at_once]
        end = int(later[0]) if later.size else len(rows)
        parts.append(_paths(rows.iloc[begin:end], shared, own, dependence))
        begin = end
    return pd.concat(parts, ignore_index=True)


def _ordered(forecasts: pd.DataFrame, state: pd.DataFrame) -> pd.DataFrame:
    """Return the forecasts by enrollment and due day, with what is settled."""
    rows = forecasts.merge(state[[*KEY, "settled_weight", "settled_points", "pass_mark"]], on=KEY)
    rows = rows.sort_values([*KEY, "due_day", "horizon", "assignment_id"], ignore_index=True)
    rows["week"] = week_of(rows["due_day"].to_numpy(np.float64))
    rows["first"] = ~rows.duplicated(KEY)
    rows["ends_week"] = ~rows.duplicated([*KEY, "week"], keep="last")
    return rows


def _normal_draws(seed: int, number: int) -> Floats:
    """Return normal values, one in each of `draws` equally likely stretches, in random order."""
    from scipy.special import ndtri

    random: Generator = np.random.default_rng([seed, number])
    return np.asarray(ndtri((random.permutation(SETTINGS.draws) + 0.5) / SETTINGS.draws))


def _paths(rows: pd.DataFrame, shared: Floats, own: Floats, dependence: float) -> pd.DataFrame:
    from scipy.special import ndtr

    distributions = ScoreDistributions.of(rows)
    mix = np.sqrt(dependence) * shared, np.sqrt(1 - dependence)
    level = ndtr(mix[0] + mix[1] * own[rows["horizon"].to_numpy(np.int64) - 1])
    weight = rows["weight"].to_numpy(np.float64)
    points = distributions.quantile(level) * (weight / 100)[:, None]
    first = np.flatnonzero(rows["first"])
    lasts = np.flatnonzero(rows["ends_week"])
    weeks = rows.iloc[lasts]
    total = weeks["settled_weight"].to_numpy() + _running(weight[:, None], first)[lasts, 0]
    earned = weeks["settled_points"].to_numpy()[:, None] + _running(points, first)[lasts]
    with np.errstate(invalid="ignore", divide="ignore"):
        grade = np.clip(100 * earned / total[:, None], 0, 100)
    begins = np.concatenate([[0], lasts[:-1] + 1])
    missed = np.logical_or.reduceat(level < distributions.missed[:, None], begins, axis=0)
    bounds = np.quantile(grade, list(QUANTILES.values()), axis=1)
    frame = pd.DataFrame(
        {
            **{name: weeks[name].to_numpy() for name in ("course_id", *KEY, "week")},
            "day": weeks["due_day"].to_numpy(),
            "weight": np.add.reduceat(weight, begins),
            "mean": grade.mean(axis=1).clip(0, 100),
            **dict(zip(QUANTILES, bounds.clip(0, 100), strict=True)),
            "below_pass_probability": (grade < weeks["pass_mark"].to_numpy()[:, None]).mean(axis=1),
            "missed_probability": missed.mean(axis=1),
        }
    )
    return frame.astype({name: _TYPES.get(name, "float64") for name in PATHS})


def _running(values: Floats, first: Ints) -> Floats:
    """Return running sums (r, s) that begin again at the rows `first`."""
    sums = np.cumsum(values, axis=0)
    before = np.where(first[:, None] > 0, sums[first - 1], 0.0)
    lengths = np.diff(np.append(first, len(values)))
    return np.asarray(sums - np.repeat(before, lengths, axis=0))


def true_paths(forecasts: pd.DataFrame, truth: pd.DataFrame, state: pd.DataFrame) -> pd.DataFrame:
    """Return what became of each week of the paths, as far as all of it is known.

    Returns
    -------
    pandas.DataFrame
        section_id, student_id, as_of, week; grade: the running grade, 0-100; below_pass and missed
        (bool): whether it lay below the pass mark, and whether something due was not handed in.
    """
    rows = _ordered(forecasts.merge(truth, on=[*KEY, "assignment_id"], how="left"), state)
    if rows.empty:
        return empty(_TRUE_PATHS)
    weight, score = (rows[name].to_numpy(np.float64) for name in ("weight", "score"))
    first, lasts = (np.flatnonzero(rows[name]) for name in ("first", "ends_week"))
    unknown = np.isnan(score)
    points = np.where(unknown, 0.0, weight * score / 100)
    sums = _running(np.column_stack([weight, points, unknown]), first)[lasts]
    weeks = rows.iloc[lasts]
    total = weeks["settled_weight"].to_numpy() + sums[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        earned = weeks["settled_points"].to_numpy() + sums[:, 1]
        grade = np.clip(100 * earned / total, 0, 100)
    begins = np.concatenate([[0], lasts[:-1] + 1])
    handed_in = rows["submitted"].eq(True).to_numpy(bool)
    frame = weeks[[*KEY, "week"]].assign(
        grade=grade,
        below_pass=grade < weeks["pass_mark"].to_numpy(),
        missed=np.logical_or.reduceat(~handed_in, begins),
    )
    is_known = np.isfinite(grade) & (sums[:, 2] == 0)
    known: pd.DataFrame = frame[is_known].reset_index(drop=True)
    return known


def _dependence(forecasts: pd.DataFrame, happened: pd.DataFrame, state: pd.DataFrame) -> float:
    """Return the dependence whose bounds of the running grade lose least (pinball loss)."""
    known = happened[KEY].drop_duplicates()
    step = max(1, len(known) // SETTINGS.most_for_dependence)
    chosen = forecasts.merge(known.iloc[::step], on=KEY)

    def loss(dependence: float) -> float:
        rows = simulate(chosen, state, dependence).merge(happened, on=[*KEY, "week"])
        grade = rows["grade"].to_numpy()
        parts = [
            np.maximum(level * (grade - rows[name]), (level - 1) * (grade - rows[name])).mean()
            for name, level in QUANTILES.items()
        ]
        return float(np.sum(parts))

    return min(SETTINGS.dependences, key=loss)
