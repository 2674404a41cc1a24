"""Estimates how much scores have changed after a confirmed change, for training within a term.

Outcomes show a change only when sections end; scores show it earlier. This module turns the errors
of scores since the change into a share by which the points to come are stretched. Errors of one
assignment share its difficulty, so assignments are averaged as a random-effects meta-analysis
averages studies (DerSimonian & Laird 1986), and a course is shrunk towards all courses that
changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.resampling import Improvement, improvement
from grade_ml.ensemble.course import Change
from grade_ml.monitoring.concept import Expectation

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChangeSettings:
    """The settings for changes, each with its reason."""

    #: Standard deviation of the prior on the change, as a share of the expected score: a change
    #: by 15 points of 60 is large, but happens.
    usual: float = 0.25
    #: The same between courses that change together.
    between_courses: float = 0.1
    #: Below this expected score (points), a share is uninformative.
    least_expected: float = 10.0


SETTINGS = ChangeSettings()


@dataclass(frozen=True)
class Suspicion:
    """A course whose scores have changed since a day.

    Attributes
    ----------
    events
        Scores of the last weeks, since that day, and the scores that the pooled model implied:
        columns of `serving.implied.events`. The model takes in new scores itself, so older errors
        would overstate the change.
    """

    events: pd.DataFrame
    expectation: Expectation
    since: date


def changes(suspected: Mapping[str, Suspicion], seed: int) -> dict[str, Change]:
    """Return by how much points to come have changed in each course; empty with one assignment.

    The share is 0 unless the share of all other assignments predicts an assignment's scores better:
    the lower end of the 95% interval of the gain (students resampled) must be above 0.
    """
    parts = [_assignments(suspicion).assign(course=name) for name, suspicion in suspected.items()]
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"assignment": []})
    if rows["assignment"].nunique() < 2:
        return {}
    means, gained = _means(rows), _gained(rows, seed)
    return {
        name: Change(
            suspicion.since, max(_share(means, name), -1.0) if gained.is_sure else 0.0, gained
        )
        for name, suspicion in suspected.items()
    }


def _assignments(suspicion: Suspicion) -> pd.DataFrame:
    """Return a row per score: student, assignment, expected score, error, and its two spreads."""
    expected = suspicion.expectation.expected(suspicion.events)
    return pd.DataFrame(
        {
            "student": suspicion.events["student"].to_numpy(),
            "assignment": suspicion.events["assignment_id"].to_numpy(),
            "expected": np.maximum(expected, SETTINGS.least_expected),
            "error": suspicion.events["score"].to_numpy(np.float64) - expected,
            "spread": suspicion.expectation.spread,
            "between": suspicion.expectation.between,
        }
    )


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """Return per assignment the error as a share of the expected score, and its precision."""
    by_assignment = rows.groupby(["course", "assignment"]).agg(
        error=("error", "mean"),
        expected=("expected", "mean"),
        scores=("error", "size"),
        spread=("spread", "first"),
        between=("between", "first"),
    )
    variance = (
        by_assignment["between"] ** 2 + by_assignment["spread"] ** 2 / by_assignment["scores"]
    )
    return pd.DataFrame(
        {
            "share": by_assignment["error"] / by_assignment["expected"],
            "precision": by_assignment["expected"] ** 2 / np.maximum(variance, 1e-9),
        }
    )


def _share(means: pd.DataFrame, course: str) -> float:
    """Return a course's share, shrunk towards that of all courses, which is shrunk towards 0."""
    weighted, precision = means["share"] * means["precision"], means["precision"]
    together = weighted.sum() / (precision.sum() + SETTINGS.usual**-2)
    own = (means.index.get_level_values("course") == course).astype(np.float64)
    prior = SETTINGS.between_courses**-2
    return float(((own * weighted).sum() + together * prior) / ((own * precision).sum() + prior))


def _gained(rows: pd.DataFrame, seed: int) -> Improvement:
    """Return the share by which the squared error falls if other assignments predict the change."""
    means = _means(rows)
    others = {key: _share(means.drop(index=key), key[0]) for key in means.index}
    share = pd.MultiIndex.from_frame(rows[["course", "assignment"]]).map(others)
    before = rows["error"].to_numpy(np.float64) ** 2
    after = (rows["error"] - share.to_numpy(np.float64) * rows["expected"]).to_numpy() ** 2
    scale = before.mean() or 1.0
    return improvement(before / scale, after / scale, rows["student"].to_numpy(), seed)
