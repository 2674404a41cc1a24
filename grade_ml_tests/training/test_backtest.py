from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from grade_ml.core.errors import ConfigurationError, NotFoundError
from grade_ml.gradebook.frames import Gradebook
from grade_ml.training.backtest import BacktestReport, backtest, without_terms
from grade_ml_tests.ensemble.campus import campus

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gradebook() -> Gradebook:
    return campus()


@pytest.fixture(scope="module")
def terms(gradebook: Gradebook) -> list[str]:
    return gradebook.terms.sort_values("starts_on")["term_id"].tolist()


@pytest.fixture(scope="module")
def report(gradebook: Gradebook, terms: list[str]) -> BacktestReport:
    return backtest(gradebook, terms[:2], terms[2:3], models=["baseline"], seed=0)


def test_the_report_has_the_keys_of_the_protocol(report: BacktestReport, terms) -> None:
    body = report.to_dict()
    assert body["train_terms"] == terms[:2]
    assert body["test_terms"] == terms[2:3]
    assert list(body["cuts"]) == ["0.25", "0.5", "0.75"]
    for cut in (*body["cuts"].values(), body["all"]):
        assert set(cut) == {"n", "grade", "risk"}
        assert {"rmse", "mae", "coverage80", "coverage95", "width80"} <= set(cut["grade"])
        assert set(cut["risk"]) == {"auc", "ap", "brier", "ece"}
    assert body["all"]["n"] == sum(cut["n"] for cut in body["cuts"].values())
    assert set(body["models"]) == {"baseline", "naive"}
    assert min(body["train_seconds"], body["predict_seconds"], body["peak_mb"]) > 0


def test_the_baseline_beats_the_naive_forecast(report: BacktestReport) -> None:
    ours, naive = report.models["baseline"], report.models["naive"]
    assert ours.all.grade["rmse"] < naive.all.grade["rmse"]
    assert ours.all.risk["auc"] > 0.6
    assert naive.all.risk["auc"] is None


def test_figures_are_shown_by_course(report: BacktestReport, gradebook: Gradebook) -> None:
    by_course = report.groups["course"]
    assert set(by_course) <= set(gradebook.courses["course_id"])
    assert sum(cut.n for cut in by_course.values()) == report.models["baseline"].all.n


def test_no_row_of_a_removed_term_is_left(gradebook: Gradebook, terms: list[str]) -> None:
    kept = without_terms(gradebook, terms[2:])
    assert set(kept.sections["term_id"]) == set(terms[:2])
    gone = set(gradebook.sections["section_id"]) - set(kept.sections["section_id"])
    for frame in (kept.assignments, kept.enrollments, kept.activity):
        assert not gone & set(frame["section_id"])
    assert kept.results["assignment_id"].isin(kept.assignments["assignment_id"]).all()


def test_what_happens_after_the_last_cut_changes_no_prediction(gradebook, terms, report) -> None:
    """Scores after the cut are exchanged at random: only the truth may change, not the grades."""
    sections = gradebook.sections.set_index("section_id")
    assignments = gradebook.assignments.set_index("assignment_id")
    section = gradebook.results["assignment_id"].map(assignments["section_id"])
    half = sections["starts_on"] + (sections["ends_on"] - sections["starts_on"]) / 2
    known_on = gradebook.results["graded_on"].fillna(gradebook.results["submitted_on"])
    known_on = known_on.fillna(gradebook.results["assignment_id"].map(assignments["due_on"]))
    late = (known_on > section.map(half)) & section.map(sections["term_id"]).eq(terms[2])
    assert late.any()
    results = gradebook.results.copy()
    results.loc[late, "score"] = np.random.default_rng(0).uniform(0, 100, late.sum())
    changed = replace(gradebook, results=results)
    before = backtest(gradebook, terms[:2], terms[2:3], models=["baseline"], fractions=(0.25, 0.5))
    after = backtest(changed, terms[:2], terms[2:3], models=["baseline"], fractions=(0.25, 0.5))
    for cut in ("0.25", "0.5"):
        mean = "width80"
        assert before.models["baseline"].cuts[cut].grade[mean] == pytest.approx(
            after.models["baseline"].cuts[cut].grade[mean]
        )
        assert before.models["baseline"].cuts[cut].risk == after.models["baseline"].cuts[cut].risk


def test_an_unknown_term_is_named_with_the_known_terms(gradebook, terms) -> None:
    with pytest.raises(NotFoundError, match="no term 1999X") as caught:
        backtest(gradebook, ["1999X"], terms[2:3])
    assert terms[0] in caught.value.remedy


def test_a_term_on_both_sides_is_refused(gradebook, terms) -> None:
    with pytest.raises(ConfigurationError, match="both"):
        backtest(gradebook, terms[:2], terms[1:3])


def test_an_empty_gradebook_raises_with_a_remedy(gradebook) -> None:
    empty = replace(gradebook, sections=gradebook.sections[:0])
    with pytest.raises(NotFoundError) as caught:
        backtest(empty, ["a"], ["b"])
    assert "grade-ml load" in caught.value.remedy


def test_reports_are_plain_numbers(report: BacktestReport) -> None:
    flat = pd.json_normalize(report.to_dict()["cuts"])
    assert all(isinstance(value, int | float) for value in flat.iloc[0])
