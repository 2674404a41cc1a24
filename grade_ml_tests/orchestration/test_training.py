"""From the gradebook to predictions in one run, on a small simulated campus."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pandas as pd
import pytest
import sqlalchemy as sa
from dagster import (
    AssetKey,
    DagsterInstance,
    ExecuteInProcessResult,
    MarkdownMetadataValue,
)
from sqlalchemy import Engine

from grade_ml.core.settings import Settings
from grade_ml.ensemble.baseline import NAME
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.catalog import synchronize
from grade_ml.orchestration.partitions import range_tags
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.running import QUIET, run_job
from grade_ml.registry.registry import Alias
from grade_ml_tests.orchestration.conftest import TODAY
from grade_ml_tests.orchestration.test_plots import png

pytestmark = pytest.mark.slow


@pytest.fixture
def courses(campus: Settings, small_campus, instance: DagsterInstance) -> list[str]:
    return synchronize(instance, list(small_campus.courses["course_id"]))


@pytest.fixture
def platform(campus: Settings) -> Iterator[Platform]:
    platform = Platform(campus)
    yield platform
    platform.close()


def train(
    settings: Settings,
    instance: DagsterInstance,
    *span: str,
    job_name: str = "train_traditional_models",
) -> ExecuteInProcessResult:
    job = build_defs(settings).resolve_job_def(job_name)
    return job.execute_in_process(
        run_config=QUIET, instance=instance, tags=range_tags(*span), raise_on_error=False
    )


def predictions(engine: Engine) -> pd.DataFrame:
    query = "select * from ensemble.grade_prediction order by section_id, student_id, as_of"
    with engine.connect() as connection:
        return pd.read_sql(sa.text(query), connection)


def running_enrollments(engine: Engine, settings: Settings) -> int:
    query = """
        select count(*) from gradebook.enrollment join gradebook.section using (section_id)
        where :day between starts_on and ends_on and (enrolled_on is null or enrolled_on <= :day)
          and (withdrawn_on is null or withdrawn_on > :day)
    """
    with engine.connect() as connection:
        return connection.execute(sa.text(query), {"day": settings.as_of}).scalar_one()


def test_one_run_makes_everything(campus, engine, instance, courses, platform):
    result = train(campus, instance, courses[0], courses[-1])
    assert result.success
    rows = predictions(engine)
    assert len(rows) == running_enrollments(engine, campus) > 0
    assert rows["as_of"].eq(campus.as_of).all()
    assert rows["risk"].between(0, 1).all()
    champion = platform.registry.get(NAME, Alias.CHAMPION)
    assert champion is not None and rows["model_version"].eq(champion.version).all()

    (model,) = result.asset_materializations_for_node("baseline_model")
    metadata = model.metadata
    assert metadata["all_rmse"].value < metadata["all_naive_rmse"].value
    phases = {row.data["phase"]: row.data for row in metadata["phases"].records}
    assert set(phases) == {"early", "middle", "late", "all"}
    assert phases["late"]["rmse"] < phases["early"]["rmse"]
    assert metadata["training_seconds"].value > 0
    for name in ("calibration", "predicted_against_actual"):
        picture = metadata[name]
        assert isinstance(picture, MarkdownMetadataValue) and png(picture)

    per_course = result.asset_materializations_for_node("grade_predictions")
    assert sorted(str(event.partition) for event in per_course) == sorted(courses)
    counts = [event.metadata["dagster/row_count"].value for event in per_course]
    assert sum(counts) == len(rows)
    for name in ("grade_snapshots", "grade_predictions"):
        done = instance.get_materialized_partitions(AssetKey(name))
        assert done == set(courses)

    again = train(campus, instance, courses[0], courses[-1])
    assert again.success
    (model,) = again.asset_materializations_for_node("baseline_model")
    assert model.metadata["fitted"].value is False
    pd.testing.assert_frame_equal(predictions(engine), rows)


def test_a_failed_training_leaves_champion_and_predictions(
    campus: Settings, engine: Engine, instance: DagsterInstance, courses: list[str]
):
    assert train(campus, instance, courses[0], courses[-1]).success
    before = predictions(engine)
    assert campus.mlflow_tracking_uri
    unreachable = campus.mlflow_tracking_uri.replace("/mlflow_", "/gone_")
    broken = campus.model_copy(update={"mlflow_tracking_uri": unreachable})
    result = train(broken, instance, courses[0], courses[-1])
    assert not result.success
    assert [event.step_key for event in result.get_step_failure_events()] == ["baseline_model"]
    pd.testing.assert_frame_equal(predictions(engine), before)


def test_before_any_section_has_ended_there_is_nothing_to_train_on(
    campus: Settings, engine: Engine, instance: DagsterInstance, courses: list[str]
):
    early = campus.model_copy(update={"as_of": TODAY - timedelta(days=5000)})
    result = train(early, instance, courses[0], courses[-1])
    (failure,) = result.get_step_failure_events()
    assert failure.step_key == "baseline_model"
    assert predictions(engine).empty


def test_chosen_courses_train_the_baseline_once(
    campus: Settings, engine: Engine, instance: DagsterInstance, courses: list[str]
):
    """The first and the last course are no unbroken range of partitions."""
    steps: list[tuple[str, str]] = []
    job = "train_traditional_models"
    every = run_job(campus, instance, job)
    assert every.success and every.courses == len(courses) == 3
    before = predictions(engine)
    report = run_job(
        campus, instance, job, [courses[0], courses[2]], lambda *step: steps.append(step)
    )
    assert report.success, report.failures
    assert steps.count(("baseline_model", "finished")) == 1
    assert steps.count(("grade_predictions", "finished")) == 2
    assert {asset.asset: asset.partitions for asset in report.assets}["grade_predictions"] == 2
    pd.testing.assert_frame_equal(predictions(engine), before)


def test_the_ensemble_serves_where_it_is_better_and_the_baseline_where_not(
    campus, engine, instance, courses, platform
):
    span, job = (courses[0], courses[-1]), "train_advanced_ml_models"
    assert train(campus, instance, *span).success
    result = train(campus, instance, *span, job_name=job)
    assert result.success
    (pooled,) = result.asset_materializations_for_node("pooled_ensemble")
    assert "## Errors by course and group" in pooled.metadata["model_card"].value
    rows = predictions(engine)
    assert len(rows) == running_enrollments(engine, campus)
    assert rows["lower95"].le(rows["grade"]).all() and rows["grade"].le(rows["upper95"]).all()
    serves = pooled.metadata["outcome"].value == "became champion: there was no champion"
    assert serves == pooled.metadata["champion"].value == (set(rows["model_name"]) != {"baseline"})

    again = train(campus, instance, *span, job_name=job)
    (pooled,) = again.asset_materializations_for_node("pooled_ensemble")
    assert pooled.metadata["outcome"].value == "version 1 is kept: nothing changed"
    pd.testing.assert_frame_equal(predictions(engine), rows)
