"""From stored frames to stored forecasts: the model of the day, fitted anew where much has changed.

A model for a day knows only what had ended by then, so that a past day can be forecast again as it
would have been.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from importlib.metadata import version as installed_version
from pathlib import Path

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.core.errors import ArtifactError
from grade_ml.core.frames import reasons, sound
from grade_ml.features.store import SEQUENCES, read_snapshots, stored_hashes
from grade_ml.forecasting import store
from grade_ml.forecasting.contract import ACTIVITY, Forecasts, Panel, schema
from grade_ml.forecasting.sequences import origins, panels
from grade_ml.forecasting.settings import SETTINGS
from grade_ml.forecasting.trajectory import NAME, Progress, Trajectory, fit
from grade_ml.gradebook.schema import section
from grade_ml.registry.registry import Registry

#: Courses whose frames are in memory at once while panels are made.
_AT_ONCE = 20


@dataclass(frozen=True)
class Current:
    """The model of a day; `reason` says why it was fitted, or is empty."""

    model: Trajectory
    version: int
    reason: str


@dataclass(frozen=True)
class Rooms:
    """Where things are: the database, the registry and the storage root, and the day."""

    connection: Connection
    registry: Registry
    root: str
    as_of: date
    seed: int = 0

    def sections(self, *conditions: sa.ColumnElement[bool]) -> pd.DataFrame:
        """Return section_id, course_id, starts_on and ends_on of the sections that meet all."""
        query = sa.select(
            section.c.section_id, section.c.course_id, section.c.starts_on, section.c.ends_on
        )
        rows = self.connection.execute(query.where(*conditions).order_by(section.c.section_id))
        return pd.DataFrame(rows.all(), columns=list(rows.keys()))


def current(
    rooms: Rooms, trained_at: datetime, on_progress: Progress = lambda message: None
) -> Current:
    """Return the model for the day: the newest one that fits it, or one fitted now.

    It is fitted where there is none, where its artifact is unusable, and where more than a small
    share of the ended sections is new or changed.

    Raises
    ------
    NotReadyError
        No section has ended, or the features of none have been computed.
    """
    ended = rooms.sections(section.c.ends_on < rooms.as_of)
    hashes = _hashes(rooms.root, ended)
    known = store.newest_model(rooms.connection, rooms.as_of)
    previous, problem = None, "there was none"
    if known:
        version, sections = known
        try:
            previous = Trajectory.load(rooms.registry.fetch(rooms.registry.at(NAME, version)))
        except ArtifactError as error:
            problem = error.message
        else:
            changed = sum(sections.get(name) != value for name, value in hashes.items())
            if changed <= SETTINGS.changed * len(hashes):
                return Current(previous, version, "")
            problem = f"{changed} of {len(hashes)} ended sections are new or changed"
    return Current(*_train(rooms, hashes, previous, trained_at, on_progress), problem)


def _hashes(root: str, ended: pd.DataFrame) -> dict[str, int]:
    stored = stored_hashes(root, None, SEQUENCES)
    names = set(ended["section_id"])
    return {name: value for of in stored.values() for name, value in of.items() if name in names}


def _train(
    rooms: Rooms,
    hashes: Mapping[str, int],
    previous: Trajectory | None,
    trained_at: datetime,
    on_progress: Progress,
) -> tuple[Trajectory, int]:
    on_progress("Reading ended sections")
    ended = rooms.sections(section.c.ends_on < rooms.as_of)
    known: list[Panel] = []
    weekly = []
    # Courses whose features have not been computed yet come in when they are.
    learned = ended.loc[ended["section_id"].isin(hashes), "course_id"]
    for sequences, snapshots in _frames(rooms.root, sorted(set(learned))):
        own = snapshots[snapshots["section_id"].astype(object).isin(hashes)]
        known += panels(sequences, origins(own, SETTINGS.origins), truth_on=rooms.as_of)
        weekly.append(own[["course_id", "section_id", "student_id", "cut_day", "activity_last_7"]])
    model = fit(
        known,
        pd.concat(weekly, ignore_index=True) if weekly else pd.DataFrame(),
        seed=rooms.seed,
        previous=previous,
        on_progress=on_progress,
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        version = rooms.registry.register(
            NAME,
            Path(folder),
            metrics={},
            parameters={"as_of": rooms.as_of, "seed": rooms.seed},
            features=known[0].feature_names,
            data_version=str(sum(hashes.values()) % 2**64),
            code_version=installed_version("grade-ml"),
            trained_at=trained_at,
        )
    store.remember_model(rooms.connection, version.version, rooms.as_of, hashes)
    return model, version.version


def _frames(root: str, courses: list[str]) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Yield sequences and snapshots of a few courses at a time."""
    for first in range(0, len(courses), _AT_ONCE):
        some = courses[first : first + _AT_ONCE]
        yield read_snapshots(root, some, kind=SEQUENCES), read_snapshots(root, some)


@dataclass(frozen=True)
class Running:
    """The running sections of some courses on a day.

    `sections` has their ids and courses, `weekly` their snapshots up to the day, and `stale` says
    which features are of an earlier day.
    """

    panels: list[Panel]
    sections: pd.DataFrame
    weekly: pd.DataFrame
    stale: tuple[str, ...]


def running(rooms: Rooms, courses: Collection[str]) -> Running:
    """Return the running sections of `courses` that have something to come, as known on the day.

    Features that were not computed on the day are the newest before it, and that is said.

    Raises
    ------
    NotReadyError
        The features of a course have not been computed.
    """
    sections = rooms.sections(
        section.c.course_id.in_(sorted(courses)),
        sa.literal(rooms.as_of).between(section.c.starts_on, section.c.ends_on),
    )
    found: list[Panel] = []
    weekly, old = [], set()
    for sequences, snapshots in _frames(rooms.root, sorted(courses)):
        own = snapshots[
            snapshots["section_id"].astype(object).isin(set(sections["section_id"]))
            & (snapshots["cut_on"] <= pd.Timestamp(rooms.as_of))
        ]
        newest = own.groupby("section_id", observed=True)["cut_on"].transform("max")
        today = own[own["cut_on"] == newest]
        old |= {day for day in today["cut_on"].dt.date if day != rooms.as_of}
        found += panels(sequences, today, on=rooms.as_of)
        weekly.append(own)
    return Running(
        found,
        sections,
        pd.concat(weekly, ignore_index=True) if weekly else pd.DataFrame(),
        tuple(f"features of {day}, not of {rooms.as_of}" for day in sorted(old)),
    )


def forecast_running(rooms: Rooms, courses: Collection[str], one: Current) -> Forecasts:
    """Forecast every running enrollment of `courses` on the day, and store it.

    An enrollment whose forecasts cannot be computed is left out, and that is said.

    Raises
    ------
    NotReadyError
        The features of a course have not been computed.
    """
    now = running(rooms, courses)
    said = one.model.forecast(now.panels, now.weekly, rooms.as_of)
    forecasts, broken = sound(said.forecasts, schema())
    activity, odd = sound(said.activity, schema(ACTIVITY))
    said = replace(
        said,
        forecasts=forecasts,
        activity=activity,
        nothing=_nothing(courses, now.sections, forecasts),
        degraded=(
            *said.degraded,
            *now.stale,
            *(f"no forecast of {n} enrollments: {why}" for why, n in reasons(broken).items()),
            *(f"no activity of {n} enrollments: {why}" for why, n in reasons(odd).items()),
        ),
    )
    store.write(rooms.connection, courses, rooms.as_of, said, one.version)
    return said


def _nothing(
    courses: Collection[str], running: pd.DataFrame, forecasts: pd.DataFrame
) -> dict[str, str]:
    """Return in words why a course has no forecast."""
    there = set(forecasts["course_id"])
    runs = set(running["course_id"])
    return {
        course: "nothing is due any more, or nobody is enrolled"
        if course in runs
        else "no section runs on this day"
        for course in courses
        if course not in there
    }
