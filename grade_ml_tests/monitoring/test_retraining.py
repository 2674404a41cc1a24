from __future__ import annotations

from datetime import date, timedelta

import pytest

from grade_ml.monitoring.retraining import SETTINGS, Decision, Evidence, decide, permitted
from grade_ml.training.requests import Request

TODAY = date(2025, 10, 20)
DRIFT, LOSS = "score_mean drifted", "error +20% against the record (scores)"


def days_ago(days: int, **signals) -> Evidence:
    return Evidence(TODAY - timedelta(days=days), **signals)


both = {"drift": DRIFT, "loss": LOSS}


@pytest.mark.parametrize(
    ("evidence", "retrain", "words"),
    [
        ([], False, "no report"),
        ([days_ago(0), days_ago(14)], False, "nothing changed"),
        ([days_ago(0, drift=DRIFT), days_ago(14, drift=DRIFT)], False, "alone it confirms"),
        ([days_ago(0, loss=LOSS), days_ago(14, loss=LOSS)], False, "alone it confirms"),
        ([days_ago(0, **both)], False, "next window"),
        ([days_ago(0, **both), days_ago(7, **both)], False, "next window"),
        ([days_ago(0, **both), days_ago(14, drift=DRIFT)], False, "not yet"),
        ([days_ago(0, **both), days_ago(14, **both)], True, "two windows"),
        ([days_ago(0, **both), days_ago(28, **both)], True, "two windows"),
        ([days_ago(0, **both), days_ago(35, **both)], False, "next window"),
        ([days_ago(0), days_ago(14, **both), days_ago(28, **both)], False, "nothing changed"),
        ([days_ago(30, **both), days_ago(44, **both)], False, "no report"),
        ([days_ago(0, concept="scores are lower", concept_on=TODAY)], True, "lower"),
        ([days_ago(-1, **both), days_ago(14, **both)], False, "next window"),
    ],
)
def test_only_confirmed_drift_requests_a_training(evidence, retrain, words):
    decision = decide(evidence, TODAY)
    assert decision.retrain is retrain and words in decision.reason
    assert decide(evidence[::-1], TODAY) == decision


YES = Decision(True, "because", TODAY)


def requested(days: int, is_answered: bool = True) -> dict[str, Request]:
    day = TODAY - timedelta(days=days)
    return {"A": Request("A", "because", day, day, "key", is_answered)}


@pytest.mark.parametrize(
    ("requests", "in_flight", "acts"),
    [
        ({}, (), True),
        ({}, ("A",), False),
        (requested(60), ("A",), False),
        (requested(60, is_answered=False), ("A",), False),
        (requested(SETTINGS.cooldown_days - 1), (), False),
        (requested(SETTINGS.cooldown_days), (), True),
        (requested(0, is_answered=False), (), False),
        (requested(1, is_answered=False), (), True),
    ],
)
def test_a_course_waits_while_a_training_is_in_flight_and_cools_down(requests, in_flight, acts):
    act, wait = permitted({"A": YES}, requests, in_flight, TODAY)
    assert (list(act), list(wait)) == ((["A"], []) if acts else ([], ["A"]))


def test_evidence_from_before_the_last_training_requests_no_other():
    old = Decision(True, "because", TODAY - timedelta(days=60))
    assert permitted({"A": old}, requested(SETTINGS.cooldown_days + 1), (), TODAY)[0] == {}


def test_no_more_than_so_many_courses_a_day():
    decisions = {f"c{number:02d}": YES for number in range(SETTINGS.daily_cap + 5)}
    act, wait = permitted({**decisions, "no": Decision(False, "quiet")}, {}, (), TODAY)
    assert len(act) == SETTINGS.daily_cap and len(wait) == 5
    today = {name: Request(name, "because", TODAY, TODAY, "key") for name in act}
    again, _ = permitted(decisions, today, (), TODAY)
    assert again == {}
