"""`grade-ml cleanup`, as a person and as a program call it."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from grade_ml.cli import group
from grade_ml.core.clock import Clock
from grade_ml.core.errors import ConfigurationError, GradeMLError
from grade_ml.explanations.tables import reference
from grade_ml.serving.predictions import grade_prediction
from grade_ml_tests.conftest import as_environment
from grade_ml_tests.experiments.lab import Lab

ROW = {"section_id": "s", "student_id": "x", "model_name": "pooled", "model_version": 1}


class Later(Clock):
    """A year from now: what tests have just made is old."""

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=366)


def cleanup(lab: Lab, *words: str, **variables: str) -> Result:
    environment = {**as_environment(lab.settings), **variables}
    return CliRunner().invoke(group, ["cleanup", *words], env=environment, obj=Later())


def counts(report: Any) -> dict[str, int]:
    return {part["kind"]: part["freed"]["count"] for part in report["parts"] if part["freed"]}


@pytest.mark.slow
def test_what_a_dry_run_lists_goes_and_then_nothing_is_left_to_do(lab: Lab) -> None:
    versions = [lab.version(name="cleaned") for _ in range(3)]
    with lab.engine.begin() as connection:
        rows = [ROW | {"as_of": date(2020, 1, day)} for day in (1, 2, 3)]
        connection.execute(sa.insert(grade_prediction), rows)
    dry = cleanup(lab, "--dry-run")
    assert dry.exit_code == 0, dry.exception
    assert "ensemble.grade_prediction" in dry.stdout and "model versions" in dry.stdout
    assert lab.stages.registry.has("cleaned", versions[0].version)
    done = cleanup(lab, "--json")
    assert done.exit_code == 0, done.exception
    report = json.loads(done.stdout)
    assert counts(report["data"])["ensemble.grade_prediction"] == 2
    assert counts(report["models"])["model versions"] >= 2
    assert not lab.stages.registry.has("cleaned", versions[1].version)
    lab.stages.registry.fetch(versions[2])
    again = json.loads(cleanup(lab, "--json").stdout)
    assert counts(again["data"]) == counts(again["models"]) == {}
    assert "data: nothing is outdated." in cleanup(lab, "data").stdout


@pytest.mark.slow
def test_what_would_empty_a_kind_wants_force(lab: Lab) -> None:
    row = {"course_id": "", "phase": "", "task": "", "feature": "f", "share": 1, "spread": 0}
    with lab.engine.begin() as connection:
        gone = {"model_name": "gone", "model_version": 1, **row}
        connection.execute(sa.insert(reference), gone)
    refused = cleanup(lab, "models")
    assert isinstance(refused.exception, GradeMLError)
    assert "--force" in str(refused.exception)
    forced = cleanup(lab, "models", "--force", "--json")
    assert counts(json.loads(forced.stdout)["models"]) == {"explanations.reference": 1}


def test_a_negative_retention_is_refused_before_anything(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {"GRADE_ML_HOME": str(home), "GRADE_ML_RETENTION_VERSIONS_DAYS": "-1"}
    result = CliRunner().invoke(group, ["cleanup"], env=environment)
    assert isinstance(result.exception, ConfigurationError)
    assert "GRADE_ML_RETENTION_VERSIONS_DAYS" in str(result.exception)
    assert not home.exists()
