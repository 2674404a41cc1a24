"""The nightly sync with a OneRoster server, as Dagster runs it."""

from __future__ import annotations

from datetime import date

import pytest
from dagster import DagsterInstance, build_schedule_context

from grade_ml.campus.providers import oneroster
from grade_ml.campus.providers.server import serve
from grade_ml.campus.simulated import CampusConfig
from grade_ml.core.settings import Settings
from grade_ml.gradebook.rest.settings import PREFIX, OneRosterSettings
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.running import run_job

TODAY = date(2026, 3, 20)


def test_without_a_server_the_schedule_states_how_to_set_it(definitions, instance):
    schedule = definitions.resolve_schedule_def("gradebook_sync")
    tick = schedule.evaluate_tick(build_schedule_context(instance=instance))
    assert tick.run_requests == []
    assert "GRADE_ML_ONEROSTER_URL" in str(tick.skip_message)


def test_with_a_server_the_schedule_requests_a_run(settings: Settings, instance):
    chosen = OneRosterSettings(_env_file=None, url="http://127.0.0.1:1")
    schedule = build_defs(settings, server=chosen).resolve_schedule_def("gradebook_sync")
    tick = schedule.evaluate_tick(build_schedule_context(instance=instance))
    assert len(tick.run_requests or ()) == 1


def test_the_command_syncs_an_empty_gradebook_and_then_only_what_changed(
    settings: Settings, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    college = CampusConfig(students=30, courses=1, terms=1, seed=5)
    with serve(CampusConfig(), TODAY, college=college) as server:
        for name, value in oneroster.settings(server.url).items():
            monkeypatch.setenv(name, value)
        chosen = settings.model_copy(update={"as_of": TODAY})
        first = run_job(chosen, instance, "sync_gradebook")
        again = run_job(chosen, instance, "sync_gradebook")
    assert first.success and again.success, first.failures
    assert first.assets[0].figures["course loaded"] == 1
    assert first.assets[0].figures["rows read"] > again.assets[0].figures["rows read"]


def test_a_server_that_is_away_fails_the_run_with_its_reason(
    settings: Settings, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    for name, value in oneroster.settings("http://127.0.0.1:1").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(f"{PREFIX}TOKEN_URL", "http://127.0.0.1:1/token")
    monkeypatch.setattr("grade_ml.core.clock.Clock.sleep", lambda self, seconds: None)
    report = run_job(settings, instance, "sync_gradebook")
    assert "cannot be reached" in report.failures["gradebook_sync"]
