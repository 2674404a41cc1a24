"""From the gradebook to predictions in one run, on a small simulated campus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

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

from grade_ml.core import database
from grade_ml.core.clock import Clock
from grade_ml.core.settings import Settings
from grade_ml.ensemble.baseline import NAME
from grade_ml.orchestration import retrying
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.catalog import synchronize
from grade_ml.orchestration.partitions import range_tags
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.running import QUIET, Follower, run_job
from grade_ml.registry.registry import Alias
from grade_ml.training import requests
from grade_ml.training.requests import Request
from grade_ml_tests.conftest import installation, new_database
from grade_ml_tests.orchestration.conftest import TODAY, fill
from grade_ml_tests.orchestration.test_plots import png

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Trained:
    """An installation after its first night, and what that night left."""

    settings: Settings
    engine: Engine
    instance: DagsterInstance
    courses: list[str]
    night: ExecuteInProcessResult
    predictions: pd.DataFrame


@pytest.fixture(scope="module")
def trained(server, small_campus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("trained")
    with (
        new_database(server, "grade_ml_trained", "grade_ml") as url,
        installation(server, url, folder) as fresh,
        DagsterInstance.local_temp(str(folder)) as instance,
    ):
        settings, engine = fresh.model_copy(update={"as_of": TODAY}), database.connect(url)
        fill(engine, small_campus)
        courses = synchronize(instance, list(small_campus.courses["course_id"]))
        night = train(settings, instance, courses[0], courses[-1])
        assert night.success
        yield Trained(settings, engine, instance, courses, night, predictions(engine))
        engine.dispose()


@pytest.fixture
def platform(trained: Trained) -> Iterator[Platform]:
    platform = Platform(trained.settings, Clock())
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


def test_one_run_makes_everything(trained: Trained, platform: Platform):
    result, rows, courses = trained.night, trained.predictions, trained.courses
    assert len(rows) == running_enrollments(trained.engine, trained.settings) > 0
    assert rows["as_of"].eq(TODAY).all()
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
        done = trained.instance.get_materialized_partitions(AssetKey(name))
        assert done == set(courses)


def test_a_failed_training_leaves_champion_and_predictions(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retrying, "_SECONDS", 0)  # it starts over six times
    before = predictions(trained.engine)
    assert trained.settings.mlflow_tracking_uri
    unreachable = trained.settings.mlflow_tracking_uri.replace("/mlflow_", "/gone_")
    broken = trained.settings.model_copy(update={"mlflow_tracking_uri": unreachable})
    result = train(broken, trained.instance, trained.courses[0], trained.courses[-1])
    assert not result.success
    assert [event.step_key for event in result.get_step_failure_events()] == ["baseline_model"]
    pd.testing.assert_frame_equal(predictions(trained.engine), before)


def test_before_any_section_has_ended_there_is_nothing_to_train_on(
    campus: Settings, small_campus, engine: Engine, instance: DagsterInstance
):
    courses = synchronize(instance, list(small_campus.courses["course_id"]))
    early = campus.model_copy(update={"as_of": TODAY - timedelta(days=5000)})
    result = train(early, instance, courses[0], courses[-1])
    (failure,) = result.get_step_failure_events()
    assert failure.step_key == "baseline_model"
    assert predictions(engine).empty


def test_chosen_courses_keep_the_model_of_unchanged_data(trained: Trained, platform: Platform):
    """The first and the last course are no unbroken range of partitions."""
    steps: list[tuple[str, str]] = []
    before, champion = predictions(trained.engine), platform.registry.get(NAME, Alias.CHAMPION)
    report = run_job(
        trained.settings,
        trained.instance,
        "train_traditional_models",
        [trained.courses[0], trained.courses[2]],
        Follower(lambda *step: steps.append(step)),
    )
    assert report.success, report.failures
    assert steps.count(("baseline_model", "finished")) == 1
    assert steps.count(("grade_predictions", "finished")) == 2
    assert {asset.asset: asset.partitions for asset in report.assets}["grade_predictions"] == 2
    assert platform.registry.get(NAME, Alias.CHAMPION) == champion
    pd.testing.assert_frame_equal(predictions(trained.engine), before)


def test_the_ensemble_serves_where_it_is_better_and_the_baseline_where_not(trained: Trained):
    span, job = (trained.courses[0], trained.courses[-1]), "train_advanced_ml_models"
    request = Request(span[0], "scores are lower", TODAY, TODAY, "drift")
    with trained.engine.begin() as connection:
        requests.ask(connection, [request], datetime.now(UTC))
    result = train(trained.settings, trained.instance, *span, job_name=job)
    assert result.success
    with trained.engine.connect() as connection:
        assert requests.newest(connection, TODAY)[span[0]].is_answered
        (row,) = connection.execute(sa.select(requests.request)).all()
    assert row.run_id == result.run_id and row.outcome
    (pooled,) = result.asset_materializations_for_node("pooled_ensemble")
    assert "## Errors by course and group" in pooled.metadata["model_card"].value
    rows = predictions(trained.engine)
    assert len(rows) == running_enrollments(trained.engine, trained.settings)
    assert rows["lower95"].le(rows["grade"]).all() and rows["grade"].le(rows["upper95"]).all()
    serves = pooled.metadata["outcome"].value == "became champion: there was no champion"
    assert serves == pooled.metadata["champion"].value == (set(rows["model_name"]) != {"baseline"})

    again = train(trained.settings, trained.instance, *span, job_name=job)
    (pooled,) = again.asset_materializations_for_node("pooled_ensemble")
    assert pooled.metadata["outcome"].value == "version 1 is kept: nothing changed"
    pd.testing.assert_frame_equal(predictions(trained.engine), rows)
