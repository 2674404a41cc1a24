"""Second opinions, what-ifs and narratives of the current predictions of chosen courses, stored.

Here stored things are brought together; what each of the three is stands in `local_surrogate`,
`counterfactuals` and `narratives`. Each is made anew only where the exact explanation that it goes
with changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import JSONB

from grade_ml.core.database import read_frame, upsert_frame
from grade_ml.core.errors import NotReadyError
from grade_ml.core.optional import FAMILIES
from grade_ml.core.policy import TablePolicy
from grade_ml.ensemble.rows import ENROLLMENT
from grade_ml.explanations import store
from grade_ml.explanations.contract import Explanation
from grade_ml.explanations.counterfactuals import next_goal, what_ifs
from grade_ml.explanations.local_surrogate import (
    LocalSurrogate,
    Neighbours,
    agreement,
    neighbours,
    surrogate,
    who_needs_one,
)
from grade_ml.explanations.messages import languages
from grade_ml.explanations.narratives import Explained, Narrative, Reader, narrate, verify
from grade_ml.features.continuations import Continuation
from grade_ml.features.store import Frames
from grade_ml.features.surroundings import beside
from grade_ml.gradebook import frames
from grade_ml.gradebook.institution import DEFAULTS, Institution
from grade_ml.registry.registry import Alias, Registry
from grade_ml.serving.models import Models, Served
from grade_ml.serving.predictions import read_predictions
from grade_ml.serving.scoring import by_model, current_snapshots

advice = sa.Table(
    "advice",
    store.metadata,
    sa.Column("section_id", sa.Text, primary_key=True),
    sa.Column("student_id", sa.Text, primary_key=True),
    sa.Column("as_of", sa.Date, primary_key=True, comment="the day of the features"),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("course_id", sa.Text, nullable=False),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column("features_hash", sa.Text, nullable=False, comment="of the exact explanation"),
    sa.Column("body", JSONB, nullable=False),
    info=TablePolicy("explanations", personal=("student_id", "body"), time="as_of").info,
)
_STATE = ["section_id", "student_id", "as_of", "model_name", "model_version", "features_hash"]


class Kind(StrEnum):
    """What is said beside an exact explanation."""

    SECOND_OPINION = "second_opinion"
    WHAT_IF = "what_if"
    NARRATIVE = "narrative"


@dataclass(frozen=True)
class AdvisorSettings:
    """How much is made in a night, each with its reason."""

    #: Second opinions and what-ifs cost up to a second each; those at most risk come first, the
    #: others are answered when asked for.
    most_per_course: int = 25
    #: Points. A goal further away is no goal for someone who is not at risk.
    within_points: float = 10.0
    risk: float = 0.5


SETTINGS = AdvisorSettings()


@dataclass(frozen=True)
class Advice:
    """What is stored of one course for today.

    Attributes
    ----------
    bodies
        Plain values, one per enrollment; no student is named.
    fresh
        How many of them were made anew.
    degraded
        Why there are fewer than there could be, or why they say less.
    """

    bodies: tuple[Mapping[str, Any], ...]
    fresh: int
    degraded: tuple[str, ...]


@dataclass(frozen=True)
class _Case:
    """One enrollment whose advice is to be made: its snapshot, explanation and predictions."""

    row: pd.DataFrame
    served: Served
    explanation: Explanation
    predicted: Mapping[str, Any]


@dataclass
class Advisor:
    """The advice of one installation on one day, beside the stored explanations.

    Raises
    ------
    NotReadyError
        No model has been trained, or no snapshots have been computed.
    """

    connection: Connection
    registry: Registry
    root: str
    as_of: date
    seed: int = 0
    institution: Institution = DEFAULTS

    @cached_property
    def _frames(self) -> Frames:
        return Frames(self.root, self.as_of, self.registry.pseudonyms)

    @cached_property
    def _models(self) -> Models:
        return Models(self.registry)

    def narratives(self, courses: Sequence[str]) -> dict[str, Advice]:
        """Tell every explained prediction to each reader in each language."""

        def make(course: str, cases: Sequence[_Case]) -> Iterator[Mapping[str, Any] | None]:
            del course
            for case in cases:
                one = Explained(
                    case.explanation, case.predicted["lower80"], case.predicted["upper80"]
                )
                told = [
                    narrate(one, reader, language) for reader in Reader for language in languages()
                ]
                yield {
                    "texts": _texts(told),
                    "problems": [problem for text in told for problem in verify(text, one)],
                }

        return self._update(Kind.NARRATIVE, courses, make)

    def second_opinions(self, courses: Sequence[str]) -> dict[str, Advice]:
        """Ask LIME about those who are at risk, near the pass mark, or disputed by a challenger."""
        if "lime" in _EXPLAIN.missing():
            nothing = Advice((), 0, ("lime is not installed (extra explain): no second opinions",))
            return dict.fromkeys(courses, nothing)
        challenger = read_predictions(self.connection, as_of=self.as_of, stage=Alias.CHALLENGER)

        def make(course: str, cases: Sequence[_Case]) -> Iterator[Mapping[str, Any] | None]:
            every = self._frames.snapshots([course])
            known: dict[tuple[str, float], Neighbours] = {}
            predicted = pd.DataFrame([case.predicted for case in cases])
            pass_marks = pd.Series(self.institution.pass_mark_of(course), predicted.index)
            other = challenger if len(challenger) else None
            reasons = who_needs_one(predicted, other, pass_marks)
            chosen = _most_at_risk(predicted[reasons != ""])
            for place, (case, reason) in enumerate(zip(cases, reasons, strict=True)):
                if place not in chosen or case.explanation.grade is None:
                    yield None
                    continue
                model, progress = case.served.model, float(case.row["progress"].iloc[0])
                place_in_section = case.explanation.section_id, progress
                if place_in_section not in known:
                    ready = beside(self.connection, every, model.features)
                    known[place_in_section] = neighbours(model, ready, progress, self.seed)
                around = known[place_in_section]
                try:
                    local = surrogate(model, case.row, around, self.seed)
                except NotReadyError:
                    yield None
                else:
                    yield {"reason": reason, **_opinion(local, case.explanation, around)}

        return self._update(Kind.SECOND_OPINION, courses, make)

    def what_ifs(self, courses: Sequence[str]) -> dict[str, Advice]:
        """Find out what would bring those who are at risk, or close below it, to the next goal."""

        def make(course: str, cases: Sequence[_Case]) -> Iterator[Mapping[str, Any] | None]:
            gradebook = frames.read(self.connection, {course})
            carried: dict[str, Continuation] = {}
            predicted = pd.DataFrame([case.predicted for case in cases])
            aims = self.institution.goals_of(course)
            goals = [next_goal(grade, aims) for grade in predicted["grade"]]
            away = np.array([goal or np.nan for goal in goals]) - predicted["grade"]
            wanted = (predicted["risk"] >= SETTINGS.risk) | (away <= SETTINGS.within_points)
            chosen = _most_at_risk(predicted[wanted & away.notna()])
            for place, (case, goal) in enumerate(zip(cases, goals, strict=True)):
                if place not in chosen or goal is None:
                    yield None
                    continue
                section = case.explanation.section_id
                if section not in carried:
                    day = case.row["cut_on"].iloc[0].date()
                    carried[section] = Continuation(gradebook, section, day)
                answer = what_ifs(case.served.model, carried[section], case.row, goal, self.seed)
                yield answer.to_dict()

        return self._update(Kind.WHAT_IF, courses, make)

    def _update(
        self,
        kind: Kind,
        courses: Sequence[str],
        make: Callable[[str, Sequence[_Case]], Iterable[Mapping[str, Any] | None]],
    ) -> dict[str, Advice]:
        """Make and store the advice that is out of date; return all that is known today."""
        changed = self._changed(kind, courses)
        fresh: dict[str, int] = {}
        for course, some in changed.groupby("course_id"):
            cases = self._cases(str(course), some)
            bodies = list(make(str(course), cases)) if cases else []
            told = [(case, body) for case, body in zip(cases, bodies, strict=True) if body]
            fresh[str(course)] = len(told)
            self._write(kind, some, told)
        known = self._known(kind, courses)
        return {name: _advice(known.get(name, ()), fresh.get(name, 0)) for name in courses}

    def _changed(self, kind: Kind, courses: Collection[str]) -> pd.DataFrame:
        explained = store.summary(self.connection, courses, self.as_of)
        told = store.summary(self.connection, courses, self.as_of, advice)
        told = told.loc[told["kind"] == str(kind), _STATE].assign(known=True)
        both = explained.merge(told, on=_STATE, how="left")
        return both[both["known"].isna()].reset_index(drop=True)

    def _cases(self, course: str, changed: pd.DataFrame) -> list[_Case]:
        """Return the enrollments of `changed`, in order, that can still be served as explained."""
        rows = current_snapshots(self.connection, self._frames, [course])
        explained = store.read_explanations(self.connection, [course], self.as_of)
        by_key = {(one.section_id, one.student_id): one for one in explained}
        predictions = read_predictions(
            self.connection, as_of=self.as_of, sections=changed["section_id"].unique()
        ).astype(dict.fromkeys(ENROLLMENT, object))
        wanted = set(changed[ENROLLMENT].itertuples(index=False, name=None))
        records = predictions[[*ENROLLMENT, *_FIGURES]].to_dict("records")
        told = {
            (one["section_id"], one["student_id"]): {str(name): one[name] for name in one}
            for one in records
        }
        cases = []
        for served, own in by_model(self._models, rows, [course]):
            ready = beside(self.connection, own.reset_index(drop=True), served.model.features)
            keys = ready[ENROLLMENT].astype(object).itertuples(index=False, name=None)
            for place, key in enumerate(keys):
                if key in wanted and key in by_key and key in told:
                    cases.append(_Case(ready.iloc[[place]], served, by_key[key], told[key]))
        return cases

    def _write(
        self, kind: Kind, changed: pd.DataFrame, told: Sequence[tuple[_Case, Mapping[str, Any]]]
    ) -> None:
        if not told:
            return
        bodies = pd.DataFrame(
            [
                (case.explanation.section_id, case.explanation.student_id, json.dumps(body))
                for case, body in told
            ],
            columns=[*ENROLLMENT, "body"],
        )
        state = changed[[*_STATE, "course_id"]].astype(dict.fromkeys(ENROLLMENT, object))
        upsert_frame(
            self.connection, advice, state.merge(bodies, on=ENROLLMENT).assign(kind=str(kind))
        )

    def _known(
        self, kind: Kind, courses: Collection[str]
    ) -> dict[str, tuple[Mapping[str, Any], ...]]:
        import pyarrow as pa

        newest = store.newest(advice, courses, self.as_of).where(advice.c.kind == str(kind))
        names = ("course_id", "body")
        columns = [newest.selected_columns[name] for name in names]
        query = newest.with_only_columns(*columns, maintain_column_froms=True)
        rows = read_frame(self.connection, query, dict.fromkeys(names, pa.string()))
        return {
            str(course): tuple(json.loads(body) for body in own["body"])
            for course, own in rows.groupby("course_id")
        }


_FIGURES = ("grade", "lower80", "upper80", "risk")
_EXPLAIN = next(family for family in FAMILIES if family.extra == "explain")


def _most_at_risk(predicted: pd.DataFrame) -> set[int]:
    return set(predicted["risk"].nlargest(SETTINGS.most_per_course).index)


def _texts(told: Iterable[Narrative]) -> dict[str, dict[str, str]]:
    texts: dict[str, dict[str, str]] = {}
    for one in told:
        texts.setdefault(str(one.reader), {})[one.language] = one.text
    return texts


def _opinion(local: LocalSurrogate, exact: Explanation, around: Neighbours) -> dict[str, Any]:
    assert exact.grade is not None
    found = agreement(local, exact.grade, around)
    return {
        "effects": [] if local.hidden else [[name, value] for name, value in local.largest(10)],
        "r2": local.r2,
        "hidden": local.hidden,
        "held": list(local.held),
        "imputed": list(local.imputed),
        "jaccard5": found.jaccard5,
        "signs": None if np.isnan(found.signs) else found.signs,
    }


def _advice(bodies: Sequence[Mapping[str, Any]], fresh: int) -> Advice:
    reasons = [reason for body in bodies for reason in body.get("degraded", ())]
    return Advice(tuple(bodies), fresh, tuple(dict.fromkeys(reasons)))
