"""What of each table is outdated, by its policy: the newest rows never are."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.core.policy import TablePolicy
from grade_ml.experiments import store
from grade_ml.external.tables import response
from grade_ml.maintenance.cleaning import clean
from grade_ml.maintenance.rows import Rows, outdated_rows
from grade_ml.serving.predictions import grade_prediction
from grade_ml_tests.experiments.plans import of_actions

TODAY = date(2026, 11, 30)
DAYS = TablePolicy.of(grade_prediction).days or 0


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def predict(engine: Engine, section: str, *days: date) -> None:
    rows = [
        {"section_id": section, "student_id": student, "as_of": day}
        | {"model_name": "pooled", "model_version": 1}
        for student in ("a", "b")
        for day in days
    ]
    with engine.begin() as connection:
        connection.execute(sa.insert(grade_prediction), rows)


def kept(engine: Engine, table: sa.Table, *columns: str) -> set[Any]:
    with engine.begin() as connection:
        rows = connection.execute(sa.select(*(table.c[name] for name in columns)).distinct())
        return {tuple(row) for row in rows}


def removed(kinds: Iterable[Rows]) -> dict[str, int]:
    report = clean(kinds)
    assert not report.problems
    return {part.kind: part.freed.count for part in report.parts if part.freed}


def test_what_is_older_goes_but_not_the_newest_of_a_section(engine: Engine) -> None:
    predict(engine, "ended", ago(DAYS + 300), ago(DAYS + 200))
    predict(engine, "runs", ago(DAYS + 1), ago(DAYS), ago(0))
    dry = clean(outdated_rows(engine, TODAY, TODAY), dry_run=True)
    (outdated,) = [part.found for part in dry.parts if part.found and part.found.count]
    assert (outdated.count, outdated.kept) == (4, 6)
    assert 4 * 50 < outdated.bytes < 4 * 500
    assert removed(outdated_rows(engine, TODAY, TODAY)) == {"ensemble.grade_prediction": 4}
    left = {("ended", ago(DAYS + 200)), ("runs", ago(DAYS)), ("runs", ago(0))}
    assert kept(engine, grade_prediction, "section_id", "as_of") == left
    assert removed(outdated_rows(engine, TODAY, TODAY)) == {}


def test_what_an_experiment_may_still_read_stays(engine: Engine) -> None:
    predict(engine, "c", ago(DAYS + 300), ago(DAYS + 100), ago(0))
    plan = of_actions(experiment_id="long", starts_on=ago(DAYS + 200), stops_on=TODAY)
    now = datetime(2026, 11, 30, tzinfo=UTC)
    with engine.begin() as connection:
        store.create(connection, plan, now, "somebody", "to see")
    assert removed(outdated_rows(engine, TODAY, TODAY)) == {"ensemble.grade_prediction": 2}
    with engine.begin() as connection:
        store.record(connection, "long", store.Event(store.Happened.STOPPED, now, "x", "enough"))
    assert removed(outdated_rows(engine, TODAY, TODAY)) == {"ensemble.grade_prediction": 2}


def test_a_cache_may_be_emptied_and_its_space_is_free_again(engine: Engine) -> None:
    size = 3000
    rows = [
        {"key": str(n), "accepted": True, "source": "weather", "url": "u", "content_type": "t"}
        | {"fetched_at": ago(400), "validated_at": ago(31), "body": bytes(range(250)) * 4}
        for n in range(size)
    ]
    with engine.begin() as connection:
        connection.execute(sa.insert(response), rows)
    (part,) = clean([Rows(engine, response, TODAY, TODAY)]).parts
    assert part.found and part.freed and part.freed.count == size
    assert part.found.bytes > size * 1000
    # What goes back to the disk depends on who else reads at the moment.
    assert part.freed.freed + part.freed.reusable > size * 1000
    assert clean([Rows(engine, response, TODAY, TODAY)]).parts[0].freed is None
