from __future__ import annotations

import pandas as pd

from grade_ml.serving.implied import events, implied


def test_a_score_is_compared_with_what_was_predicted_before_it():
    scores = pd.DataFrame(
        {
            "section_id": "s",
            "student": [1, 1, 2],
            "assignment_id": ["a", "b", "a"],
            "category": "quiz",
            "score": [50.0, 70.0, 90.0],
            "scored_on": pd.to_datetime(["2025-03-10", "2025-03-20", "2025-03-10"]),
        }
    )
    predictions = pd.DataFrame(
        {
            "section_id": "s",
            "student": [1, 1, 1],
            "on": pd.to_datetime(["2025-03-03", "2025-03-10", "2025-03-20"]),
            "grade": [60.0, 50.0, 10.0],
            "collected": [0.0, 10.0, 0.0],
            "weight_remaining": [100.0, 80.0, 100.0],
        }
    )
    compared = events(scores, predictions).set_index("assignment_id")
    # Not that of the day itself, which may have seen the score; none for the second student.
    assert compared["implied"].to_dict() == {"a": 60.0, "b": 50.0}


def test_what_little_is_to_come_implies_nothing():
    scores = implied(
        pd.Series([60.0, 60.0, 60.0, None, 20.0, 90.0]),
        pd.Series([30.0, 59.5, 60.0, 10.0, 30.0, 10.0]),
        pd.Series([50.0, 1.0, 0.9, 50.0, 50.0, 50.0]),
    )
    assert scores[:2].tolist() == [60.0, 50.0]
    assert scores[2:4].isna().all()
    assert scores[4:].tolist() == [0.0, 100.0]
