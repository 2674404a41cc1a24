"""`grade-ml predict`, as a person and as a program call it."""

import json
import re
from datetime import timedelta

import pandas as pd
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from grade_ml.cli import group
from grade_ml.core.errors import NotFoundError
from grade_ml.core.settings import Settings
from grade_ml.gradebook.frames import Gradebook
from grade_ml_tests.conftest import as_environment
from grade_ml_tests.ensemble.campus import TODAY, make_champion, small, store


@pytest.fixture(scope="module")
def gradebook() -> Gradebook:
    return small()


@pytest.fixture
def environment(settings: Settings, engine: Engine, gradebook: Gradebook) -> dict[str, str]:
    store(engine, gradebook)
    return {**as_environment(settings), "GRADE_ML_AS_OF": TODAY.isoformat()}


def predict(environment: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(group, ["predict", *arguments], env=environment)


@pytest.fixture
def ended(gradebook: Gradebook) -> pd.Series:
    """The first enrollment that stayed to the end of its section."""
    rows = gradebook.enrollments.merge(gradebook.sections, on="section_id")
    return rows[rows["withdrawn_on"].isna()].sort_values("starts_on").iloc[0]


def test_an_ended_enrollment_in_words_and_as_json(environment, ended) -> None:
    day = (ended["ends_on"] + timedelta(days=1)).date().isoformat()
    options = ["--student", ended["student_id"], "--course", ended["course_id"], "--as-of", day]
    words, plain = predict(environment, *options), predict(environment, *options, "--json")
    assert words.exit_code == 0
    assert f"ended on {ended['ends_on'].date()}" in words.stdout
    answer = json.loads(plain.stdout)
    assert answer["as_of"] == day
    assert answer["recorded_outcome"] == ended["outcome"]


def test_an_unknown_student_is_an_expected_error(environment) -> None:
    answer = predict(environment, "--student", "nobody", "--course", "nowhere")
    assert isinstance(answer.exception, NotFoundError)
    assert "nobody" in answer.exception.message


def test_what_is_not_predicted_has_no_explanation(environment, ended, tmp_path) -> None:
    day = (ended["ends_on"] + timedelta(days=1)).date().isoformat()
    options = ["--student", ended["student_id"], "--course", ended["course_id"], "--as-of", day]
    plain = predict(environment, *options, "--explain", "--json")
    assert plain.exit_code == 0, plain.output
    answer = json.loads(plain.stdout)
    assert answer["explanation"] is None and answer["narrative"] is None
    alone = predict(environment, *options, "--reader", "student")
    assert alone.exit_code == 2 and "add --explain" in alone.output
    picture = str(tmp_path / "why.png")
    wrong = predict(environment, *options, "--plot", picture)
    assert wrong.exit_code == 2 and "--explain or --forecast" in " ".join(wrong.output.split())


@pytest.mark.slow
def test_an_explanation_in_words_as_json_and_as_a_picture(
    environment, gradebook, baseline_of_small, settings, tmp_path
) -> None:
    make_champion(settings, baseline_of_small, tmp_path / "model")
    today = pd.Timestamp(TODAY)
    rows = gradebook.enrollments.merge(gradebook.sections, on="section_id")
    running = rows[
        (rows["starts_on"] <= today) & (rows["ends_on"] >= today) & rows["withdrawn_on"].isna()
    ].iloc[0]
    options = ["--student", running["student_id"], "--course", running["course_id"], "--explain"]
    picture = tmp_path / "why.png"
    words = predict(environment, *options, "--plot", str(picture))
    assert words.exit_code == 0, words.output
    assert "for an average student of earlier terms" in words.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    plain = json.loads(predict(environment, *options, "--json").stdout)
    parts = plain["explanation"]["grade"]
    total = parts["baseline"] + sum(parts["contributions"].values())
    assert total + sum(parts["remainders"].values()) == pytest.approx(plain["grade"], abs=1e-3)
    narrative = plain["narrative"]
    assert (narrative["reader"], narrative["language"]) == ("adviser", "en")
    assert not narrative["stored"] and narrative["text"] in words.stdout.replace("\n", " ")
    student = json.loads(
        predict(environment, *options, "--json", "--reader", "student", "--language", "de").stdout
    )["narrative"]
    assert student["text"] != narrative["text"] and "Dein" in student["text"]
    share = plain["explanation"]["risk_probability"]["predicted"]
    assert share == pytest.approx(plain["risk"])


def test_without_a_student_an_example_of_the_simulated_campus_is_shown(environment, engine) -> None:
    first = predict(environment)
    named = re.search(r"--student (sim-\S+) --course (SIM-\S+)", first.stderr)
    assert named
    explicit = predict(environment, "--student", named[1], "--course", named[2])
    assert (first.stdout, str(first.exception)) == (explicit.stdout, str(explicit.exception))
    assert "sim-" not in explicit.stderr
    alone = predict(environment, "--course", named[2])
    assert alone.exit_code == 2 and "both or neither" in alone.output
    with engine.begin() as connection:
        connection.execute(sa.text("truncate gradebook.enrollment cascade"))
    refused = predict(environment)
    assert isinstance(refused.exception, NotFoundError)
    assert "--student ID" in str(refused.exception.remedy)
