"""From stored frames to stored forecasts, on a real database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine

from grade_ml.core.errors import NotReadyError
from grade_ml.core.settings import Settings
from grade_ml.features.refresh import refresh, refresh_sequences
from grade_ml.forecasting import store
from grade_ml.forecasting.lifecycle import Current, Rooms, current, forecast_running
from grade_ml.forecasting.trajectory import fit
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml.registry.registry import Registry
from grade_ml_tests.ensemble.campus import store as fill
from grade_ml_tests.factories import PSEUDONYMS
from grade_ml_tests.forecasting.campus import LIGHT, TODAY, campus, ended, frames

AT = datetime(2025, 11, 10, 1, tzinfo=UTC)


@contextmanager
def rooms(engine: Engine, settings: Settings, as_of: date = TODAY) -> Iterator[Rooms]:
    registry = Registry(str(settings.mlflow_tracking_uri), settings.storage_root, PSEUDONYMS)
    with engine.begin() as connection:
        yield Rooms(connection, registry, settings.storage_root, as_of)


def compute(engine: Engine, settings: Settings, gradebook: Gradebook, as_of: date) -> list[str]:
    courses = sorted(gradebook.courses["course_id"])
    with engine.connect() as connection:
        refresh(connection, settings.storage_root, courses, as_of)
        refresh_sequences(connection, settings.storage_root, courses, as_of, DEFAULTS)
    return courses


def test_without_features_it_is_said_what_to_do(engine: Engine, settings: Settings):
    fill(engine, campus())
    with rooms(engine, settings) as some, pytest.raises(NotReadyError, match="No features"):
        current(some, AT)


def test_old_features_are_told_and_forecasts_of_an_earlier_day_stay(
    engine: Engine, settings: Settings
):
    fill(engine, campus())
    courses = compute(engine, settings, campus(), TODAY)
    one = Current(fit(ended(), frames()[1], seed=5, offered=LIGHT), 1, "")
    with rooms(engine, settings) as some:
        said = forecast_running(some, courses, one)
    assert len(said.forecasts) and not any("features of" in reason for reason in said.degraded)
    assert not said.forecasts.duplicated(["section_id", "student_id", "assignment_id"]).any()

    with rooms(engine, settings, TODAY + timedelta(days=2)) as some:
        stale = forecast_running(some, courses, one)
        assert any("features of 2025-11-10" in reason for reason in stale.degraded)
        kept = store.read_forecasts(some.connection, TODAY)
    assert len(kept) == len(said.forecasts)
