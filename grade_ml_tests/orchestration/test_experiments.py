"""Experiments as Dagster runs them: when a tick requests a run, and what a run leaves."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from dagster import (
    AssetCheckSeverity,
    DagsterInstance,
    ExecuteInProcessResult,
    MarkdownMetadataValue,
    RunRequest,
    TableMetadataValue,
)
from sqlalchemy import Engine

from grade_ml.core.settings import Settings
from grade_ml.experiments import store
from grade_ml.experiments.bandits import Totals
from grade_ml.experiments.nightly import Allocated
from grade_ml.experiments.off_policy import Value
from grade_ml.experiments.report import Report
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.reporting import experiments as reporting
from grade_ml.orchestration.running import QUIET
from grade_ml.registry.history import Stage, transition
from grade_ml.registry.registry import Alias, Registry
from grade_ml_tests.ensemble.campus import store as store_gradebook
from grade_ml_tests.experiments.plans import STARTS_ON, of_models
from grade_ml_tests.experiments.test_labels import at, predict, small_book
from grade_ml_tests.orchestration.conftest import schedule_context
from grade_ml_tests.registry.versions import NOW, register, stages_of

IN_MEMORY = True


def tick(settings: Settings, instance: DagsterInstance) -> list[RunRequest] | str:
    """Evaluate the schedule; return the runs that it requests, or why there is none."""
    definitions = build_defs(settings)
    with schedule_context(instance, definitions.resources["platform"]) as context:
        evaluated = definitions.resolve_schedule_def("ab_tests").evaluate_tick(context)
    return list(evaluated.run_requests or ()) or str(evaluated.skip_message)


def test_a_tick_skips_and_gives_the_reason_until_there_is_something_to_do(
    settings: Settings, engine: Engine, instance: DagsterInstance, tmp_path: Path
) -> None:
    stages = stages_of(settings)
    assert "no champion" in tick(settings, instance)
    champion = register(stages, "pooled", tmp_path, Stage.CHALLENGER, Stage.CHAMPION)
    assert f"challenges version {champion.version}" in tick(settings, instance)
    register(stages, "pooled", tmp_path, Stage.CHALLENGER)
    (request,) = tick(settings, instance)
    assert request.partition_key is None
    unreachable = settings.model_copy(update={"database_url": "postgresql://127.0.0.1:1/none"})
    assert "could not be read" in tick(unreachable, instance)
    stages.engine.dispose()


def everything(settings: Settings, engine: Engine, registry: Registry) -> dict[str, object]:
    """Return what a tick may write: tables, runs in MLflow, and files."""
    with engine.connect() as connection:
        rows = {
            table.fullname: sorted(map(str, connection.execute(sa.select(table))))
            for table in (*store.metadata.sorted_tables, transition)
        }
    groups = [experiment.experiment_id for experiment in registry._client.search_experiments()]
    runs = {
        run.info.run_id: str(run.to_dictionary()) for run in registry._client.search_runs(groups)
    }
    root = Path(settings.storage_root)
    files = {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {**rows, **runs, **files}


def test_the_better_version_is_promoted_and_the_same_tick_again_changes_nothing(
    settings: Settings, engine: Engine, instance: DagsterInstance, tmp_path: Path
) -> None:
    stages = stages_of(settings)
    store_gradebook(engine, small_book())
    champion = register(stages, "pooled", tmp_path, Stage.CHALLENGER, Stage.CHAMPION)
    challenger = register(stages, "pooled", tmp_path, Stage.CHALLENGER)
    name = f"pooled-{challenger.version}-against-{champion.version}"

    def run(number: int) -> ExecuteInProcessResult:
        today = settings.model_copy(update={"as_of": at(number)})
        job = build_defs(today).resolve_job_def("manage_ab_tests")
        return job.execute_in_process(run_config=QUIET, instance=instance)

    run(0)
    with engine.begin() as connection:
        for number in (7, 14):
            predict(connection, number)
    result = run(34)
    assert stages.registry.get("pooled", Alias.CHAMPION) == challenger
    before = everything(settings, engine, stages.registry)
    again = run(34)
    after = everything(settings, engine, stages.registry)
    assert [key for key in before if before[key] != after[key]] == []
    assert before.keys() == after.keys()
    with engine.connect() as connection:
        experiments = {
            experiment.plan.experiment_id: experiment for experiment in store.read(connection)
        }
        looks = store.looks(connection, name)
    assert [str(event.kind) for event in experiments[name].events] == [
        "opened",
        "decided",
        "promoted",
    ]
    assert looks and looks[-1].decision == "better"
    assert f"pooled-{challenger.version}-after-{champion.version}" in experiments
    for run_result in (result, again):
        metadata = run_result.asset_materializations_for_node("promotions")[0].metadata
        assert f"page of {name}" in metadata
        assert all(check.passed for check in run_result.get_asset_check_evaluations())
    page = Path(str(metadata[f"page of {name}"].value)).read_text()
    assert "promoted" in page and "data:image/png" in page
    shown = result.asset_materializations_for_node("experiment_results")[0].metadata
    assert "reaches the bound" in str(shown[f"experiment {name}"].value)
    stages.engine.dispose()


def test_where_mlflow_is_down_looks_go_on_and_nothing_is_promoted(
    settings: Settings, engine: Engine, instance: DagsterInstance
) -> None:
    down = settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:1"})
    plan = of_models()
    with engine.begin() as connection:
        store.create(connection, plan, NOW, plan.owner, "arranged by a test")
    result = (
        build_defs(down.model_copy(update={"as_of": STARTS_ON}))
        .resolve_job_def("manage_ab_tests")
        .execute_in_process(run_config=QUIET, instance=instance)
    )
    (failed,) = [
        evaluation for evaluation in result.get_asset_check_evaluations() if not evaluation.passed
    ]
    assert failed.check_name == "complete" and failed.severity is AssetCheckSeverity.WARN
    degraded = str(failed.metadata["degraded"].value)
    assert "No version was promoted" in degraded and "not in MLflow" in degraded


def decide(settings: Settings, instance: DagsterInstance, **options: str):
    job = build_defs(settings).resolve_job_def("decide_experiment")
    config = {**QUIET, "ops": {"decide_by_hand": {"config": options}}}
    return job.execute_in_process(run_config=config, instance=instance, raise_on_error=False)


def test_a_person_promotes_from_the_launchpad_and_the_reason_is_kept(
    settings: Settings, engine: Engine, instance: DagsterInstance, tmp_path: Path
) -> None:
    today = settings.model_copy(update={"as_of": STARTS_ON})
    stages = stages_of(settings)
    champion = register(stages, "pooled", tmp_path, Stage.CHALLENGER, Stage.CHAMPION)
    challenger = register(stages, "pooled", tmp_path, Stage.CHALLENGER)
    plan = of_models(champion.version, challenger.version)
    with engine.begin() as connection:
        store.create(connection, plan, stages.now, plan.owner, "arranged by a test")
    options = {"experiment": plan.experiment_id, "decision": "promote", "by": "Ada"}
    unexplained = decide(today, instance, **options, reason=" ")
    assert not unexplained.success
    assert stages.registry.get("pooled", Alias.CHAMPION) == champion
    assert decide(today, instance, **options, reason="its interface is needed").success
    assert stages.registry.get("pooled", Alias.CHAMPION) == challenger
    with engine.connect() as connection:
        forced = store.get(connection, plan.experiment_id).event(store.Happened.FORCED)
    assert forced and (forced.by, forced.reason) == ("Ada", "its interface is needed")
    stages.engine.dispose()


def test_an_experiment_named_like_the_table_of_all_takes_not_its_place() -> None:
    plan = of_models(experiment_id="overview")
    metadata = reporting.of_looks([Report(store.Experiment(plan, NOW, ()), (), {}, {})], [])
    assert isinstance(metadata["overview"], TableMetadataValue)
    assert isinstance(metadata["experiment overview"], MarkdownMetadataValue)


def test_a_bandit_that_cannot_learn_is_reported_and_its_shares_are_listed_with_the_others() -> None:
    learned = Allocated(
        "a",
        {"standard": 0.2, "none": 0.8},
        {"standard": Totals(60, 50, 40, 10.0), "none": Totals(60, 50, 40, 30.0)},
        [
            Value("standard", 40, 40.0, doubly_robust=0.25, doubly_robust_error=0.07),
            Value("none", 40, 12.0, reason="it rests on 12.0 students, by weight, and takes 30"),
        ],
        new=True,
    )
    odd = Allocated("b", {"standard": 0.5, "none": 0.5}, reason="The clock went back.")
    metadata = reporting.of_shares([learned, odd])
    assert (metadata["bandits"], metadata["changed"]) == (2, 1)
    rows = [row.data for row in metadata["shares"].records]
    assert rows[0]["worth for all"].startswith("0.25 ± ") and rows[1]["worth for all"] == ""
    assert [row["rewards"] for row in rows[2:]] == [None, None]
    assert rows[1]["remark"].startswith("it rests on 12.0 students")
    assert rows[2]["remark"] == rows[3]["remark"] == "The clock went back."
