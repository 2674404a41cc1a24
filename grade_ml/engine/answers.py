"""The answers of the engine: frozen values, which also give sentences and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from grade_ml.core.errors import GradeMLError
from grade_ml.core.texts import note

if TYPE_CHECKING:
    from grade_ml.explanations.contract import Explanation
    from grade_ml.explanations.counterfactuals import Answer


class Status(StrEnum):
    """Where an enrollment stood on the day of the question."""

    UPCOMING = "upcoming"
    RUNNING = "running"
    WITHDRAWN = "withdrawn"
    ENDED = "ended"


class Level(StrEnum):
    """What a predicted grade comes from; each replaces the one before it if that cannot serve."""

    COURSE_ENSEMBLE = "course ensemble"
    POOLED_ENSEMBLE = "pooled ensemble"
    BASELINE = "baseline"
    COURSE_MEAN = "course mean"


@dataclass(frozen=True)
class GradePrediction:
    """What is known and expected about one enrollment on one day.

    Grades and interval bounds are points, 0-100; `risk` is the probability of failing or
    withdrawing, 0-1. Predicted values are None if there is nothing left to predict (`status`
    other than running); `recorded_*` are the outcome if the section had ended by that day.

    Attributes
    ----------
    naive
        The rate of points collected so far, the forecast a person would make; None as well if the
        prediction is a stored one, which does not include it.
    level
        What the predicted values come from.
    model_stage
        The stage of the model's version; None if no model made the prediction.
    stored
        Whether this is the prediction of the nightly run, which is as new as the records.
    records_from, age_hours
        When the newest records were loaded, and how long ago that is; None if no load is recorded.
    degraded
        The reasons why the prediction is degraded; empty if it is not.
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
    level: Level | None = None
    model_name: str | None = None
    model_version: int | None = None
    model_stage: str | None = None
    stored: bool = False
    records_from: datetime | None = None
    age_hours: float | None = None
    degraded: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values; dates are ISO texts."""
        values: dict[str, Any] = plain(self)
        return values

    def in_words(self) -> str:
        """Return two or three plain sentences for an adviser."""
        sentences = [self._standing(), *self._expectation()]
        if self.recorded_outcome is not None or self.recorded_grade is not None:
            sentences.append(self._record())
        sentences += map(note, self.degraded)
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
            source = f"{self.model_name}, version {self.model_version}"
            if self.level is Level.COURSE_MEAN:
                source = "the mean of the course's ended sections"
            sentences.append(f"The risk of failing or withdrawing is {self.risk:.0%} ({source}).")
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

    `stored`: the nightly run wrote them, from the same features and model.
    """

    texts: Mapping[str, Mapping[str, str]]
    stored: bool


@dataclass(frozen=True)
class ModelExplanation:
    """A prediction and its explanation.

    Attributes
    ----------
    explanation
        The contributions of features, in points and log-odds; None if nothing is predicted, or if
        the prediction is the mean of the course.
    narratives
        The explanation in sentences by reader and language; None if `explanation` is.
    reader, language
        For whom and in which language `text` is.
    interactions
        The pairs of features that move the grade most together; None if they were not requested.
    what_if
        What could still be done to reach the goal; None if no goal was given, or nothing is
        predicted.
    """

    prediction: GradePrediction
    reader: str
    language: str
    explanation: Explanation | None = None
    narratives: Narratives | None = None
    interactions: tuple[Pair, ...] | None = None
    what_if: Answer | None = None

    @property
    def text(self) -> str | None:
        """The explanation in sentences for the reader."""
        if self.narratives is None:
            return None
        return self.narratives.texts[self.reader][self.language]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; the risk as log-odds and as a probability."""
        explanation = self.explanation
        risk = explanation and plain(explanation.risk.in_probability())
        return {
            "prediction": self.prediction.to_dict(),
            "reader": self.reader,
            "language": self.language,
            "text": self.text,
            "stored": self.narratives is not None and self.narratives.stored,
            "explanation": explanation and {**plain(explanation), "risk_probability": risk},
            "interactions": None if self.interactions is None else plain(self.interactions),
            "what_if": self.what_if.to_dict() if self.what_if else None,
        }


@dataclass(frozen=True)
class Refusal:
    """Why a student of a call for many has no answer: the error's name, message and remedy."""

    student_id: str
    error: str
    message: str
    remedy: str


def refusal(student: str, error: GradeMLError) -> Refusal:
    """Return the refusal of a student, with the error as the reason."""
    return Refusal(student, type(error).__name__, error.message, error.remedy)


Answered = TypeVar("Answered")


@dataclass(frozen=True)
class Answers(Generic[Answered]):
    """The answers for many students, by section and student, and why others have none."""

    answers: tuple[Answered, ...]
    refused: tuple[Refusal, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return both as JSON-ready values."""
        return {
            "answers": [answer.to_dict() for answer in self.answers],  # type: ignore[attr-defined]
            "refused": [plain(refused) for refused in self.refused],
        }


def plain(value: Any) -> Any:
    """Return a value of dataclasses, mappings and sequences as JSON can hold it."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value
