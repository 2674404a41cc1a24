"""A prediction and its attribution in two to four sentences, for three readers, in any language.

Sentences come from the message catalogues beside this module and hold only what is stored: every
number is a slot that is filled from the attribution, and every word that states a direction belongs
to a sentence that is chosen by a sign. `verify` does the reverse: it reads the text back with the
same catalogue as its grammar and compares each number, sign and theme with what is stored.
`attribution` makes the attributions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from grade_ml.explanations.contract import TOLERANCE, Account, Explanation
from grade_ml.explanations.messages import Reader, catalogue
from grade_ml.explanations.themes import IMPROVABLE, OWN_DOING, Theme, theme_of


@dataclass(frozen=True)
class NarrativeSettings:
    """The judgements of narratives, each with its reason."""

    #: Points. Themes that move the forecast less are not worth a sentence.
    least_points: float = 0.5
    #: Log-odds; at a risk of one half this is one point in a hundred.
    least_log_odds: float = 0.04
    #: Points. With a narrower interval the narrative states that the grade will hardly change.
    settled_points: float = 1.0
    #: From this risk on the narrative states where the student gets support.
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
        """The account of the grade, if there is one and it adds up."""
        account = self.explanation.grade
        return account if account and account.error <= TOLERANCE else None

    @property
    def risk(self) -> Account | None:
        """The account of the risk in log-odds, if it adds up."""
        account = self.explanation.risk
        return account if account.error <= TOLERANCE else None

    @property
    def chance(self) -> float:
        """The risk, 0-1."""
        return 1 / (1 + math.exp(-self.explanation.risk.predicted))

    def value(self, name: str) -> float:
        """Return a numeric feature of the student; NaN if it is unknown."""
        value = self.explanation.values.get(name)
        return math.nan if value is None else float(value)


@dataclass(frozen=True)
class Narrative:
    """Two to four sentences."""

    reader: Reader
    language: str
    text: str


def narrate(explained: Explained, reader: Reader, language: str) -> Narrative:
    """Return the narrative of a prediction for `reader`.

    For students it covers only what they do themselves, and no comparison with others.

    Raises
    ------
    ConfigurationError
        There is no message catalogue of `language`.
    """
    words = catalogue(language)
    plan = _sentences(explained, reader)
    sentences = (words.write(reader, kind, plan.slots) for kind in plan.kinds)
    return Narrative(reader, language, " ".join(sentences))


def verify(narrative: Narrative, explained: Explained) -> tuple[str, ...]:
    """Return the statements of the narrative that differ from what is stored; empty if none do.

    Every sentence must fit the stored signs, every number must be the stored number as far as it
    is written, and every theme or feature must be the one that moves the prediction most.
    """
    words = catalogue(narrative.language)
    plan = _sentences(explained, narrative.reader)
    problems: list[str] = []
    rest = narrative.text
    for kind in plan.kinds:
        message = words.messages[narrative.reader][kind]
        match = message.pattern(words.themes).match(rest)
        if match is None:
            return (*problems, f"{rest!r} does not begin with the sentence {kind}")
        rest = rest[match.end() :].removeprefix(" ")
        for (name, spec), text in zip(message.slots, match.groups(), strict=True):
            if not words.matches(text, plan.slots[name], spec):
                problems.append(f"{kind}: {text!r} is not the stored {name}, {plan.slots[name]!r}")
    return (*problems, *([f"{rest!r} has no origin"] if rest else []))


@dataclass(frozen=True)
class _Sentences:
    """The sentences of a narrative in order, and what fills their slots."""

    kinds: tuple[str, ...]
    slots: Mapping[str, float | str]


def _sentences(explained: Explained, reader: Reader) -> _Sentences:
    kinds, slots = _PLANS[reader](explained)
    names = {name for facts in _FACTS.values() for name in facts}
    figures = {
        "risk_percent": 100 * explained.chance,
        "lower80": explained.lower80,
        "upper80": explained.upper80,
        "weight_remaining": explained.value("weight_remaining"),
    }
    for part, account in (
        ("grade", explained.explanation.grade),
        ("risk", explained.explanation.risk),
    ):
        if account:
            figures |= {
                part: account.predicted,
                f"{part}_baseline": account.baseline,
                f"{part}_sum": math.fsum(account.contributions.values()),
                f"{part}_remainder": math.fsum(account.remainders.values()),
                f"{part}_error": account.error,
            }
    return _Sentences(
        tuple(kinds), {**{name: explained.value(name) for name in names}, **figures, **slots}
    )


Plan = tuple[list[str], dict[str, float | str]]


def _for_student(explained: Explained) -> Plan:
    if explained.explanation.grade is None:
        return ["no_forecast", _outlook(explained)], {}
    slots, drivers, fact = _drivers(explained, OWN_DOING, IMPROVABLE)
    return [_opening(explained), drivers, *fact, _outlook(explained)], slots


def _for_adviser(explained: Explained) -> Plan:
    risk_kinds, risk_slots = _risk_drivers(explained)
    if explained.explanation.grade is None:
        return ["no_forecast", *(risk_kinds or ["unexplained"])], risk_slots
    slots, drivers, fact = _drivers(explained, frozenset(Theme), frozenset(Theme))
    return [_opening(explained), drivers, *risk_kinds, *fact], {**slots, **risk_slots}


def _for_analyst(explained: Explained) -> Plan:
    kinds: list[str] = []
    slots: dict[str, float | str] = {}
    if explained.explanation.grade is None:
        kinds.append("no_forecast")
    elif explained.grade is None:
        kinds.append("unexplained")
    else:
        kinds.append("forecast")
        top = explained.grade.largest(3)
        if len(top) == 3:
            kinds.append("features")
            for place, (name, points) in enumerate(top, start=1):
                slots |= {f"feature_{place}": name, f"points_{place}": points}
    top = explained.risk.largest(1) if explained.risk else []
    if top:
        slots |= {"feature_risk": top[0][0], "log_odds_1": top[0][1]}
    kinds.append("risk" if top else "risk_unexplained")
    return [*kinds, *(["additivity"] if explained.grade else [])], slots


_PLANS = {
    Reader.STUDENT: _for_student,
    Reader.ADVISER: _for_adviser,
    Reader.ANALYST: _for_analyst,
}


def _opening(explained: Explained) -> str:
    if explained.upper80 - explained.lower80 < SETTINGS.settled_points:
        return "settled"
    nothing_known = (
        math.isnan(explained.value("score_mean")) and not explained.value("assignments_missed") > 0
    )
    return "first_forecast" if nothing_known else "forecast"


def _outlook(explained: Explained) -> str:
    remaining = explained.value("weight_remaining")
    if math.isnan(remaining):
        return "outlook_open"
    if remaining < 0.5:
        return "outlook_closed"
    return "outlook_support" if explained.chance >= SETTINGS.support_risk else "outlook"


def _drivers(
    explained: Explained, helping: frozenset[Theme], hindering: frozenset[Theme]
) -> tuple[dict[str, float | str], str, list[str]]:
    """Return the largest contributions up and down, their sentence, and a sentence with a fact."""
    if explained.grade is None:
        return {}, "unexplained", []
    worth = by_theme(explained.grade.contributions)
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
    fact = next(
        (f"fact_{theme}" for theme in (down, up) if _has_fact(explained, theme, down)), None
    )
    return slots, kind, [fact] if fact else []


def _risk_drivers(explained: Explained) -> Plan:
    worth = by_theme(explained.risk.contributions if explained.risk else {})
    # If the risk is low, what raises it a little is not the message.
    sign = 1 if math.fsum(worth.values()) > 0 else -1
    theme = _most(worth, frozenset(Theme), sign, SETTINGS.least_log_odds)
    return (["risk_up" if sign > 0 else "risk_down"], {"theme_risk": theme}) if theme else ([], {})


def by_theme(contributions: Mapping[str, float]) -> dict[Theme, float]:
    """Return the sum of the contributions of each theme that has a contribution."""
    parts: dict[Theme, list[float]] = {}
    for name, value in contributions.items():
        parts.setdefault(theme_of(name), []).append(value)
    return {theme: math.fsum(values) for theme, values in parts.items()}


def _most(
    worth: Mapping[Theme, float], themes: frozenset[Theme], sign: int, least: float
) -> Theme | None:
    """Return the theme with the largest sum in the direction of `sign`, if at least `least`."""
    ranked = sorted((-sign * value, theme) for theme, value in worth.items() if theme in themes)
    return ranked[0][1] if ranked and -ranked[0][0] >= least else None


#: The features that a sentence about a theme states; the first is out of the last.
_FACTS = {
    Theme.STANDING: ("grade_if_nothing_more", "weight_remaining"),
    Theme.SCORES: ("score_mean",),
    Theme.WORK: ("assignments_missed", "assignments_due"),
    Theme.PUNCTUALITY: ("assignments_late", "assignments_submitted"),
    Theme.ACTIVITY: ("activity_days_last_28",),
}
#: Facts that count faults; without faults they are no reason for a lower forecast.
_FAULTS = {Theme.WORK, Theme.PUNCTUALITY}


def _has_fact(explained: Explained, theme: Theme | None, down: Theme | None) -> bool:
    if theme not in _FACTS:
        return False
    values = [explained.value(name) for name in _FACTS[theme]]
    if any(map(math.isnan, values)):
        return False
    return theme not in _FAULTS or (values[1] > 0 and (values[0] > 0) == (theme == down))
