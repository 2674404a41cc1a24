"""What a person reads at the command line."""

from __future__ import annotations

from grade_ml.explanations.contract import CLIPPING, Account, Explanation
from grade_ml.explanations.words import described, in_words
from grade_ml.features.catalogue import NUMERIC_FEATURES


def test_every_feature_has_words():
    assert all(described(name) != name for name in NUMERIC_FEATURES)
    assert described("external_weather_rain") == "Outside: weather rain"


def test_numbers_and_signs_are_those_of_the_account():
    grade = Account(
        48.0, 60.0, {"missed_share": -10.0, "progress": 1.5, "x": -3.0}, {CLIPPING: -0.5}
    )
    risk = Account(0.0, -1.0, {"missed_share": 1.0}, {})
    explanation = Explanation(
        "c1", "s", 70.0, grade, risk, {"missed_share": 0.4, "progress": None}, "pooled 3", ("why",)
    )
    lines = in_words(explanation, most=2)
    text = "\n".join(lines)
    assert "The grade is 48.0 points, and 60.0 points for an average student" in text
    assert "-10.0  Share of the coursework due that was not handed in (0.4)" in text
    assert "+1.5  Other features together (1)" in text
    assert "-0.5  What is certain and what is still possible" in text
    assert "The risk is 50.0%, and 26.9% for" in text and "+23.1%" in text
    assert lines[-1] == "Note: why."


def test_without_a_grade_only_the_risk_is_explained():
    explanation = Explanation("c1", "s", 7.0, None, Account(0.0, 0.0, {"progress": 0.0}, {}), {})
    assert not any("grade is" in line for line in in_words(explanation))
