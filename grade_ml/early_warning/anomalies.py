"""Events of the last days that were not to be expected of this student.

Three kinds: a score outside the band that was forecast for it, a miss after an unbroken row of
work handed in, and activity that has nearly stopped. Each new case is compared with ordinary cases
of training terms, which gives a conformal p-value; of those of one course and kind,
Benjamini-Hochberg chooses the anomalies, so that among them a set share at most is no anomaly
(Bates, Candès, Lei, Romano & Sesia 2023, "Testing for outliers with conformal p-values").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.early_warning.grade_paths import KEY, empty
from grade_ml.early_warning.settings import SETTINGS
from grade_ml.forecasting.contract import Floats, Panel
from grade_ml.forecasting.distribution import ScoreDistributions
from grade_ml.forecasting.panels import day_of


class Kind(StrEnum):
    """What an anomaly is about."""

    SCORE = "score"
    RHYTHM = "rhythm"
    ACTIVITY = "activity"


#: How unusual ordinary cases were, by kind; sorted.
Reference = Mapping[str, Sequence[float]]

#: Columns of the anomalies.
ANOMALIES = (
    *("course_id", *KEY, "kind", "assignment_id", "observed", "expected", "low", "high"),
    *("p", "p_adjusted", "says"),
)
_NEW = ("course_id", *KEY, "assignment_id", "score", "submitted", "row")


def anomalies(
    panels: Sequence[Panel],
    before: Sequence[Panel],
    forecasts: pd.DataFrame,
    reference: Reference,
) -> pd.DataFrame:
    """Return what is unusual among what is new on the panels' day.

    Parameters
    ----------
    panels, before
        The sections of one course on the day, and `RiskSettings.new_days` earlier; what became
        known in between is new.
    forecasts
        Columns `contract.FORECASTS`: of each student and assignment the newest forecast that was
        stored by the earlier day.
    reference
        As `reference_of` returns it.

    Returns
    -------
    pandas.DataFrame
        `ANOMALIES`. Of a score: observed, and what was forecast in case of handing in: expected
        (median), low and high (95%); points, 0-100. Of a rhythm: observed is 0 (nothing handed
        in), expected the chance of handing in that was forecast, 0-1. Of activity: actions in the
        last seven days. p_adjusted is what Benjamini-Hochberg compares with its level. The least p
        first.
    """
    new = _new_results(panels, before).merge(
        forecasts.drop(columns=["as_of", "course_id"]),
        on=["section_id", "student_id", "assignment_id"],
    )
    cases = {
        Kind.SCORE: _scores(new[new["submitted"]]),
        Kind.RHYTHM: _rhythms(new),
        Kind.ACTIVITY: _collapses(panels),
    }
    frames = [
        _unusual(kind, rows, np.asarray(reference.get(kind, ()), dtype=np.float64))
        for kind, rows in cases.items()
    ]
    frame = pd.concat([unusual for unusual in frames if len(unusual)] or [empty(ANOMALIES)])
    order = ["p", "section_id", "student_id", "kind", "assignment_id"]
    return frame.sort_values(order, kind="stable")[list(ANOMALIES)].reset_index(drop=True)


def by_course(
    panels: Sequence[Panel],
    before: Sequence[Panel],
    forecasts: pd.DataFrame,
    references: Mapping[str, Reference],
) -> pd.DataFrame:
    """Return the `anomalies` of each course of `references`, in their order."""
    parts = [
        anomalies(
            [panel for panel in panels if panel.course_id == course],
            [panel for panel in before if panel.course_id == course],
            forecasts[forecasts["course_id"] == course],
            references[course],
        )
        for course in sorted(references)
    ]
    return pd.concat([rows for rows in parts if len(rows)] or [empty(ANOMALIES)], ignore_index=True)


def reference_of(
    panels: Sequence[Panel], forecasts: pd.DataFrame, truth: pd.DataFrame
) -> dict[str, list[float]]:
    """Return how unusual ordinary cases of training terms were.

    Parameters
    ----------
    panels
        Of those terms, for their activity.
    forecasts, truth
        Forecasts by models that had not seen these sections, and the outcomes (see `truths`).
    """
    keys = [*KEY, "assignment_id"]
    known = forecasts.merge(truth[[*keys, "score", "submitted"]], on=keys)
    values = {
        Kind.SCORE: _banded(known[known["submitted"]])["unusual"].to_numpy(np.float64),
        Kind.RHYTHM: _missed_surprise(known),
        Kind.ACTIVITY: _collapses(panels)["unusual"].to_numpy(np.float64),
    }
    return {str(kind): _thinned(np.sort(case_values)) for kind, case_values in values.items()}


def _thinned(values: Floats) -> list[float]:
    if values.size > SETTINGS.most_reference:
        share = (np.arange(SETTINGS.most_reference) + 0.5) / SETTINGS.most_reference
        values = values[(share * values.size).astype(int)]
    return [float(value) for value in values]


def conformal_p(reference: Floats, unusual: Floats) -> Floats:
    """Return the share of reference values that are as unusual, the case itself counted among them.

    >>> conformal_p(np.array([1.0, 2.0, 3.0]), np.array([2.5, 9.0])).tolist()
    [0.5, 0.25]
    """
    as_unusual = reference.size - np.searchsorted(np.sort(reference), unusual, side="left")
    return np.asarray((1 + as_unusual) / (1 + reference.size))


def _unusual(kind: Kind, cases: pd.DataFrame, reference: Floats) -> pd.DataFrame:
    from scipy.stats import false_discovery_control

    if cases.empty or not reference.size:
        return empty(ANOMALIES)
    p = conformal_p(reference, cases["unusual"].to_numpy(np.float64))
    rows = cases.assign(kind=str(kind), p=p, p_adjusted=false_discovery_control(p))
    return rows[rows["p_adjusted"] <= SETTINGS.false_discoveries]


def _new_results(panels: Sequence[Panel], before: Sequence[Panel]) -> pd.DataFrame:
    """Return the scores (0 if missed) known on the day and not earlier, with the row handed in."""
    earlier = {panel.section_id: panel for panel in before}
    frames = [_new_in(panel, earlier.get(panel.section_id)) for panel in panels]
    return pd.concat(frames, ignore_index=True) if frames else empty(_NEW)


def _new_in(panel: Panel, before: Panel | None) -> pd.DataFrame:
    score = np.where(panel.due_day[None, :] <= panel.day, panel.score, np.nan)
    known = np.isfinite(score)
    if before is not None:
        places = pd.Index(before.students).get_indexer(pd.Index(panel.students))
        place = pd.Index(before.assignments).get_indexer(pd.Index(panel.assignments))
        was = before.score[places][:, place]
        was[(places < 0), :] = np.nan
        was[:, place < 0] = np.nan
        known &= ~np.isfinite(was)
    student, slot = np.nonzero(known)
    return pd.DataFrame(
        {
            "course_id": panel.course_id,
            "section_id": panel.section_id,
            "student_id": panel.students[student],
            "as_of": day_of(panel),
            "assignment_id": panel.assignments[slot],
            "score": score[student, slot],
            "submitted": panel.submitted[student, slot] > 0,
            "row": _row_before(panel)[student, slot],
        }
    )


def _row_before(panel: Panel) -> npt.NDArray[np.int64]:
    """Return how many assignments in a row were handed in just before each one, (n, m)."""
    handed_in = panel.submitted > 0
    rows = np.zeros(handed_in.shape, dtype=np.int64)
    for slot in range(1, handed_in.shape[1]):
        rows[:, slot] = np.where(handed_in[:, slot - 1], rows[:, slot - 1] + 1, 0)
    return rows


def _banded(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the median and the 95% band that was forecast in case of handing in, and the surprise.

    Surprise is the distance of the score from the median, in halves of the band on its side.
    """
    low, median, high = ScoreDistributions.of(rows).if_handed_in((0.025, 0.5, 0.975)).T
    score = rows["score"].to_numpy(np.float64)
    half = np.where(score >= median, high - median, median - low)
    unusual = np.abs(score - median) / np.maximum(half, SETTINGS.least_band)
    return rows.assign(expected=median, low=low, high=high, unusual=unusual)


def _missed_surprise(rows: pd.DataFrame) -> Floats:
    """Return the chance of handing in that was forecast for what was missed, 0 for the rest."""
    chance = rows["submit_probability"].to_numpy(np.float64)
    return np.where(rows["submitted"].to_numpy(bool), 0.0, chance)


def _scores(rows: pd.DataFrame) -> pd.DataFrame:
    banded = _banded(rows)
    way = np.where(banded["score"] < banded["expected"], "lower", "higher")
    descriptions = "score far " + pd.Series(way, banded.index, dtype="object") + " than forecast"
    return banded.assign(observed=banded["score"], says=descriptions)


def _rhythms(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(
        # What did not break a row can be no anomaly, but it counts among the cases.
        unusual=np.where(rows["row"] >= SETTINGS.rhythm, _missed_surprise(rows), 0.0),
        observed=0.0,
        expected=rows["submit_probability"],
        low=np.nan,
        high=np.nan,
        says="missed after " + rows["row"].astype(str) + " assignments in a row were handed in",
    )


def _collapses(panels: Sequence[Panel]) -> pd.DataFrame:
    """Return the last week's actions beside what the three weeks before and the class imply."""
    frames = [empty((*ANOMALIES, "unusual"))]
    for panel in panels:
        last = panel.feature("activity_last_7")
        earlier = panel.feature("activity_last_28") - last
        usual = np.isfinite(earlier) & (earlier >= SETTINGS.least_actions) & (panel.day >= 28)
        if not usual.any():
            continue
        # Where the whole class rests, as between terms, resting is nothing unusual.
        pace = last[usual].sum() / earlier[usual].sum()
        expected = earlier[usual] * pace
        frames.append(
            pd.DataFrame(
                {
                    "course_id": panel.course_id,
                    "section_id": panel.section_id,
                    "student_id": panel.students[usual],
                    "as_of": day_of(panel),
                    "assignment_id": "",
                    "observed": last[usual],
                    "expected": expected,
                    "low": np.nan,
                    "high": np.nan,
                    "unusual": np.log((expected + 1) / (last[usual] + 1)),
                    "says": "far fewer actions in the last seven days than usual",
                }
            )
        )
    return pd.concat([rows for rows in frames if len(rows)] or frames, ignore_index=True)
