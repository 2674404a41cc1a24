"""What an explanation promises, for every model that can serve."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grade_ml.ensemble.members import Task
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.ensemble.rows import COLLECTED
from grade_ml.ensemble.stacking import Stack
from grade_ml.explanations.attribution import explain
from grade_ml.explanations.contract import CLIPPING, COURSE, TOLERANCE, Account, Attributions
from grade_ml.features.attributes import PROTECTED
from grade_ml_tests.factories import PSEUDONYMS

EVERY = pytest.mark.parametrize("name", ["ensemble", "of_course", "plain"])


@pytest.fixture
def served(name: str, request: pytest.FixtureRequest):
    return request.getfixturevalue(name)


def assert_adds_up(attributions: Attributions) -> None:
    assert attributions.grade.error.max() <= TOLERANCE
    assert attributions.risk.error.max() <= TOLERANCE


@EVERY
def test_every_row_adds_up_to_what_is_served(served, unseen: pd.DataFrame):
    attributions = explain(served, unseen)
    assert_adds_up(attributions)
    predicted = served.predict(unseen)
    np.testing.assert_array_equal(attributions.grade.predicted, predicted["grade"])
    risk = 1 / (1 + np.exp(-attributions.risk.predicted))
    np.testing.assert_allclose(risk, predicted["risk"], atol=1e-12)
    assert attributions.grade.contributions.shape == (len(unseen), len(attributions.features))


@EVERY
def test_a_row_is_explained_the_same_alone_and_again(served, unseen: pd.DataFrame):
    together, alone = explain(served, unseen), explain(served, unseen.iloc[[7]])
    again = explain(served, unseen)
    for parts, single, repeated in (
        (together.grade, alone.grade, again.grade),
        (together.risk, alone.risk, again.risk),
    ):
        np.testing.assert_array_equal(parts.contributions, repeated.contributions)
        np.testing.assert_allclose(single.contributions[0], parts.contributions[7], atol=1e-4)
        assert single.baseline == pytest.approx(parts.baseline, abs=1e-5)


@EVERY
def test_no_rows_are_no_trouble(served, unseen: pd.DataFrame):
    attributions = explain(served, unseen[:0])
    assert len(attributions) == 0 and list(attributions.explanations()) == []


@EVERY
def test_what_was_never_seen_adds_up_too(served, unseen: pd.DataFrame):
    """A student without results, a feature that is missing, an attribute no student has."""
    bare = unseen.drop(columns=["days_passed", "attribute_region"], errors="ignore").head(40)
    known = bare.columns[bare.dtypes == "float32"]
    bare[[name for name in known if name not in {"progress"}]] = np.nan
    attributions = explain(served, bare)
    assert_adds_up(attributions)
    (first, *_) = attributions.explanations()
    assert first.values[COLLECTED] is None


def test_protected_attributes_add_nothing(ensemble: PooledModel, unseen: pd.DataFrame):
    assert any(name.startswith(PROTECTED) for name in unseen)
    assert not any(name.startswith(PROTECTED) for name in explain(ensemble, unseen).features)


def test_what_drives_the_grade_is_named_first(ensemble: PooledModel, unseen: pd.DataFrame):
    attributions = explain(ensemble, unseen)
    importance = dict(
        zip(
            attributions.features,
            np.abs(attributions.grade.contributions).mean(axis=0),
            strict=True,
        )
    )
    ranked = sorted(importance, key=lambda feature: importance[feature], reverse=True)
    assert {"grade_rate_so_far", COLLECTED} <= set(ranked[:5])


def test_the_baseline_is_one_number_near_the_average(ensemble: PooledModel, data):
    attributions = explain(ensemble, data[0])
    assert attributions.grade.baseline == pytest.approx(attributions.grade.predicted.mean(), abs=8)
    assert attributions.risk.baseline == pytest.approx(attributions.risk.predicted.mean(), abs=1)


def test_weights_that_change_along_the_section_are_explained_by_progress(
    ensemble: PooledModel, unseen: pd.DataFrame
):
    part = ensemble.parts[Task.RISK]
    names = tuple(part.members)
    weights = np.outer(np.ones(len(names)), [0.2, 0.4, 0.1])
    phased = Stack(names, (1 / 6, 1 / 2, 5 / 6), weights, np.array([-1.0, 0.5, 2]))
    changed = replace(ensemble, parts={**ensemble.parts, Task.RISK: replace(part, stack=phased)})
    attributions = explain(changed, unseen)
    assert_adds_up(attributions)
    place = attributions.features.index("progress")
    late = unseen["progress"].to_numpy() > 0.9
    own = attributions.risk.contributions[:, place]
    assert own[late].mean() - own[~late].mean() > 0.5


def test_bounds_and_the_course_are_named(of_course, unseen: pd.DataFrame):
    attributions = explain(of_course, unseen)
    assert (attributions.grade.remainders[CLIPPING].abs() > 0.5).any()
    assert (attributions.grade.remainders[COURSE].abs() > 0.5).any()
    assert attributions.risk.remainders[COURSE].abs().max() > 0.1


def test_where_no_grade_is_known_the_risk_is_still_explained(data):
    from grade_ml.ensemble import pooled
    from grade_ml_tests.ensemble.quick import quick

    rows, truth = data
    model = pooled.fit(
        rows,
        truth.assign(final_grade=np.nan),
        seed=0,
        pseudonyms=PSEUDONYMS,
        parameters=quick(rounds=5, epochs=1),
    )
    attributions = explain(model, rows.head(5))
    assert attributions.risk.error.max() <= TOLERANCE
    assert [explanation.grade for explanation in attributions.explanations()] == [None] * 5


def test_one_enrollment_is_explained_by_name(ensemble: PooledModel, unseen: pd.DataFrame):
    attributions = explain(ensemble, unseen.head(3))
    first, *_ = attributions.explanations("pooled 3")
    assert first.section_id == unseen["section_id"].iloc[0] and first.model == "pooled 3"
    assert first.grade and first.grade.error <= TOLERANCE
    (name, value), *rest = first.grade.largest(5)
    assert len(rest) == 4 and abs(value) >= abs(rest[0][1])
    assert first.values[name] is None or isinstance(first.values[name], float | str)


@pytest.mark.parametrize("distance", [0.0, 1e-12, 0.7, -4.0])
def test_a_risk_adds_up_as_a_probability(distance: float):
    account = Account(-0.5 + distance, -0.5, {"a": 2 * distance, "b": -distance}, {})
    share = account.in_probability()
    assert share.error < 1e-9
    assert share.predicted == pytest.approx(1 / (1 + math.exp(0.5 - distance)))
    assert all(share.contributions[n] * account.contributions[n] >= 0 for n in "ab")


@pytest.mark.slow
def test_without_the_library_that_explains_a_member_it_is_sampled_and_reported(
    ensemble: PooledModel, unseen: pd.DataFrame, tmp_path: Path
):
    """Of an ensemble whose other members are gone remains the forest, which two can explain."""
    stack = Stack(("random_forest",), (0.5,), np.ones((1, 1)), np.zeros(1))
    parts = {
        task: replace(part, members={"random_forest": part.members["random_forest"]}, stack=stack)
        for task, part in ensemble.parts.items()
        if "random_forest" in part.members
    }
    assert parts
    replace(ensemble, parts=parts).save(tmp_path / "model")
    unseen.head(5).to_parquet(tmp_path / "rows")
    code = (
        "import sys, pandas as pd; from pathlib import Path\n"
        "sys.modules['lightgbm'] = sys.modules['numba'] = None\n"
        "from grade_ml.ensemble.pooled import PooledModel\n"
        "from grade_ml.explanations.attribution import explain\n"
        "model = PooledModel.load(Path(sys.argv[1]))\n"
        "found = explain(model, pd.read_parquet(sys.argv[2]))\n"
        "assert not found.grade.error.max() > 1e-3 and found.risk.error.max() < 1e-3\n"
        "print(found.degraded)"
    )
    arguments = [str(tmp_path / "model"), str(tmp_path / "rows")]
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "contributions of random_forest are sampled by permutation" in ran.stdout
