from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import Engine

from grade_ml.core.settings import Settings
from grade_ml.ensemble.baseline import NAME
from grade_ml.ensemble.rows import NAIVE
from grade_ml.ensemble.training import TrainingData, train
from grade_ml.registry.registry import Alias, Registry
from grade_ml_tests.ensemble.snapshots import snapshots

NOW = datetime(2025, 1, 1, tzinfo=UTC)
Data = tuple[pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="module")
def data() -> Data:
    return snapshots(students=40)


@pytest.fixture
def registry(settings: Settings) -> Registry:
    assert settings.mlflow_tracking_uri
    return Registry(settings.mlflow_tracking_uri, settings.storage_root)


def passed(training) -> dict[str, bool]:
    return {verdict.name: verdict.passed for verdict in training.verdicts}


@pytest.mark.slow
def test_the_first_good_model_becomes_champion_and_is_not_fitted_twice(
    data: Data, registry: Registry
):
    first = train(TrainingData.of(*data), registry, trained_at=NOW)
    assert first.fitted and first.accepted, first.verdicts
    assert registry.get(NAME, Alias.CHAMPION) == first.version
    frame, truth = data
    shuffled = frame.sample(frac=1, random_state=1), truth.sample(frac=1, random_state=1)
    again = train(TrainingData.of(*shuffled), registry, trained_at=NOW)
    assert not again.fitted and again.accepted
    assert again.version == first.version
    changed = frame, truth.assign(final_grade=truth["final_grade"] * 0.99)
    assert train(TrainingData.of(*changed), registry, trained_at=NOW).version.version == 2


def test_a_model_that_carrying_on_beats_does_not_become_champion(data: Data, registry: Registry):
    frame, truth = data
    champion = train(TrainingData.of(frame, truth), registry, trained_at=NOW)
    known = frame.merge(truth, on=["section_id", "student_id"])["final_grade"]
    oracle = frame.assign(**{NAIVE: known.to_numpy("float32")})
    oracle["grade_if_nothing_more"] = 0.0
    training = train(TrainingData.of(oracle, truth), registry, trained_at=NOW)
    assert not passed(training)["better_than_naive"]
    assert training.version.version == champion.version.version + 1
    assert registry.get(NAME, Alias.CHAMPION) == champion.version


@pytest.mark.slow
def test_a_champion_that_cannot_be_read_is_replaced(
    data: Data, registry: Registry, settings: Settings, engine: Engine
):
    first = train(TrainingData.of(*data), registry, trained_at=NOW)
    for file in Path(settings.storage_root, "models", first.version.run_id).rglob("*.skops"):
        file.write_bytes(b"damaged")
    second = train(TrainingData.of(*data), registry, trained_at=NOW)
    assert second.fitted
    assert registry.get(NAME, Alias.CHAMPION) == second.version != first.version
