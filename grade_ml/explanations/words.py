"""An explanation in plain words, for a person at the command line.

Stories for students and advisers, in several languages, are another matter.
"""

from __future__ import annotations

from typing import Any

from grade_ml.explanations.contract import CLIPPING, COURSE, Account, Explanation
from grade_ml.features.attributes import ATTRIBUTE
from grade_ml.features.catalogue import FEATURES
from grade_ml.features.surroundings import PREFIX

_DESCRIPTIONS = {
    **{one.name: one.description.split(";")[0].rstrip(".") for one in FEATURES},
    "course_id": "The course",
    CLIPPING: "What is certain and what is still possible",
    COURSE: "What is usual in this course",
}


def described(feature: str) -> str:
    """Return what a feature or a remainder is, in words.

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


def in_words(told: Explanation, most: int = 4) -> list[str]:
    """Return lines that say what moves grade and risk away from the average of training terms."""
    lines = []
    if told.grade is not None:
        lines += _lines("grade", told.grade, told, most, "{:+.1f}", "{:.1f} points")
    lines += _lines("risk", told.risk.in_probability(), told, most, "{:+.1%}", "{:.1%}")
    return [*lines, *(f"Note: {reason}." for reason in told.degraded)]


def _lines(  # noqa: PLR0913, PLR0917 - what is told, and how numbers look
    what: str, account: Account, told: Explanation, most: int, step: str, number: str
) -> list[str]:
    whole = (
        f"The {what} is {number.format(account.predicted)}, and {number.format(account.baseline)}"
    )
    lines = [f"{whole} for an average student of earlier terms. What makes the difference:"]
    for name, value in account.largest(most):
        known = _value(told.values.get(name))
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
