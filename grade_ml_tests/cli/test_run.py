from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sqlalchemy import Engine

from grade_ml.cli.run import command
from grade_ml.core.errors import GradeMLError, NotFoundError, NotReadyError
from grade_ml.gradebook import schema


@pytest.fixture
def installation(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def courses(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(schema.course), [{"course_id": c} for c in "ABC"])


def run(*arguments: str):
    return CliRunner().invoke(command, arguments)


@pytest.mark.usefixtures("installation", "courses")
def test_an_unknown_job_names_the_known_ones():
    error = run("train").exception
    assert isinstance(error, NotFoundError)
    assert "train_traditional_models" in error.remedy


@pytest.mark.usefixtures("installation", "courses")
def test_an_unknown_course_names_the_known_ones():
    error = run("refresh_gradebook", "--course", "A", "--course", "X").exception
    assert isinstance(error, NotFoundError)
    assert "X" in error.message and "A, B, C" in error.remedy


@pytest.mark.usefixtures("installation", "engine")
def test_an_empty_gradebook_is_not_ready():
    error = run("refresh_gradebook").exception
    assert isinstance(error, NotReadyError)
    assert "grade-ml load" in error.remedy


@pytest.mark.usefixtures("installation", "courses")
def test_a_failed_step_is_reported_with_its_reason():
    ran = run("train_traditional_models", "--json")
    assert isinstance(ran.exception, GradeMLError)
    assert "baseline_model" in ran.exception.message
    report = json.loads(ran.stdout)
    assert report["success"] is False
    assert list(report["failures"]) == ["baseline_model"]
    assert {"asset": "courses", "rows": 3}.items() <= report["assets"][0].items()


@pytest.mark.usefixtures("installation")
def test_a_course_may_have_any_id(engine: Engine):
    ids = [
        "я" * 255,
        "😀" * 255,
        "%" * 255,
        "..",
        ".",
        "x,y",
        "[a] *",
        '"q"',
        "a b ",
        "M",
        "m",
        "--x",
    ]
    with engine.begin() as connection:
        connection.execute(sa.insert(schema.course), [{"course_id": c} for c in ids])
    for chosen in ([], ids[:2], ids[2:]):
        ran = run("refresh_gradebook", *(f"--course={name}" for name in chosen), "--json")
        # The features of all are computed; predictions need a model, which this gradebook lacks.
        assert "No model has been trained" in str(ran.exception)
        assets = {one["asset"]: one["partitions"] for one in json.loads(ran.stdout)["assets"]}
        assert assets["grade_snapshots"] == assets["score_sequences"] == len(chosen or ids)
