"""From the gradebook to the whole graph by the first day, on a small simulated campus."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
import sqlalchemy as sa
from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetRecordsFilter,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    MarkdownMetadataValue,
    RunsFilter,
)
from sqlalchemy import Engine

from grade_ml.campus.providers.server import serve
from grade_ml.campus.simulated import CampusConfig
from grade_ml.core import database
from grade_ml.core.clock import Clock
from grade_ml.core.settings import Settings
from grade_ml.ensemble import importance
from grade_ml.ensemble.names import BASELINE
from grade_ml.external.settings import ExternalSettings
from grade_ml.gradebook.catalog import first_day_of_teaching
from grade_ml.maintenance.results import PART_OF
from grade_ml.orchestration import progress, steps
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.instance import open_instance
from grade_ml.orchestration.partitions import course
from grade_ml.orchestration.ranges import RANGE_END, RANGE_START, range_tags
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.running import QUIET, Follower, run_job
from grade_ml.orchestration.timetable import FIRST_DAY
from grade_ml.registry.registry import Alias
from grade_ml.training import requests
from grade_ml.training.requests import Request
from grade_ml_tests.conftest import TABLES, as_environment, installation, new_database
from grade_ml_tests.orchestration.conftest import TODAY, fill
from grade_ml_tests.orchestration.test_plots import png

pytestmark = pytest.mark.slow


#: Forecasters that take minutes to fit; they are not installed here.
SLOW = ("tensorflow", "keras", "prophet")


@dataclass(frozen=True)
class Trained:
    """An installation after its first day, and what that day left."""

    settings: Settings
    engine: Engine
    instance: DagsterInstance
    courses: list[str]
    definitions: Definitions
    first_day: ExecuteInProcessResult
    predictions: pd.DataFrame

    def made(self, asset: str) -> list[AssetMaterialization]:
        """Return the materializations of an asset by the first day, the oldest first."""
        filters = AssetRecordsFilter(AssetKey(asset))
        records = self.instance.fetch_materializations(filters, limit=50, ascending=True).records
        of_first_day = RunsFilter(tags={PART_OF: self.first_day.run_id})
        parts = {run.run_id for run in self.instance.get_runs(of_first_day)}
        return [record.asset_materialization for record in records if record.run_id in parts]


def opened_for(settings: Settings, patch: pytest.MonkeyPatch) -> DagsterInstance:
    """Open the instance of `settings`, which takes its database from the environment.

    In SQLite, the events of all days of external data take minutes.
    """
    for name, value in as_environment(settings).items():
        patch.setenv(name, value)
    return open_instance(settings)


@pytest.fixture(scope="module")
def trained(server, small_campus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("trained")
    with (
        new_database(server, "grade_ml_trained", TABLES) as url,
        installation(server, url, folder) as fresh,
        pytest.MonkeyPatch.context() as patch,
        opened_for(fresh, patch) as instance,
        serve(CampusConfig(students=150, courses=3, terms=4), TODAY) as providers,
    ):
        for name in SLOW:
            patch.setitem(sys.modules, name, None)
        patch.setattr(importance, "SETTINGS", replace(importance.SETTINGS, fits=2))
        settings, engine = fresh.model_copy(update={"as_of": TODAY}), database.connect(url)
        fill(engine, small_campus)
        definitions = build_defs(
            settings, ExternalSettings(_env_file=None, providers_url=providers.url)
        )
        job = definitions.resolve_job_def(FIRST_DAY.name)
        done = job.execute_in_process(run_config=QUIET, instance=instance, raise_on_error=False)
        courses = sorted(small_campus.courses["course_id"])
        yield Trained(settings, engine, instance, courses, definitions, done, predictions(engine))
        engine.dispose()


def test_the_first_day_fills_every_asset_and_partition_of_the_graph(trained: Trained):
    dagster = database.connect(str(trained.settings.dagster_postgres_url))
    with dagster.connect() as connection:
        reached = progress.newest(connection)
    dagster.dispose()
    assert trained.first_day.success and reached and reached.is_complete, reached
    with trained.engine.connect() as connection:
        first = first_day_of_teaching(connection)
    assert first
    days = {str(first + timedelta(days=number)) for number in range((TODAY - first).days + 1)}
    graph, missing = trained.definitions.resolve_asset_graph(), {}
    for key in graph.materializable_asset_keys:
        partitions = graph.get(key).partitions_def
        if partitions is None:
            wanted, newest = {""}, trained.instance.get_latest_materialization_event(key)
            made = {""} if newest else set()
        else:
            wanted = set(trained.courses) if partitions == course else days
            made = trained.instance.get_materialized_partitions(key)
        if wanted - made:
            missing[key.to_user_string()] = wanted - made
    # Without a server and an inbox nothing is delivered.
    assert missing == {"gradebook_sync": {""}, "inbox_deliveries": {""}}


def test_a_first_day_again_collects_the_day_alone(trained: Trained):
    again = trained.definitions.resolve_job_def(FIRST_DAY.name).execute_in_process(
        run_config=QUIET,
        instance=trained.instance,
        op_selection=[FIRST_DAY.step("collect_external_data")],
    )
    (run,) = trained.instance.get_runs(RunsFilter(tags={PART_OF: again.run_id}))
    assert (run.tags[RANGE_START], run.tags[RANGE_END]) == (str(TODAY), str(TODAY))


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
    rows, courses = trained.predictions, trained.courses
    assert len(rows) == running_enrollments(trained.engine, trained.settings) > 0
    assert rows["as_of"].eq(TODAY).all()
    assert rows["risk"].between(0, 1).all()
    champion = platform.registry.get(BASELINE, Alias.CHAMPION)
    assert champion is not None and rows["model_version"].eq(champion.version).all()

    (model,) = trained.made("baseline_model")
    metadata = model.metadata
    naive = metadata["RMSE of the naive forecast (points)"].value
    assert metadata["RMSE (points)"].value < naive
    phases = {row.data["figure"]: row.data for row in metadata["phases"].records}
    rmse = phases["RMSE (points)"]
    assert set(rmse) == {"figure", "early", "middle", "late", "all", "meaning"}
    assert rmse["late"] < rmse["early"] and rmse["all"] == metadata["RMSE (points)"].value
    assert "root mean squared error" in metadata["meaning"].value
    assert metadata["training time (s)"].value > 0
    for name in ("calibration", "predicted against actual"):
        picture = metadata[name]
        assert isinstance(picture, MarkdownMetadataValue) and png(picture)

    per_course = trained.made("grade_predictions")[-len(courses) :]
    assert sorted(str(event.partition) for event in per_course) == sorted(courses)
    counts = [event.metadata["dagster/row_count"].value for event in per_course]
    assert sum(counts) == len(rows)
    for name in ("grade_snapshots", "grade_predictions"):
        done = trained.instance.get_materialized_partitions(AssetKey(name))
        assert done == set(courses)


def test_a_failed_training_leaves_champion_and_predictions(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(steps, "_PAUSES", ())  # else it starts over for minutes
    before = predictions(trained.engine)
    assert trained.settings.mlflow_tracking_uri
    unreachable = trained.settings.mlflow_tracking_uri.replace("/mlflow_", "/gone_")
    broken = trained.settings.model_copy(update={"mlflow_tracking_uri": unreachable})
    result = train(broken, trained.instance, trained.courses[0], trained.courses[-1])
    assert not result.success
    assert [event.step_key for event in result.get_step_failure_events()] == ["baseline_model"]
    pd.testing.assert_frame_equal(predictions(trained.engine), before)


def test_chosen_courses_keep_the_model_of_unchanged_data(trained: Trained, platform: Platform):
    """The first and the last course are no unbroken range of partitions."""
    steps: list[tuple[str, str]] = []
    before, champion = predictions(trained.engine), platform.registry.get(BASELINE, Alias.CHAMPION)
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
    assert platform.registry.get(BASELINE, Alias.CHAMPION) == champion
    pd.testing.assert_frame_equal(predictions(trained.engine), before)


def test_the_ensemble_serves_where_it_is_better_and_the_baseline_where_not(trained: Trained):
    span, job = (trained.courses[0], trained.courses[-1]), "train_advanced_ml_models"
    request = Request(span[0], "scores are lower", TODAY, TODAY, "drift")
    with trained.engine.begin() as connection:
        requests.record(connection, [request], datetime.now(UTC))
    (pooled,) = trained.made("pooled_ensemble")
    result = train(trained.settings, trained.instance, *span, job_name=job)
    failures = [event.step_failure_data.error for event in result.get_step_failure_events()]
    assert result.success, failures
    with trained.engine.connect() as connection:
        assert requests.newest(connection, TODAY)[span[0]].is_answered
        (row,) = connection.execute(sa.select(requests.request)).all()
    assert row.run_id == result.run_id and row.outcome
    assert "## Errors by course and group" in pooled.metadata["model card"].value
    rows = predictions(trained.engine)
    assert len(rows) == running_enrollments(trained.engine, trained.settings)
    assert rows["lower95"].le(rows["grade"]).all() and rows["grade"].le(rows["upper95"]).all()
    serves = pooled.metadata["outcome"].value == "became champion: there was no champion"
    assert serves == pooled.metadata["champion"].value == (set(rows["model_name"]) != {"baseline"})

    (pooled,) = result.asset_materializations_for_node("pooled_ensemble")
    assert pooled.metadata["outcome"].value == "version 1 is kept: nothing changed"
    pd.testing.assert_frame_equal(trained.predictions, rows)
