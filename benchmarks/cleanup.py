"""How long a clean-up takes, and whether everything that is needed remains.

    python benchmarks/cleanup.py --runs 1000 --versions 1000

An installation of its own gets one real run of an asset with 40 partitions, copied with all its
events, and as many versions of a model, all but nine of them copies of one. The nine are needed: by
an experiment, an explanation, a correction, a rollback, an alias. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from time import perf_counter, process_time

import sqlalchemy as sa
from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    BackfillPolicy,
    DagsterInstance,
    Definitions,
    MaterializeResult,
    StaticPartitionsDefinition,
    asset,
    define_asset_job,
)
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
)
from sqlalchemy import Engine, text

from grade_ml.core.clock import Clock
from grade_ml.core.settings import RetentionSettings, Settings
from grade_ml.experiments import store
from grade_ml.experiments.plan import Arm, Kind, Metric, Plan
from grade_ml.explanations.tables import attribution
from grade_ml.maintenance.cleaning import Report
from grade_ml.orchestration.cleanup import clean_data, clean_models
from grade_ml.orchestration.instance import open_instance
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.running import QUIET
from grade_ml.registry.registry import ModelVersion, Registry
from grade_ml.registry.transition import Evidence, Stage, Stages
from installation import temporary_installation

COURSES = [f"course-{number:02d}" for number in range(40)]
WHY = Evidence("the benchmark wants it")
MODEL, CORRECTION = "pooled", "course-correction"


class Later(Clock):
    """A year from now, so that what was just made is old."""

    def now(self) -> datetime:
        """Return the moment."""
        return datetime.now(UTC) + timedelta(days=366)


@asset(
    partitions_def=StaticPartitionsDefinition(COURSES),
    backfill_policy=BackfillPolicy.single_run(),
    check_specs=[AssetCheckSpec("sound", asset="graded")],
)
def graded() -> MaterializeResult:  # type: ignore[type-arg]
    """Materialize all partitions."""
    return MaterializeResult(check_results=[AssetCheckResult(passed=True)])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--versions", type=int, default=1000)
    arguments = parser.parse_args()
    with temporary_installation() as (settings, engine):
        # Dagster's storage reads the environment.
        dagster_home = settings.home / "dagster"
        os.environ |= {"GRADE_ML_HOME": str(settings.home), "DAGSTER_HOME": str(dagster_home)}
        figures = measured(settings, engine, arguments.runs, arguments.versions)
    print(json.dumps(figures))


def measured(settings: Settings, engine: Engine, runs: int, versions: int) -> dict[str, float]:
    """Return seconds and bytes of each clean-up."""
    retention = RetentionSettings()
    options = {"dry_run": False, "force": False}
    with open_instance(settings) as instance, closing(Platform(settings, Later())) as platform:
        newest = fill_with_runs(instance, platform.urls.dagster, runs)
        needed = fill_with_versions(platform.registry, engine, versions)
        print(f"{runs} runs and {versions} versions are there.", flush=True)
        began, busy = perf_counter(), process_time()
        of_data = clean_data(platform, instance, retention, **options)
        data_seconds, data_busy = perf_counter() - began, process_time() - busy
        assert {run.run_id for run in instance.get_runs()} == {newest}, "the newest run stays"
        assert instance.get_materialized_partitions(graded.key) == set(COURSES)
        began, busy = perf_counter(), process_time()
        of_models = clean_models(platform, retention, **options)
        models_seconds, models_busy = perf_counter() - began, process_time() - busy
        for version in needed:
            platform.registry.fetch(version)
        stayed = len(platform.registry.registered())
        assert stayed == len(needed), (stayed, len(needed))
        began = perf_counter()
        again = clean_data(platform, instance, retention, **options)
        models_again = clean_models(platform, retention, **options)
        again_seconds = perf_counter() - began
        assert not any(part.freed for part in (*again.parts, *models_again.parts))
    return {
        "runs": runs,
        "data_seconds": round(data_seconds, 1),
        "data_cpu_seconds": round(data_busy, 1),
        "versions": versions,
        "needed_versions": len(needed),
        "models_seconds": round(models_seconds, 1),
        "models_cpu_seconds": round(models_busy, 1),
        "again_seconds": round(again_seconds, 1),
        "freed_bytes": freed(of_data) + freed(of_models),
    }


def freed(report: Report) -> int:
    """Return the bytes that went back to the disk."""
    assert not report.problems, report.problems
    return sum(part.freed.freed for part in report.parts if part.freed)


def fill_with_runs(instance: DagsterInstance, url: str, runs: int) -> str:
    """Make a real run and copies of it, then the newest run; return the id of the newest."""
    job = Definitions([graded], jobs=[define_asset_job("grade", [graded])]).resolve_job_def("grade")
    tags = {
        ASSET_PARTITION_RANGE_START_TAG: COURSES[0],
        ASSET_PARTITION_RANGE_END_TAG: COURSES[-1],
    }
    first = job.execute_in_process(QUIET, instance, tags=tags).run_id
    of_run = "replace({column}, :of, md5(n::text))"
    texts = dict.fromkeys(("run_id", "run_body", "event", "evaluation_event"), of_run)
    tables = ("runs", "run_tags", "event_logs", "asset_check_executions")
    copy(url, tables, texts, where="run_id = :of", of=first, copies=runs - 1)
    return job.execute_in_process(QUIET, instance, tags=tags).run_id


def copy(  # noqa: PLR0913 - what is copied, and how often
    url: str, tables: Sequence[str], changed: Mapping[str, str], *, where: str, of: str, copies: int
) -> None:
    """Copy rows; `changed` gives the values of columns that differ in copy n."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for table in tables:
            names = [column["name"] for column in sa.inspect(connection).get_columns(table)]
            columns = [name for name in names if name != "id"]
            values = [changed.get(name, "{column}").format(column=name) for name in columns]
            connection.execute(
                text(
                    f"insert into {table} ({', '.join(columns)}) select {', '.join(values)} "
                    f"from {table}, generate_series(1, :copies) as n where {where}"
                ),
                {"of": of, "copies": copies},
            )
    engine.dispose()


def fill_with_versions(registry: Registry, engine: Engine, versions: int) -> list[ModelVersion]:
    """Register a version and copy it; register others and return them: they are needed."""
    stages = Stages(engine, registry, datetime.now(UTC))
    first = registered(registry, MODEL)
    of_run = "replace({column}, :of, md5(n::text))"
    changed = {"run_uuid": of_run, "artifact_uri": of_run, "run_id": of_run, "source": of_run}
    tables = ("runs", "params", "metrics", "latest_metrics", "tags")
    options = {"of": first.run_id, "copies": versions - 10}
    copy(registry.tracking_uri, tables, changed, where="run_uuid = :of", **options)
    changed |= {"version": "version + n"}
    of_first = "version = 1 and :of <> ''"
    tables = ("model_versions", "model_version_tags")
    copy(registry.tracking_uri, tables, changed, where=of_first, **options)
    models = Path(registry._models.path)
    for number in range(1, versions - 9):
        name = hashlib.md5(str(number).encode()).hexdigest()
        shutil.copytree(models / first.run_id, models / name)
    needed = [registered(registry, MODEL) for _ in range(8)]
    champion, before, control, treatment, explained, corrected, aliased, _ = needed
    for served in (before, champion):
        for stage in (Stage.CHALLENGER, Stage.CHAMPION):
            stages.transition(served, stage, WHY)
    stages.transition(treatment, Stage.CHALLENGER, WHY)
    arms = (("champion", control), ("challenger", treatment))
    plan = Plan(
        experiment_id="benchmark",
        kind=Kind.SHADOW,
        subject=MODEL,
        hypothesis="What it compares stays.",
        arms=tuple(Arm(name, model=(version.name, version.version)) for name, version in arms),
        metric=Metric.SCORE_ERROR,
        starts_on=date.today(),
        owner="grade-ml",
        planned_labels=1000,
    )
    row = {
        **{"section_id": "s", "student_id": "x", "as_of": date.today(), "course_id": "c"},
        **{"model_name": MODEL, "model_version": explained.version, "features_hash": "h"},
        **{"risk": {}, "feature_values": {}, "risk_error": 0.0},
    }
    with engine.begin() as connection:
        store.create(connection, plan, datetime.now(UTC), "grade-ml", "the benchmark wants it")
        connection.execute(sa.insert(attribution), row)
    correction = registered(registry, CORRECTION, pooled_version=corrected.version)
    registry._client.set_registered_model_alias(MODEL, "paper", str(aliased.version))
    assert len(registry.registered()) == versions
    return [*needed, correction]


def registered(registry: Registry, name: str, **parameters: object) -> ModelVersion:
    """Register a version with a file of 10 kB."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "weights").write_bytes(b"0123456789" * 1000)
        return registry.register(
            name,
            Path(folder),
            metrics={"rmse": 11.5},
            parameters=parameters,
            features=(),
            data_version="data",
            code_version="code",
            trained_at=datetime.now(UTC),
        )


if __name__ == "__main__":
    main()
