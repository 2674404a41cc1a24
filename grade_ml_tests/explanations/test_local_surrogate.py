"""LIME as a second opinion: repeatable, honest about its fit, and used only where it is needed."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from grade_ml.core.errors import NotReadyError
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.explanations.attribution import explain
from grade_ml.explanations.contract import Account
from grade_ml.explanations.local_surrogate import (
    SETTINGS,
    LocalSurrogate,
    Neighbours,
    agreement,
    neighbours,
    second_opinion_reasons,
    surrogate,
)
from grade_ml_tests.ensemble.snapshots import NOISE
from grade_ml_tests.explanations.conftest import Data


def near(model: PooledModel, data: Data, row: pd.DataFrame) -> Neighbours:
    return neighbours(model, data[0], float(row["progress"].iloc[0]), 0)


def surrogate_of(
    model: PooledModel, data: Data, row: pd.DataFrame, seed: int = 0
) -> LocalSurrogate:
    return surrogate(model, row, near(model, data, row), seed)


def row_of(unseen: pd.DataFrame, place: int) -> pd.DataFrame:
    return unseen.iloc[[place]].reset_index(drop=True)


def test_a_seed_gives_the_same_bytes_and_another_seed_nearly_the_same(ensemble, data, unseen):
    row = row_of(unseen, 11)
    first, again, other = (surrogate_of(ensemble, data, row, seed) for seed in (0, 0, 1))
    assert first == again != other
    top = [{name for name, _ in explanation.largest(3)} for explanation in (first, other)]
    assert len(top[0] & top[1]) >= 2


def test_it_agrees_with_the_exact_attribution(ensemble, data, unseen):
    shown = 0
    for place in (5, 11, 40, 77):
        row = row_of(unseen, place)
        local = surrogate_of(ensemble, data, row)
        assert local.r2 <= 1 and (local.hidden == "") == (local.r2 >= SETTINGS.least_r2)
        (exact,) = explain(ensemble, row).explanations()
        assert exact.grade is not None
        if not local.hidden:
            shown += 1
            agreed = agreement(local, exact.grade, near(ensemble, data, row))
            assert agreed.signs >= 2 / 3
    assert shown


def test_missing_values_are_held_and_gaps_of_the_background_are_listed(ensemble, data, unseen):
    row = row_of(unseen, 11).assign(grade_rate_so_far=np.float32("nan"))
    snapshots, outcomes = data
    gappy = snapshots.copy()
    gappy.loc[gappy.index[::3], "weight_remaining"] = np.nan
    local = surrogate_of(ensemble, (gappy, outcomes), row)
    assert "grade_rate_so_far" in local.held and "attribute_region" in local.held
    assert local.imputed == ("weight_remaining",) or "weight_remaining" in local.held
    assert not set(local.held) & set(local.effects)
    assert all(np.isfinite(value) for value in local.effects.values())
    (name, *_) = (name for name in ensemble.features if name in NOISE)
    assert name in surrogate_of(ensemble, data, row.drop(columns=name)).held


def test_without_neighbours_there_is_no_second_opinion(ensemble, data, unseen):
    row = row_of(unseen, 11)
    with pytest.raises(NotReadyError, match="no other students"):
        surrogate(ensemble, row, Neighbours(row, {}), 0)
    gradeless = replace(ensemble, parts={})
    with pytest.raises(NotReadyError):
        surrogate(gradeless, row, near(ensemble, data, row), 0)


def test_without_lime_it_is_an_error_that_names_it(ensemble, data, unseen, monkeypatch):
    monkeypatch.setitem(sys.modules, "lime", None)
    monkeypatch.setitem(sys.modules, "lime.lime_tabular", None)
    with pytest.raises(ModuleNotFoundError, match="lime"):
        surrogate_of(ensemble, data, row_of(unseen, 11))


def test_agreement_counts_what_both_explain():
    around = Neighbours(pd.DataFrame(), {"a": 2.0, "unseen": 5.0})
    exact = Account(50.0, 60.0, {"a": -3.0, "b": 4.0, "c": 3.0, "d": 0.5, "unseen": 9.0}, {})
    local = LocalSurrogate({"a": -4.0, "b": -1.0, "c": 2.0, "d": 0.1}, 0.9, ("unseen",), (), "")
    agreed = agreement(local, exact, around)
    assert (agreed.jaccard5, agreed.signs) == (1.0, pytest.approx(2 / 3))
    assert np.isnan(agreement(replace(local, effects={}), exact, around).signs)


def test_who_needs_a_second_opinion():
    rows = pd.DataFrame(
        {
            "section_id": ["s"] * 5,
            "student_id": list("abcde"),
            "grade": [20.0, 42.0, 70.0, 71.0, np.nan],
            "risk": [0.9, 0.3, 0.1, 0.1, 0.2],
        },
        index=[3, 4, 5, 6, 7],
    )
    marks = pd.Series(40.0, rows.index)
    other = rows.assign(grade=[20.0, 42.0, 78.0, 72.0, np.nan])[:4]
    assert second_opinion_reasons(rows, other, marks).to_dict() == {
        3: "at risk",
        4: "near the pass mark",
        5: "champion and challenger disagree",
        6: "",
        7: "",
    }
    assert second_opinion_reasons(rows, None, marks)[5] == ""
