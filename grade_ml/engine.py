"""`PredictiveAnalyticsEngine`: the question "how will this student do in this course?", answered.

It brings records, features and the champion model together for one enrollment; each of these is
made elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from grade_ml.core import database
from grade_ml.core.clock import Clock
from grade_ml.core.errors import NotFoundError, NotReadyError
from grade_ml.ensemble.rows import NAIVE, PREDICTED, Model
from grade_ml.gradebook import schema
from grade_ml.gradebook.attributes import Declarations, declarations
from grade_ml.gradebook.institution import Institution
from grade_ml.gradebook.institution import read as read_institution
from grade_ml.gradebook.rules import can_be_id
from grade_ml.registry.registry import Registry
from grade_ml.serving.models import Models, Servable, Served

if TYPE_CHECKING:
    import pandas as pd

    from grade_ml.core.settings import Settings
    from grade_ml.early_warning.student import StudentForecast
    from grade_ml.explanations.contract import Attributions, Explanation
    from grade_ml.explanations.counterfactuals import Answer
    from grade_ml.gradebook.frames import Gradebook


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


class PredictiveAnalyticsEngine:
    """Answers questions about single enrollments from the gradebook and the champion model.

    Parameters
    ----------
    settings
        The installation; its database is started where it is embedded.
    """

    def __init__(self, settings: Settings) -> None:
        urls = database.start(settings)
        self._engine = database.migrated(urls.grade_ml)
        self._institution = read_institution(settings.institution)
        self._declared = declarations(self._institution)
        self._registry = Registry.of_installation(settings, urls.mlflow, self._declared)
        self._settings = settings

    def close(self) -> None:
        """Give the database connections back."""
        self._engine.dispose()

    def predict(self, student_id: str, course_id: str, as_of: date) -> GradePrediction:
        """Return what is known and expected of the student's latest section of the course.

        Everything is computed as of the end of the day `as_of`, by the same feature code as in
        training. For a past day, what happened later is not told; only the model is today's.

        Raises
        ------
        NotFoundError
            The student or the course does not exist, or the one is not enrolled in the other.
        NotReadyError
            A running enrollment, and no model has been trained yet.
        ArtifactError
            The champion's files do not match their manifest.
        """
        return self.tell(student_id, course_id, as_of).prediction

    def forecast(self, student_id: str, course_id: str, as_of: date) -> StudentForecast:
        """Return what is expected of the remaining work in the student's latest section.

        It is what was forecast and stored on `as_of`, or on the newest day before it.

        Raises
        ------
        NotFoundError
            The student or the course does not exist, or the one is not enrolled in the other.
        NotReadyError
            The enrollment is not running on that day, or the course was never forecast up to then.
        ArtifactError
            The model's files do not match their manifest.
        SourceError
            The university's own table of interventions has errors.
        """
        from grade_ml.early_warning.interventions import DEFAULT_TABLE, read_table
        from grade_ml.early_warning.loading import load_enrollment
        from grade_ml.early_warning.student import student_forecast
        from grade_ml.registry.workspace import Workspace

        rules = read_table(self._settings.interventions or DEFAULT_TABLE)
        with database.reachable(self._engine) as connection:
            answer = _standing(connection, student_id, course_id, as_of)
            if answer.status is not Status.RUNNING:
                raise NotReadyError(
                    f"{answer.in_words()} So there is nothing to forecast.",
                    "Ask about a day on which the student takes part, with --as-of.",
                )
            workspace = Workspace(
                connection,
                self._registry,
                self._settings.storage_root,
                as_of,
                Clock().now(),
                self._institution,
            )
            known = load_enrollment(workspace, course_id, answer.section_id, student_id)
            return student_forecast(known, rules, workspace.seed)

    def explain(
        self, student_id: str, course_id: str, as_of: date
    ) -> tuple[GradePrediction, Explanation | None]:
        """Return what `predict` returns, and why; None where nothing is predicted.

        Raises
        ------
        GradeMLError
            As `predict` does.
        """
        told = self.tell(student_id, course_id, as_of, explain=True)
        return told.prediction, told.explanation

    def what_if(
        self, student_id: str, course_id: str, goal: float, as_of: date
    ) -> tuple[GradePrediction, Answer | None]:
        """Return what `predict` returns, and what the student could do to bring it to `goal`.

        The goal is in points, 0-100; the answer is None where nothing is predicted.

        Raises
        ------
        ConfigurationError
            The goal is not between 0 and 100.
        GradeMLError
            As `predict` does.
        """
        told = self.tell(student_id, course_id, as_of, goal=goal)
        return told.prediction, told.what_if

    def interactions(
        self, student_id: str, course_id: str, as_of: date, most: int = 5
    ) -> Sequence[Pair]:
        """Return the pairs of features that move the grade most together.

        Raises
        ------
        NotReadyError
            Nothing is predicted, the baseline serves, or shap is not installed.
        """
        found = self.tell(student_id, course_id, as_of, pairs=most).interactions
        if found is None:
            raise NotReadyError("Nothing is predicted of this enrollment.", "Ask for another day.")
        return found

    def tell(  # noqa: PLR0913 - what is asked, of whom
        self,
        student_id: str,
        course_id: str,
        as_of: date,
        *,
        explain: bool = False,
        pairs: int = 0,
        goal: float | None = None,
    ) -> Told:
        """Return what `predict` returns and what is asked beside it, all from one computation.

        Parameters
        ----------
        explain
            Asks for the explanation and its narratives.
        pairs
            How many pairs of features are asked for that move the grade together.
        goal
            Asks what the student could do to bring the grade to so many points, 0-100.

        Raises
        ------
        ConfigurationError
            The goal is not between 0 and 100.
        NotReadyError
            Pairs are asked for, and the baseline serves or shap is not installed.
        GradeMLError
            As `predict` does.
        """
        from grade_ml.explanations.attribution import explain as attributed
        from grade_ml.explanations.counterfactuals import what_ifs
        from grade_ml.features.continuations import Continuation
        from grade_ml.features.surroundings import beside
        from grade_ml.gradebook import frames

        with database.reachable(self._engine) as connection:
            standing = _standing(connection, student_id, course_id, as_of)
            if standing.status is not Status.RUNNING:
                return Told(_with_record(connection, standing, self._institution))
            gradebook = frames.read(connection, {course_id})
            row = _snapshot(gradebook, standing, self._declared)
            if row.empty:
                reason = "the records do not allow a prediction on this day"
                return Told(replace(standing, degraded=(reason,)))
            served = self._models.serving(course_id)
            row = beside(connection, row, served.model.features)
            told_at_night = self._narratives(connection, served, row) if explain else None
        parts = attributed(served.model, row) if explain or pairs else None
        figures = parts.predictions if parts else served.model.predict(row)
        prediction = _predicted(standing, served, row, figures)
        told = Told(prediction)
        if parts and explain:
            model = f"{served.version.name} {served.version.version}"
            explanation = next(parts.explanations(model))
            narratives = told_at_night or _narratives(explanation, figures)
            told = replace(told, explanation=explanation, narratives=narratives)
        if parts and pairs:
            told = replace(told, interactions=_pairs(served.model, row, parts, pairs))
        if goal is not None:
            carried = Continuation(gradebook, standing.section_id, as_of)
            now = float(figures["grade"].iloc[0])
            answer = what_ifs(served.model, carried, row, goal, seed=0, now=now)
            told = replace(told, what_if=answer)
        return told

    def _narratives(
        self, connection: Connection, served: Served, row: pd.DataFrame
    ) -> Narratives | None:
        """Return what was told in the night of the same features and model, if that is sound."""
        from grade_ml.explanations import store
        from grade_ml.explanations.advice import Kind
        from grade_ml.explanations.loading import STATE, state_of

        (state,) = state_of(served, row, self._registry.pseudonyms)[STATE].to_dict("records")
        values = {str(name): value for name, value in state.items()}
        body = store.advice_made_from(connection, Kind.NARRATIVE, values)
        return Narratives(body["texts"], True) if body and not body["problems"] else None

    @cached_property
    def _models(self) -> Models:
        return Models(self._registry)


def _predicted(
    answer: GradePrediction, served: Served, row: pd.DataFrame, predictions: pd.DataFrame
) -> GradePrediction:
    predicted = predictions.iloc[0]
    figures: dict[str, Any] = {name: _number(predicted[name]) for name in PREDICTED}
    reservations = _reservations(served.model, answer, predicted["grade"])
    return replace(
        answer,
        **figures,
        naive=_number(row[NAIVE].iloc[0]),
        model_name=served.version.name,
        model_version=served.version.version,
        degraded=(*served.degraded, *reservations),
    )


def _narratives(explanation: Explanation, predictions: pd.DataFrame) -> Narratives:
    from grade_ml.explanations.advice import narratives
    from grade_ml.explanations.narratives import Explained
    from grade_ml.explanations.store import as_kept

    lower, upper = predictions[["lower80", "upper80"]].iloc[0].tolist()
    # From what would be stored, so that the night tells the same of the same prediction.
    one = Explained(as_kept(explanation), lower, upper)
    return Narratives(narratives(one)["texts"], stored=False)


def _pairs(model: Servable, row: pd.DataFrame, parts: Attributions, most: int) -> tuple[Pair, ...]:
    from grade_ml.ensemble.baseline import BaselineModel
    from grade_ml.ensemble.members import Task
    from grade_ml.explanations.interactions import interactions, largest_pairs

    if isinstance(model, BaselineModel):
        raise NotReadyError(
            "Of the baseline no interactions are known.",
            "Run grade-ml run train_advanced_ml_models.",
        )
    features, amounts = interactions(model, row, Task.GRADE, parts)
    return tuple(largest_pairs(features, amounts[0], most))


def _standing(
    connection: Connection, student_id: str, course_id: str, as_of: date
) -> GradePrediction:
    """Return where the student's latest enrollment in the course stands, without predictions."""
    for text in (student_id, course_id):
        if not can_be_id(text):
            raise NotFoundError(
                f"{text!r} is no id: it holds a control character, or is not UTF-8.",
                "Ask for an id as it stands in the gradebook.",
            )
    enrollments = _enrollments(connection, student_id, course_id)
    if not enrollments:
        raise _unknown(connection, student_id, course_id)
    visible = [row for row in enrollments if _enrolled_on(row) <= as_of]
    if not visible:
        first = min(map(_enrolled_on, enrollments))
        raise NotFoundError(
            f"On {as_of} the student {student_id} was not enrolled in the course {course_id} yet.",
            f"Ask for {first} or a later day.",
        )
    # A section that has started comes before one that the student has only signed up for.
    latest = max(visible, key=lambda row: (row["starts_on"] <= as_of, row["starts_on"]))
    return GradePrediction(
        student_id=student_id,
        course_id=course_id,
        section_id=latest["section_id"],
        as_of=as_of,
        status=_status(latest, as_of),
        starts_on=latest["starts_on"],
        ends_on=latest["ends_on"],
        withdrawn_on=_visible(latest["withdrawn_on"], as_of),
    )


def _enrollments(connection: Connection, student_id: str, course_id: str) -> Sequence[RowMapping]:
    section, enrollment = schema.section.c, schema.enrollment.c
    query = (
        sa.select(
            section.section_id,
            section.starts_on,
            section.ends_on,
            enrollment.enrolled_on,
            enrollment.withdrawn_on,
        )
        .join_from(schema.section, schema.enrollment)
        .where(section.course_id == course_id, enrollment.student_id == student_id)
        .order_by(section.section_id)
    )
    return connection.execute(query).mappings().all()


def _unknown(connection: Connection, student_id: str, course_id: str) -> NotFoundError:
    """Return the error that says which of the two does not exist."""
    known = schema.student.c.student_id == student_id, schema.course.c.course_id == course_id
    missing = [
        name
        for name, condition in zip(
            (f"student {student_id}", f"course {course_id}"), known, strict=True
        )
        if not connection.execute(sa.select(sa.exists().where(condition))).scalar()
    ]
    if not missing:
        return NotFoundError(
            f"The student {student_id} is not enrolled in the course {course_id}.",
            "Check both ids; the courses of a student stand in gradebook.enrollment.",
        )
    return NotFoundError(
        f"The gradebook has no {' and no '.join(missing)}.",
        "Check the spelling (ids are compared exactly), or load the data with grade-ml load.",
    )


def _enrolled_on(enrollment: RowMapping) -> date:
    day: date = enrollment["enrolled_on"] or enrollment["starts_on"]
    return day


def _visible(day: date | None, as_of: date) -> date | None:
    return day if day is not None and day <= as_of else None


def _status(enrollment: RowMapping, as_of: date) -> Status:
    if _visible(enrollment["withdrawn_on"], as_of):
        return Status.WITHDRAWN
    if enrollment["ends_on"] < as_of:
        return Status.ENDED
    return Status.RUNNING if enrollment["starts_on"] <= as_of else Status.UPCOMING


def _snapshot(
    gradebook: Gradebook, answer: GradePrediction, declared: Declarations
) -> pd.DataFrame:
    """Return the enrollment's features as of the day of the question: one row, or none."""
    import pandas as pd

    from grade_ml.features.snapshots import grade_snapshots

    day = float((answer.as_of - answer.starts_on).days)
    cuts = pd.DataFrame({"section_id": [answer.section_id], "cut_day": [day]})
    rows = grade_snapshots(gradebook, cuts, answer.as_of, declared)
    mine: pd.DataFrame = rows[rows["student_id"].astype(str) == answer.student_id]
    return mine


def _with_record(
    connection: Connection, answer: GradePrediction, institution: Institution
) -> GradePrediction:
    """Add the final grade and the outcome, where they are visible on the day of the question."""
    from grade_ml.gradebook import frames
    from grade_ml.gradebook.outcomes import outcomes

    if answer.status is Status.UPCOMING:
        return answer
    enrollment = schema.enrollment.c
    outcome = connection.execute(
        sa.select(enrollment.outcome).where(
            enrollment.section_id == answer.section_id, enrollment.student_id == answer.student_id
        )
    ).scalar()
    known = outcomes(frames.read(connection, {answer.course_id}), answer.as_of, institution)
    mine = known[
        (known["section_id"].astype(str) == answer.section_id)
        & (known["student_id"].astype(str) == answer.student_id)
    ]
    grade = _number(mine["final_grade"].iloc[0]) if len(mine) else None
    return replace(answer, recorded_grade=grade, recorded_outcome=outcome)


def _reservations(model: Model, answer: GradePrediction, grade: float) -> tuple[str, ...]:
    reasons = []
    if answer.section_id in model.sections:
        reasons.append(
            "the model was trained after this section had ended and knows its outcome, so this "
            "shows how the model works, not how well it forecasts"
        )
    if math.isnan(grade):
        reasons.append("no section with coursework has ended yet, so no grade can be predicted")
    return tuple(reasons)


def _number(value: float) -> float | None:
    """Return a plain number; not-a-number becomes None."""
    return None if math.isnan(value) else float(value)
