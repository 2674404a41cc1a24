"""An explanation as text, for users of the command line.

`narratives` makes the texts for students and advisers, in several languages.
"""

from __future__ import annotations

from typing import Any

from grade_ml.core.texts import note
from grade_ml.explanations.contract import CLIPPING, COURSE, Account, Explanation
from grade_ml.features.attributes import ATTRIBUTE
from grade_ml.features.catalogue import FEATURES
from grade_ml.features.surroundings import PREFIX

_DESCRIPTIONS = {
    **{feature.name: feature.description.split(";")[0].rstrip(".") for feature in FEATURES},
    "course_id": "The course",
    CLIPPING: "What is certain and what is still possible",
    COURSE: "What is usual in this course",
}


def described(feature: str) -> str:
    """Return the description of a feature or a remainder.

    >>> described("missed_share")
    'Share of the coursework due that was not handed in'
    >>> described("attribute_region")
    'The attribute region'
    """
    if feature.startswith(ATTRIBUTE):
        return f"The attribute {feature.removeprefix(ATTRIBUTE)}"
    if feature.startswith(PREFIX):
        return f"Outside: {feature.removeprefix(PREFIX).replace('_', ' ')}"
    return _DESCRIPTIONS.get(feature, feature)


def in_words(explanation: Explanation, most: int = 4) -> list[str]:
    """Return lines with what moves grade and risk away from the average of training terms."""
    lines = []
    if explanation.grade is not None:
        lines += _lines("grade", explanation.grade, explanation, most, "{:+.1f}", "{:.1f} points")
    lines += _lines(
        "risk", explanation.risk.in_probability(), explanation, most, "{:+.1%}", "{:.1%}"
    )
    return [*lines, *map(note, explanation.degraded)]


def _lines(  # noqa: PLR0913, PLR0917 - the contributions, and the formats of numbers
    target: str, account: Account, explanation: Explanation, most: int, step: str, number: str
) -> list[str]:
    whole = (
        f"The {target} is {number.format(account.predicted)}, and {number.format(account.baseline)}"
    )
    lines = [f"{whole} for an average student of earlier terms. What makes the difference:"]
    for name, value in account.largest(most):
        known = _value(explanation.values.get(name))
        lines.append(f"  {step.format(value):>7}  {described(name)} ({known})")
    shown = {name for name, _ in account.largest(most)}
    rest = [value for name, value in account.contributions.items() if value and name not in shown]
    if rest:
        lines.append(f"  {step.format(sum(rest)):>7}  Other features together ({len(rest)})")
    for name, value in account.remainders.items():
        if step.format(value).strip("+-%0."):
            lines.append(f"  {step.format(value):>7}  {described(name)}")
    return lines


def _value(value: Any) -> str:
    if value is None:
        return "not known"
    return f"{value:.4g}" if isinstance(value, float | int) else str(value)
