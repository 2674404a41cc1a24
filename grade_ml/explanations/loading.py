"""The rows to explain: the current rows of each model that serves, each with its state.

An explanation of the same state is up to date and is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd

from grade_ml.core.hashing import hash_rows
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.core.settling import place, settle
from grade_ml.ensemble.rows import ENROLLMENT, ROW
from grade_ml.explanations import store
from grade_ml.explanations.contract import Explanation
from grade_ml.explanations.settings import SETTINGS
from grade_ml.features.surroundings import beside
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.models import Models, Served
from grade_ml.serving.predictions import read_predictions
from grade_ml.serving.scoring import by_model, current_snapshots

Made = TypeVar("Made")

#: What an explanation is made from: a row on its day, the model, and the features that it read.
STATE = ["section_id", "student_id", "as_of", "model_name", "model_version", "features_hash"]
#: An enrollment for which something could not be made, and the reason.
ODD = [*ENROLLMENT, "course_id", "reason"]


@dataclass(frozen=True)
class Batch:
    """Rows that one model serves.

    Attributes
    ----------
    rows
        Snapshots with all columns that the model reads.
    state
        `STATE` and course_id of each row.
    """

    served: Served
    rows: pd.DataFrame
    state: pd.DataFrame

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, places: Sequence[int]) -> Batch:
        """Return the rows at some places."""
        chosen = list(places)
        return Batch(self.served, self.rows.iloc[chosen], self.state.iloc[chosen])

    def without(self, known: Collection[tuple[object, ...]]) -> Batch:
        """Return the rows whose state is not `known`."""
        return self.at([place for place, key in enumerate(keys(self.state)) if key not in known])


def batches(
    workspace: Workspace,
    models: Models,
    courses: Collection[str],
    split: Callable[[pd.DataFrame], Iterable[pd.DataFrame]],
) -> Iterator[Batch]:
    """Yield the current rows of running enrollments of `courses`, by model and then by `split`.

    Raises
    ------
    NotReadyError
        No model has been trained, or no snapshots have been computed.
    """
    rows = current_snapshots(workspace, courses)
    for served, own in by_model(models, rows, courses):
        for part in split(own):
            yield _batch(workspace, served, part)


def _batch(workspace: Workspace, served: Served, rows: pd.DataFrame) -> Batch:
    ready = beside(workspace.connection, rows.reset_index(drop=True), served.model.features)
    return Batch(served, ready, state_of(served, ready, workspace.registry.pseudonyms))


def state_of(served: Served, rows: pd.DataFrame, pseudonyms: Pseudonyms) -> pd.DataFrame:
    """Return `STATE` and course_id of rows with all columns that the model reads."""
    read = [name for name in served.model.features if name in rows]
    marks = hash_rows(rows[list(dict.fromkeys([*ROW, *read]))], pseudonyms)
    named = rows[[*ENROLLMENT, "course_id"]].astype(object)
    return named.assign(
        as_of=rows["cut_on"],
        model_name=served.version.name,
        model_version=served.version.version,
        features_hash=marks.map("{:016x}".format),
    )


def blocks(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield parts that bound the memory."""
    for first in range(0, len(rows), SETTINGS.rows_at_once):
        yield rows.iloc[first : first + SETTINGS.rows_at_once]


def by_course(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the rows of each course."""
    for _, own in rows.groupby("course_id", observed=True):
        yield own


def keys(state: pd.DataFrame) -> Iterator[tuple[object, ...]]:
    """Yield the `STATE` of each row, to compare with others."""
    return zip(*(state[name].astype(str) for name in STATE), strict=True)


def settled(batch: Batch, work: Callable[[Batch], Made]) -> tuple[list[Made], pd.DataFrame]:
    """Return the results of `work` for the rows that succeed, and the rows that fail: `ODD`."""
    if not len(batch):
        return [], no_odd()
    done, failed = settle(range(len(batch)), lambda places: work(batch.at(places)))
    return done, odd(batch.state, failed)


def odd(state: pd.DataFrame, failed: Mapping[int, Exception]) -> pd.DataFrame:
    """Return the failed rows as `ODD`; no texts of errors, since they may name a student."""
    rows = state.iloc[list(failed)][[*ENROLLMENT, "course_id"]]
    return rows.assign(
        reason=[f"{type(error).__name__} {place(error)}" for error in failed.values()]
    )


def no_odd() -> pd.DataFrame:
    """Return `ODD` without rows."""
    return pd.DataFrame(columns=ODD, dtype=object)


@dataclass(frozen=True)
class Case:
    """One explained enrollment: its snapshot, its exact explanation, and its prediction.

    `predicted` has grade and its 80% interval in points, and the risk (0-1).
    """

    row: pd.DataFrame
    served: Served
    explanation: Explanation
    predicted: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        """Section and student."""
        return self.explanation.section_id, self.explanation.student_id


_FIGURES = ("grade", "lower80", "upper80", "risk")


def predicted(workspace: Workspace, state: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `state` that have a stored prediction, with the prediction."""
    predictions = read_predictions(
        workspace.connection, as_of=workspace.as_of, sections=state["section_id"].unique()
    )
    objects = dict.fromkeys(ENROLLMENT, object)
    figures = predictions[[*ENROLLMENT, *_FIGURES]].astype(objects)
    return state.astype(objects).merge(figures, on=ENROLLMENT)


def cases(workspace: Workspace, models: Models, course: str, rows: pd.DataFrame) -> list[Case]:
    """Return the cases of `rows`, as `predicted` returns them, that are still current."""
    explained = store.read_explanations(workspace.connection, [course], workspace.as_of)
    by_key = {
        (explanation.section_id, explanation.student_id): explanation for explanation in explained
    }
    figures = {
        (row["section_id"], row["student_id"]): {str(name): row[name] for name in row}
        for row in rows[[*ENROLLMENT, *_FIGURES]].to_dict("records")
    }
    return [
        Case(batch.rows.iloc[[place]], batch.served, by_key[key], figures[key])
        for batch in batches(workspace, models, [course], by_course)
        for place, key in enumerate(batch.state[ENROLLMENT].itertuples(index=False, name=None))
        if key in by_key and key in figures
    ]
