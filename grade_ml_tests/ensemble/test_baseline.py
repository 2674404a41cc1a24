import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grade_ml.core.errors import ArtifactError, NotReadyError
from grade_ml.ensemble import baseline
from grade_ml.ensemble.baseline import BaselineModel
from grade_ml.ensemble.evaluation import cut_table
from grade_ml.ensemble.rows import PREDICTED, data_version, section_versions, with_outcomes
from grade_ml_tests.ensemble.snapshots import coarse, snapshots
from grade_ml_tests.factories import PSEUDONYMS


@pytest.fixture(scope="module")
def data() -> tuple[pd.DataFrame, pd.DataFrame]:
    return coarse(snapshots())


@pytest.fixture(scope="module")
def model(data) -> BaselineModel:
    return baseline.fit(*data, seed=0)


@pytest.fixture(scope="module")
def later() -> tuple[pd.DataFrame, pd.DataFrame]:
    frame, truth = coarse(snapshots(seed=1))
    renamed = {f"section {i}": f"later {i}" for i in range(6)}
    frame["section_id"] = frame["section_id"].cat.rename_categories(renamed)
    return frame, truth.assign(section_id=truth["section_id"].map(renamed))


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_later_sections_are_predicted_better_than_by_the_naive_forecast(model, later) -> None:
    rows = with_outcomes(model, *later)
    figures = cut_table(rows)
    assert figures.n == len(later[0])
    assert figures.grade["rmse"] < 0.9 * cut_table(rows.assign(grade=rows["naive"])).grade["rmse"]
    assert figures.risk["auc"] > 0.8
    assert figures.grade["coverage80"] == pytest.approx(0.8, abs=0.06)
    assert figures.grade["coverage95"] == pytest.approx(0.95, abs=0.03)
    assert figures.risk["ece"] < 0.06


def test_the_evaluation_agrees_with_later_sections(model, later) -> None:
    promised = model.evaluation.metrics["all"]
    table = cut_table(with_outcomes(model, *later))
    assert table.grade["rmse"] == pytest.approx(promised["rmse"], rel=0.1)
    assert table.risk["brier"] == pytest.approx(promised["brier"], abs=0.02)
    assert promised["rmse"] < promised["naive_rmse"]


def test_predictions_are_in_range_and_in_order(model, later) -> None:
    predicted = model.predict(later[0])
    assert (predicted["cut_day"].to_numpy() == later[0]["cut_day"].to_numpy()).all()
    assert predicted[list(PREDICTED)].notna().all(axis=None)
    ordered = predicted[["lower95", "lower80", "grade", "upper80", "upper95"]].to_numpy()
    assert (np.diff(ordered, axis=1) >= 0).all()
    assert ordered.min() >= 0
    assert ordered.max() <= 100
    assert predicted["risk"].between(0, 1).all()


@pytest.mark.slow
def test_shuffled_outcomes_give_no_skill(data, later) -> None:
    frame, truth = data
    shuffled = truth.copy()
    order = np.random.default_rng(0).permutation(len(truth))
    shuffled[["final_grade", "at_risk"]] = truth[["final_grade", "at_risk"]].to_numpy()[order]
    shuffled = shuffled.astype({"final_grade": float, "at_risk": bool})
    model = baseline.fit(frame, shuffled, seed=0)
    assert 0.4 < model.evaluation.metrics["all"]["auc"] < 0.6
    assert model.evaluation.metrics["late"]["rmse"] > truth["final_grade"].std() * 0.95
    assert 0.4 < cut_table(with_outcomes(model, *later)).risk["auc"] < 0.6


@pytest.mark.slow
def test_the_same_data_and_seed_give_the_same_bytes(data, model, tmp_path: Path) -> None:
    frame, truth = data
    again = baseline.fit(frame.sample(frac=1, random_state=5), truth[::-1], seed=0)
    model.save(tmp_path / "a")
    again.save(tmp_path / "b")
    model.save(tmp_path / "c")
    assert digests(tmp_path / "a") == digests(tmp_path / "c")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_loaded_model_predicts_the_same(model, later, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = BaselineModel.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.predict(later[0]), model.predict(later[0]))
    assert loaded.features == model.features
    assert loaded.sections == model.sections
    assert loaded.evaluation.flat() == model.evaluation.flat()
    pd.testing.assert_frame_equal(loaded.section_errors, model.section_errors)
    whole = np.average(loaded.section_errors["brier"], weights=loaded.section_errors["rows"])
    assert whole == pytest.approx(loaded.evaluation.metrics["all"]["brier"])


def test_a_model_of_an_earlier_program_predicts(model, later, tmp_path: Path) -> None:
    model.save(tmp_path)
    described = json.loads((tmp_path / "model.json").read_text())
    del described["section_errors"]
    (tmp_path / "model.json").write_text(json.dumps(described))
    loaded = BaselineModel.load(tmp_path)
    assert loaded.section_errors.empty
    pd.testing.assert_frame_equal(loaded.predict(later[0]), model.predict(later[0]))


def test_an_incomplete_folder_is_refused(model, tmp_path: Path) -> None:
    model.save(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ArtifactError, match="cannot be read"):
        BaselineModel.load(tmp_path)


def test_protected_attributes_do_not_influence_predictions(model, later) -> None:
    frame, _ = later
    assert "attribute_region" in model.features
    assert "protected_gender" not in model.features
    other = frame.assign(protected_gender="X", protected_imd_band="0-10%")
    pd.testing.assert_frame_equal(model.predict(other), model.predict(frame))


def test_unknown_categories_and_missing_values_are_predicted(model, later) -> None:
    frame = later[0].head(3).copy()
    frame["course_id"] = "never seen"
    frame["attribute_region"] = None
    numbers = [name for name in model.encoder.numeric if name not in ("progress",)]
    frame[numbers] = np.float32("nan")
    predicted = model.predict(frame)
    assert predicted[list(PREDICTED)].notna().all(axis=None)


def test_each_row_is_predicted_by_itself(model, later) -> None:
    frame = later[0]
    together = model.predict(frame).iloc[[7]].reset_index(drop=True)
    pd.testing.assert_frame_equal(model.predict(frame.iloc[[7]]), together, check_categorical=False)


def test_no_rows_have_no_predictions(model, later) -> None:
    predicted = model.predict(later[0][:0])
    assert predicted.empty
    assert set(PREDICTED) <= set(predicted.columns)


@pytest.mark.slow
def test_a_running_section_is_left_out_whole(data) -> None:
    frame, truth = data
    first = truth["section_id"] == "section 0"
    known = truth[~first | (first & truth["at_risk"])]
    model = baseline.fit(frame, known, seed=0)
    assert "section 0" not in model.sections
    assert "section 1" in model.sections


@pytest.mark.parametrize("kept", [0, 1])
def test_too_little_to_learn_from_is_reported(data, kept: int) -> None:
    frame, truth = data
    few = truth[truth["student_id"].isin(["s0"])][:kept]
    with pytest.raises(NotReadyError, match="at least 20 enrollments") as caught:
        baseline.fit(frame, few, seed=0)
    assert "grade-ml load" in caught.value.remedy


def test_missing_snapshots_are_reported(data) -> None:
    with pytest.raises(NotReadyError):
        baseline.fit(data[0][:0], data[1][:0], seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"final_grade": 50.0},
        {"at_risk": False},
        {"at_risk": True, "final_grade": 0.0},
        {"final_grade": np.nan},
    ],
)
def test_outcomes_without_variation_train(data, changes: dict[str, object]) -> None:
    frame, truth = data
    model = baseline.fit(frame, truth.assign(**changes), seed=0)
    predicted = model.predict(frame.head(20))
    assert predicted["risk"].between(0, 1).all()
    grades = predicted[["grade", "lower80", "upper95"]]
    if np.isnan(changes.get("final_grade", 0.0)):
        assert grades.isna().all(axis=None)
    else:
        assert grades.notna().all(axis=None)
    if changes.get("final_grade") == 50.0:
        assert predicted["grade"].between(45, 55).all()


@pytest.mark.slow
def test_a_single_section_trains(data) -> None:
    frame, truth = data
    chosen = frame["section_id"] == "section 0"
    model = baseline.fit(frame[chosen], truth[truth["section_id"] == "section 0"], seed=0)
    assert model.sections == ("section 0",)
    assert model.predict(frame.head(5))["grade"].notna().all()


def test_the_first_model_becomes_champion(model) -> None:
    assert baseline.may_become_champion(model, None)


@pytest.mark.slow
def test_an_equal_model_replaces_the_champion_and_a_worse_model_does_not(data, model) -> None:
    frame, truth = data
    assert baseline.may_become_champion(model, model)
    noisy = truth.assign(at_risk=np.random.default_rng(1).permutation(truth["at_risk"]))
    assert not baseline.may_become_champion(baseline.fit(frame, noisy, seed=0), model)


@pytest.mark.slow
def test_a_champion_of_other_data_is_replaced(model, later) -> None:
    assert baseline.may_become_champion(baseline.fit(*later, seed=0), model)


def test_the_data_version_follows_values_and_not_the_order_of_rows(data) -> None:
    frame, truth = data
    version = data_version(section_versions(frame, truth, PSEUDONYMS))
    assert (
        data_version(
            section_versions(frame[::-1], truth.sample(frac=1, random_state=0), PSEUDONYMS)
        )
        == version
    )
    assert data_version(section_versions(frame, truth.assign(at_risk=True), PSEUDONYMS)) != version
