"""`grade-ml predict`, as a person and as a program call it."""

import json
from datetime import timedelta

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from grade_ml.cli import group
from grade_ml.core.errors import NotFoundError
from grade_ml.core.settings import Settings
from grade_ml.gradebook.frames import Gradebook
from grade_ml_tests.ensemble.campus import TODAY, campus, store


@pytest.fixture(scope="module")
def gradebook() -> Gradebook:
    return campus(students=60, terms=2)


@pytest.fixture
def environment(settings: Settings, engine: Engine, gradebook: Gradebook) -> dict[str, str]:
    store(engine, gradebook)
    return {
        "GRADE_ML_HOME": str(settings.home),
        "GRADE_ML_DATABASE_URL": str(settings.database_url),
        "DAGSTER_POSTGRES_URL": str(settings.dagster_postgres_url),
        "MLFLOW_TRACKING_URI": str(settings.mlflow_tracking_uri),
        "GRADE_ML_STORAGE": settings.storage_root,
        "GRADE_ML_AS_OF": TODAY.isoformat(),
    }


def predict(environment: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(group, ["predict", *arguments], env=environment)


@pytest.fixture
def ended(gradebook: Gradebook) -> pd.Series:
    """The first enrollment that stayed to the end of its section."""
    rows = gradebook.enrollments.merge(gradebook.sections, on="section_id")
    return rows[rows["withdrawn_on"].isna()].sort_values("starts_on").iloc[0]


def test_an_ended_enrollment_in_words_and_as_json(environment, ended) -> None:
    day = (ended["ends_on"] + timedelta(days=1)).date().isoformat()
    asked = ["--student", ended["student_id"], "--course", ended["course_id"], "--as-of", day]
    words, plain = predict(environment, *asked), predict(environment, *asked, "--json")
    assert words.exit_code == 0
    assert f"ended on {ended['ends_on'].date()}" in words.stdout
    answer = json.loads(plain.stdout)
    assert answer["as_of"] == day
    assert answer["recorded_outcome"] == ended["outcome"]


def test_an_unknown_student_is_an_expected_error(environment) -> None:
    answer = predict(environment, "--student", "nobody", "--course", "nowhere")
    assert isinstance(answer.exception, NotFoundError)
    assert "nobody" in answer.exception.message
