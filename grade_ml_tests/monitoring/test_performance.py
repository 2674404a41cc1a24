"""Errors beside the record, from made-up rows whose errors are known."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest

from grade_ml.ensemble.evaluation import phases
from grade_ml.monitoring import estimation
from grade_ml.monitoring.champion import Champion
from grade_ml.monitoring.performance import Basis, Performance, performance
from grade_ml.monitoring.records import Records

TODAY = date(2025, 12, 1)


def rows(students: int, spread: float, seed: int = 0, hard: float = 0.5) -> pd.DataFrame:
    """Return predictions at 10 places; those with wide intervals have twice the error."""
    random = np.random.default_rng(seed)
    size = students * 10
    student = np.repeat(np.arange(students), 10)
    width = np.where(random.random(students) < hard, 2.0, 1.0)[student]
    truth = random.uniform(20, 80, students)[student]
    grade = truth + spread * width * random.standard_normal(size)
    return pd.DataFrame(
        {
            "section_id": "old",
            "course_id": "A",
            "student_id": [f"s{number}" for number in student],
            "student": student,
            "progress": np.tile(np.arange(10) / 10 + 0.05, students),
            "fold": student % 3,
            "grade": grade,
            "risk": 0.2,
            "final_grade": truth,
            "at_risk": random.random(size) < 0.2,
            **{f"lower{level}": grade - 10 * width * level / 80 for level in (80, 95)},
            **{f"upper{level}": grade + 10 * width * level / 80 for level in (80, 95)},
        }
    ).assign(phase=lambda unphased: phases(unphased["progress"]))


def measured(now: pd.DataFrame, outcomes: bool, held_out: pd.DataFrame) -> Performance:
    section = pd.DataFrame(
        {
            "section_id": ["new"],
            "course_id": ["A"],
            "starts_on": [pd.Timestamp("2025-08-01")],
            "ends_on": [pd.Timestamp("2025-11-20" if outcomes else "2026-03-01")],
        }
    )
    predicted = now.assign(section_id="new", on=pd.Timestamp("2025-11-01"))
    truth = predicted[["section_id", "student_id", "final_grade", "at_risk"]].drop_duplicates(
        ["section_id", "student_id"]
    )
    empty = pd.DataFrame()
    records = Records(
        TODAY,
        section,
        empty,
        predicted.drop(columns=["final_grade", "at_risk", "fold", "phase"]),
        truth if outcomes else truth.head(0),
        empty,
        None,
    )
    snapshots = pd.DataFrame(
        {
            "section_id": "new",
            "student_id": now["student_id"].unique(),
            "cut_on": pd.Timestamp("2025-11-30"),
            "grade_if_nothing_more": 0.0,
            "grade_if_all_perfect": 100.0,
            "protected_gender": "f",
            "protected_birthYear": 1980 + np.arange(now["student_id"].nunique()) % 40,
        }
    )
    places = np.arange(len(held_out))
    audit = pd.DataFrame(
        {"kind": "birthYear", "group": ["up to 2000", "over 2000"], "rmse": 7.0, "brier": 0.1}
    )
    champion = Champion(
        *("pooled 1", (), frozenset({"old"}), held_out, audit, (), held_out, places),
        bands={"birthYear": [2000.0]},
    )
    estimate = estimation.fit(held_out, seed=0)
    return performance(champion, records, snapshots, None, estimate, seed=0)


@pytest.fixture(scope="module")
def held_out() -> pd.DataFrame:
    return rows(150, 8.0)


def test_a_realised_rise_is_reported_with_its_interval(held_out):
    same = measured(rows(80, 8.0, seed=1), True, held_out).loss
    assert same and same.basis is Basis.OUTCOMES and not same.risen
    assert same.low < same.value < same.high
    worse = measured(rows(80, 14.0, seed=1), True, held_out)
    assert worse.loss and worse.loss.risen
    assert worse.loss.value == pytest.approx(14 / 8 * worse.loss.baseline, rel=0.2)
    assert str(worse.loss).startswith("error +")
    groups = worse.groups.set_index(["kind", "group"])
    assert groups.loc[("all", "all"), "rmse"] > groups.loc[("all", "all"), "baseline_rmse"]
    assert ("gender", "f") in groups.index
    # Numbers are in the bands of the model's own audit, whose errors are the baseline.
    assert groups.loc["birthYear", "baseline_rmse"].to_dict() == {"over 2000": 7, "up to 2000": 7}


def test_without_labels_the_estimate_counts_and_reflects_harder_students(held_out):
    same = measured(rows(80, 8.0, seed=2), False, held_out).loss
    assert same and same.basis is Basis.ESTIMATE and not same.risen
    harder = measured(rows(80, 8.0, seed=2, hard=1.0), False, held_out).loss
    assert harder and harder.risen
    # The documentation states what the estimate cannot see: an error that grows without a sign.
    blind = measured(rows(80, 14.0, seed=2), False, held_out).loss
    assert blind and not blind.risen


def test_the_estimate_is_within_a_tenth_of_what_came_under_other_students(held_out):
    result = measured(rows(300, 8.0, seed=3, hard=0.9), True, held_out)
    assert result.estimate_ratio == pytest.approx(1, abs=0.1)
    assert result.estimate_ratio_held_out == pytest.approx(1, abs=0.1)


def test_nothing_known_is_no_number():
    result = measured(rows(80, 8.0), False, pd.DataFrame())
    assert result.loss is None and result.groups.empty and result.ece is None
    few = measured(rows(5, 8.0), True, rows(150, 8.0))
    assert few.loss is None
