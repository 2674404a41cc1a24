"""How much scores have changed where a change is confirmed: what training within a term learns.

No outcome shows a change before sections end; scores do. Here the errors of scores since then
become a share by which the points to come are stretched. Errors of one assignment share its
difficulty, so assignments are averaged as a random-effects meta-analysis averages studies
(DerSimonian & Laird 1986), and a course is shrunken towards all courses that changed.
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
    """The judgements about changes, each with its reason."""

    #: Standard deviation of what is believed possible, as a share of the expected score: a change
    #: by 15 points of 60 is large, but happens.
    usual: float = 0.25
    #: The same between courses that change together.
    between_courses: float = 0.1
    #: An expected score below says little about shares, points.
    least_expected: float = 10.0


SETTINGS = ChangeSettings()


@dataclass(frozen=True)
class Suspicion:
    """A course whose scores have changed since a day.

    Attributes
    ----------
    events
        Scores of the last weeks, since then, beside what the pooled model implied: columns of
        `serving.implied.events`. It takes in new scores itself, so older errors say too much.
    """

    events: pd.DataFrame
    expectation: Expectation
    since: date


def changes(suspected: Mapping[str, Suspicion], seed: int) -> dict[str, Change]:
    """Return by how much points to come have changed in each course; empty with one assignment.

    The share is 0 unless the scores of assignments are predicted better by what all others say:
    the lower end of the 95% interval of the gain (students resampled) has to be above 0.
    """
    parts = [_assignments(one).assign(course=name) for name, one in suspected.items()]
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"assignment": []})
    if rows["assignment"].nunique() < 2:
        return {}
    means, gained = _means(rows), _gained(rows, seed)
    return {
        name: Change(one.since, max(_share(means, name), -1.0) if gained.is_sure else 0.0, gained)
        for name, one in suspected.items()
    }


def _assignments(one: Suspicion) -> pd.DataFrame:
    """Return a row per score: its student, error and expected score, and its assignment's."""
    expected = one.expectation.expected(one.events)
    return pd.DataFrame(
        {
            "student": one.events["student"].to_numpy(),
            "assignment": one.events["assignment_id"].to_numpy(),
            "expected": np.maximum(expected, SETTINGS.least_expected),
            "error": one.events["score"].to_numpy(np.float64) - expected,
            "spread": one.expectation.spread,
            "between": one.expectation.between,
        }
    )


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """Return per assignment the error as a share of the expected score, and its precision."""
    found = rows.groupby(["course", "assignment"]).agg(
        error=("error", "mean"),
        expected=("expected", "mean"),
        scores=("error", "size"),
        spread=("spread", "first"),
        between=("between", "first"),
    )
    variance = found["between"] ** 2 + found["spread"] ** 2 / found["scores"]
    return pd.DataFrame(
        {
            "share": found["error"] / found["expected"],
            "precision": found["expected"] ** 2 / np.maximum(variance, 1e-9),
        }
    )


def _share(means: pd.DataFrame, course: str) -> float:
    """Return a course's share, shrunken towards that of all, and that towards none."""
    told, precision = means["share"] * means["precision"], means["precision"]
    together = told.sum() / (precision.sum() + SETTINGS.usual**-2)
    own = (means.index.get_level_values("course") == course).astype(np.float64)
    prior = SETTINGS.between_courses**-2
    return float(((own * told).sum() + together * prior) / ((own * precision).sum() + prior))


def _gained(rows: pd.DataFrame, seed: int) -> Improvement:
    """Return by how much the squared error falls, as a share, by what other assignments say."""
    means = _means(rows)
    others = {key: _share(means.drop(index=key), key[0]) for key in means.index}
    share = pd.MultiIndex.from_frame(rows[["course", "assignment"]]).map(others)
    before = rows["error"].to_numpy(np.float64) ** 2
    after = (rows["error"] - share.to_numpy(np.float64) * rows["expected"]).to_numpy() ** 2
    scale = before.mean() or 1.0
    return improvement(before / scale, after / scale, rows["student"].to_numpy(), seed)
