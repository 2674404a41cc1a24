"""What three readers read, and that it holds nothing that is not stored."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grade_ml.core.errors import ConfigurationError
from grade_ml.explanations.contract import Account, Explanation
from grade_ml.explanations.messages import catalogue, languages
from grade_ml.explanations.narratives import (
    Explained,
    Narrative,
    Reader,
    by_theme,
    narrate,
    verify,
)
from grade_ml.explanations.themes import OWN_DOING, Theme, theme_of
from grade_ml.features.snapshots import NUMERIC_FEATURES


def account(
    predicted: float, baseline: float, contributions: dict[str, float], missing: float = 0.0
) -> Account:
    """Return an account that adds up, or misses its number by `missing`."""
    rest = predicted - baseline - math.fsum(contributions.values()) - missing
    return Account(predicted, baseline, contributions, {"clipping": rest})


POINTS = {
    "score_mean": 3.0,
    "score_last": 1.15,
    "assignments_missed": -4.0,
    "missed_share": -2.2,
    "rate_percentile": -9.0,
    "earlier_grade_mean": 0.2,
}
LOG_ODDS = {"missed_share": 0.8, "score_mean": -0.3, "missed_share_percentile": 0.1}
USUAL = Explained(
    Explanation(
        section_id="now",
        student_id="ann",
        cut_day=35.0,
        grade=account(55.4, 66.15, POINTS),
        risk=account(-0.53, -1.1, LOG_ODDS),
        values={
            "score_mean": 71.3,
            "assignments_missed": 2.0,
            "assignments_due": 7.0,
            "weight_remaining": 40.0,
            "grade_if_nothing_more": 31.0,
            "attribute_region": "north",
        },
    ),
    lower80=41.2,
    upper80=68.9,
)


def changed(**parts: object) -> Explained:
    return replace(USUAL, explanation=replace(USUAL.explanation, **parts))


def text(attribution: Explained, reader: Reader, language: str = "en") -> str:
    return narrate(attribution, reader, language).text


def sentences(narrated: str) -> int:
    return len(re.findall(r"\.(?= |$)", narrated))


def test_each_narrative_states_what_is_stored():
    assert text(USUAL, Reader.STUDENT) == (
        "Your work so far points to a final grade of about 55, most likely between 41 and 69. "
        "What helps your forecast most: the scores so far (4.2 points); what would help most if "
        "it improved: how much of the work has come in (it takes 6.2 points now). "
        "Still missing: 2 of 7 assignments that were due. "
        "Of 100 points, 40 are still open, and each assignment you hand in counts."
    )
    adviser = text(USUAL, Reader.ADVISER)
    assert "risk of failing or withdrawing is 37%" in adviser
    # The adviser reads of the class, which is what weighs most.
    assert "most taken away by the place in the class (9.0 points)" in adviser
    assert "The risk is raised most by how much of the work has come in." in adviser
    assert text(USUAL, Reader.ANALYST, "de") == (
        "Note 55,40 = Mittel 66,15 -10,85 durch Merkmale +0,10 durch Kalibrierung und Grenzen. "
        "Größte Beiträge: rate_percentile -9,00, assignments_missed -4,00, score_mean +3,00 "
        "Punkte. Risiko 37,1 %; Log-Odds im Mittel -1,100, durch Merkmale +0,600, am meisten durch "
        "missed_share (+0,800). Die Teile ergeben zusammen die Note bis auf 0,000000 Punkte."
    )


def test_a_student_without_results_and_a_student_at_risk():
    first = changed(values={"weight_remaining": 100.0})
    assert "no results yet" in text(first, Reader.STUDENT)
    idle = changed(values={"weight_remaining": 40.0, "assignments_missed": 3.0})
    assert "first estimate" not in text(idle, Reader.STUDENT)
    settled = replace(USUAL, lower80=55.2, upper80=55.6)
    assert text(settled, Reader.STUDENT).startswith("Your final grade will be about 55.")
    at_risk = changed(risk=account(1.45, -1.1, LOG_ODDS))
    assert "your adviser will gladly help" in text(at_risk, Reader.STUDENT)
    assert "81" not in text(at_risk, Reader.STUDENT)
    safe = changed(risk=account(-3.0, -1.1, {"class_size": 0.3, "score_mean": -2.2}))
    assert "risk is lowered most by the scores so far" in text(safe, Reader.ADVISER)


def test_no_student_reads_that_nothing_matters_where_the_points_so_far_do():
    behind = changed(grade=account(20.0, 60.0, {"grade_rate_so_far": -40.0}))
    narrative = text(behind, Reader.STUDENT)
    assert (
        "follows from the points collected by this stage" in narrative
        and "40" not in narrative[:120]
    )
    even = changed(grade=account(60.0, 60.0, {"grade_rate_so_far": 0.1, "class_size": -9.0}))
    assert "Nothing that you have done so far" in text(even, Reader.STUDENT)
    assert verify(narrate(behind, Reader.STUDENT, "de"), behind) == ()


def test_what_does_not_add_up_or_is_unknown_explains_nothing():
    off = changed(grade=account(55.4, 66.15, POINTS, missing=0.02))
    narrative = text(off, Reader.ADVISER)
    assert "cannot be told today" in narrative and "points)" not in narrative
    assert "no exact attribution" in text(off, Reader.ANALYST)
    unknown = replace(changed(grade=None), lower80=math.nan, upper80=math.nan)
    for reader in Reader:
        narrative = narrate(unknown, reader, "en")
        assert re.search(r"\bnan\b", narrative.text) is None
        assert verify(narrative, unknown) == ()


def test_a_language_without_words_is_refused():
    with pytest.raises(ConfigurationError, match="de, en"):
        narrate(USUAL, Reader.STUDENT, "tlh")


def test_catalogues_state_the_same_with_the_same_numbers():
    assert set(languages()) >= {"de", "en"}
    english = catalogue("en")
    for language in languages():
        other = catalogue(language)
        assert other.themes.keys() == set(map(str, Theme))
        assert other.messages.keys() == english.messages.keys() > set(Reader)
        for section, messages in english.messages.items():
            assert other.messages[section].keys() == messages.keys()
            for kind, message in messages.items():
                assert sorted(message.slots) == sorted(other.messages[section][kind].slots), kind


def test_every_feature_has_a_theme():
    themes = {theme_of(name) for name in NUMERIC_FEATURES}
    assert themes == set(Theme) - {Theme.BACKGROUND, Theme.SURROUNDINGS}
    assert theme_of("attribute_region") is Theme.BACKGROUND
    assert theme_of("external_weather_rain") is Theme.SURROUNDINGS


def test_students_are_not_compared_with_others():
    for name in NUMERIC_FEATURES:
        if name.startswith(("class", "course", "rate")) or name.endswith(
            ("_percentile", "_of_class", "_above_class")
        ):
            assert theme_of(name) not in OWN_DOING
    for language in languages():
        words = catalogue(language)
        texts = [message.text for message in words.messages[Reader.STUDENT].values()]
        texts += [words.themes[theme] for theme in OWN_DOING]
        peers = r"class|others|peers|average|rank|Klasse|andere|Durchschnitt|Mitstud|fail|Versag"
        assert [sentence for sentence in texts if re.search(peers, sentence)] == []


CHANGES = st.floats(-30, 30, allow_nan=False).map(lambda value: value or 0.0)
COUNT = st.integers(0, 12).map(float) | st.none()
VALUES = [
    "score_mean",
    "assignments_missed",
    "assignments_due",
    "weight_remaining",
    "assignments_late",
    "assignments_submitted",
    "grade_if_nothing_more",
    "activity_days_last_28",
]


@st.composite
def explained(draw: st.DrawFn) -> Explained:
    names = draw(st.lists(st.sampled_from(NUMERIC_FEATURES), min_size=3, max_size=12, unique=True))
    points = {name: draw(CHANGES) for name in names}
    grade = draw(st.floats(0, 100))
    missing = draw(st.sampled_from([0.0, 1e-6, 0.5]))
    return Explained(
        Explanation(
            section_id="now",
            student_id="ann",
            cut_day=35.0,
            grade=draw(
                st.none() | st.just(account(grade, draw(st.floats(0, 100)), points, missing))
            ),
            risk=account(
                draw(CHANGES) / 10,
                draw(CHANGES) / 10,
                {name: draw(CHANGES) / 10 for name in names},
                missing,
            ),
            values={name: draw(COUNT) for name in VALUES},
        ),
        lower80=max(grade - 9.5, 0.0),
        upper80=min(grade + 9.5, 100.0),
    )


@given(explained(), st.sampled_from(Reader), st.sampled_from(["de", "en"]))
def test_every_narrative_is_verified_and_has_two_to_four_sentences(attribution, reader, language):
    narrated = narrate(attribution, reader, language)
    assert verify(narrated, attribution) == ()
    assert 2 <= sentences(narrated.text) <= 4, narrated.text


@given(explained(), st.sampled_from(Reader), st.sampled_from(["de", "en"]), st.randoms(), st.data())
def test_a_changed_digit_or_sign_is_caught(attribution, reader, language, chance, data):
    narrated = narrate(attribution, reader, language)
    places = [match.start() for match in re.finditer(r"[\d+-](?=\d|[^\w-]|$)", narrated.text)]
    places = [place for place in places if narrated.text[place] in "0123456789+-"]
    place = data.draw(st.sampled_from(places)) if places else None
    if place is None:
        return
    old = narrated.text[place]
    others = {"+": "-", "-": "+"}.get(old) or chance.choice([d for d in "0123456789" if d != old])
    forged = narrated.text[:place] + others + narrated.text[place + 1 :]
    if _reads_the_same(narrated.text, forged):
        return
    assert verify(Narrative(reader, language, forged), attribution), forged


def _reads_the_same(text: str, forged: str) -> bool:
    """Return whether all numbers are the same, as +0.00 and -0.00 are."""
    number = r"[+-]?\d+(?:[.,]\d+)?"
    pair = [
        [float(number_text.replace(",", ".")) for number_text in re.findall(number, narrative)]
        for narrative in (text, forged)
    ]
    return pair[0] == pair[1]


def test_a_turned_direction_and_a_swapped_theme_are_caught():
    narrated = narrate(USUAL, Reader.ADVISER, "en")
    turned = narrated.text.replace("risk is raised", "risk is lowered")
    swapped = narrated.text.replace("the place in the class", "the scores so far")
    invented = narrated.text + " The student will do well."
    for forged in (turned, swapped, invented, narrated.text[:-40]):
        assert forged != narrated.text
        assert verify(replace(narrated, text=forged), USUAL)
    turned_round = {name: -points for name, points in POINTS.items()}
    negated = changed(grade=account(55.4, 66.15, turned_round))
    assert verify(narrate(USUAL, Reader.STUDENT, "de"), negated)


def test_themes_add_up_to_what_their_features_are_worth():
    chance = random.Random(1)
    contributions = {name: chance.uniform(-5, 5) for name in NUMERIC_FEATURES}
    worth = by_theme(contributions)
    assert math.isclose(sum(worth.values()), sum(contributions.values()))
