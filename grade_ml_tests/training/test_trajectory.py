"""The training of the trajectory model, on a real database."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from grade_ml.core.errors import NotReadyError
from grade_ml.core.settings import Settings
from grade_ml.training.trajectory import current
from grade_ml_tests.ensemble.campus import store as fill
from grade_ml_tests.forecasting.campus import AT, campus, workspace


def test_without_features_it_is_said_what_to_do(engine: Engine, settings: Settings):
    fill(engine, campus())
    with workspace(engine, settings) as some, pytest.raises(NotReadyError, match="No features"):
        current(some, AT)
