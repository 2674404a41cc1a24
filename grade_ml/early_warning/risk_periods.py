"""Weeks in which a student is likelier than not to fall behind: from when to when, and why.

A week is at risk if the calibrated chance that the running grade lies below the pass mark, or that
something due is not handed in, reaches the threshold. Weeks in a row are one period; weeks in
which nothing is due neither begin nor end one. The actions against it are in `interventions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.early_warning.grade_paths import KEY
from grade_ml.early_warning.settings import SETTINGS


class Driver(StrEnum):
    """What the risk comes from, the first that holds."""

    OUT_OF_REACH = "out_of_reach"
    """Full marks in all that remains would not lift the final grade to the pass mark."""
    NOT_STARTED = "not_started"
    """Work was due and none was ever handed in."""
    SILENT = "silent"
    """No action for two weeks, where the source records actions."""
    MISSED_IN_A_ROW = "missed_in_a_row"
    """The last two or more assignments were missed."""
    HEAVY_WEEK = "heavy_week"
    """Something may be missed in a week in which much more is due than in others."""
    WORK_DUE = "work_due"
    """Something may be missed, for no reason named above."""
    FALLING_SCORES = "falling_scores"
    """The last score lies well below those before it."""
    LOW_SCORES = "low_scores"
    """Scores are low, for no reason named above."""


#: Columns of the periods.
PERIODS = (
    *("course_id", *KEY, "start_week", "end_week", "starts_on", "weeks_ahead", "severity"),
    *("below_pass_probability", "missed_probability", "driver"),
)


def risk(paths: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the larger of each week's two chances, 0-1."""
    chances = paths[["below_pass_probability", "missed_probability"]].to_numpy(np.float64)
    return np.asarray(chances.max(axis=1, initial=0.0))


def risk_periods(paths: pd.DataFrame) -> pd.DataFrame:
    """Return one row per stretch of weeks at risk, the gravest first.

    Parameters
    ----------
    paths
        As `grade_paths` returns them.

    Returns
    -------
    pandas.DataFrame
        `PERIODS`: first and last week; starts_on, the date on which the first week begins;
        weeks_ahead from the week of `as_of` to the first; severity: the highest chance in any of
        its weeks, 0-1; both chances and the driver in the first week that reaches it.
    """
    rows = paths.assign(risk=risk(paths), driver=drivers(paths))
    rows = rows.sort_values([*KEY, "week"], ignore_index=True)
    flagged = rows["risk"] >= SETTINGS.threshold
    begins = flagged & ~(flagged.shift(fill_value=False) & rows.duplicated(KEY))
    rows = rows.assign(period=begins.cumsum())[flagged]
    periods = rows.groupby("period")
    worst = rows.loc[periods["risk"].idxmax()].set_index("period")
    frame = worst.assign(
        start_week=periods["week"].first(),
        end_week=periods["week"].last(),
        severity=worst["risk"],
    )
    weeks = frame["start_week"].astype("int64")
    frame = frame.assign(
        weeks_ahead=weeks - frame["current_week"].astype("int64"),
        starts_on=frame["starts_on"] + pd.to_timedelta(7 * (weeks - 1), unit="D"),
    )
    order = ["severity", "start_week", "section_id", "student_id"]
    ranked = frame.sort_values(order, ascending=[False, True, True, True], kind="stable")
    return ranked[list(PERIODS)].reset_index(drop=True)


def drivers(paths: pd.DataFrame) -> npt.NDArray[np.object_]:
    """Return each week's `Driver`, as texts."""
    missing = paths["missed_probability"] > paths["below_pass_probability"]
    usual = paths.groupby(KEY)["weight"].transform("mean")
    conditions = {
        Driver.OUT_OF_REACH: paths["grade_if_all_perfect"] < paths["pass_mark"],
        Driver.NOT_STARTED: (paths["assignments_due"] > 0) & (paths["assignments_submitted"] == 0),
        Driver.SILENT: paths["days_since_activity"] >= SETTINGS.silent_days,
        Driver.MISSED_IN_A_ROW: paths["missed_streak"] >= 2,
        Driver.HEAVY_WEEK: missing & (paths["weight"] > SETTINGS.heavy * usual),
        Driver.WORK_DUE: missing,
        Driver.FALLING_SCORES: paths["score_last_step"] <= -SETTINGS.falling_points,
    }
    texts = [str(name) for name in conditions]
    chosen = np.select(
        [condition.to_numpy(bool) for condition in conditions.values()],
        texts,
        str(Driver.LOW_SCORES),
    )
    return np.asarray(chosen, dtype=object)


@dataclass(frozen=True)
class Evaluation:
    """How the periods of one group did where the outcome is known; NaN if there are no cases.

    Attributes
    ----------
    enrollments
        Enrollments on a day (several days of one enrollment count each).
    weeks
        Weeks in which something was due.
    base_rate
        Share of the weeks in which the grade lay below the pass mark or something was missed.
    flagged
        Share of the weeks that were flagged.
    precision
        Share of the periods in which it happened in at least one week.
    recall
        Share of the weeks in which it happened that were flagged.
    lead_weeks
        Median weeks from the day of the flag to the first week in which it happened, of the
        periods in which it did.
    brier
        Mean squared error of the week's risk.
    coverage80, coverage95
        Share of the weeks whose running grade lay within the bounds.
    """

    group: str
    enrollments: int
    weeks: int
    periods: int
    base_rate: float
    flagged: float
    precision: float
    recall: float
    lead_weeks: float
    brier: float
    coverage80: float
    coverage95: float


def evaluate(paths: pd.DataFrame, happened: pd.DataFrame) -> list[Evaluation]:
    """Return figures for all enrollments, and for those that were in no trouble on the day.

    The second group is the one in which a flag is news: the running grade was not below the pass
    mark, and the last assignment had been handed in.

    Parameters
    ----------
    paths
        As `grade_paths` returns them.
    happened
        As `grade_paths.true_paths` returns it.
    """
    rows = paths.merge(happened, on=[*KEY, "week"])
    with np.errstate(invalid="ignore"):
        now = (
            100 * rows["settled_points"] / rows["settled_weight"].where(rows["settled_weight"] > 0)
        )
    fresh = ~(now < rows["pass_mark"]) & ~(rows["missed_streak"] > 0)
    return [_evaluation("all", rows), _evaluation("no trouble yet", rows[fresh])]


def _evaluation(group: str, rows: pd.DataFrame) -> Evaluation:
    bad = rows["below_pass"].to_numpy(bool) | rows["missed"].to_numpy(bool)
    chance = risk(rows)
    flagged = chance >= SETTINGS.threshold
    periods = risk_periods(rows)
    events = rows.loc[bad, [*KEY, "week"]]
    hits = periods.reset_index().merge(events, on=KEY)
    hits = hits[hits["week"].between(hits["start_week"], hits["end_week"])]
    first = hits.groupby("index")["week"].min()
    current = periods["start_week"] - periods["weeks_ahead"]
    lead = (first - current.loc[first.index]).to_numpy(np.float64)
    grade = rows["grade"]
    return Evaluation(
        group=group,
        enrollments=len(rows[KEY].drop_duplicates()),
        weeks=len(rows),
        periods=len(periods),
        base_rate=_mean(bad),
        flagged=_mean(flagged),
        precision=len(first) / len(periods) if len(periods) else float("nan"),
        recall=_mean(flagged[bad]),
        lead_weeks=float(np.median(lead)) if lead.size else float("nan"),
        brier=_mean((chance - bad) ** 2),
        coverage80=_mean(grade.between(rows["low80"], rows["high80"]).to_numpy()),
        coverage95=_mean(grade.between(rows["low95"], rows["high95"]).to_numpy()),
    )


def _mean(values: npt.NDArray[Any]) -> float:
    return float(np.mean(values)) if values.size else float("nan")
