"""Without anything to explain or to compare with, every stage returns nothing, with the reason."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from grade_ml.core.frames import empty
from grade_ml.core.types import pandas_types
from grade_ml.ensemble.importance import spread_between_fits
from grade_ml.ensemble.members import Task
from grade_ml.ensemble.pooled import SPREAD
from grade_ml.explanations import store, tables
from grade_ml.explanations.attribution import explain
from grade_ml.explanations.effects import effect
from grade_ml.explanations.fairness import fairness
from grade_ml.explanations.importance import (
    REFERENCE,
    expected,
    importance,
    judged,
)
from grade_ml.explanations.interactions import interactions, largest_pairs

pytestmark = pytest.mark.filterwarnings("error::FutureWarning")
TODAY = date(2024, 2, 5)


def weighed(rows: int) -> pd.DataFrame:
    values = np.random.default_rng(0).normal(size=(rows, 4))
    students = np.array([f"s{number}" for number in range(rows)])
    return importance(values, ["a", "b", "c", "d"], students, 0)


@given(st.sampled_from([0, 1, 40]), st.sampled_from(["typed", "untyped"]))
def test_importance_without_a_reference_has_no_band_and_no_alarm(rows: int, kind: str):
    """So it is while the baseline serves."""
    nothing = empty(REFERENCE) if kind == "typed" else pd.DataFrame(columns=list(REFERENCE))
    weights = judged(weighed(rows), nothing)
    assert len(weights) == (4 if rows else 0)
    assert weights[["band_low", "band_high"]].isna().all(axis=None)
    assert weights["alarm"].dtype == bool and not weights["alarm"].any()


def test_importance_of_no_students_has_the_usual_types():
    assert weighed(0).dtypes.to_dict() == weighed(20).dtypes.to_dict()
    unknown = importance(np.full((3, 2), np.nan), ["a", "b"], np.array(["x", "y", "z"]), 0)
    assert unknown.dtypes.to_dict() == weighed(20).dtypes.to_dict()


def test_a_reference_without_rows_of_training_terms(ensemble, data):
    rows = data[0]
    for held_out in (rows.head(0), rows[rows["section_id"].astype(str) == "section 0"].head(1)):
        reference = expected(ensemble, ensemble, held_out, "early", 0)
        assert reference.dtypes.astype(str).to_dict() == {
            "task": "object",
            "feature": "object",
            "share": "float64",
            "error": "float64",
        }
    spread = spread_between_fits(ensemble, rows.head(0), data[1], 0)
    assert spread.empty and list(spread) == list(SPREAD)


@pytest.mark.parametrize("name", ["ensemble", "of_course", "plain"])
def test_an_account_of_no_rows(name: str, request: pytest.FixtureRequest, data):
    model = request.getfixturevalue(name)
    explained = explain(model, data[0].head(0))
    assert explained.grade.contributions.shape == (0, len(explained.features))
    assert effect(model, data[0].head(0), "progress") is None


def test_interactions_of_no_rows(ensemble, data):
    features, pairs = interactions(ensemble, data[0].head(0), Task.GRADE)
    assert pairs.shape == (0, len(features), len(features))
    assert largest_pairs(features, np.zeros((len(features),) * 2), 3) == []


def test_groups_of_no_students(ensemble):
    rows = ensemble.held_out
    assert fairness(rows.head(0).assign(attribute_gender=pd.Series(dtype=object)), 0).empty
    assert fairness(rows, 0).empty


def test_what_is_stored_of_no_course(engine: Engine):
    with engine.begin() as connection:
        assert store.read_explanations(connection, [], TODAY) == []
        assert store.read_reference(connection, "pooled", 1).empty
        assert store.read_paths(connection, ["c"], TODAY) == []
        for table, frame in (
            (tables.importance, store.read_importance(connection, TODAY, ["c"], TODAY)),
            (tables.fairness, store.read_fairness(connection, TODAY)),
        ):
            assert frame.empty and list(frame) == list(pandas_types(table))
        contributions, values = store.matrix_of([], "grade")
        assert contributions.empty and values.empty
