"""`grade-ml backtest`, as a person and as a program call it."""

import json

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from grade_ml.cli import group
from grade_ml.core.errors import NotFoundError
from grade_ml.core.settings import Settings
from grade_ml.gradebook.frames import Gradebook
from grade_ml_tests.ensemble.campus import campus, store


@pytest.fixture(scope="module")
def gradebook() -> Gradebook:
    return campus()


@pytest.fixture
def environment(settings: Settings, engine: Engine, gradebook: Gradebook) -> dict[str, str]:
    store(engine, gradebook)
    return {
        "GRADE_ML_HOME": str(settings.home),
        "GRADE_ML_DATABASE_URL": str(settings.database_url),
        "DAGSTER_POSTGRES_URL": str(settings.dagster_postgres_url),
        "MLFLOW_TRACKING_URI": str(settings.mlflow_tracking_uri),
        "GRADE_ML_STORAGE": settings.storage_root,
    }


def backtest(environment: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(group, ["backtest", *arguments], env=environment)


@pytest.mark.slow
def test_json_is_the_only_thing_on_stdout_and_tables_show_the_same(environment, gradebook) -> None:
    terms = gradebook.terms.sort_values("starts_on")["term_id"].tolist()
    options = ["--train-terms", ",".join(terms[:2]), "--test-terms", terms[2], "--at", "0.5"]
    options += ["--model", "baseline", "--no-forecasts"]
    plain = backtest(environment, *options, "--json")
    report = json.loads(plain.stdout)
    assert list(report["cuts"]) == ["0.5"]
    assert "Fitting baseline on" in plain.stderr
    tables = backtest(environment, *options).stdout
    assert f"{report['all']['grade']['rmse']:.2f}" in tables
    assert "baseline by course" in tables


def test_an_unknown_term_lists_the_known_terms(environment, gradebook) -> None:
    answer = backtest(environment, "--train-terms", "1999X", "--test-terms", "1999Y")
    assert isinstance(answer.exception, NotFoundError)
    assert gradebook.terms["term_id"].iloc[0] in answer.exception.remedy


@pytest.mark.parametrize("shares", ["half", "0.5,1.5", "0"])
def test_a_share_outside_the_section_is_refused(shares: str) -> None:
    answer = backtest({}, "--train-terms", "a", "--test-terms", "b", "--at", shares)
    assert answer.exit_code == 2
    assert "--at" in answer.stderr
