"""What the engine answers: frozen values, in words and as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grade_ml.explanations.contract import Explanation
    from grade_ml.explanations.counterfactuals import Answer


class Status(StrEnum):
    """Where an enrollment stood on the day of the question."""

    UPCOMING = "upcoming"
    RUNNING = "running"
    WITHDRAWN = "withdrawn"
    ENDED = "ended"


@dataclass(frozen=True)
class GradePrediction:
    """What is known and expected about one enrollment on one day.

    Grades and interval bounds are points, 0-100; `risk` is the probability of failing or
    withdrawing, 0-1. Predicted values are None where there is nothing left to predict (`status`
    other than running); `recorded_*` are the outcome, where the section had ended by that day.

    Attributes
    ----------
    naive
        The rate of points collected so far, the forecast a person would make.
    degraded
        Why the prediction is less than it could be; empty: it is not.
    """

    student_id: str
    course_id: str
    section_id: str
    as_of: date
    status: Status
    starts_on: date
    ends_on: date
    withdrawn_on: date | None = None
    recorded_grade: float | None = None
    recorded_outcome: str | None = None
    grade: float | None = None
    lower80: float | None = None
    upper80: float | None = None
    lower95: float | None = None
    upper95: float | None = None
    risk: float | None = None
    naive: float | None = None
    model_name: str | None = None
    model_version: int | None = None
    degraded: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values; dates are ISO texts."""
        return {
            name: value.isoformat() if isinstance(value, date) else value
            for name, value in asdict(self).items()
        }

    def in_words(self) -> str:
        """Return two or three plain sentences for an adviser."""
        sentences = [self._standing(), *self._expectation()]
        if self.recorded_outcome is not None or self.recorded_grade is not None:
            sentences.append(self._record())
        sentences += [f"Note: {reason}." for reason in self.degraded]
        return " ".join(sentences)

    def _standing(self) -> str:
        section = f"section {self.section_id} of course {self.course_id}"
        match self.status:
            case Status.UPCOMING:
                return f"The {section} starts on {self.starts_on}; nothing can be predicted yet."
            case Status.WITHDRAWN:
                return (
                    f"The student withdrew from {section} on {self.withdrawn_on}; "
                    "there is nothing left to predict."
                )
            case Status.ENDED:
                return f"The {section} ended on {self.ends_on}; there is nothing left to predict."
            case Status.RUNNING:
                return f"On {self.as_of} the {section} is running; it ends on {self.ends_on}."

    def _expectation(self) -> list[str]:
        sentences = []
        if self.grade is not None:
            naive = "" if self.naive is None else f"; the points so far alone say {self.naive:.0f}"
            sentences.append(
                f"The final grade is expected at about {self.grade:.0f} of 100, with 80% "
                f"confidence between {self.lower80:.0f} and {self.upper80:.0f}{naive}."
            )
        if self.risk is not None:
            sentences.append(
                f"The risk of failing or withdrawing is {self.risk:.0%} "
                f"({self.model_name}, version {self.model_version})."
            )
        return sentences

    def _record(self) -> str:
        grade = (
            "no final grade"
            if self.recorded_grade is None
            else f"the final grade {self.recorded_grade:.0f} of 100"
        )
        return f"On record: {grade}, outcome {self.recorded_outcome or 'unknown'}."


#: Two features, and the points that they add or take together.
Pair = tuple[str, str, float]


@dataclass(frozen=True)
class Narratives:
    """An explanation in sentences, by reader and language.

    `stored`: they are those of the night, which were made from the same features and model.
    """

    texts: Mapping[str, Mapping[str, str]]
    stored: bool


@dataclass(frozen=True)
class Told:
    """A prediction and what was asked beside it; None: not asked, or nothing is predicted."""

    prediction: GradePrediction
    explanation: Explanation | None = None
    narratives: Narratives | None = None
    interactions: tuple[Pair, ...] | None = None
    what_if: Answer | None = None
