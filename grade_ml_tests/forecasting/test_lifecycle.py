"""From stored frames to stored forecasts, with all forecasters, on a real database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest
from sqlalchemy import Engine

from grade_ml.core.errors import NotReadyError
from grade_ml.core.settings import Settings
from grade_ml.features.refresh import refresh, refresh_sequences
from grade_ml.forecasting import store
from grade_ml.forecasting.lifecycle import Rooms, current, forecast_running
from grade_ml.gradebook.frames import Gradebook
from grade_ml.registry.registry import Registry
from grade_ml_tests.ensemble.campus import store as fill
from grade_ml_tests.forecasting.campus import TODAY, campus

AT = datetime(2025, 11, 10, 1, tzinfo=UTC)


@contextmanager
def rooms(engine: Engine, settings: Settings, as_of: date = TODAY) -> Iterator[Rooms]:
    registry = Registry(str(settings.mlflow_tracking_uri), settings.storage_root)
    with engine.begin() as connection:
        yield Rooms(connection, registry, settings.storage_root, as_of)


def compute(engine: Engine, settings: Settings, gradebook: Gradebook, as_of: date) -> list[str]:
    courses = sorted(gradebook.courses["course_id"])
    with engine.connect() as connection:
        refresh(connection, settings.storage_root, courses, as_of)
        refresh_sequences(connection, settings.storage_root, courses, as_of)
    return courses


def test_without_features_it_is_said_what_to_do(engine: Engine, settings: Settings):
    fill(engine, campus())
    with rooms(engine, settings) as some, pytest.raises(NotReadyError, match="No features"):
        current(some, AT)


@pytest.mark.slow
def test_a_model_is_fitted_once_and_old_features_are_told(engine: Engine, settings: Settings):
    fill(engine, campus())
    courses = compute(engine, settings, campus(), TODAY)
    with rooms(engine, settings) as some:
        first = current(some, AT)
        said = forecast_running(some, courses, first)
    assert first.reason == "there was none"
    assert len(said.forecasts) and not said.degraded
    assert not said.forecasts.duplicated(["section_id", "student_id", "assignment_id"]).any()

    with rooms(engine, settings) as some:
        second = current(some, AT)
        again = forecast_running(some, courses, second)
    assert (second.version, second.reason) == (first.version, "")
    pd.testing.assert_frame_equal(again.forecasts, said.forecasts)

    later = TODAY + timedelta(days=2)
    with rooms(engine, settings, later) as some:
        stale = forecast_running(some, courses, second)
        assert any("features of 2025-11-10" in reason for reason in stale.degraded)
        kept = store.read_forecasts(some.connection, TODAY)
    assert len(kept) == len(said.forecasts)
