"""Explains a prediction as requested, from what is stored or computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from grade_ml.core.errors import ConfigurationError, NotReadyError
from grade_ml.engine import stored
from grade_ml.engine.answers import GradePrediction, ModelExplanation, Narratives, Pair
from grade_ml.explanations.messages import Reader, languages

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from grade_ml.core.pseudonyms import Pseudonyms
    from grade_ml.explanations.contract import Attributions, Explanation
    from grade_ml.gradebook.frames import Gradebook
    from grade_ml.serving.models import Servable, Served


@dataclass(frozen=True)
class ExplanationRequest:
    """The reader, the language, and optional parts: pairs of features, and a goal in points."""

    reader: str
    language: str
    pairs: int
    goal: float | None


def explanation_request(
    reader: str, language: str, pairs: int, goal: float | None
) -> ExplanationRequest:
    """Return a checked request.

    Raises
    ------
    ConfigurationError
        There is no such reader or language, or the goal is not between 0 and 100.
    """
    readers = [str(kind) for kind in Reader]
    for name, value, known in (
        ("reader", str(reader), readers),
        ("language", str(language), list(languages())),
    ):
        if value not in known:
            raise ConfigurationError(
                f"There is no {name} {value!r}.", f"Choose one of {', '.join(known)}."
            )
    if goal is not None:
        from grade_ml.explanations.counterfactuals import require_goal

        require_goal(goal)
    return ExplanationRequest(str(reader), str(language), pairs, goal)


def stored_answer(
    connection: Connection, prediction: GradePrediction, request: ExplanationRequest
) -> ModelExplanation | None:
    """Return the stored explanation; None if there is none, or if the request has other parts."""
    known = stored.explanation(connection, prediction)
    if known is None or request.pairs or request.goal is not None:
        return None
    explanation, state = known
    texts = stored.narratives(connection, state)
    narratives = Narratives(texts, True) if texts else _new_narratives(explanation, prediction)
    return ModelExplanation(prediction, request.reader, request.language, explanation, narratives)


def state_of_row(served: Served, row: pd.DataFrame, pseudonyms: Pseudonyms) -> dict[str, Any]:
    """Return the state from which an explanation of the row is made: the key of its storage."""
    from grade_ml.explanations.loading import STATE, state_of

    (state,) = state_of(served, row, pseudonyms)[STATE].to_dict("records")
    return {str(name): value for name, value in state.items()}


def explained(  # noqa: PLR0913, PLR0917 - what it is made from
    prediction: GradePrediction,
    served: Served,
    row: pd.DataFrame,
    parts: Attributions,
    carried: Gradebook | None,
    texts: Any | None,
    request: ExplanationRequest,
) -> ModelExplanation:
    """Return all requested parts.

    Parameters
    ----------
    carried
        The class's and the student's own records; needed for a goal.
    texts
        The stored narratives of the same row and model.
    """
    explanation = next(parts.explanations(f"{served.version.name} {served.version.version}"))
    what_if = None
    if request.goal is not None and carried is not None:
        from grade_ml.explanations.counterfactuals import what_ifs
        from grade_ml.features.continuations import Continuation

        future = Continuation(carried, prediction.section_id, prediction.as_of)
        now = float(parts.predictions["grade"].iloc[0])
        what_if = what_ifs(served.model, future, row, request.goal, seed=0, now=now)
    return ModelExplanation(
        prediction,
        request.reader,
        request.language,
        explanation,
        Narratives(texts, True) if texts else _new_narratives(explanation, prediction),
        _pairs(served.model, row, parts, request.pairs) if request.pairs else None,
        what_if,
    )


def _new_narratives(explanation: Explanation, prediction: GradePrediction) -> Narratives:
    from grade_ml.explanations.advice import narratives
    from grade_ml.explanations.narratives import Explained
    from grade_ml.explanations.store import as_kept

    nothing = float("nan")
    lower, upper = (
        nothing if bound is None else bound for bound in (prediction.lower80, prediction.upper80)
    )
    # From what would be stored, so that the nightly run writes the same of the same prediction.
    return Narratives(
        narratives(Explained(as_kept(explanation), lower, upper))["texts"], stored=False
    )


def _pairs(model: Servable, row: pd.DataFrame, parts: Attributions, most: int) -> tuple[Pair, ...]:
    from grade_ml.ensemble.baseline import BaselineModel
    from grade_ml.ensemble.members import Task
    from grade_ml.explanations.interactions import interactions, largest_pairs

    if isinstance(model, BaselineModel):
        raise NotReadyError(
            "No interactions are known for the baseline.",
            "Run grade-ml run train_advanced_ml_models.",
        )
    features, amounts = interactions(model, row, Task.GRADE, parts)
    return tuple(largest_pairs(features, amounts[0], most))
