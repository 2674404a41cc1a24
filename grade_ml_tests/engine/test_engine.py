import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.core.degradation import faults
from grade_ml.core.errors import ConfigurationError, NotFoundError, NotReadyError
from grade_ml.core.settings import Settings
from grade_ml.engine import Level, NoModel, PredictiveAnalyticsEngine, Status
from grade_ml.ensemble.baseline import BaselineModel
from grade_ml.ensemble.rows import PREDICTED
from grade_ml.explanations.counterfactuals import Status as WhatIfStatus
from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml.gradebook.outcomes import outcomes
from grade_ml.registry.registry import ModelVersion, Registry
from grade_ml_tests.ensemble.campus import TODAY, make_champion, small, store


@pytest.fixture(scope="module")
def gradebook() -> Gradebook:
    return small()


@pytest.fixture
def model(baseline_of_small: BaselineModel) -> BaselineModel:
    return baseline_of_small


@pytest.fixture
def analytics(settings: Settings, engine: Engine, gradebook) -> Iterator[PredictiveAnalyticsEngine]:
    store(engine, gradebook)
    analytics = PredictiveAnalyticsEngine(settings)
    yield analytics
    analytics.close()


def enrollments(gradebook: Gradebook) -> pd.DataFrame:
    """Each student's latest enrollment per course, with the dates of its section."""
    rows = gradebook.enrollments.merge(gradebook.sections, on="section_id")
    return rows.sort_values("starts_on").drop_duplicates(["student_id", "course_id"], keep="last")


def pick(gradebook: Gradebook, condition: str) -> tuple[str, str, pd.Series]:
    today = pd.Timestamp(TODAY)
    rows = enrollments(gradebook)
    gone = rows["withdrawn_on"].notna() & (rows["withdrawn_on"] <= today)
    running = (rows["starts_on"] <= today) & (rows["ends_on"] >= today)
    chosen = {
        "running": running & ~gone,
        "ended": (rows["ends_on"] < today) & ~gone,
        "withdrawn": gone,
    }[condition]
    row = rows[chosen].iloc[0]
    return row["student_id"], row["course_id"], row


def least_successful(gradebook: Gradebook) -> tuple[str, str]:
    """Return the running enrollment of the lowest mean score, for which 100 is out of reach."""
    scores = gradebook.results.merge(gradebook.assignments, on="assignment_id")
    mean = scores.groupby(["section_id", "student_id"])["score"].mean().rename("mean").reset_index()
    rows = enrollments(gradebook).merge(mean, on=["section_id", "student_id"])
    today = pd.Timestamp(TODAY)
    running = (rows["starts_on"] <= today) & (rows["ends_on"] >= today)
    row = rows[running & rows["withdrawn_on"].isna()].sort_values("mean").iloc[0]
    return row["student_id"], row["course_id"]


def test_a_running_enrollment_is_predicted(analytics, gradebook, model, settings, tmp_path) -> None:
    make_champion(settings, model, tmp_path / "model")
    student, course, row = pick(gradebook, "running")
    answer = analytics.predict_final_grade(student, course, as_of=TODAY)
    assert answer.status is Status.RUNNING
    assert answer.section_id == row["section_id"]
    assert (answer.model_name, answer.model_version) == ("baseline", 1)
    assert 0 <= answer.lower95 <= answer.lower80 <= answer.grade <= answer.upper80 <= 100
    assert 0 <= answer.risk <= 1
    assert answer.degraded == ()
    assert answer.recorded_outcome is None
    words = answer.in_words()
    assert f"about {answer.grade:.0f} of 100" in words
    assert student not in words
    plain = answer.to_dict()
    assert plain["as_of"] == TODAY.isoformat()
    assert plain["status"] == "running"


def test_a_prediction_is_explained(analytics, gradebook, model, settings, tmp_path) -> None:
    make_champion(settings, model, tmp_path / "model")
    student, course, _ = pick(gradebook, "running")
    explanations = analytics.get_model_explanations(student, course, as_of=TODAY)
    answer, explanation = explanations.prediction, explanations.explanation
    assert answer == analytics.predict_final_grade(student, course, as_of=TODAY)
    assert (
        explanations.text == explanations.narratives.texts["adviser"]["en"]
        and not explanations.narratives.stored
    )
    json.dumps(explanations.to_dict())
    assert explanation is not None and explanation.model == "baseline 1"
    assert explanation.grade is not None and explanation.grade.predicted == pytest.approx(
        answer.grade
    )
    assert max(explanation.grade.error, explanation.risk.error) < 1e-3
    assert explanation.risk.in_probability().predicted == pytest.approx(answer.risk)
    assert "sampled by permutation" in explanation.degraded[0] and not faults(explanation.degraded)
    with pytest.raises(NotReadyError, match="No interactions"):
        analytics.get_model_explanations(student, course, as_of=TODAY, pairs=3)


def test_where_nothing_is_predicted_nothing_is_explained(analytics, gradebook) -> None:
    student, course, _ = pick(gradebook, "ended")
    answer = analytics.get_model_explanations(student, course, as_of=TODAY, pairs=3, goal=60.0)
    assert answer.prediction.status is Status.ENDED
    assert answer.explanation is answer.text is answer.interactions is answer.what_if is None


def test_a_past_day_shows_what_was_known_then(
    analytics, gradebook, model, settings, tmp_path
) -> None:
    make_champion(settings, model, tmp_path / "model")
    student, course, row = pick(gradebook, "ended")
    then = (row["starts_on"] + (row["ends_on"] - row["starts_on"]) / 2).date()
    answer = analytics.predict_final_grade(student, course, as_of=then)
    assert answer.status is Status.RUNNING
    assert answer.grade is not None
    assert answer.recorded_outcome is None
    assert "knows its outcome" in answer.degraded[0]


def test_an_ended_section_answers_with_the_record(analytics, gradebook) -> None:
    student, course, row = pick(gradebook, "ended")
    answer = analytics.predict_final_grade(student, course, as_of=TODAY)
    assert answer.status is Status.ENDED
    assert answer.recorded_outcome == row["outcome"]
    assert 0 <= answer.recorded_grade <= 100
    assert all(getattr(answer, name) is None for name in PREDICTED)
    assert f"outcome {row['outcome']}" in answer.in_words()


def test_a_withdrawn_student_is_not_predicted(analytics, gradebook) -> None:
    student, course, row = pick(gradebook, "withdrawn")
    answer = analytics.predict_final_grade(student, course, as_of=TODAY)
    assert answer.status is Status.WITHDRAWN
    assert answer.withdrawn_on == row["withdrawn_on"].date()
    assert answer.grade is None
    assert "nothing left to predict" in answer.in_words()


def test_before_the_start_nothing_is_predicted(analytics, gradebook) -> None:
    rows = gradebook.enrollments.merge(gradebook.sections, on="section_id")
    early = rows[rows["enrolled_on"] < rows["starts_on"]].sort_values("starts_on").iloc[0]
    answer = analytics.predict_final_grade(
        early["student_id"],
        early["course_id"],
        as_of=early["starts_on"].date() - timedelta(days=1),
    )
    assert answer.status is Status.UPCOMING
    assert answer.risk is None


@pytest.mark.parametrize(
    ("student", "course", "named"),
    [
        ("nobody", "nowhere", "no student nobody and no course nowhere"),
        (None, "nowhere", "no course nowhere"),
        ("nobody", None, "no student nobody"),
    ],
)
def test_what_does_not_exist_is_named(analytics, gradebook, student, course, named) -> None:
    known_student, known_course, _ = pick(gradebook, "running")
    with pytest.raises(NotFoundError, match=named) as caught:
        analytics.predict_final_grade(student or known_student, course or known_course, as_of=TODAY)
    assert "grade-ml load" in caught.value.remedy


def test_a_student_who_is_not_enrolled_is_refused_by_name(
    analytics, gradebook, engine: Engine
) -> None:
    student, _, _ = pick(gradebook, "running")
    with engine.begin() as connection:
        connection.execute(sa.insert(schema.course).values(course_id="never taken"))
    with pytest.raises(NotFoundError, match="is not enrolled in the course"):
        analytics.predict_final_grade(student, "never taken", as_of=TODAY)


def test_a_day_before_enrollment_is_refused(analytics, gradebook) -> None:
    student, course, _ = pick(gradebook, "running")
    with pytest.raises(NotFoundError, match=r"was not enrolled .* yet"):
        analytics.predict_final_grade(student, course, as_of=date(1990, 1, 1))


def test_without_a_model_the_mean_of_the_course_answers(analytics, gradebook) -> None:
    student, course, _ = pick(gradebook, "running")
    answer = analytics.predict_final_grade(student, course, as_of=TODAY)
    ended = outcomes(gradebook, TODAY, DEFAULTS).merge(gradebook.sections, on="section_id")
    over = ended["ends_on"] < pd.Timestamp(TODAY)
    grades = ended.loc[(ended["course_id"] == course) & over, "final_grade"]
    assert answer.level is Level.COURSE_MEAN and answer.model_name is answer.model_stage is None
    assert answer.grade == pytest.approx(grades.mean())
    assert 0 <= answer.lower95 <= answer.lower80 <= answer.upper80 <= answer.upper95 <= 100
    assert "No model has been trained yet" in answer.degraded[0]
    assert "grade-ml run train_traditional_models" in answer.degraded[0]
    assert "mean of the course's ended sections" in answer.in_words()
    explanations = analytics.get_model_explanations(student, course, as_of=TODAY, goal=70)
    assert explanations.prediction == answer and explanations.explanation is None


def test_without_a_model_and_a_past_the_remedy_is_named(analytics, gradebook) -> None:
    first = gradebook.sections.sort_values("starts_on").iloc[0]
    taken = gradebook.enrollments[gradebook.enrollments["section_id"] == first["section_id"]]
    stayed = taken[taken["withdrawn_on"].isna()].iloc[0]
    with pytest.raises(NoModel) as caught:
        analytics.predict_final_grade(
            stayed["student_id"],
            first["course_id"],
            as_of=first["starts_on"].date() + timedelta(days=1),
        )
    assert "grade-ml run train_traditional_models" in caught.value.remedy


def test_the_next_model_replaces_a_tampered_model(
    analytics, gradebook, model, settings, tmp_path
) -> None:
    registry = make_champion(settings, model, tmp_path / "model")
    version = registry.get("baseline", "champion")
    path = Path(registry.fetch(version)) / "model.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    student, course, _ = pick(gradebook, "running")
    answer = analytics.predict_final_grade(student, course, as_of=TODAY)
    assert answer.level is Level.COURSE_MEAN and "model.json" in answer.degraded[0]


def test_a_model_that_reads_what_the_institution_protects_does_not_answer(
    gradebook, model, settings, engine, tmp_path
) -> None:
    store(engine, gradebook)
    make_champion(settings, model, tmp_path / "model")
    file = tmp_path / "institution.toml"
    file.write_text('[attributes]\nregion = "protected"\n')
    analytics = PredictiveAnalyticsEngine(settings.model_copy(update={"institution": file}))
    student, course, _ = pick(gradebook, "running")
    answer = analytics.predict_final_grade(student, course, as_of=TODAY)
    assert answer.level is Level.COURSE_MEAN
    assert re.search(r"baseline 1 reads .* region \(protected\)", answer.degraded[0])
    assert "train_traditional_models" in answer.degraded[0]
    file.write_text('[attributes]\ngender = "usable"\n')
    with pytest.raises(ConfigurationError, match="attribute gender usable"):
        PredictiveAnalyticsEngine(settings.model_copy(update={"institution": file}))
    analytics.close()


def test_what_could_still_be_done_is_explained(
    analytics, gradebook, model, settings, tmp_path
) -> None:
    make_champion(settings, model, tmp_path / "model")
    student, course = least_successful(gradebook)
    explanations = analytics.get_model_explanations(student, course, as_of=TODAY, goal=100.0)
    prediction, answer = explanations.prediction, explanations.what_if
    assert prediction == analytics.predict_final_grade(student, course, as_of=TODAY)
    assert answer.now == prediction.grade and answer.goal == 100
    assert answer.status is WhatIfStatus.NOT_REACHABLE and answer.best < 100
    goal = round(answer.best) - 2.0
    nearer = analytics.get_model_explanations(student, course, as_of=TODAY, goal=goal).what_if
    assert nearer.status is WhatIfStatus.REACHED
    assert nearer.what_ifs and all(what_if.grade >= goal for what_if in nearer.what_ifs)


def test_what_is_requested_together_is_read_and_loaded_once(
    engine, gradebook, model, settings, tmp_path
) -> None:
    """An explanation reads results, and loads the model once, with a what-if beside it, too."""
    make_champion(settings, model, tmp_path / "model")
    store(engine, gradebook)
    student, course, _ = pick(gradebook, "running")

    def cost(**options: Any) -> tuple[int, int]:
        statements: list[str] = []
        analytics = PredictiveAnalyticsEngine(settings)
        analytics._registry.__class__ = _Counting
        with _recorded(statements):
            answer = analytics.get_model_explanations(student, course, as_of=TODAY, **options)
        assert (answer.what_if is None) == ("goal" not in options)
        fetched = analytics._registry.fetched
        analytics.close()
        return sum("gradebook.result" in statement for statement in statements), fetched

    alone = cost()
    assert alone[0] > 0 and alone[1] == 1
    assert cost(goal=100.0) == alone


class _Counting(Registry):
    """A registry that counts how often a model's files are fetched."""

    fetched = 0

    def fetch(self, version: ModelVersion) -> Path:
        self.fetched += 1
        return super().fetch(version)


@contextmanager
def _recorded(statements: list[str]) -> Iterator[None]:
    """Append each COPY statement to `statements`; SQLAlchemy has no event for it."""
    copy = psycopg.Cursor.copy

    def recording(cursor: psycopg.Cursor[Any], statement: Any, *rest: Any, **options: Any) -> Any:
        statements.append(str(statement))
        return copy(cursor, statement, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Cursor, "copy", recording)
        yield


@pytest.mark.security
@pytest.mark.parametrize("text", ["a\0b", "\0", "\udcff", "Z\udcfcrich", "a\x1b[2J"])
def test_an_id_that_nothing_can_have_is_named(analytics, gradebook, text: str) -> None:
    student, course, _ = pick(gradebook, "running")
    for ids in ((text, course), (student, text)):
        for call in (
            analytics.predict_final_grade,
            analytics.get_model_explanations,
            analytics.generate_time_series_forecast,
        ):
            with pytest.raises(NotFoundError, match="is no id"):
                call(*ids, as_of=TODAY)


def test_a_day_in_the_future_is_refused_by_every_call(analytics, gradebook) -> None:
    """On a day after the end of its section an enrollment would get a final grade."""
    student, course, _ = pick(gradebook, "running")
    day = datetime.now(UTC).date() + timedelta(days=2)
    for call in (
        analytics.predict_final_grade,
        analytics.get_model_explanations,
        analytics.generate_time_series_forecast,
    ):
        with pytest.raises(ConfigurationError, match=f"{day} lies in the future"):
            call(student, course, as_of=day)
    for many in (
        analytics.predict_final_grades,
        analytics.get_model_explanations_of,
        analytics.generate_time_series_forecasts,
    ):
        for students in (None, [student]):
            with pytest.raises(ConfigurationError, match=f"{day} lies in the future"):
                many(course, students, as_of=day)
