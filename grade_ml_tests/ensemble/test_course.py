"""A course's correction, learned from a pooled model's predictions of unseen sections."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grade_ml.core.errors import ArtifactError
from grade_ml.core.resampling import Improvement
from grade_ml.ensemble import course, pooled
from grade_ml.ensemble.course import Change, Correction, CourseModel, Fitted
from grade_ml.ensemble.names import name_of
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.ensemble.rows import PREDICTED, attainable, collected
from grade_ml_tests.ensemble.quick import quick
from grade_ml_tests.ensemble.snapshots import snapshots
from grade_ml_tests.factories import PSEUDONYMS

SHIFT = 10


@pytest.fixture(scope="module")
def model() -> PooledModel:
    return pooled.fit(
        *snapshots(students=40, weeks=4), seed=0, pseudonyms=PSEUDONYMS, parameters=quick()
    )


def held_out(model: PooledModel, shift: float = 0) -> pd.DataFrame:
    """Return pooled predictions of course 1, whose grades came out higher by `shift`."""
    rows = model.held_out[model.held_out["course_id"] == "course 1"].reset_index(drop=True)
    return rows.assign(final_grade=(rows["final_grade"] + shift).clip(0, 100))


def later(shift: float = 0) -> tuple[pd.DataFrame, pd.Series]:
    """Return snapshots of a section that no model has seen, and its grades."""
    frame, truth = snapshots(sections=2, students=200, weeks=4, seed=5)
    both = frame.merge(truth, on=["section_id", "student_id"])
    rows = both[both["course_id"] == "course 1"].reset_index(drop=True)
    return rows, (rows["final_grade"] + shift).clip(0, 100)


def corrected(model: PooledModel, fitted: Fitted) -> CourseModel:
    assert fitted.correction and fitted.evaluation and fitted.gained
    sections = ("section 1", "section 3", "section 5")
    parts = (fitted.correction, sections, fitted.evaluation, fitted.gained)
    return CourseModel("course 1", model, 7, *parts)


def rmse(predicted: pd.Series, actual: pd.Series) -> float:
    return float(np.sqrt(((predicted - actual) ** 2).mean()))


def test_a_course_with_higher_grades_is_corrected(model: PooledModel) -> None:
    fitted = course.fit(held_out(model, SHIFT), model, seed=0)
    assert fitted.gained and fitted.gained.is_sure
    assert "on section 5 the correction lowers the loss" in fitted.reason
    own = corrected(model, fitted)
    frame, grades = later(SHIFT)
    ours, theirs = own.predict(frame), model.predict(frame)
    assert rmse(ours["grade"], grades) < 0.9 * rmse(theirs["grade"], grades)
    assert (ours["grade"].mean() - theirs["grade"].mean()) == pytest.approx(SHIFT, abs=5)
    assert ours["upper80"].mean() > theirs["upper80"].mean()


def test_the_last_section_is_predicted_better_by_what_earlier_sections_taught(
    model: PooledModel,
) -> None:
    rows = held_out(model, SHIFT)
    fitted = course.fit(rows, model, seed=0)
    assert fitted.evaluation
    last = rows[rows["section_id"] == "section 5"]
    assert fitted.evaluation.metrics["all"]["n"] == len(last)
    before = rmse(last["raw_grade"], last["final_grade"])
    assert fitted.evaluation.metrics["all"]["rmse"] < 0.9 * before


def test_corrected_predictions_are_in_range_and_in_order(model: PooledModel) -> None:
    own = corrected(model, course.fit(held_out(model, SHIFT), model, seed=0))
    frame, _ = later()
    predicted = own.predict(frame)
    assert (predicted["cut_day"] == frame["cut_day"]).all()
    ordered = predicted[["lower95", "lower80", "grade", "upper80", "upper95"]].to_numpy()
    assert (np.diff(ordered, axis=1) >= 0).all()
    assert (predicted["grade"] >= collected(frame) - 1e-9).all()
    assert (predicted["grade"] <= np.fmax(attainable(frame), collected(frame)) + 1e-9).all()
    assert predicted["risk"].between(0, 1).all()
    assert set(PREDICTED) <= set(own.predict(frame[:0]).columns)


def test_a_course_like_the_others_keeps_the_pooled_model(model: PooledModel) -> None:
    fitted = course.fit(held_out(model), model, seed=0)
    assert fitted.correction is None and fitted.evaluation is None
    assert "section 5 a correction gains nothing sure" in fitted.reason


def test_a_change_within_a_term_stretches_what_is_to_come(model: PooledModel) -> None:
    gained = Improvement(0.2, 0.1, 0.3, 100, 50)
    change = Change(date(2025, 10, 23), -0.2, gained)
    correction = course.changed(change, model)
    own = CourseModel("course 1", model, 7, correction, (), model.evaluation, gained, change.since)
    frame, _ = later()
    ours, raw = own.predict(frame), model.raw(frame)
    certain = raw["collected"].to_numpy()
    to_come = np.clip(raw["grade"].to_numpy() - certain, 0, None)
    grade, _ = correction.apply(raw.assign(possible=attainable(frame)))
    assert grade - certain == pytest.approx(0.8 * to_come, abs=1e-6)
    assert ours["risk"].mean() > model.predict(frame)["risk"].mean() + 0.02


def test_a_difference_of_one_section_only_is_not_kept(model: PooledModel) -> None:
    rows = held_out(model)
    first = rows["section_id"] == "section 1"
    rows["final_grade"] = (rows["final_grade"] + 25 * first).clip(0, 100)
    assert course.fit(rows, model, seed=0).correction is None


@pytest.mark.parametrize(
    ("sections", "students", "reason"),
    [
        (["section 1"], 60, "40 students in ended sections; 50 are needed"),
        (["section 1", "section 3"], 20, "40 students in ended sections; 50 are needed"),
        ([], 60, "0 students in ended sections"),
    ],
)
def test_little_to_learn_from_is_reported(
    model: PooledModel, sections: list[str], students: int, reason: str
) -> None:
    rows = held_out(model, SHIFT)
    chosen = rows[rows["section_id"].isin(sections)]
    few = chosen.groupby("section_id")["student"].transform(lambda ids: pd.factorize(ids)[0])
    fitted = course.fit(chosen[few < students], model, seed=0)
    assert fitted.correction is None
    assert fitted.reason.startswith(reason)


def test_one_section_leaves_none_to_judge_by(model: PooledModel) -> None:
    rows = held_out(model, SHIFT).assign(section_id="section 1")
    fitted = course.fit(rows, model, seed=0)
    assert fitted.correction is None
    assert fitted.reason.startswith("only one section")


@pytest.mark.parametrize(
    "changes",
    [{"final_grade": np.nan}, {"at_risk": False}, {"at_risk": True}, {"final_grade": 0.0}],
    ids=str,
)
def test_outcomes_without_variation_are_no_trouble(
    model: PooledModel, changes: dict[str, object]
) -> None:
    fitted = course.fit(held_out(model).assign(**changes), model, seed=0)
    assert fitted.reason
    if fitted.correction:
        frame, _ = later()
        assert corrected(model, fitted).predict(frame)[list(PREDICTED)].notna().all(axis=None)


def test_a_correction_of_nothing_changes_nothing(model: PooledModel) -> None:
    frame, _ = later()
    raw = model.raw(frame).assign(possible=attainable(frame))
    grade, risk = Correction(np.zeros(6), np.zeros(6)).apply(raw)
    np.testing.assert_allclose(grade, raw["grade"], atol=1e-9)
    np.testing.assert_allclose(risk, raw["risk"].clip(1e-4, 1 - 1e-4), atol=1e-9)


def test_a_loaded_model_is_the_saved_model(model: PooledModel, tmp_path: Path) -> None:
    own = corrected(model, course.fit(held_out(model, SHIFT), model, seed=0))
    own.save(tmp_path)
    loaded = CourseModel.load(tmp_path, {7: model})
    frame, _ = later()
    pd.testing.assert_frame_equal(loaded.predict(frame), own.predict(frame))
    assert loaded.gained == own.gained
    assert loaded.evaluation.flat() == own.evaluation.flat()
    with pytest.raises(ArtifactError, match="cannot be read"):
        CourseModel.load(tmp_path, {8: model})


def test_equal_rows_give_equal_files(model: PooledModel, tmp_path: Path) -> None:
    rows = held_out(model, SHIFT)
    for name in ("a", "b"):
        corrected(model, course.fit(rows, model, seed=0)).save(tmp_path / name)
    first, again = (tmp_path / name / "model.json" for name in ("a", "b"))
    assert first.read_bytes() == again.read_bytes()


def test_a_course_of_any_name_has_a_model_name() -> None:
    assert name_of("A/B: C\u00e9") == "course-A%2FB%3A%20C%C3%A9"
