"""The whole ensemble on small worlds, with parameters that cost seconds."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grade_ml.core.errors import ArtifactError, NotReadyError
from grade_ml.core.optional import absence
from grade_ml.ensemble import pooled
from grade_ml.ensemble.evaluation import cut_table
from grade_ml.ensemble.importance import spread_between_fits
from grade_ml.ensemble.members import MEMBERS, Task
from grade_ml.ensemble.members.catboost import CatBoost
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.ensemble.rows import PREDICTED, with_outcomes
from grade_ml.features.attributes import PROTECTED
from grade_ml.training.verdicts import of_pooled
from grade_ml_tests.ensemble.quick import quick
from grade_ml_tests.ensemble.snapshots import snapshots
from grade_ml_tests.factories import PSEUDONYMS

Data = tuple[pd.DataFrame, pd.DataFrame]


def fit(frame: pd.DataFrame, truth: pd.DataFrame, seed: int = 0) -> PooledModel:
    return pooled.fit(frame, truth, seed, pseudonyms=PSEUDONYMS, parameters=quick())


def small() -> Data:
    return snapshots(students=24, weeks=4)


@pytest.fixture(scope="module")
def data() -> Data:
    return snapshots()


@pytest.fixture(scope="module")
def model(data: Data) -> PooledModel:
    return fit(*data)


@pytest.fixture(scope="module")
def later() -> Data:
    frame, truth = snapshots(seed=1)
    renamed = {f"section {i}": f"later {i}" for i in range(6)}
    frame["section_id"] = frame["section_id"].cat.rename_categories(renamed)
    return frame, truth.assign(section_id=truth["section_id"].map(renamed))


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def assert_predicts(model: PooledModel, frame: pd.DataFrame) -> pd.DataFrame:
    """Check that every number is known, in range and in order; return them."""
    predicted = model.predict(frame)
    assert predicted[list(PREDICTED)].notna().all(axis=None)
    ordered = predicted[["lower95", "lower80", "grade", "upper80", "upper95"]].to_numpy()
    assert (np.diff(ordered, axis=1) >= 0).all()
    assert ordered.min() >= 0 and ordered.max() <= 100
    assert predicted["risk"].between(0, 1).all()
    return predicted


def test_later_sections_are_predicted_better_than_by_the_naive_forecast(
    model: PooledModel, later: Data
) -> None:
    rows = with_outcomes(model, *later)
    figures = cut_table(rows)
    assert figures.n == len(later[0])
    assert figures.grade["rmse"] < 0.85 * cut_table(rows.assign(grade=rows["naive"])).grade["rmse"]
    assert figures.risk["auc"] > 0.8
    assert figures.grade["coverage80"] == pytest.approx(0.8, abs=0.06)
    assert figures.grade["coverage95"] == pytest.approx(0.95, abs=0.03)
    assert figures.risk["ece"] < 0.06
    assert figures.grade["rmse"] == pytest.approx(model.evaluation.metrics["all"]["rmse"], rel=0.1)


def test_predictions_are_in_range_and_in_order(model: PooledModel, later: Data) -> None:
    predicted = assert_predicts(model, later[0])
    assert (predicted["cut_day"].to_numpy() == later[0]["cut_day"].to_numpy()).all()
    certain = later[0]["grade_if_nothing_more"].to_numpy()
    possible = later[0]["grade_if_all_perfect"].to_numpy()
    assert (predicted["grade"] >= certain - 1e-3).all()
    assert (predicted["grade"] <= possible + 1e-3).all()


def test_the_whole_ensemble_was_fitted(model: PooledModel) -> None:
    assert model.degraded == ()
    for task in Task:
        assert {f"{kind.name} alone" for kind in MEMBERS} <= set(model.choices[task]["losses"])
        assert model.choices[task]["reason"]
        assert set(model.parts[task].members) <= set(model.parts[task].stack.used)


def test_every_row_was_held_out_once_with_its_section(model: PooledModel, data: Data) -> None:
    held = model.held_out
    assert len(held) == len(data[0]) == held["row"].nunique()
    assert held.groupby("section_id")["fold"].nunique().eq(1).all()
    assert {"raw_grade", "raw_risk", "student", "began_on"} <= set(held.columns)
    assert "student_id" not in held.columns


@pytest.mark.security
def test_no_student_can_be_identified_in_what_the_model_stores(
    model: PooledModel, data: Data, tmp_path: Path
) -> None:
    model.save(tmp_path)
    kept, ids = pd.read_parquet(tmp_path / "held_out.parquet"), data[0]["student_id"]
    hashed = pd.util.hash_pandas_object(ids.astype(object), index=False)
    assert not set(hashed) & set(kept["student"])
    # Sorted as the ids are, the rows would identify students by rank.
    rank = pd.Series(ids.unique()).rank().set_axis(PSEUDONYMS.of(pd.Series(ids.unique())))
    order = kept["student"].drop_duplicates().map(rank)
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.3
    for path in tmp_path.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not [name for name in ids.unique() if f'"{name}"'.encode() in content]


@pytest.mark.slow
def test_shuffled_outcomes_give_no_skill(data: Data, later: Data) -> None:
    frame, truth = data
    order = np.random.default_rng(0).permutation(len(truth))
    shuffled = truth.assign(
        final_grade=truth["final_grade"].to_numpy()[order],
        at_risk=truth["at_risk"].to_numpy()[order],
    )
    model = fit(frame, shuffled)
    assert 0.4 < cut_table(model.held_out).risk["auc"] < 0.6
    assert 0.4 < cut_table(with_outcomes(model, *later)).risk["auc"] < 0.6
    assert model.evaluation.metrics["late"]["rmse"] > truth["final_grade"].std() * 0.95


def test_protected_attributes_do_not_influence_predictions(model: PooledModel, later: Data) -> None:
    frame, _ = later
    assert "attribute_region" in model.features
    assert not any(name.startswith(PROTECTED) for name in model.features)
    assert set(model.audit["kind"]) == {"course", "gender"}
    other = frame.assign(protected_gender="X", protected_imd_band="0-10%")
    pd.testing.assert_frame_equal(model.predict(other), model.predict(frame))


def test_rows_that_come_later_change_no_prediction(model: PooledModel, later: Data) -> None:
    frame, _ = later
    now = frame[frame["cut_day"] <= 14]
    future = frame[frame["cut_day"] > 14].assign(grade_rate_so_far=np.float32(3))
    alone = model.predict(now).reset_index(drop=True)
    beside = model.predict(pd.concat([future, now])).tail(len(now)).reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, beside, check_categorical=False, atol=1e-6)
    prediction = model.predict(now.iloc[[7]])
    pd.testing.assert_frame_equal(
        prediction, alone.iloc[[7]].reset_index(drop=True), check_categorical=False, atol=1e-6
    )


def test_no_rows_have_no_predictions(model: PooledModel, later: Data) -> None:
    predicted = model.predict(later[0][:0])
    assert predicted.empty
    assert set(PREDICTED) <= set(predicted.columns)


def test_what_was_never_seen_and_what_is_missing_is_predicted(
    model: PooledModel, later: Data
) -> None:
    frame = later[0].head(8).copy()
    frame["course_id"] = "never seen"
    frame["attribute_region"] = ["nowhere"] * 4 + [None] * 4
    assert_predicts(model, frame)
    numbers = [name for name in model.features if name in frame.select_dtypes("number")]
    frame[[name for name in numbers if name != "progress"]] = np.float32("nan")
    assert_predicts(model, frame.drop(columns=["attribute_region", "attribute_studied_credits"]))


def test_a_loaded_model_is_the_saved_model(model: PooledModel, later: Data, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = PooledModel.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.predict(later[0]), model.predict(later[0]))
    pd.testing.assert_frame_equal(loaded.held_out, model.held_out)
    assert loaded.features == model.features
    assert loaded.evaluation.flat() == model.evaluation.flat()


@pytest.mark.slow
def test_the_same_data_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    frame, truth = small()
    fit(frame, truth).save(tmp_path / "a")
    fit(frame.sample(frac=1, random_state=5), truth[::-1]).save(tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_no_student_is_named_in_any_file(tmp_path: Path) -> None:
    frame, truth = small()
    names = {old: f"Zebulon-{old}" for old in truth["student_id"]}
    frame["student_id"] = frame["student_id"].cat.rename_categories(names)
    model = fit(frame, truth.assign(student_id=truth["student_id"].map(names)))
    model.save(tmp_path)
    assert {"held_out.parquet", "model.json"} <= {path.name for path in tmp_path.iterdir()}
    for path in tmp_path.iterdir():
        assert b"Zebulon" not in path.read_bytes(), path.name
    # The columns of Parquet may be compressed.
    assert "Zebulon" not in pd.read_parquet(tmp_path / "held_out.parquet").to_csv()


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_folder_that_cannot_be_read_is_refused(
    model: PooledModel, tmp_path: Path, damage: str
) -> None:
    model.save(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(b"damaged")
        with pytest.raises(ArtifactError):
            PooledModel.load(tmp_path)
        path.write_bytes(content)
    assert PooledModel.load(tmp_path).features == model.features


@pytest.mark.parametrize(
    "missing",
    [
        ("lightgbm",),
        pytest.param(("catboost",), marks=pytest.mark.slow),
        pytest.param(("xgboost", "lightgbm", "catboost"), marks=pytest.mark.slow),
    ],
    ids="-".join,
)
def test_a_missing_library_leaves_a_smaller_ensemble(
    monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    frame, truth = small()
    model = fit(frame, truth)
    assert model.degraded == tuple(
        f"{absence(kind.library)}; the ensemble goes without it"
        for kind in MEMBERS
        if kind.library in missing
    )
    for part in model.parts.values():
        assert not {member.library for member in part.members.values()} & set(missing)
    assert_predicts(model, frame)
    assert len(of_pooled(model, None, frame)) == 5


def test_a_model_whose_library_has_gone_is_refused(
    model: PooledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save(tmp_path)
    libraries = {
        member.library for part in model.parts.values() for member in part.members.values()
    }
    for name in libraries - {"sklearn"}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ArtifactError, match="make up ALL=1"):
        PooledModel.load(tmp_path)


def broken(error: Exception):
    def fit(cls, *arguments: object, **keywords: object) -> None:
        raise error

    return classmethod(fit)


def test_a_failing_member_leaves_a_smaller_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CatBoost, "fit", broken(RuntimeError("no kernel image")))
    frame, truth = small()
    model = fit(frame, truth)
    assert model.degraded == (
        "catboost could not be fitted (grade): no kernel image",
        "catboost could not be fitted (risk): no kernel image",
    )
    assert_predicts(model, frame)


@pytest.mark.slow
def test_a_member_that_fails_on_all_rows_only_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, truth = small()
    usual = CatBoost.fit

    def fit_few(matrix, *arguments: object, **keywords: object) -> CatBoost:
        if len(matrix) == len(frame):
            raise RuntimeError("too many rows")
        return usual(matrix, *arguments, **keywords)

    assert "catboost" in fit(frame, truth).parts[Task.GRADE].members
    monkeypatch.setattr(CatBoost, "fit", fit_few)
    model = fit(frame, truth)
    assert "catboost could not be fitted (grade): too many rows" in model.degraded
    for part in model.parts.values():
        assert "catboost" not in part.stack.names
    assert_predicts(model, frame)


def test_without_any_member_no_ensemble_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in MEMBERS:
        monkeypatch.setattr(kind, "fit", broken(RuntimeError("no kernel image")))
    with pytest.raises(NotReadyError, match="no kernel image"):
        fit(*small())


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"final_grade": 50.0},
        {"at_risk": False},
        {"at_risk": True, "final_grade": 0.0},
        {"final_grade": np.nan},
    ],
    ids=str,
)
def test_outcomes_without_variation_train(changes: dict[str, object]) -> None:
    frame, truth = small()
    model = fit(frame, truth.assign(**changes))
    predicted = model.predict(frame)
    assert predicted["risk"].between(0, 1).all()
    if np.isnan(changes.get("final_grade", 0.0)):
        assert predicted[["grade", "lower80", "upper95"]].isna().all(axis=None)
    else:
        assert_predicts(model, frame)
    if "at_risk" in changes:
        assert (predicted["risk"] > 0.9 if changes["at_risk"] else predicted["risk"] < 0.1).all()
    assert all(isinstance(verdict.passed, bool) for verdict in of_pooled(model, None, frame))


@pytest.mark.parametrize("where", ["section 0", pytest.param("s3", marks=pytest.mark.slow)])
def test_failures_that_most_folds_do_not_know_train(where: str) -> None:
    frame, truth = small()
    failures = (truth["section_id"] == where) | (truth["student_id"] == where)
    model = fit(frame, truth.assign(at_risk=failures))
    assert_predicts(model, frame)
    assert Task.GRADE in model.parts


@pytest.mark.parametrize("kept", ["one course", "one section"])
def test_little_of_a_campus_trains(kept: str) -> None:
    frame, truth = small()
    sections = ["section 0", "section 2", "section 4"] if kept == "one course" else ["section 1"]
    known = truth[truth["section_id"].isin(sections)]
    model = fit(frame[frame["section_id"].isin(sections)], known)
    assert model.sections == tuple(sections)
    assert_predicts(model, frame)


def test_a_term_in_which_all_take_the_same_courses_trains() -> None:
    frame, truth = snapshots(sections=2, students=30, weeks=4)
    model = fit(frame, truth)
    assert model.degraded == ()
    assert_predicts(model, frame)


@pytest.mark.slow
def test_empty_and_manifold_attributes_train() -> None:
    frame, truth = small()
    frame["attribute_empty"] = pd.Categorical([None] * len(frame))
    frame["attribute_blank"] = np.float32("nan")
    # As many as rows: a name, and not a group.
    values = [f"value {i}" for i in range(10_000)]
    codes = np.arange(len(frame)) % len(values)
    frame["attribute_many"] = pd.Categorical.from_codes(codes, categories=values)
    model = fit(frame, truth)
    assert {"attribute_empty", "attribute_blank"} <= set(model.features)
    assert "attribute_many" not in model.features
    assert_predicts(model, frame.assign(attribute_many="value 9999"))


@pytest.mark.slow
def test_a_running_section_is_left_out_whole() -> None:
    frame, truth = small()
    known = truth[(truth["section_id"] != "section 0") | truth["at_risk"]]
    model = fit(frame, known)
    assert model.sections == tuple(f"section {i}" for i in range(1, 6))
    assert "section 0" not in set(model.held_out["section_id"])


@pytest.mark.parametrize("kept", [0, 1])
def test_too_little_to_learn_from_is_reported(kept: int) -> None:
    frame, truth = small()
    with pytest.raises(NotReadyError, match="at least 20 enrollments"):
        fit(frame, truth[truth["student_id"] == "s0"][:kept])


@pytest.mark.slow
def test_surroundings_are_read_where_there_are_any() -> None:
    frame, truth = small()
    random = np.random.default_rng(0)
    frame["external_weather_heat"] = random.normal(size=len(frame)).astype("float32")
    model = fit(frame, truth)
    assert "external_weather_heat" in model.features
    assert_predicts(model, frame.drop(columns="external_weather_heat"))


def test_unequal_explanations_are_detected(model: PooledModel, data: Data) -> None:
    judged = {check.name: check for check in of_pooled(model, None, data[0])}
    assert judged["explanations_add_up"].passed
    part = model.parts[Task.GRADE]
    name, member = next(iter(part.members.items()))

    class Wrong(type(member)):
        def contributions(self, matrix):
            return super().contributions(matrix) + 0.01

    wrong = Wrong(**{name: getattr(member, name) for name in member.__dataclass_fields__})
    parts = {Task.GRADE: replace(part, members={name: wrong})}
    judged = {check.name: check for check in of_pooled(replace(model, parts=parts), None, data[0])}
    assert not judged["explanations_add_up"].passed


def test_the_spread_between_fits_is_repeatable_and_kept_with_the_model(
    model: PooledModel, data: Data, tmp_path: Path
) -> None:
    spread = spread_between_fits(model, *data, seed=0)
    assert set(spread["phase"]) == {"early", "middle", "late"}
    assert spread["spread"].between(0, 0.5).all() and spread["spread"].max() > 0
    pd.testing.assert_frame_equal(spread, spread_between_fits(model, *data, seed=0))
    replace(model, importance_spread=spread).save(tmp_path)
    pd.testing.assert_frame_equal(PooledModel.load(tmp_path).importance_spread, spread)


def test_the_spread_of_what_an_earlier_version_trained_is_unknown(
    model: PooledModel, data: Data, tmp_path: Path
) -> None:
    assert model.importance_spread.empty
    model.save(tmp_path)
    file = tmp_path / "model.json"
    described = json.loads(file.read_text())
    del described["importance_spread"]
    file.write_text(json.dumps(described))
    loaded = PooledModel.load(tmp_path)
    assert loaded.importance_spread.empty
    assert list(loaded.importance_spread) == list(pooled.SPREAD)
    pd.testing.assert_frame_equal(loaded.predict(data[0]), model.predict(data[0]))
