"""Groups: figures as fairlearn's, intervals by student, and an error only beyond chance."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from grade_ml.explanations.fairness import fairness, with_attributes
from grade_ml.gradebook.attributes import SOURCES
from grade_ml_tests.factories import PSEUDONYMS


def rows(students: int = 400, each: int = 3, shift: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Return predictions that are too low by `shift` points, and riskier, for group F."""
    random = np.random.default_rng(seed)
    student = np.repeat(np.arange(students), each)
    group = np.repeat(random.choice(["F", "M"], students), each)
    truth = np.repeat(random.normal(60, 15, students), each)
    error = np.repeat(random.normal(0, 5, students), each) - shift * (group == "F")
    at_risk = truth < 50
    risk = np.clip(np.where(at_risk, 0.7, 0.2) + random.normal(0, 0.1, len(truth)), 0.01, 0.99)
    return pd.DataFrame(
        {
            "student": student,
            "protected_gender": group,
            "protected_age_band": np.where(student < 5, "rare", "usual"),
            "grade": truth + error,
            "final_grade": truth,
            "risk": risk,
            "at_risk": at_risk,
        }
    )


def test_groups_that_fare_alike_raise_no_error():
    wrong = sum(fairness(rows(seed=seed), seed)["exceeds"].any() for seed in range(8))
    assert wrong == 0


def test_a_group_that_is_predicted_too_low_is_an_error():
    figures = fairness(rows(shift=10), seed=0).set_index(["group_name", "metric"])
    assert figures.loc[("F", "bias"), "exceeds"]
    assert figures.loc[("F", "bias"), "value"] == pytest.approx(-10, abs=1)
    assert figures.loc[("F", "bias"), "low"] < -10 < figures.loc[("F", "bias"), "high"] + 1
    assert figures.loc[("F", "bias"), "gap_low"] < figures.loc[("F", "bias"), "gap"] < -8
    assert not figures.loc[("F", "calibration"), "exceeds"]


def test_a_small_sample_of_the_same_gap_is_none():
    few = fairness(rows(students=70, shift=4.5), seed=0)
    many = fairness(rows(students=4000, shift=4.5), seed=0)
    bias = few[few["metric"] == "bias"]
    assert not bias["exceeds"].any()
    assert many.loc[many["metric"] == "bias", "exceeds"].any()


def test_figures_are_those_of_the_rows():
    data = rows()
    figures = fairness(data, seed=0).set_index(["group_name", "metric"])["value"]
    own = data[data["protected_gender"] == "M"]
    assert figures["M", "mae"] == pytest.approx((own["grade"] - own["final_grade"]).abs().mean())
    assert figures["M", "calibration"] == pytest.approx((own["risk"] - own["at_risk"]).mean())
    missed = own[own["at_risk"]]["risk"] < 0.5
    assert figures["M", "false_negative_rate"] == pytest.approx(missed.mean())
    assert figures["M", "selection_rate"] == pytest.approx((own["risk"] >= 0.5).mean())


def test_groups_of_few_students_and_unknown_grades_are_left_out():
    data = rows()
    assert "age_band" not in set(fairness(data, seed=0)["attribute"])
    unknown = fairness(data.assign(final_grade=np.nan), seed=0)
    assert set(unknown["metric"]) == {"calibration", "selection_rate", "false_negative_rate"}
    assert fairness(data.drop(columns="protected_gender"), seed=0).empty


def test_any_protected_attribute_has_groups_numbers_in_bands():
    data = rows(shift=10)
    year = np.where(data["protected_gender"] == "F", 1990, 2000) + data["student"] % 9
    data = data.assign(protected_birthYear=year.astype("float32"), protected_asian="false")
    figures = fairness(data, seed=0)
    assert set(figures["attribute"]) == {"gender", "birthYear"}
    bias = figures[(figures["attribute"] == "birthYear") & (figures["metric"] == "bias")]
    assert 2 <= len(bias) <= 4 and bias["students"].min() >= 30
    assert bias.loc[bias["group_name"].str.startswith("up to"), "exceeds"].all()
    known = fairness(data, seed=0, bands={"birthYear": [1999.0]})
    assert set(known.loc[known["attribute"] == "birthYear", "group_name"]) == {
        "up to 1999",
        "over 1999",
    }


def test_attributes_are_matched_by_pseudonym():
    held_out = pd.DataFrame({"section_id": ["a", "a", "b"], "grade": [1.0, 2, 3]})
    held_out["student"] = PSEUDONYMS.of(pd.Series(["x", "y", "x"]))
    enrollments = pd.DataFrame(
        {
            "section_id": ["a", "a", "b"],
            "student_id": ["x", "y", "x"],
            "attributes": ['{"age_band": "0-35"}', "{}", '{"age_band": "35-55"}'],
        }
    )
    students = pd.DataFrame({"student_id": ["x", "y"], "attributes": ['{"gender": "F"}', "{}"]})
    rows_with_attributes = with_attributes(held_out, students, enrollments, PSEUDONYMS, SOURCES)
    assert rows_with_attributes["protected_gender"].astype(object).fillna("?").tolist() == [
        "F",
        "?",
        "F",
    ]
    assert rows_with_attributes["protected_age_band"].astype(object).fillna("?").tolist() == [
        "0-35",
        "?",
        "35-55",
    ]


def test_without_fairlearn_the_error_names_it():
    code = (
        "import sys; sys.modules['fairlearn'] = None\n"
        "import pandas as pd\n"
        "from grade_ml.explanations.fairness import fairness\n"
        "from grade_ml.core.errors import NotReadyError\n"
        "try: fairness(pd.DataFrame(), 0)\n"
        "except NotReadyError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "grade-ml[explain]" in ran.stdout
