"""Experiments as Dagster runs them: when a tick asks for a run, and what a run leaves."""

from __future__ import annotations

from pathlib import Path

from dagster import DagsterInstance, RunRequest, build_schedule_context

from grade_ml.core.settings import Settings
from grade_ml.experiments import store
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.running import QUIET
from grade_ml.registry.registry import Alias
from grade_ml.registry.transition import Stage
from grade_ml_tests.experiments.plans import STARTS_ON, of_models
from grade_ml_tests.registry.versions import register, stages_of

IN_MEMORY = True


def tick(settings: Settings, instance: DagsterInstance) -> list[RunRequest] | str:
    """Evaluate the schedule; return the runs that it asks for, or why there is none."""
    definitions = build_defs(settings)
    with build_schedule_context(
        instance=instance, resources={"platform": definitions.resources["platform"]}
    ) as context:
        found = definitions.resolve_schedule_def("ab_tests").evaluate_tick(context)
    return list(found.run_requests or ()) or str(found.skip_message)


def test_a_tick_skips_and_says_why_until_there_is_something_to_do(
    settings: Settings, engine, instance: DagsterInstance, tmp_path: Path
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


def decide(settings: Settings, instance: DagsterInstance, **asked: str):
    job = build_defs(settings).resolve_job_def("decide_experiment")
    config = {**QUIET, "ops": {"decide_by_hand": {"config": asked}}}
    return job.execute_in_process(run_config=config, instance=instance, raise_on_error=False)


def test_a_person_promotes_from_the_launchpad_and_the_reason_is_kept(
    settings: Settings, engine, instance: DagsterInstance, tmp_path: Path
) -> None:
    today = settings.model_copy(update={"as_of": STARTS_ON})
    stages = stages_of(settings)
    champion = register(stages, "pooled", tmp_path, Stage.CHALLENGER, Stage.CHAMPION)
    challenger = register(stages, "pooled", tmp_path, Stage.CHALLENGER)
    plan = of_models(champion.version, challenger.version)
    with engine.begin() as connection:
        store.create(connection, plan, stages.now, plan.owner, "arranged by a test")
    asked = {"experiment": plan.experiment_id, "decision": "promote", "by": "Ada"}
    unexplained = decide(today, instance, **asked, reason=" ")
    assert not unexplained.success
    assert stages.registry.get("pooled", Alias.CHAMPION) == champion
    assert decide(today, instance, **asked, reason="its interface is needed").success
    assert stages.registry.get("pooled", Alias.CHAMPION) == challenger
    with engine.connect() as connection:
        forced = store.get(connection, plan.experiment_id).event(store.Happened.FORCED)
    assert forced and (forced.by, forced.reason) == ("Ada", "its interface is needed")
    stages.engine.dispose()
