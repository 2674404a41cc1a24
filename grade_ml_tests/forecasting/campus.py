"""A small simulated campus as panels and in stores, a model of it, and a section made by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import cache

import numpy as np
import pandas as pd
from sqlalchemy import Engine

from grade_ml.campus import simulated
from grade_ml.core.settings import Settings
from grade_ml.features.refresh import refresh, refresh_sequences
from grade_ml.features.sequences import score_sequences
from grade_ml.features.snapshots import grade_snapshots, weekly_cuts
from grade_ml.features.store import Frames
from grade_ml.forecasting.contract import Forecasts, Method, Panel
from grade_ml.forecasting.panels import origins, panels
from grade_ml.forecasting.trajectory import Fitted, fit
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml.registry.registry import Registry
from grade_ml.registry.workspace import Workspace
from grade_ml_tests.factories import PSEUDONYMS

TODAY = date(2025, 11, 10)
AT = datetime(2025, 11, 10, 1, tzinfo=UTC)
#: What needs neither a process of its own nor seconds per series.
LIGHT = (Method.LAST, Method.MEAN, Method.SLOT, Method.LOCAL)


@cache
def campus() -> Gradebook:
    config = simulated.CampusConfig(students=60, courses=2, terms=3, seed=4)
    return simulated.gradebook(config, TODAY)


@cache
def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return sequences and weekly snapshots of everything."""
    gradebook = campus()
    snapshots = grade_snapshots(gradebook, weekly_cuts(gradebook.sections, TODAY), TODAY)
    return score_sequences(gradebook, gradebook.courses["course_id"], DEFAULTS), snapshots


@cache
def ended() -> tuple[Panel, ...]:
    """Return panels with truth of the sections that have ended, four days of each."""
    sequences, snapshots = frames()
    sections = campus().sections
    names = sections.loc[sections["ends_on"] < pd.Timestamp(TODAY), "section_id"]
    own = snapshots[snapshots["section_id"].astype(object).isin(set(names))]
    return tuple(panels(sequences, origins(own, 4), truth_on=TODAY))


@cache
def running() -> tuple[Panel, ...]:
    """Return the panels of today."""
    sequences, snapshots = frames()
    today = snapshots[snapshots["cut_on"] == pd.Timestamp(TODAY)]
    return tuple(panels(sequences, today))


@cache
def fitted(*more: Method) -> Fitted:
    """Return what the light forecasters, and some more, learn from the sections that have ended."""
    return fit(ended(), frames()[1], seed=5, offered=(*LIGHT, *more))


@cache
def campus_forecasts() -> Forecasts:
    """Return today's forecasts."""
    return fitted().model.forecast(running(), frames()[1], TODAY)


@contextmanager
def workspace(engine: Engine, settings: Settings, as_of: date = TODAY) -> Iterator[Workspace]:
    """Open one transaction on the stores of `settings`."""
    registry = Registry(str(settings.mlflow_tracking_uri), settings.storage_root, PSEUDONYMS)
    with engine.begin() as connection:
        yield Workspace(connection, registry, settings.storage_root, as_of, AT)


def compute(engine: Engine, settings: Settings, gradebook: Gradebook, as_of: date) -> list[str]:
    """Compute the features of all courses; return the courses."""
    courses = sorted(gradebook.courses["course_id"])
    frames = Frames(settings.storage_root, as_of, PSEUDONYMS)
    with engine.connect() as connection:
        refresh(connection, frames, courses)
        refresh_sequences(connection, frames, courses, DEFAULTS)
    return courses


def panel(
    scores: list[list[float]],
    due: list[float],
    day: float,
    *,
    course: str = "math",
    section: str = "math-1",
    truth: list[list[float]] | None = None,
    students: list[str] | None = None,
) -> Panel:
    """Return a panel whose scores are known as given: NaN for what is still to come."""
    score = np.array(scores, dtype=float).reshape(len(scores), len(due))
    of_truth = np.array(truth, dtype=float) if truth else np.full(score.shape, np.nan)
    handed_in = np.where(np.isnan(score), np.nan, (score > 0).astype(float))
    with np.errstate(invalid="ignore", divide="ignore"):
        known = ~np.isnan(handed_in)
        share = np.where(known.any(0), np.nansum(handed_in, 0) / known.sum(0), np.nan)
        mean = np.nansum(score * (handed_in == 1), 0) / (handed_in == 1).sum(0)
    return Panel(
        course_id=course,
        section_id=section,
        day=day,
        length=100.0,
        started_on=19_000.0,
        students=np.array(students or [f"s{k}" for k in range(len(score))], dtype=object),
        assignments=np.array([f"{section}-a{k}" for k in range(len(due))], dtype=object),
        due_day=np.array(due, dtype=float),
        weight=np.full(len(due), 100 / max(len(due), 1)),
        category=np.array(["essay"] * len(due), dtype=object),
        score=score,
        submitted=handed_in,
        exempt=np.zeros(score.shape, bool),
        pass_mark=40.0,
        class_submitted=share,
        class_score=mean,
        features=np.zeros((len(score), 0), np.float32),
        feature_names=(),
        truth=of_truth,
        truth_submitted=np.where(np.isnan(of_truth), np.nan, (of_truth > 0).astype(float)),
    )
