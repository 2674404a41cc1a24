"""The last answers, which are repeated, with their age, while PostgreSQL is unavailable.

Each answer is kept once, whether it was requested alone or with many; of a call for many, the list
of its students is kept as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from grade_ml.core.clock import Clock
from grade_ml.core.hashing import checksum
from grade_ml.engine.answers import (
    Answered,
    Answers,
    GradePrediction,
    ModelExplanation,
    Refusal,
    refusal,
)
from grade_ml.engine.bounds import Recent
from grade_ml.engine.errors import StorageUnavailable, typed

if TYPE_CHECKING:
    from grade_ml.early_warning.student import StudentForecast

#: Adds a reason to the `degraded` of an answer.
Noted: TypeAlias = Callable[[Answered, str], Answered]
_Noted = TypeVar("_Noted", GradePrediction, "StudentForecast")


@dataclass(frozen=True)
class Roster:
    """The students of one call with their courses, and the refused students."""

    members: tuple[tuple[str, str], ...]
    refused: tuple[Refusal, ...]

    @classmethod
    def of(cls, enrollments: Sequence[GradePrediction], refused: Sequence[Refusal]) -> Roster:
        """Return the roster of these enrollments."""
        return cls(
            tuple((enrollment.student_id, enrollment.course_id) for enrollment in enrollments),
            tuple(refused),
        )


class Kept(Generic[Answered]):
    """Answers of one kind by question; safe to share between threads.

    Parameters
    ----------
    most, calls
        How many answers are kept, and of how many calls for many the roster.
    seconds
        How long they are given again.
    """

    def __init__(
        self, most: int, calls: int, seconds: float, clock: Clock, noted: Noted[Answered]
    ) -> None:
        self._answers: Recent[tuple[datetime, Answered]] = Recent(most)
        self._rosters: Recent[Roster] = Recent(calls)
        self._seconds, self._clock, self._noted = seconds, clock, noted

    def put(self, key: Hashable, answer: Answered) -> None:
        """Keep an answer."""
        self._answers.put(key, (self._clock.now(), answer))

    def one(self, key: Hashable, compute: Callable[[], Answered]) -> Answered:
        """Return the answer of `compute`, or the last answer while PostgreSQL is unavailable.

        Raises
        ------
        StorageUnavailable
            PostgreSQL is unavailable, and there is no last answer to the same question.
        """
        try:
            with typed():
                answer = compute()
        except StorageUnavailable:
            last = self._last(key)
            if last is None:
                raise
            return last
        self.put(key, answer)
        return answer

    def many(
        self,
        call: Hashable,
        compute: Callable[[], tuple[Roster, Answers[Answered]]],
        key: Callable[[str, str], Hashable],
    ) -> Answers[Answered]:
        """Return the answers of `compute`, or the last answers while PostgreSQL is unavailable.

        A student without a last answer is refused.

        Parameters
        ----------
        key
            Returns the key of one student and course that `put` and `one` use.

        Raises
        ------
        StorageUnavailable
            PostgreSQL is unavailable, and there is no last answer of this call.
        """
        try:
            with typed():
                roster, answers = compute()
        except StorageUnavailable as error:
            kept = self._rosters.get(call, self._seconds)
            if kept is None:
                raise
            answered = [
                (student, self._last(key(student, course))) for student, course in kept[1].members
            ]
            given = tuple(answer for _, answer in answered if answer is not None)
            if not given:
                raise
            rest = [refusal(student, error) for student, answer in answered if answer is None]
            return Answers(given, (*kept[1].refused, *rest))
        self._rosters.put(call, roster)
        return answers

    def _last(self, key: Hashable) -> Answered | None:
        kept = self._answers.get(key, self._seconds)
        if kept is None:
            return None
        moment, answer = kept[1]
        then = f"{moment:%Y-%m-%d at %H:%M} UTC"
        return self._noted(answer, f"PostgreSQL does not answer; this was answered on {then}")


def whom(user_ids: Collection[object] | None) -> str | None:
    """Return a short key of the students of a call, however many they are."""
    return None if user_ids is None else checksum(repr(list(user_ids)).encode())


def noted(answer: _Noted, reason: str) -> _Noted:
    """Return a prediction or forecast with one reason more in `degraded`."""
    return replace(answer, degraded=(*answer.degraded, reason))


def noted_beside(answer: ModelExplanation, reason: str) -> ModelExplanation:
    """Return an explanation whose prediction has one reason more in `degraded`."""
    return replace(answer, prediction=noted(answer.prediction, reason))
