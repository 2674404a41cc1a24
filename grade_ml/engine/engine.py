"""`PredictiveAnalyticsEngine`: the question "how will this student do in this course?", answered.

It brings records, features and the champion model together for one enrollment; each of these is
made elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.core import database
from grade_ml.core.clock import Clock
from grade_ml.core.errors import NotReadyError
from grade_ml.engine.answers import GradePrediction, Narratives, Pair, Status, Told
from grade_ml.engine.standing import standing
from grade_ml.ensemble.rows import NAIVE, PREDICTED, Model
from grade_ml.gradebook import schema
from grade_ml.gradebook.attributes import Declarations, declarations
from grade_ml.gradebook.institution import Institution
from grade_ml.gradebook.institution import read as read_institution
from grade_ml.registry.registry import Registry
from grade_ml.serving.models import Models, Servable, Served

if TYPE_CHECKING:
    import pandas as pd

    from grade_ml.core.settings import Settings
    from grade_ml.early_warning.student import StudentForecast
    from grade_ml.explanations.contract import Attributions, Explanation
    from grade_ml.explanations.counterfactuals import Answer
    from grade_ml.gradebook.frames import Gradebook


class PredictiveAnalyticsEngine:
    """Answers questions about single enrollments from the gradebook and the champion model.

    Parameters
    ----------
    settings
        The installation; its database is started where it is embedded.
    clock
        Tells the moment of an answer; without it, the machine's.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        urls = database.start(settings)
        self._engine = database.migrated(urls.grade_ml)
        self._institution = read_institution(settings.institution)
        self._declared = declarations(self._institution)
        self._registry = Registry.of_installation(settings, urls.mlflow, self._declared)
        self._settings = settings
        self._clock = clock or Clock()

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
            answer = standing(connection, student_id, course_id, as_of)
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
                self._clock.now(),
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
            where = standing(connection, student_id, course_id, as_of)
            if where.status is not Status.RUNNING:
                return Told(_with_record(connection, where, self._institution))
            gradebook = frames.read(connection, {course_id})
            row = _snapshot(gradebook, where, self._declared)
            if row.empty:
                reason = "the records do not allow a prediction on this day"
                return Told(replace(where, degraded=(reason,)))
            served = self._models.serving(course_id)
            row = beside(connection, row, served.model.features)
            told_at_night = self._narratives(connection, served, row) if explain else None
        parts = attributed(served.model, row) if explain or pairs else None
        figures = parts.predictions if parts else served.model.predict(row)
        prediction = _predicted(where, served, row, figures)
        told = Told(prediction)
        if parts and explain:
            model = f"{served.version.name} {served.version.version}"
            explanation = next(parts.explanations(model))
            narratives = told_at_night or _narratives(explanation, figures)
            told = replace(told, explanation=explanation, narratives=narratives)
        if parts and pairs:
            told = replace(told, interactions=_pairs(served.model, row, parts, pairs))
        if goal is not None:
            carried = Continuation(gradebook, where.section_id, as_of)
            now = float(figures["grade"].iloc[0])
            answer = what_ifs(served.model, carried, row, goal, seed=0, now=now)
            told = replace(told, what_if=answer)
        return told

    def _narratives(
        self, connection: Connection, served: Served, row: pd.DataFrame
    ) -> Narratives | None:
        """Return the night's answer to the same features and model, if that is sound."""
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
