"""Sections and their frames, read for a day from the gradebook and the storage root."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import pandas as pd
import sqlalchemy as sa

from grade_ml.forecasting.contract import Panel
from grade_ml.forecasting.panels import panels
from grade_ml.gradebook.schema import section
from grade_ml.registry.workspace import Workspace

#: Courses whose frames are in memory at once while panels are made.
_AT_ONCE = 20


def sections_where(workspace: Workspace, *conditions: sa.ColumnElement[bool]) -> pd.DataFrame:
    """Return section_id, course_id, starts_on and ends_on of the sections that meet all."""
    query = sa.select(
        section.c.section_id, section.c.course_id, section.c.starts_on, section.c.ends_on
    )
    rows = workspace.connection.execute(query.where(*conditions).order_by(section.c.section_id))
    return pd.DataFrame(rows.all(), columns=list(rows.keys()))


def frames(
    workspace: Workspace, courses: Sequence[str]
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Yield sequences and snapshots of a few courses at a time."""
    for first in range(0, len(courses), _AT_ONCE):
        batch = courses[first : first + _AT_ONCE]
        yield workspace.frames.sequences(batch), workspace.frames.snapshots(batch)


@dataclass(frozen=True)
class Running:
    """The running sections of some courses on a day.

    `sections` has their ids and courses, `weekly` their snapshots up to the day, and `stale` states
    which features are of an earlier day.
    """

    panels: list[Panel]
    sections: pd.DataFrame
    weekly: pd.DataFrame
    stale: tuple[str, ...]


def running(workspace: Workspace, courses: Collection[str], on: date | None = None) -> Running:
    """Return the running sections of `courses` that have something to come, as known on a day.

    Features that were not computed on the day are the newest before it, and `stale` states so.

    Parameters
    ----------
    on
        A day before the workspace's, whose frames also cover it; the workspace's day by default.

    Raises
    ------
    NotReadyError
        The features of a course have not been computed.
    """
    day = on or workspace.as_of
    sections = sections_where(
        workspace,
        section.c.course_id.in_(sorted(courses)),
        sa.literal(day).between(section.c.starts_on, section.c.ends_on),
    )
    running_panels: list[Panel] = []
    weekly, newest_rows = [], []
    for sequences, snapshots in frames(workspace, sorted(courses)):
        own = snapshots[
            snapshots["section_id"].astype(object).isin(set(sections["section_id"]))
            & (snapshots["cut_on"] <= pd.Timestamp(day))
        ]
        newest = own.groupby("section_id", observed=True)["cut_on"].transform("max")
        last = own[own["cut_on"] == newest]
        newest_rows.append(last)
        running_panels += panels(sequences, last, on=day)
        weekly.append(own)
    return Running(
        running_panels,
        sections,
        pd.concat(weekly, ignore_index=True) if weekly else pd.DataFrame(),
        stale(pd.concat([rows[["cut_on"]] for rows in newest_rows]), day) if newest_rows else (),
    )


def stale(newest: pd.DataFrame, day: date) -> tuple[str, ...]:
    """Return a reason for each earlier day than `day` of which the newest snapshots are."""
    old = {cut for cut in newest["cut_on"].dt.date.unique() if cut != day}
    return tuple(f"features of {cut}, not of {day}" for cut in sorted(old))
