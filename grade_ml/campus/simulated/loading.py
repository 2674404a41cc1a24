"""Loads a campus into the gradebook, and stores its truth in the artifact store."""

from __future__ import annotations

from datetime import date, datetime

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from upath import UPath

from grade_ml.campus.simulated.campus import STUDENT_PREFIX, Campus
from grade_ml.campus.simulated.config import CampusConfig, Help
from grade_ml.core.settings import Settings
from grade_ml.gradebook import schema
from grade_ml.gradebook.bundle import from_frames
from grade_ml.gradebook.loading import LoadReport, Progress, load


def load_campus(  # noqa: PLR0913
    engine: Engine,
    settings: Settings,
    config: CampusConfig,
    help_: Help | None = None,
    *,
    loaded_at: datetime,
    on_progress: Progress | None = None,
) -> LoadReport:
    """Load the campus as of the today of `settings`, then write its truth; return the changes.

    The truth (see `Truth.read`) replaces that of an earlier load. If the load fails, gradebook and
    truth both stay as before.
    """
    campus = Campus(config, settings.date_at(loaded_at), help_)
    bundle = from_frames("simulated", campus.batches)
    report = load(engine, bundle, loaded_at=loaded_at, on_progress=on_progress)
    if on_progress:
        on_progress("Writing the truth", 0)
    campus.truth().write(truth_folder(settings))
    return report


def example(connection: Connection, today: date) -> tuple[str, str] | None:
    """Return student_id and course_id of an enrollment that runs on `today`; None if there is none.

    It is an enrollment of a simulated campus, never of a real student in the same gradebook, with
    scores and with work to come, so that it can be predicted, explained and forecast.
    """
    enrollment, section = schema.enrollment.c, schema.section.c
    assignment, result = schema.assignment.c, schema.result.c
    own = assignment.section_id == enrollment.section_id
    scored = sa.exists().where(
        own,
        result.assignment_id == assignment.assignment_id,
        result.student_id == enrollment.student_id,
        result.graded_on <= today,
    )
    row = connection.execute(
        sa.select(enrollment.student_id, section.course_id)
        .join_from(schema.enrollment, schema.section)
        .where(
            enrollment.student_id.startswith(STUDENT_PREFIX),
            sa.literal(today).between(section.starts_on, section.ends_on),
            enrollment.enrolled_on <= today,
            enrollment.withdrawn_on.is_(None),
            scored,
            sa.exists().where(own, assignment.due_on > today),
        )
        .order_by(section.starts_on.desc(), enrollment.student_id, section.course_id)
        .limit(1)
    ).one_or_none()
    return None if row is None else (row.student_id, row.course_id)


def truth_folder(settings: Settings) -> UPath:
    """Return the folder of the truth in the artifact store."""
    return UPath(settings.storage_root) / "simulated"
