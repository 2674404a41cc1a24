"""Why a prediction says what it says: what is wished for, told from what is stored or computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from grade_ml.core.errors import ConfigurationError, NotReadyError
from grade_ml.engine import stored
from grade_ml.engine.answers import GradePrediction, ModelExplanation, Narratives, Pair
from grade_ml.explanations.messages import languages
from grade_ml.explanations.narratives import Reader
from grade_ml.gradebook import frames
from grade_ml.gradebook.frames import Gradebook

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from grade_ml.core.pseudonyms import Pseudonyms
    from grade_ml.explanations.contract import Attributions, Explanation
    from grade_ml.serving.models import Servable, Served


@dataclass(frozen=True)
class Wish:
    """For whom and in which language, and what is asked beside: pairs of features, and a goal."""

    reader: str
    language: str
    pairs: int
    goal: float | None


def wish_of(reader: str, language: str, pairs: int, goal: float | None) -> Wish:
    """Return what is wished for, checked.

    Raises
    ------
    ConfigurationError
        There is no such reader or language.
    """
    readers = [str(one) for one in Reader]
    for what, value, known in (
        ("reader", str(reader), readers),
        ("language", str(language), list(languages())),
    ):
        if value not in known:
            raise ConfigurationError(
                f"There is no {what} {value!r}.", f"Choose one of {', '.join(known)}."
            )
    return Wish(str(reader), str(language), pairs, goal)


def stored_answer(
    connection: Connection, prediction: GradePrediction, wish: Wish
) -> ModelExplanation | None:
    """Return what the night explained; None: nothing that is wished for and belongs to it."""
    found = stored.explanation(connection, prediction)
    if found is None or wish.pairs or wish.goal is not None:
        return None
    told, state = found
    texts = stored.narratives(connection, state)
    narratives = Narratives(texts, True) if texts else _told_anew(told, prediction)
    return ModelExplanation(prediction, wish.reader, wish.language, told, narratives)


def carried_on(connection: Connection, one: GradePrediction) -> Gradebook:
    """Return the class and the student's own records, from which days to come are made."""
    return frames.together(
        [
            frames.read_class(connection, one.section_id),
            frames.read_histories(connection, [one.student_id]),
        ]
    )


def state_of_row(served: Served, row: pd.DataFrame, pseudonyms: Pseudonyms) -> dict[str, Any]:
    """Return what an explanation of the row is made from, to find the stored one of the same."""
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
    wish: Wish,
) -> ModelExplanation:
    """Return everything that is wished for.

    Parameters
    ----------
    carried
        From `carried_on`, where there is a goal.
    texts
        What the night told of the same row and model.
    """
    told = next(parts.explanations(f"{served.version.name} {served.version.version}"))
    what_if = None
    if wish.goal is not None and carried is not None:
        from grade_ml.explanations.counterfactuals import what_ifs
        from grade_ml.features.continuations import Continuation

        future = Continuation(carried, prediction.section_id, prediction.as_of)
        now = float(parts.predictions["grade"].iloc[0])
        what_if = what_ifs(served.model, future, row, wish.goal, seed=0, now=now)
    return ModelExplanation(
        prediction,
        wish.reader,
        wish.language,
        told,
        Narratives(texts, True) if texts else _told_anew(told, prediction),
        _pairs(served.model, row, parts, wish.pairs) if wish.pairs else None,
        what_if,
    )


def _told_anew(told: Explanation, prediction: GradePrediction) -> Narratives:
    from grade_ml.explanations.advice import narratives
    from grade_ml.explanations.narratives import Explained
    from grade_ml.explanations.store import as_kept

    nothing = float("nan")
    lower, upper = (
        nothing if bound is None else bound for bound in (prediction.lower80, prediction.upper80)
    )
    # From what would be stored, so that the night tells the same of the same prediction.
    return Narratives(narratives(Explained(as_kept(told), lower, upper))["texts"], stored=False)


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
