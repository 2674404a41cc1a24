"""Reads courses with the inputs of their reports, a batch of courses at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import date
from itertools import islice

import pandas as pd

from grade_ml.core.errors import NotReadyError
from grade_ml.monitoring import records
from grade_ml.monitoring.champion import Champions
from grade_ml.monitoring.courses import Course, Scores, scores
from grade_ml.monitoring.health import Serving
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.models import Models

#: Courses whose records are in memory together.
AT_ONCE = 50


def courses(
    workspace: Workspace,
    models: Models,
    names: Sequence[str],
    columns: Collection[str] | None = None,
) -> Iterator[Course]:
    """Yield each course with its records, and with all or some `columns` of its snapshots.

    Raises
    ------
    NotReadyError
        No model has been trained.
    """
    sections = records.all_sections(workspace.connection, workspace.as_of)
    champions, served = Champions(sections), models.serving_each(names)
    for first in range(0, len(names), AT_ONCE):
        for name, own in records.read(workspace, sections, names[first : first + AT_ONCE]).items():
            try:
                snapshots, reason = workspace.frames.snapshots([name], columns=columns), ""
            except NotReadyError as error:
                snapshots, reason = pd.DataFrame(), error.message
            redesigned = tuple(workspace.frames.redesigned([name]).values())
            champion = champions.of(name, served[name])
            yield Course(name, champion, own, snapshots, reason, redesigned)


def scored(
    workspace: Workspace,
    models: Models,
    names: Sequence[str],
    columns: Collection[str] | None = None,
) -> Iterator[tuple[Course, Scores | None]]:
    """Yield each course of `courses` with its scores; None if it has too few."""
    remaining = courses(workspace, models, names, columns)
    while batch := list(islice(remaining, AT_ONCE)):
        known = scores(batch)
        for course in batch:
            yield course, known.get(course.course_id)


def serving(
    workspace: Workspace, models: Models, names: Sequence[str]
) -> Iterator[tuple[str, Serving]]:
    """Yield how each course is served."""
    sections = records.all_sections(workspace.connection, workspace.as_of)
    champions, served = Champions(sections), models.serving_each(names)
    by_course = records.serving(workspace.connection, sections, workspace.as_of).reindex(
        list(names)
    )
    # A course without running sections has no enrollments and nothing to predict.
    counted = by_course[["enrolled", "predicted"]].fillna(0).astype(int)
    for name, enrolled, predicted in counted.itertuples():
        newest = by_course.at[name, "newest"]
        day = newest if isinstance(newest, date) else None
        yield name, Serving(enrolled, predicted, day, champions.of(name, served[name]).degraded)
