"""Sources with planted effects on a small world of five terms, tried as a model's owner would."""

import json

import numpy as np
import pandas as pd
import pytest

from grade_ml.external.catalog import NAMES
from grade_ml.training.admission import Admission, admission
from grade_ml_tests.ensemble.snapshots import snapshots

pytestmark = pytest.mark.slow

TERMS, COURSES, STUDENTS, WEEKS = 5, 12, 20, 6
START = pd.Timestamp("2024-02-05")
PLANTED, NOISE, PROXY = "course_difficulty", "weather", "economic_indicators"
Frames = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]


def world(seed: int = 0, term_effect: float = 0) -> Frames:
    """Return (snapshots, outcomes, sections): difficulty lowers grades, other sources do not.

    Terms differ by up to twice `term_effect` points, which the indicators show and nothing else.
    """
    rows, truth = snapshots(TERMS * COURSES, STUDENTS, WEEKS, seed)
    random = np.random.default_rng(seed + 1)
    names = pd.Series([f"section {number}" for number in range(TERMS * COURSES)])
    term = np.arange(TERMS * COURSES) // COURSES
    sections = pd.DataFrame(
        {
            "section_id": names,
            "term_id": [f"term {number}" for number in term],
            "starts_on": START + pd.to_timedelta(180 * term, "D"),
        }
    )
    difficulty = pd.Series(random.uniform(-15, 15, len(names)), names)
    # The last term is like the term before it; any other would be as likely.
    level = pd.Series(term_effect * np.array([-1.0, 1.0, -1.0, 1.0, 1.0])[term], names)
    section = rows["section_id"].astype(object)
    start = section.map(sections.set_index("section_id")["starts_on"])
    rows["cut_on"] = start + pd.to_timedelta(rows["cut_day"], "D")
    days = pd.Series(rows["cut_on"].unique())
    rows[f"external_{PLANTED}_points"] = section.map(difficulty)
    rows[f"external_{NOISE}_heat"] = rows["cut_on"].map(
        dict(zip(days, random.normal(size=len(days)), strict=True))
    )
    rows[f"external_{PROXY}_unemployment"] = section.map(level)
    rows["external_job_market_openings"] = np.nan
    of_row = truth["section_id"]
    change = of_row.map(level) - of_row.map(difficulty)
    truth["final_grade"] = (truth["final_grade"] + change).clip(0, 100)
    return rows, truth, sections


@pytest.fixture(scope="module")
def verdict() -> Admission:
    return admission(*world(), seed=0)


def test_a_source_with_an_effect_is_admitted_and_no_other(verdict: Admission) -> None:
    assert verdict.sources == (PLANTED,)
    assert verdict.test_term == "term 4"
    assert verdict.train_terms == ("term 0", "term 1", "term 2", "term 3")
    trials = {trial.source: trial for trial in verdict.trials}
    assert tuple(trials) == NAMES
    error = trials[PLANTED].error
    assert error is not None and error.low <= error.change <= error.high < 0
    assert trials[PLANTED].rows == COURSES * STUDENTS * WEEKS
    assert "no gain beyond chance" in trials[NOISE].reason


def test_a_source_that_only_identifies_the_term_is_not_admitted() -> None:
    verdict = admission(*world(term_effect=8), seed=0)
    trial = next(trial for trial in verdict.trials if trial.source == PROXY)
    assert trial.error is not None and trial.error.is_gain
    assert not trial.admitted
    assert "tells no more than the term" in trial.reason


def test_a_source_without_a_value_is_not_tried(verdict: Admission) -> None:
    for trial in verdict.trials:
        if trial.source not in {PLANTED, NOISE, PROXY}:
            assert not trial.admitted
            assert trial.error is None and trial.rows == 0
            assert trial.reason.startswith("not tried")


def test_a_verdict_survives_storage_and_comes_out_the_same_again(verdict: Admission) -> None:
    assert Admission.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict
    rows, truth, sections = world()
    shuffled = rows.sample(frac=1, random_state=1)
    assert admission(shuffled, truth, sections, seed=0) == verdict


def test_a_term_that_still_runs_is_not_the_judge(verdict: Admission) -> None:
    rows, truth, sections = world()
    last = sections.loc[sections["term_id"] == "term 4", "section_id"].iloc[0]
    running = truth[truth["section_id"] != last]
    again = admission(rows, running, sections, seed=0)
    assert again.test_term == "term 3"


@pytest.mark.parametrize("terms", [0, 1])
def test_with_less_than_two_ended_terms_nothing_is_admitted(terms: int) -> None:
    rows, truth, sections = world()
    ended = sections.loc[sections["term_id"] < f"term {terms}", "section_id"]
    verdict = admission(rows, truth[truth["section_id"].isin(ended)], sections, seed=0)
    assert verdict.sources == ()
    assert {trial.reason for trial in verdict.trials} == {
        "not tried: fewer than two terms with graded work have ended"
    }


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_not_admitted_whatever_the_draw(seed: int) -> None:
    rows, truth, sections = world(seed)
    random = np.random.default_rng(seed)
    days = pd.Series(rows["cut_on"].unique())
    for source in NAMES:
        noise = dict(zip(days, random.normal(size=len(days)), strict=True))
        rows[f"external_{source}_noise"] = rows["cut_on"].map(noise)
    bare = rows.drop(columns=[f"external_{PLANTED}_points"])
    assert admission(bare, truth, sections, seed=seed).sources == ()
