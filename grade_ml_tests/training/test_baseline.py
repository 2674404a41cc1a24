from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.core.errors import ArtifactError
from grade_ml.core.settings import Settings
from grade_ml.ensemble.names import BASELINE
from grade_ml.ensemble.rows import NAIVE
from grade_ml.features.store import Frames
from grade_ml.gradebook.attributes import declarations
from grade_ml.gradebook.institution import Institution, Use
from grade_ml.registry.history import Stage, transition
from grade_ml.registry.registry import Alias, Registry
from grade_ml.registry.transition import Stages
from grade_ml.training.baseline import train
from grade_ml.training.data import TrainingData
from grade_ml_tests.ensemble.snapshots import coarse, snapshots
from grade_ml_tests.factories import PSEUDONYMS

NOW = datetime(2025, 1, 1, tzinfo=UTC)
Data = tuple[pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="module")
def data() -> Data:
    return coarse(snapshots(students=40))


@pytest.fixture
def stages(settings: Settings, engine: Engine) -> Stages:
    assert settings.mlflow_tracking_uri
    registry = Registry(settings.mlflow_tracking_uri, settings.storage_root, PSEUDONYMS)
    return Stages(engine, registry, NOW)


@pytest.fixture
def registry(stages: Stages) -> Registry:
    return stages.registry


@pytest.mark.slow
def test_a_champion_that_reads_what_none_may_is_replaced(
    data: Data, stages: Stages, registry: Registry, settings: Settings
) -> None:
    frame, truth = data
    # As all frames were once, and some still are until the next nightly run.
    old = frame.assign(attribute_sex=frame["protected_gender"], attribute_mood=np.float32(1))
    first = train(TrainingData.of(old, truth, PSEUDONYMS), stages)
    assert registry.get(BASELINE, Alias.CHAMPION) == first.version
    with pytest.raises(ArtifactError) as caught:
        registry.fetch(first.version)
    assert "baseline 1" in caught.value.message
    assert "mood (not declared), sex (protected)" in caught.value.message
    assert "grade-ml run train_traditional_models" in caught.value.remedy

    frames = Frames(settings.storage_root, NOW.date(), PSEUDONYMS)
    frames.write("all", old)
    stored = TrainingData.stored(frames, truth, registry.declared)
    second = train(stored, stages)
    assert second.fitted and registry.get(BASELINE, Alias.CHAMPION) == second.version
    read = {name for name in second.model.features if name.startswith("attribute_")}
    assert read == {"attribute_region", "attribute_studied_credits"}
    assert not train(stored, stages).fitted

    # From one day to the next the institution protects an attribute that it did not.
    declared = declarations(Institution(attributes={"region": Use.PROTECTED}))
    stricter = Registry(registry.tracking_uri, settings.storage_root, PSEUDONYMS, declared)
    stored = TrainingData.stored(frames, truth, declared)
    third = train(stored, replace(stages, registry=stricter))
    assert third.fitted and "attribute_region" not in third.model.features


def passed(training) -> dict[str, bool]:
    return {verdict.name: verdict.passed for verdict in training.verdicts}


@pytest.mark.slow
def test_the_first_good_model_becomes_champion_and_is_not_fitted_twice(
    data: Data, stages: Stages, registry: Registry
):
    first = train(TrainingData.of(*data, PSEUDONYMS), stages)
    assert first.fitted and first.accepted, first.verdicts
    assert registry.get(BASELINE, Alias.CHAMPION) == first.version
    frame, truth = data
    shuffled = frame.sample(frac=1, random_state=1), truth.sample(frac=1, random_state=1)
    again = train(TrainingData.of(*shuffled, PSEUDONYMS), stages)
    assert not again.fitted and again.accepted
    assert again.version == first.version
    changed = frame, truth.assign(final_grade=truth["final_grade"] * 0.99)
    assert train(TrainingData.of(*changed, PSEUDONYMS), stages).version.version == 2


@pytest.mark.slow
def test_a_model_that_carrying_on_beats_does_not_become_champion(
    data: Data, stages: Stages, registry: Registry
):
    frame, truth = data
    champion = train(TrainingData.of(frame, truth, PSEUDONYMS), stages)
    known = frame.merge(truth, on=["section_id", "student_id"])["final_grade"]
    oracle = frame.assign(**{NAIVE: known.to_numpy("float32")})
    oracle["grade_if_nothing_more"] = 0.0
    training = train(TrainingData.of(oracle, truth, PSEUDONYMS), stages)
    assert not passed(training)["better_than_naive"]
    assert training.reason.startswith("stays a candidate: better_than_naive failed")
    assert training.version.version == champion.version.version + 1
    assert registry.get(BASELINE, Alias.CHAMPION) == champion.version
    assert stages.of(training.version) is Stage.CANDIDATE
    with stages.engine.connect() as connection:
        transitions = connection.execute(sa.select(transition).order_by(transition.c.id)).all()
    assert [(row.version, row.to_stage) for row in transitions] == [
        (1, "challenger"),
        (1, "champion"),
    ]
    assert (
        transitions[0].figures["better_than_naive_rmse"]
        < transitions[0].figures["better_than_naive_naive_rmse"]
    )


@pytest.mark.slow
def test_a_champion_that_cannot_be_read_is_replaced(
    data: Data, stages: Stages, registry: Registry, settings: Settings, engine: Engine
):
    first = train(TrainingData.of(*data, PSEUDONYMS), stages)
    for file in Path(settings.storage_root, "models", first.version.run_id).rglob("*.skops"):
        file.write_bytes(b"damaged")
    second = train(TrainingData.of(*data, PSEUDONYMS), stages)
    assert second.fitted
    assert registry.get(BASELINE, Alias.CHAMPION) == second.version != first.version
