"""Predicts every running enrollment of chosen courses with the champion, and stores it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.ensemble.predictions import write_predictions
from grade_ml.ensemble.training import champion
from grade_ml.features.store import read_snapshots
from grade_ml.gradebook.schema import section
from grade_ml.registry.registry import ModelVersion, Registry


@dataclass(frozen=True)
class Scored:
    """What was predicted.

    Attributes
    ----------
    predictions
        Columns of `BaselineModel.predict` and course_id; one row per running enrollment.
    degraded
        Why the predictions are less than they could be; empty: they are not.
    """

    version: ModelVersion
    predictions: pd.DataFrame
    degraded: tuple[str, ...]

    def of_course(self, course: str) -> dict[str, float]:
        """Return rows, and where there are any, mean grade (0-100) and mean risk (0-1)."""
        rows = self.predictions[self.predictions["course_id"] == course]
        means = rows[["grade", "risk"]].mean().dropna()
        return {"rows": len(rows), **{f"mean_{name}": float(means[name]) for name in means.index}}


def score_running(
    connection: Connection, registry: Registry, root: str, courses: Collection[str], as_of: date
) -> Scored:
    """Predict from the newest stored snapshots that are not later than `as_of`, and store it.

    A prediction bears the date of its snapshot: if the features were not computed today, it is
    what would have been said on the day they were.

    Raises
    ------
    NotReadyError
        There is no champion, or no snapshot of the courses.
    """
    version, model = champion(registry)
    snapshots = _newest(read_snapshots(root, courses), _running(connection, courses, as_of), as_of)
    predictions = model.predict(snapshots)
    predictions["course_id"] = snapshots["course_id"].astype("string[pyarrow]").to_numpy()
    degraded: list[str] = []
    for made_on in sorted(snapshots["cut_on"].dt.date.unique()):
        rows = predictions[(snapshots["cut_on"].dt.date == made_on).to_numpy()]
        old = [] if made_on == as_of else [f"features of {made_on}, not of {as_of}"]
        write_predictions(connection, rows, as_of=made_on, model=version, degraded=old)
        degraded += old
    return Scored(version, predictions, tuple(degraded))


def _running(connection: Connection, courses: Collection[str], as_of: date) -> list[str]:
    query = sa.select(section.c.section_id).where(
        section.c.course_id.in_(sorted(courses)),
        sa.literal(as_of).between(section.c.starts_on, section.c.ends_on),
    )
    return list(connection.execute(query).scalars())


def _newest(snapshots: pd.DataFrame, sections: Collection[str], as_of: date) -> pd.DataFrame:
    section_ids = snapshots["section_id"].astype("string[pyarrow]")
    rows = snapshots[section_ids.isin(sections) & (snapshots["cut_on"] <= pd.Timestamp(as_of))]
    newest = rows.groupby("section_id", observed=True)["cut_on"].transform("max")
    return rows[rows["cut_on"] == newest].reset_index(drop=True)
