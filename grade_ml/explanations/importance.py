"""The importance of features, its confidence interval, and whether it changed significantly.

Importance is the mean size of a feature's contributions; its share is of all features together, so
that courses and days are comparable. Intervals come from resampled students. The band of a share
comes from training terms in the same phase and from fits on unchanged data. `attribution` computes
contributions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.frames import empty, together
from grade_ml.ensemble.evaluation import PHASES, in_phase
from grade_ml.ensemble.importance import SETTINGS as SPREAD
from grade_ml.ensemble.members import Task
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.ensemble.rows import ENROLLMENT
from grade_ml.explanations.attribution import explain
from grade_ml.explanations.contract import Explanation
from grade_ml.explanations.settings import SETTINGS
from grade_ml.explanations.store import matrix_of
from grade_ml.serving.models import Servable

Floats = npt.NDArray[np.float64]

_COLUMNS = ["feature", "importance", "low", "high", "share", "share_low", "share_high"]
#: Columns of the importance in training terms.
REFERENCE = {"task": "object", "feature": "object", "share": "float64", "spread": "float64"}
_WEIGHED = {
    **dict.fromkeys(_COLUMNS, "float64"),
    **dict.fromkeys(("feature", "task", "grouping", "group_name"), "object"),
    **dict.fromkeys(("band_low", "band_high"), "float64"),
    "students": "int64",
    "alarm": "bool",
}
_EXPECTED = {"task": "object", "feature": "object", "share": "float64", "error": "float64"}


def importance(
    contributions: Floats,
    features: Sequence[str],
    students: npt.NDArray[np.generic],
    seed: int,
) -> pd.DataFrame:
    """Return each feature's importance, the most important first.

    Parameters
    ----------
    contributions
        Shape (rows, features); rows of NaN are left out.
    students
        The student of each row.

    Returns
    -------
    pandas.DataFrame
        feature, importance with its 95% interval (low, high), in the unit of the contributions,
        and share (0-1) with its interval. No rows if no contributions are known.
    """
    known = ~np.isnan(contributions).any(axis=1)
    sizes = np.abs(contributions[known])
    if not sizes.size:
        return empty({**dict.fromkeys(_COLUMNS, "float64"), "feature": "object"})
    means, draws = sizes.mean(axis=0), _resampled(sizes, students[known], seed)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    shares = draws / np.maximum(draws.sum(axis=1, keepdims=True), 1e-12)
    share_low, share_high = np.quantile(shares, [0.025, 0.975], axis=0)
    share = means / max(means.sum(), 1e-12)
    columns = (list(features), means, low, high, share, share_low, share_high)
    importances = pd.DataFrame(dict(zip(_COLUMNS, columns, strict=True)))
    return importances.sort_values(
        ["importance", "feature"], ascending=[False, True], ignore_index=True
    )


def _resampled(sizes: Floats, students: npt.NDArray[np.generic], seed: int) -> Floats:
    """Return the means of resampled students: shape (resamples, features)."""
    member = np.unique(students, return_inverse=True)[1]
    count = int(member.max()) + 1
    total = np.zeros((count, sizes.shape[1]))
    np.add.at(total, member, sizes)
    rows = np.bincount(member, minlength=count)
    drawn = np.random.default_rng(seed).multinomial(
        count, np.full(count, 1 / count), SETTINGS.resamples
    )
    return np.asarray((drawn @ total) / np.maximum(drawn @ rows, 1)[:, None])


def everywhere(courses: pd.DataFrame) -> pd.DataFrame:
    """Return the importance over all courses, the mean over courses weighted by their students.

    Parameters
    ----------
    courses
        Columns task, grouping, group_name, feature, students, importance, low and high of each.
    """
    keys = ["task", "grouping", "group_name", "feature"]
    weight = courses["students"]
    # A standard error of each course; those of different courses are independent.
    error = (courses["high"] - courses["low"]) / (2 * 1.96)
    rows = courses[keys].assign(
        weighted=courses["importance"] * weight, squared=(error * weight) ** 2
    )
    totals = courses.drop_duplicates(["course_id", *keys[:3]]).groupby(keys[:3])["students"].sum()
    importances = rows.groupby(keys, as_index=False).sum()
    importances["students"] = totals.reindex(
        pd.MultiIndex.from_frame(importances[keys[:3]])
    ).to_numpy()
    importances["importance"] = importances.pop("weighted") / importances["students"]
    margin = 1.96 * np.sqrt(importances.pop("squared")) / importances["students"]
    importances["low"] = (importances["importance"] - margin).clip(lower=0)
    importances["high"] = importances["importance"] + margin
    whole = importances.groupby(keys[:3])["importance"].transform("sum").clip(lower=1e-12)
    importances["share"] = importances["importance"] / whole
    return importances


def phase_of(progress: float) -> str:
    """Return the third of its section in which `progress` (0-1) lies, by name."""
    return next(name for name, (_, high) in PHASES.items() if progress <= high)


def expected(
    model: PooledModel, served: Servable, snapshots: pd.DataFrame, phase: str, seed: int
) -> pd.DataFrame:
    """Return task, feature, share and error of the importance in a course's training terms.

    Parameters
    ----------
    served
        The model that serves the course.
    snapshots
        Of the course.

    Returns
    -------
    pandas.DataFrame
        `error` is the share's standard error. No rows if the course has too few students in
        training terms.
    """
    known = snapshots["section_id"].astype(str).isin(model.sections)
    rows = snapshots[known & in_phase(snapshots["progress"], phase)]
    if rows["student_id"].nunique() < SETTINGS.least_students:
        return empty(_EXPECTED)
    rows = rows.sample(min(SPREAD.probe_rows, len(rows)), random_state=seed)
    attributions = explain(served, rows, seed)
    students = rows["student_id"].astype(object).to_numpy()
    tables = []
    for task, parts in ((Task.GRADE, attributions.grade), (Task.RISK, attributions.risk)):
        importances = importance(parts.contributions, attributions.features, students, seed)
        error = (importances["share_high"] - importances["share_low"]) / (2 * 1.96)
        tables.append(importances.assign(task=str(task), error=error)[list(_EXPECTED)])
    return together(tables, _EXPECTED)


def with_spread(usual: pd.DataFrame, spread: pd.DataFrame, phase: str) -> pd.DataFrame:
    """Return `REFERENCE`: how far a share varies between students and between fits together.

    Parameters
    ----------
    usual
        As `expected` returns it.
    spread
        Of the ensemble, as `spread_between_fits` returns it.
    """
    fits = spread.loc[spread["phase"] == phase, ["task", "feature", "spread"]]
    both = usual.merge(fits, on=["task", "feature"], how="left")
    # The refitted member reads no columns of other views: for these only students count.
    chance = both[["spread", "error"]].fillna(0.0).to_numpy(np.float64)
    return both[["task", "feature", "share"]].assign(spread=np.hypot(*chance.T))


def judged(importances: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Return `importances` with band_low, band_high and alarm.

    Parameters
    ----------
    importances
        As `importance` returns them, for one task.
    reference
        feature, share and spread of training terms, for the same task and phase; without rows there
        is no band (NaN) and no alarm.

    Returns
    -------
    pandas.DataFrame
        A share alarms if its whole interval lies outside the band. Only features that are among
        the most important, now or in training terms, can alarm: the others are noise.
    """
    known = reference.set_index("feature")[["share", "spread"]].astype(np.float64)
    share = importances["feature"].map(known["share"]).astype(np.float64)
    margin = SETTINGS.band * importances["feature"].map(known["spread"]).astype(np.float64)
    low, high = (share - margin).clip(lower=0), share + margin
    usual = known["share"].nlargest(SETTINGS.watched).index
    watched = importances["feature"].isin(usual) | (importances.index < SETTINGS.watched)
    outside = (importances["share_low"] > high) | (importances["share_high"] < low)
    return importances.assign(band_low=low, band_high=high, alarm=outside & watched)


@dataclass(frozen=True)
class Weighed:
    """The importance of one course's features, as it is stored, and its alarms.

    `alarms` are the features whose share left its band; `reason` is why there is no band.
    """

    course_id: str
    rows: pd.DataFrame
    alarms: tuple[str, ...] = ()
    reason: str = ""


def weigh(
    explanations: Sequence[Explanation],
    people: pd.DataFrame,
    groups: Mapping[str, str],
    reference: pd.DataFrame,
    seed: int,
) -> pd.DataFrame:
    """Return the importance of one course's features with alarms, and that in groups of students.

    Parameters
    ----------
    people
        section_id, student_id, and the columns of `groups`.
    groups
        The column of each protected attribute.
    reference
        `REFERENCE` of training terms; without rows there are no alarms.
    """
    keys = pd.DataFrame(
        {
            "section_id": [explanation.section_id for explanation in explanations],
            "student_id": [explanation.student_id for explanation in explanations],
        }
    ).merge(people, on=ENROLLMENT, how="left")
    students = keys["student_id"].to_numpy(dtype=str)
    parts = []
    for task in Task:
        contributions, _ = matrix_of(explanations, task)
        features = [str(name) for name in contributions.columns]
        sizes = contributions.to_numpy(np.float64)
        whole = importance(sizes, features, students, seed)
        if whole.empty:
            continue
        own = reference[reference["task"] == str(task)]
        rows = judged(whole, own).assign(task=str(task), grouping="", group_name="")
        parts.append(rows.assign(students=len(set(students))))
        main = whole["feature"].head(SETTINGS.watched)
        for name, column in groups.items():
            for value, places in keys.groupby(column, observed=True).indices.items():
                count = len(set(students[places]))
                if count >= SETTINGS.least_students:
                    group = importance(sizes[places], features, students[places], seed)
                    rows = group[group["feature"].isin(main)].assign(task=str(task), alarm=False)
                    parts.append(rows.assign(grouping=name, group_name=str(value), students=count))
    return together(parts, _WEIGHED)
