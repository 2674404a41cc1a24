"""Predicts the running enrollments of courses with the models that serve, and with shadows."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.core.degradation import expected
from grade_ml.core.errors import ArtifactError
from grade_ml.core.settling import place
from grade_ml.ensemble.rows import NAIVE, Model, collected
from grade_ml.features.surroundings import beside
from grade_ml.gradebook.schema import section
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.implied import implied
from grade_ml.serving.models import Models, Served
from grade_ml.serving.predictions import write_predictions, write_shadows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """The predictions of one run.

    Attributes
    ----------
    predictions
        The champions' columns `ROW` and `PREDICTED`, course_id, model_name and model_version; one
        row per running enrollment.
    shadows
        The versions that predicted beside them, such as "pooled 3".
    degraded
        The reasons why predictions are degraded, or a shadow made none; empty if there are none.
    """

    predictions: pd.DataFrame
    shadows: tuple[str, ...]
    degraded: tuple[str, ...]

    def of_course(self, course: str) -> dict[str, float]:
        """Return the number of rows, and if there are any, mean grade (0-100) and risk (0-1)."""
        rows = self.predictions[self.predictions["course_id"] == course]
        means = rows[["grade", "risk"]].mean().dropna()
        return {"rows": len(rows), **{f"mean_{name}": float(means[name]) for name in means.index}}

    @property
    def models(self) -> tuple[str, ...]:
        """The models that made the predictions, such as "pooled 3"."""
        pairs = self.predictions[["model_name", "model_version"]].drop_duplicates()
        return tuple(sorted(f"{name} {number}" for name, number in pairs.to_numpy()))


def score_running(
    workspace: Workspace,
    courses: Collection[str],
    shadows: Collection[tuple[str, int]] = (),
) -> Scored:
    """Predict from the newest stored snapshots that are not later than the day, and store it.

    Each course's champion predicts, and each of the `shadows`. A prediction bears the date of its
    snapshot: if the features were not computed today, it is the prediction of the day they were
    computed.

    Parameters
    ----------
    shadows
        Names and numbers of the versions that experiments compare. A shadow that cannot predict
        does not affect the champions: `Scored.degraded` gives the reason.

    Raises
    ------
    NotReadyError
        There is no champion, or no snapshot of the courses.
    """
    connection, as_of = workspace.connection, workspace.as_of
    models = Models(workspace.registry)
    # Before they are read: a frame that is replaced in between is newer than it looks.
    origins = {course: workspace.frames.origin(course) for course in courses}
    redesigned = workspace.frames.redesigned(courses)
    snapshots = current_snapshots(workspace, courses)
    answering = list(by_model(models, snapshots, courses))
    parts = [
        _store(connection, served, rows, as_of, origins, redesigned) for served, rows in answering
    ]
    problems = [reason for served, _ in answering for reason in served.degraded]
    old = sorted({day for day in snapshots["cut_on"].dt.date if day != as_of})
    failures = {
        f"{name} {version}": _shadow(connection, models, (name, version), snapshots)
        for name, version in sorted(set(shadows))
    }
    silent = [
        f"the shadow {shadow} did not predict: {why}" for shadow, why in failures.items() if why
    ]
    return Scored(
        pd.concat(parts, ignore_index=True),
        tuple(shadow for shadow, why in failures.items() if not why),
        tuple(dict.fromkeys([*problems, *(_stale(day, as_of) for day in old), *silent])),
    )


def _shadow(
    connection: Connection, models: Models, version: tuple[str, int], snapshots: pd.DataFrame
) -> str:
    """Store a version's predictions; return why there are none, or an empty text."""
    try:
        served = models.at(*version)
    except ArtifactError as error:
        return str(error)
    rows = beside(connection, snapshots, served.model.features)
    try:
        predictions = served.model.predict(rows)
    except Exception as error:  # logged and reported; the champion's predictions are unaffected
        logger.exception("The shadow %s %s did not predict.", *version)
        return f"{type(error).__name__} {place(error)}"
    certain = pd.Series(collected(snapshots), predictions.index)
    to_come = pd.Series(snapshots["weight_remaining"].to_numpy(float), predictions.index)
    write_shadows(
        connection,
        predictions.assign(
            as_of=snapshots["cut_on"].array, implied=implied(predictions["grade"], certain, to_come)
        ),
        model=served.version,
    )
    return ""


def current_snapshots(workspace: Workspace, courses: Collection[str]) -> pd.DataFrame:
    """Return each running enrollment's newest stored snapshot that is not later than the day.

    Raises
    ------
    NotReadyError
        There is no snapshot of the courses.
    """
    running = _running(workspace.connection, courses, workspace.as_of)
    return _newest(workspace.frames.snapshots(courses), running, workspace.as_of)


def by_model(
    models: Models, snapshots: pd.DataFrame, courses: Collection[str]
) -> Iterator[tuple[Served, pd.DataFrame]]:
    """Yield each model that serves some of `courses` with their rows.

    Raises
    ------
    NotReadyError
        There is no champion.
    """
    of_course = snapshots["course_id"].astype("object")
    served = models.serving_each(sorted(courses))
    for model in {
        (candidate.version.name, candidate.version.version): candidate
        for candidate in served.values()
    }.values():
        chosen = [name for name, other in served.items() if other.version == model.version]
        yield model, snapshots[of_course.isin(chosen)]


def _store(  # noqa: PLR0913, PLR0917
    connection: Connection,
    served: Served,
    snapshots: pd.DataFrame,
    as_of: date,
    origins: Mapping[str, str | None],
    redesigned: Mapping[str, str],
) -> pd.DataFrame:
    predictions = served.model.predict(beside(connection, snapshots, served.model.features))
    predictions["course_id"] = snapshots["course_id"].astype("string[pyarrow]").to_numpy()
    predictions["naive"] = snapshots[NAIVE].to_numpy()
    days = snapshots["cut_on"].dt.date.tolist()
    predictions["origin"] = [
        origins[course] if day == as_of else None
        for course, day in zip(predictions["course_id"], days, strict=True)
    ]
    marks = [
        (day, reservations(served.model, section, grade, redesigned))
        for day, section, grade in zip(
            days, predictions["section_id"], predictions["grade"], strict=True
        )
    ]
    for made_on, reasons in sorted(set(marks)):
        old = [] if made_on == as_of else [_stale(made_on, as_of)]
        write_predictions(
            connection,
            predictions[[mark == (made_on, reasons) for mark in marks]],
            as_of=made_on,
            model=served.version,
            degraded=[*served.degraded, *reasons, *old],
        )
    named: pd.DataFrame = predictions.drop(columns=["naive", "origin"]).assign(
        model_name=served.version.name, model_version=served.version.version
    )
    return named


def reservations(
    model: Model, section: str, grade: float, redesigned: Mapping[str, str]
) -> tuple[str, ...]:
    """Return why a prediction of an enrollment in a section is degraded.

    Parameters
    ----------
    redesigned
        As `Frames.redesigned` returns it.
    """
    reasons = [expected(redesigned[section])] if section in redesigned else []
    if section in model.sections:
        reasons.append(
            "the model was trained after this section had ended and knows its outcome, so this "
            "shows how the model works, not how well it forecasts"
        )
    if math.isnan(grade):
        reasons.append("no section with coursework has ended yet, so no grade can be predicted")
    return tuple(reasons)


def _stale(made_on: date, as_of: date) -> str:
    return f"features of {made_on}, not of {as_of}"


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
