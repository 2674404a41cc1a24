"""The published views: their contract, what they leave out, and who sees them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from grade_ml.core import database, views
from grade_ml.early_warning.tables import intervention, risk_period
from grade_ml.experiments import store as experiments
from grade_ml.experiments.plan import Decision, Kind
from grade_ml.experiments.store import Happened
from grade_ml.explanations.tables import advice, attribution
from grade_ml.forecasting.tables import assignment_forecast, course_run
from grade_ml.gradebook import schema
from grade_ml.monitoring.store import report
from grade_ml.serving.predictions import grade_prediction
from grade_ml_tests import REPOSITORY
from grade_ml_tests.conftest import TABLES, database_of, new_database
from grade_ml_tests.experiments.plans import of_actions, of_models

PAGE = REPOSITORY / "docs" / "published.md"
HEADING = "## The views\n\n"
FROZEN = Path(__file__).with_name("published.txt")
DAY = date(2026, 3, 10)


def contract() -> str:
    return "".join(
        f"{view.name}.{column.name} {column.type}\n"
        for view in views.VIEWS
        for column in view.columns
    )


def test_no_column_goes_and_none_changes_its_name_or_type() -> None:
    """A column that is new is added to the frozen list; no line of it is ever changed."""
    assert contract().splitlines() == FROZEN.read_text().splitlines()


def test_the_page_describes_the_views() -> None:
    assert PAGE.read_text().partition(HEADING)[2] == views.described(), (
        f"{PAGE.name} is out of date; make it anew by python -m {__name__}."
    )


def select(connection: Connection, view: str, **equal: object) -> list[dict[str, Any]]:
    """Return the rows of a view in which columns have these values."""
    where = " and ".join(f"{name} = :{name}" for name in equal) or "true"
    query = sa.text(f"select * from published.{view} where {where}")
    return [dict(row) for row in connection.execute(query, equal).mappings()]


@pytest.fixture
def made(engine: Engine) -> Iterator[Connection]:
    """A course of which a section runs and another has ended, a second course to come."""
    database.migrate(engine)
    with engine.begin() as connection:
        rows: list[tuple[sa.Table, list[dict[str, Any]]]] = [
            (schema.term, [{"term_id": "t", "starts_on": date(2025, 1, 1), "ends_on": DAY}]),
            (schema.course, [{"course_id": "c"}, {"course_id": "later"}]),
            (
                schema.section,
                [
                    {"section_id": name, "course_id": course, "term_id": "t"}
                    | {"starts_on": DAY + timedelta(first), "ends_on": DAY + timedelta(last)}
                    for name, course, first, last in (
                        ("now", "c", -30, 0),
                        ("past", "c", -90, -1),
                        ("next", "later", 1, 90),
                    )
                ],
            ),
            (
                schema.student,
                [
                    {"student_id": student}
                    for student in ("stays", "left", "leaves", "comes", "none")
                ],
            ),
            (
                schema.enrollment,
                [
                    {"section_id": section, "student_id": student}
                    | {"enrolled_on": enrolled, "withdrawn_on": withdrawn}
                    for section, student, enrolled, withdrawn in (
                        ("now", "stays", None, None),
                        ("now", "left", None, DAY),
                        ("now", "leaves", None, DAY + timedelta(1)),
                        ("now", "comes", DAY + timedelta(1), None),
                        ("now", "none", DAY, None),
                        ("past", "stays", None, None),
                        ("next", "stays", None, None),
                    )
                ],
            ),
        ]
        for table, values in rows:
            connection.execute(sa.insert(table), values)
    with engine.begin() as connection:
        yield connection


def predict(connection: Connection, section: str, student: str, day: date, **values: Any) -> None:
    row = {"section_id": section, "student_id": student, "as_of": day, "model_name": "pooled"}
    numbers = {"grade": 40.0, "lower80": 30.0, "upper80": 50.0, "risk": 0.75}
    row |= {"model_version": 2, **numbers, "degraded": [], **values}
    connection.execute(sa.insert(grade_prediction), [row])


EVERYBODY = (("now", "stays"), ("now", "left"), ("now", "leaves"), ("now", "comes"))


def test_current_is_the_newest_day_of_who_takes_part(made: Connection) -> None:
    predict(made, "now", "leaves", DAY - timedelta(1), grade=1.0, model_name="baseline")
    for section, student in (*EVERYBODY, ("past", "stays"), ("next", "stays")):
        predict(made, section, student, DAY, degraded=["old <b>features</b>", "no prophet"])
    predict(made, "now", "none", DAY - timedelta(3), grade=None, lower80=None, risk=None)
    predictions = {row["student_id"]: row for row in select(made, "current_predictions")}
    assert set(predictions) == {"stays", "leaves", "none"}
    assert predictions["leaves"] == {
        **{"course_id": "c", "section_id": "now", "student_id": "leaves", "as_of": DAY},
        **{"grade": 40.0, "lower80": 30.0, "upper80": 50.0, "lower95": None, "upper95": None},
        **{"risk": 0.75, "naive": None, "level": "pooled ensemble", "model_name": "pooled"},
        **{"model_version": 2, "degraded": "old <b>features</b>; no prophet"},
    }
    unknown = predictions["none"]
    assert (unknown["as_of"], unknown["grade"], unknown["degraded"]) == (
        *(DAY - timedelta(3), None),
        "",
    )
    # A day later a section has ended, and who was to withdraw has.
    predict(made, "next", "stays", DAY + timedelta(1))
    assert [row["section_id"] for row in select(made, "current_predictions")] == ["next"]


def forecast(connection: Connection, day: date, **period: Any) -> None:
    """Store a nightly run of the course, with one risk period for each enrollment."""
    connection.execute(
        sa.insert(course_run),
        [
            {"course_id": "c", "as_of": day, "model_version": 4, "forecasts": 1}
            | {"fallbacks": {}, "nothing": "", "degraded": ["no prophet"]}
        ],
    )
    for section, student in EVERYBODY if period else ():
        key = {"section_id": section, "student_id": student, "as_of": day, "course_id": "c"}
        values = {"starts_on": day, "weeks_ahead": 0, "driver": "silent", "start_week": 5, **period}
        chances = {"below_pass_probability": 0.1, "missed_probability": 0.6, "severity": 0.6}
        connection.execute(sa.insert(risk_period), [{**key, "end_week": 6, **chances, **values}])
        task = {"owner": "tutor", "action": "Call", "rank": 1, "driver": "silent", "timing": "now"}
        task |= {"evidence": "none known", "severity": 0.6, "start_week": 5}
        withheld = {"planned_on": None, "left_out": "withheld by the experiment advice"}
        planned = {"planned_on": day, "left_out": ""}
        task_values = withheld if student == "leaves" else planned
        connection.execute(sa.insert(intervention), [{**key, **task, **task_values}])
        numbers = dict.fromkeys(("mean", "median", "low80", "high80", "low95", "high95"), 50.0)
        numbers |= {"due_day": 33.0, "weight": 10.0, "submit_probability": 0.9}
        ahead = {"assignment_id": "a", "horizon": 1, "method": "theta"}
        connection.execute(sa.insert(assignment_forecast), [{**key, **numbers, **ahead}])


def test_a_nightly_run_s_forecasts_replace_earlier_forecasts_even_if_empty(
    made: Connection,
) -> None:
    forecast(made, DAY - timedelta(1), severity=0.9)
    forecast(made, DAY, severity=0.6)
    for view in ("forecasts", "interventions", "risk_list"):
        rows = select(made, view, course_id="c")
        assert {row["student_id"] for row in rows} == {"stays", "leaves"}, view
        assert len(rows) == 2
    first = select(made, "forecasts", student_id="stays")[0]
    assert (first["as_of"], first["due_on"]) == (DAY, DAY + timedelta(3))
    assert (first["degraded"], first["model_version"]) == ("no prophet", 4)
    tasks = {row["student_id"]: row for row in select(made, "interventions")}
    assert tasks["stays"]["planned_on"] == DAY and tasks["leaves"]["planned_on"] is None
    assert tasks["leaves"]["left_out"] == "withheld by the experiment advice"
    made.execute(sa.delete(course_run).where(course_run.c.as_of == DAY))
    for table in (risk_period, intervention, assignment_forecast):
        made.execute(sa.delete(table).where(table.c.as_of == DAY))
    forecast(made, DAY)
    assert not any(select(made, view) for view in ("forecasts", "interventions", "risk_list"))


def test_the_risk_list_ranks_who_is_likelier_than_not_to_do_badly(made: Connection) -> None:
    predict(made, "now", "none", DAY, risk=0.5)
    predict(made, "now", "stays", DAY, risk=0.49)
    predict(made, "now", "leaves", DAY, risk=None, grade=None)
    predict(made, "now", "left", DAY, risk=1.0)
    assert [row["student_id"] for row in select(made, "risk_list")] == ["none"]
    forecast(made, DAY, severity=0.6)
    risks = {row["student_id"]: row for row in select(made, "risk_list", course_id="c")}
    assert {name: row["rank"] for name, row in risks.items()} == {
        **{"stays": 1, "leaves": 1, "none": 3}
    }
    assert risks["none"]["severity"] is risks["none"]["forecast_on"] is None
    stays = risks["stays"]
    assert (stays["risk"], stays["severity"], stays["driver"], stays["planned_on"]) == (
        *(0.49, 0.6),
        *("silent", DAY),
    )
    assert risks["leaves"]["planned_on"] is None


def test_an_explanation_is_of_the_current_prediction(made: Connection) -> None:
    predict(made, "now", "stays", DAY, grade=62.0, risk=0.5)
    account = {"predicted": 62.0, "baseline": 60.0, "contributions": {"x": 2.0}, "remainders": {}}
    chance = {"predicted": 0.0, "baseline": -1.0, "contributions": {"x": 1.0}, "remainders": {}}
    key = {"section_id": "now", "student_id": "stays", "as_of": DAY, "course_id": "c"}
    key |= {"model_name": "pooled", "model_version": 2, "features_hash": "1"}
    values = {"grade": account, "risk": chance, "feature_values": {"x": 1.0}, "grade_error": 0.0}
    made.execute(sa.insert(attribution), [{**key, **values, "risk_error": 0.0, "degraded": []}])
    assert select(made, "explanations")[0]["narratives"] is None
    texts = {"adviser": {"en": "<b>It</b> is 62 %.", "de": "Es sind 62 %."}}
    body = {"texts": texts, "problems": []}
    made.execute(sa.insert(advice), [{**key, "kind": "narrative", "body": body}])
    (explanation,) = select(made, "explanations")
    assert (
        explanation["grade_baseline"] + sum(explanation["grade_contributions"].values())
        == explanation["grade"]
        == 62
    )
    assert (explanation["risk"], explanation["risk_log_odds"], explanation["narratives"]) == (
        0.5,
        0.0,
        texts,
    )
    narratives = select(made, "narratives", language="en")
    assert [narrative["narrative"] for narrative in narratives] == ["<b>It</b> is 62 %."]
    made.execute(sa.update(advice).values(body={"texts": texts, "problems": ["62 is not stored"]}))
    assert select(made, "explanations")[0]["narratives"] is None and not select(made, "narratives")
    # Of a prediction without a grade; then of numbers that are not those that were served.
    made.execute(sa.update(grade_prediction).values(grade=None))
    assert not select(made, "explanations")
    made.execute(sa.update(attribution).values(grade=sa.null()))
    assert select(made, "explanations")[0]["grade_baseline"] is None
    made.execute(sa.update(attribution).values(risk=chance | {"predicted": -5000.0}))
    assert not select(made, "explanations")


def test_the_health_of_a_model_is_the_newest(made: Connection) -> None:
    parts = {"drift": {"points": 80.0, "weight": 15, "says": "1 of 5"}}
    body = {"score": None, "needs": False, "worst": "", "parts": parts}
    body |= {"decision": {"retrain": True, "reason": "alarm"}}
    for day, score in ((DAY, 71.5), (DAY - timedelta(1), None)):
        row = {"course_id": "c", "as_of": day, "kind": "health", "body": body | {"score": score}}
        made.execute(sa.insert(report), [row])
    (health,) = select(made, "model_health")
    assert (health["score"], health["drift"], health["performance"]) == (71.5, 80.0, None)
    assert (health["train_again"], health["needs_attention"]) == (True, False)


def test_the_state_of_an_experiment_is_that_of_its_events(made: Connection) -> None:
    """Each event and each pair of events, of each kind."""
    happened = [(), *combinations(Happened, 1), *combinations(Happened, 2)]
    at = datetime(2026, 3, 1, tzinfo=UTC)
    plans, events = [], []
    for kind in Kind:
        for kinds in happened:
            for decision in Decision if Happened.DECIDED in kinds else (None,):
                name = f"e-{len(plans)}"
                made_from = of_models() if kind.compares_models else of_actions()
                plan = replace(made_from, experiment_id=name, kind=kind)
                row = {"experiment_id": name, "kind": kind, "subject": plan.subject}
                plans.append({**row, "plan": plan.to_dict(), "created_at": at})
                values = {"experiment_id": name, "at": at, "by": "x", "reason": "y", "figures": {}}
                events += [
                    values | {"kind": kind, "decision": decision if kind == "decided" else None}
                    for kind in kinds
                ]
    made.execute(sa.insert(experiments.experiment), plans)
    made.execute(sa.insert(experiments.event), events)
    expected = {
        experiment.plan.experiment_id: (
            str(experiment.state),
            experiment.decision and str(experiment.decision),
        )
        for experiment in experiments.read(made)
    }
    rows = select(made, "experiments")
    assert {row["experiment_id"]: (row["state"], row["decision"]) for row in rows} == expected
    assert {state for state, _ in expected.values()} == {"running", "decided", "ended"}
    assert (rows[0]["starts_on"], rows[0]["looked_on"]) == (of_models().starts_on, None)


def test_deliveries_are_counted_without_their_values(made: Connection) -> None:
    counts = {"rows_loaded": {"student": 2, "result": 3}, "rows_unchanged": {}}
    load = {"source": "csv", "loaded_at": datetime(2026, 3, 1, tzinfo=UTC), "notes": []}
    load |= {"rows_removed": {"result": 1}, "rows_quarantined": 2, "courses": ["c"], **counts}
    made.execute(sa.insert(schema.load), [load])
    problem = {
        "source": "csv",
        "file": "users.csv",
        "reason": "is empty",
        "seen_at": load["loaded_at"],
    }
    problems = [(1, "name", "Ada"), (1, "mail", "ada@example.org"), (2, "name", None)]
    made.execute(
        sa.insert(schema.quarantine),
        [problem | dict(zip(("row", "column", "value"), place, strict=True)) for place in problems],
    )
    (quality,) = select(made, "delivery_quality")
    names = ("rows_loaded", "rows_unchanged", "rows_removed", "rows_quarantined", "courses_changed")
    assert [quality[name] for name in names] == [5, 0, 1, 2, 1]
    (quality,) = select(made, "delivery_problems")
    assert (quality["reason"], quality["rows"]) == ("is empty", 2)
    assert "Ada" not in str(quality)


_THERE = """
select relname, attname, format_type(atttypid, atttypmod), col_description(attrelid, attnum)
from pg_attribute join pg_class on pg_class.oid = attrelid
where relnamespace = 'published'::regnamespace and attnum > 0
"""


@contextmanager
def refused(connection: Connection) -> Iterator[None]:
    """Expect that a statement is refused: it is not allowed, or a view takes no rows."""
    refusal = r"permission denied|cannot (delete|insert)"
    with pytest.raises(DBAPIError, match=refusal), connection.begin_nested():
        yield


@pytest.mark.security
def test_a_reader_sees_the_views_and_nothing_else(made: Connection) -> None:
    for section, student in EVERYBODY:
        predict(made, section, student, DAY)
    described = {
        (view.name, column.name, column.type, column.description)
        for view in views.VIEWS
        for column in view.columns
    }
    assert {tuple(row) for row in made.execute(sa.text(_THERE))} == described
    role = views.readers(made).role
    assert role.endswith("_reader") and views.readers(made).can_read
    tables = sa.inspect(made)
    every = [
        f"{name}.{table}"
        for name in tables.get_schema_names()
        if name not in ("information_schema", "published")
        for table in tables.get_table_names(name)
    ]
    made.exec_driver_sql(f'set role "{role}"')
    versions = {row["view"]: row["version"] for row in select(made, "contract")}
    assert versions == {view.name: view.version for view in views.VIEWS if view.name != "contract"}
    for view in views.VIEWS:
        assert made.exec_driver_sql(f"select count(*) from {view.fullname}").scalar() is not None
    for table in every:
        with refused(made):
            made.exec_driver_sql(f"select count(*) from {table}")
    for statement in (
        "delete from published.risk_list",
        "insert into published.delivery_problems values ('a', 'b', 1, now())",
        "create table public.mine (one integer)",
        "create view published.mine as select 1",
        "create schema mine",
    ):
        with refused(made):
            made.exec_driver_sql(statement)
    # Not even a function of its own is shown a row that a view leaves out.
    made.exec_driver_sql(
        "create function pg_temp.show(text) returns boolean language plpgsql cost 0.0001 as "
        "$$ begin if $1 = 'left' then raise exception 'seen'; end if; return true; end $$"
    )
    shown = made.exec_driver_sql(
        "select student_id from published.risk_list where pg_temp.show(student_id)"
    )
    assert set(shown.scalars()) == {"stays", "leaves"}


@contextmanager
def roles(server: database.DatabaseUrls, *names: str) -> Iterator[Connection]:
    """Yield a connection of the server's administrator, who made roles that may log in."""
    admin = sa.create_engine(server.dagster, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        for name in names:
            connection.exec_driver_sql(f"create role {name} login")
        yield connection
        for name in (*names, "first_reader", "second_reader"):
            connection.exec_driver_sql(f"drop role if exists {name}")
    admin.dispose()


@pytest.mark.security
def test_installations_of_one_server_have_readers_of_their_own(
    server: database.DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second installation belongs to a role that may create none; its administrator may."""
    warnings: list[str] = []
    monkeypatch.setattr(views.logger, "warning", lambda words, *of: warnings.append(words % of))
    with (
        roles(server, "plain", "ada") as admin,
        new_database(server, "first", TABLES) as first,
        new_database(server, "second", "template1") as second,
    ):
        admin.exec_driver_sql("alter database second owner to plain")
        for url in (first, second.replace("postgres@", "plain@")):
            engine = database.migrated(url)
            database.migrate(engine)
            with engine.connect() as connection:
                readers = views.readers(connection)
                assert connection.exec_driver_sql("select 1 from published.contract").scalar()
            engine.dispose()
        assert (readers.role, readers.exists, readers.can_read) == ("second_reader", False, False)
        assert len(warnings) == 1 and all(reader in warnings[0] for reader in readers.remedy)
        with opened(second) as connection:
            for statement in readers.remedy:
                connection.exec_driver_sql(statement)
            assert views.readers(connection).can_read
        admin.exec_driver_sql("grant first_reader to ada")
        with opened(first.replace("postgres@", "ada@")) as connection:
            assert select(connection, "contract")
            with refused(connection):
                connection.exec_driver_sql("select * from gradebook.student")
        with opened(second.replace("postgres@", "ada@")) as connection, refused(connection):
            select(connection, "contract")


@contextmanager
def opened(url: str) -> Iterator[Connection]:
    engine = database.connect(url)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def test_an_earlier_contract_is_brought_up_to_date_under_what_others_built(
    server: database.DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database_of(server, "0021") as engine:
        earlier = tuple(
            replace(view, columns=view.columns[:-1], query=_without_last(view))
            for view in views.VIEWS
            if view.name == "current_predictions"
        )
        with engine.begin() as connection, monkeypatch.context() as patch:
            patch.setattr(views, "VIEWS", earlier)
            patch.setattr(views, "_DIGEST", "of an earlier version")
            views.renew(connection)
            connection.exec_driver_sql(
                "create view public.mine as select student_id from published.current_predictions"
            )
        database.migrate(engine)
        with engine.begin() as connection:
            assert {row[:2] for row in connection.execute(sa.text(_THERE))} == {
                (view.name, column.name) for view in views.VIEWS for column in view.columns
            }
            assert views.readers(connection).can_read
            with pytest.raises(DBAPIError, match="mine"), connection.begin_nested():
                views.drop(connection)
            connection.exec_driver_sql("drop view public.mine")
            # As a migration does; `migrate` calls `renew` in the same transaction.
            views.drop(connection)
            connection.exec_driver_sql(
                "alter table ensemble.grade_prediction alter column risk type numeric"
            )
            connection.exec_driver_sql(
                "alter table ensemble.grade_prediction alter column risk type double precision"
            )
            views.renew(connection)
            assert select(connection, "contract") and views.readers(connection).can_read
            connection.exec_driver_sql(f'drop owned by "{views.readers(connection).role}"')
            connection.exec_driver_sql(f'drop role "{views.readers(connection).role}"')


def _without_last(view: views.View) -> str:
    names = [column.name for column in view.columns]
    return f"select {', '.join(names[:-1])} from ({view.query}) as whole ({', '.join(names)})"


if __name__ == "__main__":
    before, heading, _ = PAGE.read_text().partition(HEADING)
    PAGE.write_text(before + heading + views.described())
