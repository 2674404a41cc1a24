"""Forecasts of some students of one section: stored, or computed from newer records.

A computed forecast equals what the nightly run would store for the same records: the same model
reads the student's own results and the figures of the class. If a forecaster cannot run in this
process, the stored forecast is returned, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from grade_ml.core.errors import ArtifactError, NotReadyError, ServiceError
from grade_ml.early_warning.loading import (
    Enrollment,
    enrollment,
    planned_for,
    risk_model,
    stored_forecast,
)
from grade_ml.early_warning.store import CourseRun, newest_run
from grade_ml.engine.bounds import Once
from grade_ml.engine.stored import behind
from grade_ml.features.store import Frames
from grade_ml.serving.forecasts import (
    ServedTrajectory,
    candidates,
    first_readable,
    redesign_reasons,
    sound_forecasts,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from grade_ml.early_warning.risk_model import RiskModel
    from grade_ml.engine.answers import GradePrediction
    from grade_ml.engine.computing import Classes, Reading
    from grade_ml.engine.loads import Loads
    from grade_ml.forecasting.contract import Panel
    from grade_ml.registry.registry import Registry

#: Versions in memory: a stored forecast needs the risk model of the version that made it.
_VERSIONS = 4

Answer = tuple[Enrollment, "Loads"]


class Forecasting:
    """Returns the forecasts of enrollments; safe to share between threads."""

    def __init__(self, registry: Registry, classes: Classes, root: str) -> None:
        self._registry, self._classes, self._root = registry, classes, root
        self._risk_models: Once[RiskModel] = Once(_VERSIONS)
        self._served: Once[ServedTrajectory] = Once(_VERSIONS)

    def of(
        self, reading: Reading, enrollments: Sequence[GradePrediction], *, today: bool
    ) -> list[Answer]:
        """Return running enrollments of one section and day with their forecasts, in order.

        Parameters
        ----------
        today
            Whether the day is the current day. For a past day the forecast of that day is returned,
            even if records came since.

        Raises
        ------
        NotReadyError
            There is no model of the day, and the course was never forecast up to then.
        ArtifactError
            The files of the risk model do not match their manifest.
        """
        first = enrollments[0]
        with reading() as (connection, loads):
            run = newest_run(connection, first.course_id, first.as_of)
            late = behind(connection, run, enrollments, loads if today else None)
        outdated = [other for other in enrollments if late[other.student_id]]
        answers = {
            other.student_id: answer
            for other, answer in zip(
                outdated, self._newest(reading, outdated, run, late), strict=True
            )
        }
        for other in enrollments:
            if other.student_id not in answers:
                assert run is not None
                answers[other.student_id] = self._stored(reading, other, run, ())
        return [answers[other.student_id] for other in enrollments]

    def _newest(
        self,
        reading: Reading,
        enrollments: Sequence[GradePrediction],
        run: CourseRun | None,
        late: dict[str, tuple[str, ...]],
    ) -> list[Answer]:
        """Return computed forecasts, or stored forecasts if computing would lack something."""
        if not enrollments:
            return []
        try:
            answers, lacking = self._computed(reading, enrollments, run)
        except (NotReadyError, ArtifactError, ServiceError) as error:
            if run is None:
                raise
            answers, lacking = [], [str(error)]
        if run is None or not lacking:
            return answers
        why = f"a newer forecast cannot be computed: {'; '.join(lacking)}"
        return [
            self._stored(reading, prediction, run, (*late[prediction.student_id], why))
            for prediction in enrollments
        ]

    def _stored(
        self,
        reading: Reading,
        prediction: GradePrediction,
        run: CourseRun,
        reasons: tuple[str, ...],
    ) -> Answer:
        with reading() as (connection, loads):
            stored = stored_forecast(
                connection, run, prediction.course_id, prediction.section_id, prediction.student_id
            )
        frames = Frames(self._root, prediction.as_of, self._registry.pseudonyms)
        known = enrollment(stored, frames, self._risk_model(run.version), prediction.starts_on)
        return replace(known, degraded=(*reasons, *known.degraded)), loads

    def _computed(
        self, reading: Reading, enrollments: Sequence[GradePrediction], run: CourseRun | None
    ) -> tuple[list[Answer], list[str]]:
        """Return the forecasts computed now, and what they lack compared to a nightly run."""
        first = enrollments[0]
        frames = Frames(self._root, first.as_of, self._registry.pseudonyms)
        redesigned = redesign_reasons(frames.redesigned([first.course_id]))
        with reading() as (connection, _):
            line = candidates(connection, first.as_of)
            plans = {
                other.student_id: _plan(connection, run, other) if run else None
                for other in enrollments
            }
        served = self._served.of(line, lambda: first_readable(self._registry, line, first.as_of))
        risk = self._risk_model(served.version)
        panel, loads = self._classes.panel(reading, enrollments)
        model = served.model
        predicted = model.forecast([] if panel is None else [panel], pd.DataFrame(), first.as_of)
        forecasts, left_out = sound_forecasts(predicted)
        degraded = (*served.degraded, *predicted.degraded, *left_out, *redesigned, *risk.degraded)
        answers = []
        for other in enrollments:
            of_student = forecasts[forecasts["student_id"] == other.student_id]
            own = [] if panel is None else _own(panel, other.student_id)
            answers.append(
                (
                    Enrollment(
                        student_id=other.student_id,
                        course_id=other.course_id,
                        section_id=other.section_id,
                        as_of=other.as_of,
                        starts_on=other.starts_on,
                        panels=own,
                        forecasts=of_student.reset_index(drop=True),
                        planned=plans[other.student_id],
                        model=risk,
                        degraded=degraded,
                        stored=False,
                    ),
                    loads,
                )
            )
        failed = [reason for reason in predicted.degraded if reason not in model.degraded]
        return answers, [*model.absent, *failed]

    def _risk_model(self, version: int) -> RiskModel:
        return self._risk_models.of(version, lambda: risk_model(self._registry, version))


def _own(panel: Panel, student: str) -> list[Panel]:
    place = np.flatnonzero(panel.students == student)
    return [panel.of(place)] if len(place) else []


def _plan(
    connection: Connection, run: CourseRun, prediction: GradePrediction
) -> pd.DataFrame | None:
    return planned_for(
        connection, run, prediction.course_id, prediction.section_id, prediction.student_id
    )
