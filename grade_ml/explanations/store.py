"""Writes and reads the package's tables.

Everything is written by key, so that writing the same again changes nothing, and a day in the past
can be computed again. No foreign key ties them to the gradebook, whose loader may replace an
enrollment at any time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import JSONB

from grade_ml.core.database import read_frame, upsert_frame
from grade_ml.ensemble.rows import ENROLLMENT
from grade_ml.explanations.contract import Account, Attributions, Explanation
from grade_ml.explanations.decision_paths import Path
from grade_ml.explanations.tables import (
    advice,
    attribution,
    decision_path,
    fairness,
    importance,
    reference,
)
from grade_ml.gradebook.schema import section

#: The course_id of figures over all courses together.
EVERYWHERE = ""
#: Contributions are stored to a ten-millionth: a hundred of them are still exact to a thousandth.
_DIGITS = 7


def attribution_rows(
    attributions: Attributions, state: pd.DataFrame, degraded: Sequence[str] = ()
) -> pd.DataFrame:
    """Return explanations as rows of the table.

    Parameters
    ----------
    state
        The state of each, in order: the columns of the table from as_of to features_hash.
    degraded
        The reasons why the model is degraded, beside those of the explanation in `attributions`.

    Raises
    ------
    ValueError
        A number is not finite.
    """
    explanations = list(attributions.explanations())
    return pd.DataFrame(
        {
            "section_id": [explanation.section_id for explanation in explanations],
            "student_id": [explanation.student_id for explanation in explanations],
            "as_of": state["as_of"].to_numpy(),
            "course_id": state["course_id"].to_numpy(),
            "model_name": state["model_name"].to_numpy(),
            "model_version": state["model_version"].to_numpy(),
            "features_hash": state["features_hash"].to_numpy(),
            "grade": [
                None if explanation.grade is None else _text(explanation.grade)
                for explanation in explanations
            ],
            "risk": [_text(explanation.risk) for explanation in explanations],
            "feature_values": [_json(_known(explanation.values)) for explanation in explanations],
            "grade_error": attributions.grade.error,
            "risk_error": attributions.risk.error,
            "degraded": json.dumps([*degraded, *attributions.degraded]),
        }
    )


def write_attributions(connection: Connection, rows: pd.DataFrame) -> None:
    """Store explanations; rows as `attribution_rows` makes them."""
    upsert_frame(connection, attribution, rows)


def _text(account: Account) -> str:
    values = asdict(account)
    for name in ("contributions", "remainders"):
        rounded = {key: round(value, _DIGITS) for key, value in values[name].items()}
        values[name] = {key: value for key, value in rounded.items() if value}
    return _json(values)


def as_kept(explanation: Explanation) -> Explanation:
    """Return an explanation as it would be read from the store, rounded."""
    grade = None if explanation.grade is None else Account(**json.loads(_text(explanation.grade)))
    risk = Account(**json.loads(_text(explanation.risk)))
    return replace(explanation, grade=grade, risk=risk, values=_known(explanation.values))


def _known(values: Any) -> dict[str, Any]:
    return {
        # Single precision has seven digits; more are noise.
        name: float(f"{value:.7g}") if isinstance(value, float) else str(value)
        for name, value in values.items()
        if value is not None
    }


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def summary(
    connection: Connection,
    courses: Collection[str],
    as_of: date,
    table: sa.Table = attribution,
) -> pd.DataFrame:
    """Return the rows of running enrollments in `table` that are the newest by `as_of`.

    Without the columns in JSON, except `degraded`; `table` may be that of decision paths.
    """
    names = [column.name for column in table.columns if not isinstance(column.type, JSONB)]
    json_columns = ["degraded"] if table is attribution else []
    return _read(connection, newest(table, courses, as_of), [*names, *json_columns])


def read_explanations(
    connection: Connection,
    courses: Collection[str],
    as_of: date,
    students: Collection[str] | None = None,
) -> list[Explanation]:
    """Return the newest explanations of running enrollments that are not later than `as_of`.

    In order of section and student.
    """
    query = newest(attribution, courses, as_of)
    if students is not None:
        query = query.where(attribution.c.student_id.in_(sorted(students)))
    names = [column.name for column in attribution.columns]
    rows = _read(connection, query, [*names, "cut_day"]).astype({"grade": object})
    return [
        Explanation(
            row["section_id"],
            row["student_id"],
            float(row["cut_day"]),
            Account(**json.loads(row["grade"])) if isinstance(row["grade"], str) else None,
            Account(**json.loads(row["risk"])),
            json.loads(row["feature_values"]),
            f"{row['model_name']} {row['model_version']}",
            tuple(json.loads(row["degraded"])),
        )
        for row in rows.to_dict("records")
    ]


def newest(table: sa.Table, courses: Collection[str], as_of: date) -> sa.Select[Any]:
    """Select the rows of each running section on the last day on which it was explained."""
    column = table.c
    newest = (
        sa.select(column.section_id, sa.func.max(column.as_of).label("as_of"))
        .join(section, section.c.section_id == column.section_id)
        .where(
            column.course_id.in_(sorted(courses)),
            column.as_of <= as_of,
            sa.literal(as_of).between(section.c.starts_on, section.c.ends_on),
        )
        .group_by(column.section_id)
        .subquery()
    )
    same = sa.and_(newest.c.section_id == column.section_id, newest.c.as_of == column.as_of)
    return (
        sa.select(table, (column.as_of - section.c.starts_on).label("cut_day"))
        .join(newest, same)
        .join(section, section.c.section_id == column.section_id)
        .order_by(column.section_id, column.student_id)
    )


def write_advice(
    connection: Connection, kind: str, state: pd.DataFrame, bodies: pd.DataFrame
) -> None:
    """Store advice of one kind.

    Parameters
    ----------
    state
        The state of the explanations beside it: the columns of the table.
    bodies
        section_id, student_id and body, a JSON text.
    """
    known = state[[column.name for column in advice.columns if column.name in state]]
    rows = known.astype(dict.fromkeys(ENROLLMENT, object)).merge(bodies, on=ENROLLMENT)
    upsert_frame(connection, advice, rows.assign(kind=kind))


def read_advice(
    connection: Connection, kind: str, courses: Collection[str], as_of: date
) -> dict[str, tuple[Mapping[str, Any], ...]]:
    """Return the newest advice of running enrollments that is not later than `as_of`, by course."""
    query = newest(advice, courses, as_of).where(advice.c.kind == kind)
    rows = _read(connection, query, ["course_id", "body"])
    return {
        str(course): tuple(json.loads(body) for body in own["body"])
        for course, own in rows.groupby("course_id")
    }


def advice_made_from(
    connection: Connection, kind: str, state: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Return the advice of one enrollment that was made from exactly this state, if there is one.

    Parameters
    ----------
    state
        Values of the columns of the table that identify a state.
    """
    same = (advice.c[name] == value for name, value in state.items())
    query = sa.select(advice.c.body).where(advice.c.kind == kind, *same)
    body: Mapping[str, Any] | None = connection.execute(query).scalar()
    return body


def write_reference(connection: Connection, rows: pd.DataFrame) -> None:
    """Store the importance in training terms; columns as in the table."""
    upsert_frame(connection, reference, rows)


def read_reference(connection: Connection, model: str, version: int) -> pd.DataFrame:
    """Return the stored references of a model: columns of the table."""
    query = sa.select(reference).where(
        reference.c.model_name == model, reference.c.model_version == version
    )
    return _read(connection, query, [column.name for column in reference.columns])


def write_importance(connection: Connection, rows: pd.DataFrame) -> None:
    """Store importance; columns as in the table."""
    upsert_frame(connection, importance, rows)


def read_importance(
    connection: Connection, as_of: date, courses: Collection[str] | None, since: date
) -> pd.DataFrame:
    """Return importance between `since` and `as_of`, oldest first: columns of the table."""
    query = sa.select(importance).where(importance.c.as_of.between(since, as_of))
    if courses is not None:
        query = query.where(importance.c.course_id.in_(sorted(courses)))
    query = query.order_by(*(importance.c[name] for name in ("as_of", "course_id", "feature")))
    return _read(connection, query, [column.name for column in importance.columns])


def write_paths(connection: Connection, rows: pd.DataFrame) -> None:
    """Store decision paths; columns as in the table, `body` as JSON text."""
    upsert_frame(connection, decision_path, rows)


def read_paths(
    connection: Connection, courses: Collection[str], as_of: date
) -> list[tuple[str, str, str, Path]]:
    """Return course, section, student and path of running enrollments, the newest by `as_of`."""
    names = ("course_id", "section_id", "student_id", "body")
    query = newest(decision_path, courses, as_of).order_by(decision_path.c.tree)
    return [
        (*keys, Path.from_dict(json.loads(body)))
        for *keys, body in _read(connection, query, names).itertuples(index=False)
    ]


def write_fairness(connection: Connection, rows: pd.DataFrame) -> None:
    """Store the fairness between groups; columns as in the table."""
    upsert_frame(connection, fairness, rows)


def read_fairness(connection: Connection, as_of: date) -> pd.DataFrame:
    """Return the fairness between groups on the day `as_of`: columns of the table."""
    column = fairness.c
    query = (
        sa.select(fairness)
        .where(column.as_of == as_of)
        .order_by(column.attribute, column.group_name, column.metric)
    )
    return _read(connection, query, [stored.name for stored in fairness.columns])


def _read(connection: Connection, query: sa.Select[Any], names: Iterable[str]) -> pd.DataFrame:
    columns = [query.selected_columns[name] for name in names]
    return read_frame(connection, query.with_only_columns(*columns, maintain_column_froms=True))


def matrix_of(explanations: Sequence[Explanation], task: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the contributions to grade or risk and the features' values: one column per feature.

    If no grade is known, contributions are missing.
    """
    accounts = [
        explanation.grade if task == "grade" else explanation.risk for explanation in explanations
    ]
    contributions = pd.DataFrame(
        [dict(account.contributions) if account else {} for account in accounts],
        index=range(len(explanations)),
    )
    known = np.array([account is not None for account in accounts], dtype=bool)
    contributions = contributions.astype(np.float64).fillna(0.0)
    contributions[~known] = np.nan
    contributions = contributions[sorted(contributions.columns)]
    values = pd.DataFrame(
        [dict(explanation.values) for explanation in explanations], index=range(len(explanations))
    )
    return contributions, values.reindex(columns=contributions.columns)
