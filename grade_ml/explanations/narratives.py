"""A prediction and its attribution in two to four sentences, for three readers, in any language.

Sentences come from the message catalogues beside this module and hold only what is stored: every
number is a slot that is filled from the attribution, and every word that tells a direction belongs
to a sentence that is chosen by a sign. `verify` goes the other way: it reads the text back with the
same catalogue as its grammar and compares each number, sign and theme with what is stored. How
attributions are made is not told here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from grade_ml.explanations.contract import TOLERANCE, Account, Explanation
from grade_ml.explanations.messages import catalogue
from grade_ml.explanations.themes import IMPROVABLE, OWN_DOING, Theme, theme_of


class Reader(StrEnum):
    """Who reads a narrative."""

    STUDENT = "student"
    ADVISER = "adviser"
    ANALYST = "analyst"


@dataclass(frozen=True)
class NarrativeSettings:
    """The judgements of narratives, each with its reason."""

    #: Points. Themes that move the forecast less are not worth a sentence.
    least_points: float = 0.5
    #: Log-odds; at a risk of one half this is one point in a hundred.
    least_log_odds: float = 0.04
    #: Points. An interval that is narrower is told as a grade that will hardly change.
    settled_points: float = 1.0
    #: From this risk on a student is told whom to turn to.
    support_risk: float = 0.5


SETTINGS = NarrativeSettings()


@dataclass(frozen=True)
class Explained:
    """A stored explanation, and the 80% interval of its grade in points; NaN: unknown."""

    explanation: Explanation
    lower80: float
    upper80: float

    @property
    def grade(self) -> Account | None:
        """The account of the grade, where there is one that adds up."""
        found = self.explanation.grade
        return found if found and found.error <= TOLERANCE else None

    @property
    def risk(self) -> Account | None:
        """The account of the risk in log-odds, where it adds up."""
        found = self.explanation.risk
        return found if found.error <= TOLERANCE else None

    @property
    def chance(self) -> float:
        """The risk, 0-1."""
        return 1 / (1 + math.exp(-self.explanation.risk.predicted))

    def value(self, name: str) -> float:
        """Return a numeric feature of the student; NaN: unknown."""
        found = self.explanation.values.get(name)
        return math.nan if found is None else float(found)


@dataclass(frozen=True)
class Narrative:
    """Two to four sentences."""

    reader: Reader
    language: str
    text: str


def narrate(one: Explained, reader: Reader, language: str) -> Narrative:
    """Return what `reader` is told of a prediction.

    Students are told of their own doing only; what compares them with others is left out.

    Raises
    ------
    ConfigurationError
        There is no message catalogue of `language`.
    """
    words = catalogue(language)
    told = _told(one, reader)
    sentences = (words.write(reader, kind, told.slots) for kind in told.kinds)
    return Narrative(reader, language, " ".join(sentences))


def verify(narrative: Narrative, one: Explained) -> tuple[str, ...]:
    """Return what the narrative says that is not stored, in words; empty: all of it is.

    Every sentence must be the one that the stored signs ask for, every number the stored one as
    far as it is written, and every theme or feature the one that moves the prediction most.
    """
    words = catalogue(narrative.language)
    told = _told(one, narrative.reader)
    problems: list[str] = []
    rest = narrative.text
    for kind in told.kinds:
        message = words.messages[narrative.reader][kind]
        found = message.pattern(words.themes).match(rest)
        if found is None:
            return (*problems, f"{rest!r} does not begin with the sentence {kind}")
        rest = rest[found.end() :].removeprefix(" ")
        for (name, spec), text in zip(message.slots, found.groups(), strict=True):
            if not words.says(text, told.slots[name], spec):
                problems.append(f"{kind}: {text!r} is not the stored {name}, {told.slots[name]!r}")
    return (*problems, *([f"{rest!r} has no origin"] if rest else []))


@dataclass(frozen=True)
class _Told:
    """The sentences of a narrative in order, and what fills their slots."""

    kinds: tuple[str, ...]
    slots: Mapping[str, float | str]


def _told(one: Explained, reader: Reader) -> _Told:
    kinds, slots = _PLANS[reader](one)
    names = {name for facts in _FACTS.values() for name in facts}
    figures = {
        "risk_percent": 100 * one.chance,
        "lower80": one.lower80,
        "upper80": one.upper80,
        "weight_remaining": one.value("weight_remaining"),
    }
    for part, account in (("grade", one.explanation.grade), ("risk", one.explanation.risk)):
        if account:
            figures |= {
                part: account.predicted,
                f"{part}_baseline": account.baseline,
                f"{part}_sum": math.fsum(account.contributions.values()),
                f"{part}_remainder": math.fsum(account.remainders.values()),
                f"{part}_error": account.error,
            }
    return _Told(tuple(kinds), {**{name: one.value(name) for name in names}, **figures, **slots})


Plan = tuple[list[str], dict[str, float | str]]


def _for_student(one: Explained) -> Plan:
    if one.explanation.grade is None:
        return ["no_forecast", _outlook(one)], {}
    slots, drivers, fact = _drivers(one, OWN_DOING, IMPROVABLE)
    return [_opening(one), drivers, *fact, _outlook(one)], slots


def _for_adviser(one: Explained) -> Plan:
    risk_kinds, risk_slots = _risk_drivers(one)
    if one.explanation.grade is None:
        return ["no_forecast", *(risk_kinds or ["unexplained"])], risk_slots
    slots, drivers, fact = _drivers(one, frozenset(Theme), frozenset(Theme))
    return [_opening(one), drivers, *risk_kinds, *fact], {**slots, **risk_slots}


def _for_analyst(one: Explained) -> Plan:
    kinds: list[str] = []
    slots: dict[str, float | str] = {}
    if one.explanation.grade is None:
        kinds.append("no_forecast")
    elif one.grade is None:
        kinds.append("unexplained")
    else:
        kinds.append("forecast")
        top = one.grade.largest(3)
        if len(top) == 3:
            kinds.append("features")
            for place, (name, points) in enumerate(top, start=1):
                slots |= {f"feature_{place}": name, f"points_{place}": points}
    top = one.risk.largest(1) if one.risk else []
    if top:
        slots |= {"feature_risk": top[0][0], "log_odds_1": top[0][1]}
    kinds.append("risk" if top else "risk_unexplained")
    return [*kinds, *(["additivity"] if one.grade else [])], slots


_PLANS = {
    Reader.STUDENT: _for_student,
    Reader.ADVISER: _for_adviser,
    Reader.ANALYST: _for_analyst,
}


def _opening(one: Explained) -> str:
    if one.upper80 - one.lower80 < SETTINGS.settled_points:
        return "settled"
    nothing_known = math.isnan(one.value("score_mean")) and not one.value("assignments_missed") > 0
    return "first_forecast" if nothing_known else "forecast"


def _outlook(one: Explained) -> str:
    remaining = one.value("weight_remaining")
    if math.isnan(remaining):
        return "outlook_open"
    if remaining < 0.5:
        return "outlook_closed"
    return "outlook_support" if one.chance >= SETTINGS.support_risk else "outlook"


def _drivers(
    one: Explained, helping: frozenset[Theme], hindering: frozenset[Theme]
) -> tuple[dict[str, float | str], str, list[str]]:
    """Return what moves the grade most up and down, the sentence for it, and one with a fact."""
    if one.grade is None:
        return {}, "unexplained", []
    worth = by_theme(one.grade.contributions)
    slots: dict[str, float | str] = {}
    up = _most(worth, helping, 1, SETTINGS.least_points)
    down = _most(worth, hindering, -1, SETTINGS.least_points)
    if up:
        slots |= {"theme_up": up, "points_up": worth[up]}
    if down:
        slots |= {"theme_down": down, "points_down": -worth[down]}
    names = {(True, True): "both", (True, False): "up", (False, True): "down"}
    kind = f"drivers_{names.get((up is not None, down is not None), 'none')}"
    if kind == "drivers_none" and _most(worth, helping, -1, SETTINGS.least_points):
        kind = "drivers_past"
    fact = next((f"fact_{theme}" for theme in (down, up) if _has_fact(one, theme, down)), None)
    return slots, kind, [fact] if fact else []


def _risk_drivers(one: Explained) -> Plan:
    worth = by_theme(one.risk.contributions if one.risk else {})
    # Where the risk is low, what raises it a little is not the news.
    sign = 1 if math.fsum(worth.values()) > 0 else -1
    theme = _most(worth, frozenset(Theme), sign, SETTINGS.least_log_odds)
    return (["risk_up" if sign > 0 else "risk_down"], {"theme_risk": theme}) if theme else ([], {})


def by_theme(contributions: Mapping[str, float]) -> dict[Theme, float]:
    """Return the sum of the contributions of each theme that has any."""
    parts: dict[Theme, list[float]] = {}
    for name, value in contributions.items():
        parts.setdefault(theme_of(name), []).append(value)
    return {theme: math.fsum(values) for theme, values in parts.items()}


def _most(
    worth: Mapping[Theme, float], themes: frozenset[Theme], sign: int, least: float
) -> Theme | None:
    """Return which of `themes` goes furthest in the direction of `sign`, and at least `least`."""
    ranked = sorted((-sign * value, theme) for theme, value in worth.items() if theme in themes)
    return ranked[0][1] if ranked and -ranked[0][0] >= least else None


#: What a sentence about a theme tells; the last one is the number that the first is out of.
_FACTS = {
    Theme.STANDING: ("grade_if_nothing_more", "weight_remaining"),
    Theme.SCORES: ("score_mean",),
    Theme.WORK: ("assignments_missed", "assignments_due"),
    Theme.PUNCTUALITY: ("assignments_late", "assignments_submitted"),
    Theme.ACTIVITY: ("activity_days_last_28",),
}
#: Facts that count what went wrong; where nothing did, they are no reason for a lower forecast.
_FAULTS = {Theme.WORK, Theme.PUNCTUALITY}


def _has_fact(one: Explained, theme: Theme | None, down: Theme | None) -> bool:
    if theme not in _FACTS:
        return False
    values = [one.value(name) for name in _FACTS[theme]]
    if any(map(math.isnan, values)):
        return False
    return theme not in _FAULTS or (values[1] > 0 and (values[0] > 0) == (theme == down))
