"""The loader's promises, with typed frames as the source and PostgreSQL as the judge."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as options
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from grade_ml.core.errors import SourceError
from grade_ml.core.policy import TablePolicy
from grade_ml.gradebook import frames
from grade_ml.gradebook.bundle import ROW, Batch, Bundle, Origin, from_frames
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.loading import LoadReport, forget, load
from grade_ml.gradebook.schema import quarantine

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = pd.Timestamp("2024-01-31")
ROWS = 12
Frames = dict[str, pd.DataFrame]


def _frame(columns: str, *rows: tuple[object, ...]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=columns.split())
    for name in frame.columns:
        if name.endswith("_on") or name == "day":
            frame[name] = pd.to_datetime(frame[name])
    return frame


def _small() -> Frames:
    return {
        "student": _frame("student_id attributes", ("s1", '{"a": 1}'), ("s2", "{}")),
        "term": _frame("term_id title starts_on ends_on", ("T", None, DAY, "2024-06-30")),
        "course": _frame("course_id title subject", ("C", "Logic", None)),
        "section": _frame(
            "section_id course_id term_id starts_on ends_on", ("S", "C", "T", DAY, "2024-06-30")
        ),
        "enrollment": _frame(
            "section_id student_id enrolled_on withdrawn_on outcome attributes",
            ("S", "s1", DAY, None, "pass", "{}"),
            ("S", "s2", None, None, None, "{}"),
        ),
        "assignment": _frame(
            "assignment_id section_id category title due_on weight max_score",
            ("A", "S", "TMA", None, DAY, 10.0, 20.0),
            ("B", "S", "TMA", None, None, 0.0, 20.0),
        ),
        "result": _frame(
            "assignment_id student_id score submitted_on graded_on carried_over",
            ("A", "s1", 50.0, DAY, DAY, False),
            ("A", "s2", None, DAY, None, True),
        ),
        "activity": _frame("section_id student_id day kind count", ("S", "s1", DAY, "click", 3)),
    }


def _load(engine: Engine, tables: Frames) -> LoadReport:
    return load(engine, from_frames("simulated", tables.items), loaded_at=NOW)


def _removal(table: str, rows: pd.DataFrame) -> Bundle:
    batch = Batch(table, rows.assign(**{ROW: range(2, 2 + len(rows))}), delete=True)
    return Bundle("oneroster", {table: Origin("gone.csv")}, lambda connection: iter([batch]))


def _read(engine: Engine) -> Gradebook:
    with engine.connect() as connection:
        return frames.read(connection)


def _assert_same(left: Gradebook, right: Gradebook) -> None:
    for field in fields(Gradebook):
        pd.testing.assert_frame_equal(getattr(left, field.name), getattr(right, field.name))


def _empty(engine: Engine) -> None:
    with engine.begin() as connection:
        tables = "student, term, course, quarantine".replace(", ", ", gradebook.")
        connection.execute(text(f"truncate gradebook.{tables} cascade"))


def _quarantine(engine: Engine) -> pd.DataFrame:
    with engine.connect() as connection:
        query = 'select file, "row", "column", value, reason from gradebook.quarantine order by id'
        return pd.read_sql(text(query), connection)


def test_changed_rows_are_updated_and_nothing_is_deleted(engine: Engine) -> None:
    _load(engine, _small())
    result = _frame(
        "assignment_id student_id score submitted_on graded_on carried_over",
        ("A", "s2", 90.0, DAY, DAY, False),
        ("B", "s1", None, None, None, False),
        ("A", "s1", 50.0, DAY, DAY, False),
    )
    report = _load(engine, {"result": result})

    assert report.loaded == {"result": 2}
    assert report.unchanged == {"result": 1}
    book = _read(engine)
    assert book.results["score"].fillna(-1).tolist() == [50, 90, -1]
    assert len(book.students) == 2
    assert len(book.activity) == 1


def test_a_value_may_become_missing(engine: Engine) -> None:
    tables = _small()
    _load(engine, tables)
    tables["result"].loc[0, ["score", "graded_on"]] = None

    assert _load(engine, tables).loaded["result"] == 1
    assert _read(engine).results["score"].isna().all()


def test_equal_rows_count_once_and_of_conflicting_rows_the_first(engine: Engine) -> None:
    tables = _small()
    row = ("A", "s1", 50.0, DAY, DAY, False)
    tables["result"] = _frame(
        "assignment_id student_id score submitted_on graded_on carried_over",
        row, row, ("A", "s1", 60.0, DAY, DAY, False), row, ("A", "s1", 60.0, DAY, DAY, False),
    )  # fmt: skip
    report = _load(engine, tables)

    assert (report.loaded["result"], report.unchanged["result"]) == (1, 2)
    assert report.rejected == {"result": 2}
    assert _read(engine).results["score"].tolist() == [50]
    problems = _quarantine(engine)
    assert problems["row"].tolist() == [4, 6]
    assert problems["value"].tolist() == ["A, s1"] * 2
    assert not _load(engine, tables).changed


#: table, column, value that breaks a rule in its first row, rows that cannot be loaded then
BROKEN = [
    ("section", "course_id", "X", 8),
    ("section", "term_id", "X", 8),
    ("section", "ends_on", pd.Timestamp("2024-01-30"), 8),
    ("term", "ends_on", pd.Timestamp("2024-01-30"), 9),
    ("section", "section_id", "S" * 256, 8),
    ("section", "section_id", "S\x1f", 8),
    ("enrollment", "student_id", "X", 1),
    ("enrollment", "withdrawn_on", pd.Timestamp("2024-01-30"), 1),
    ("assignment", "section_id", "X", 3),
    ("assignment", "max_score", 0.0, 3),
    ("assignment", "max_score", float("inf"), 3),
    ("assignment", "category", None, 3),
    ("activity", "count", -1, 1),
]


def test_a_row_that_breaks_a_rule_goes_with_the_rows_that_need_it(engine: Engine) -> None:
    for table, column, value, lost in BROKEN:
        _empty(engine)
        tables = _small()
        tables[table].loc[0, column] = value
        report = _load(engine, tables)

        assert report.quarantined == lost, (table, column)
        assert sum(report.loaded.values()) == ROWS - lost
        problems = _quarantine(engine)
        named = problems[(problems["file"] == table) & (problems["row"] == 2)]
        assert named["column"].tolist() == [column]


def test_the_later_of_two_results_counts_and_the_earlier_stays_with_its_dates(
    engine: Engine,
) -> None:
    days = pd.to_datetime(["2024-10-02", "2024-10-09", "2024-10-16"])
    tries = pd.DataFrame(
        {
            "assignment_id": "A",
            "student_id": "s1",
            "score": [40.0, 90.0, 60.0],
            "submitted_on": days,
            "graded_on": days,
        }
    )
    tables = _small()
    for together in (tries.iloc[[2, 0, 1]], tries):
        _empty(engine)
        _load(engine, {**tables, "result": tables["result"][:0]})
        if together is tries:  # one delivery for each
            for number in range(3):
                _load(engine, {"result": tries.iloc[[number]].reset_index(drop=True)})
        else:
            _load(engine, {"result": together.reset_index(drop=True)})
        book = _read(engine)
        assert book.results["score"].tolist() == [60.0]
        earlier = book.earlier_results.sort_values("until")
        assert earlier["score"].tolist() == [40.0, 90.0]
        assert earlier["until"].tolist() == [days[1], days[2]]


def test_a_load_names_the_courses_that_it_changed(engine: Engine) -> None:
    assert _load(engine, _small()).courses == ("C",)
    assert _load(engine, _small()).courses == ()
    tables = _small()
    tables["result"].loc[0, "score"] = 1.0
    assert _load(engine, {"result": tables["result"]}).courses == ("C",)


@pytest.mark.parametrize(
    ("column", "value"),
    [("score", 200.1), ("score", float("inf")), ("graded_on", pd.Timestamp("2024-01-30"))],
)
def test_a_result_that_breaks_a_rule_is_quarantined_and_stays_unknown(
    engine: Engine, column: str, value: object
) -> None:
    tables = _small()
    tables["result"].loc[0, column] = value
    report = _load(engine, tables)

    assert report.rejected == {"result": 1}
    assert _quarantine(engine)["column"].tolist() == [column]
    result = _read(engine).results.iloc[0]
    assert result["status"] == "graded"
    assert pd.isna(result["score"])


def test_a_source_that_breaks_half_way_leaves_the_gradebook_as_it_was(engine: Engine) -> None:
    _load(engine, _small())
    before = _read(engine)

    def broken() -> Iterator[tuple[str, pd.DataFrame]]:
        yield "course", _frame("course_id title subject", ("D", None, None))
        yield "course", _frame("course_id title subject", (None, None, None))
        raise SourceError("The file ends too early.")

    with pytest.raises(SourceError):
        load(engine, from_frames("csv", broken), loaded_at=NOW)
    _assert_same(_read(engine), before)
    assert _quarantine(engine).empty


def test_a_source_may_delete_rows_by_key(engine: Engine) -> None:
    _load(engine, _small())
    gone = _frame("assignment_id student_id", ("A", "s1"), ("A", "nobody"))
    report = load(engine, _removal("result", gone), loaded_at=NOW)

    assert report.removed == {"result": 1}
    assert report.rejected == {"result": 1}
    assert _read(engine).results["student_id"].tolist() == ["s2"]
    assert "is not in the gradebook" in _quarantine(engine)["reason"][0]


def test_a_row_that_others_refer_to_is_not_deleted(engine: Engine) -> None:
    _load(engine, _small())
    report = load(engine, _removal("student", _frame("student_id", ("s1",))), loaded_at=NOW)

    assert report.removed == {"student": 0}
    assert "rows of activity still refer to it" in _quarantine(engine)["reason"][0]


def test_a_report_hides_students_and_the_record_counts_rows(engine: Engine) -> None:
    tables = _small()
    tables["enrollment"].loc[1, "student_id"] = "stranger"
    report = _load(engine, tables)

    assert "stranger" not in str(report)
    assert _quarantine(engine)["value"].tolist() == ["stranger"]
    with engine.connect() as connection:
        record = connection.execute(text("select * from gradebook.load")).mappings().one()
    assert record["rows_loaded"] == report.loaded
    assert record["rows_quarantined"] == 1
    assert record["loaded_at"] == NOW


def test_two_loads_at_once_wait_for_each_other(engine: Engine) -> None:
    staged, go_on = threading.Event(), threading.Event()
    reports = {}

    def slow(connection: Connection) -> Iterator[Batch]:
        yield from from_frames("csv", _small().items).batches(connection)
        staged.set()
        assert go_on.wait(60)

    origins = from_frames("csv", _small().items).origins
    first = threading.Thread(
        target=lambda: reports.update(
            first=load(engine, Bundle("csv", origins, slow), loaded_at=NOW)
        )
    )
    second = threading.Thread(target=lambda: reports.update(second=_load(engine, _small())))
    first.start()
    assert staged.wait(60)
    second.start()
    _wait_for_lock(engine)
    go_on.set()
    first.join(60)
    second.join(60)

    assert sum(reports["first"].loaded.values()) == ROWS
    assert not reports["second"].changed


def _wait_for_lock(engine: Engine) -> None:
    waiting = text(
        "select exists (select from pg_locks join pg_database on pg_database.oid = database "
        "where datname = current_database() and locktype = 'advisory' and not granted)"
    )
    with engine.connect() as connection:
        while not connection.execute(waiting).scalar():
            connection.rollback()


def test_progress_names_the_steps_and_counts_the_rows(engine: Engine) -> None:
    seen: dict[str, int] = {}

    def progress(step: str, rows: int) -> None:
        seen[step] = seen.get(step, 0) + rows

    load(engine, from_frames("csv", _small().items), loaded_at=NOW, on_progress=progress)

    assert seen["Reading result"] == 2
    assert "Storing result" in seen


def _shuffled(tables: Frames, draw: Callable[..., object]) -> list[tuple[str, pd.DataFrame]]:
    parts = [
        (name, frame.iloc[[row]]) for name, frame in tables.items() for row in range(len(frame))
    ]
    return draw(st.permutations(parts))  # type: ignore[return-value]


@pytest.mark.slow
@options(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_and_split_of_the_rows_gives_the_same_gradebook(
    engine: Engine, data: st.DataObject
) -> None:
    _empty(engine)
    _load(engine, _small())
    expected = _read(engine)
    parts = _shuffled(_small(), data.draw)
    report = load(engine, from_frames("csv", lambda: parts), loaded_at=NOW)

    assert not report.changed
    _empty(engine)
    load(engine, from_frames("csv", lambda: parts), loaded_at=NOW)
    _assert_same(_read(engine), expected)


@pytest.mark.security
def test_a_row_leaves_the_quarantine_a_set_time_after_its_last_delivery(engine: Engine) -> None:
    tables = _small()
    tables["enrollment"].loc[1, "student_id"] = "stranger"
    sound = {"term": tables["term"]}

    def deliver(frames: dict[str, pd.DataFrame], days: int) -> list[str]:
        bundle = from_frames("csv", frames.items)
        report = load(engine, bundle, loaded_at=NOW + timedelta(days=days))
        assert report.newly_rejected == (days == 0)
        return _quarantine(engine)["value"].tolist()

    assert deliver(tables, 0) == ["stranger"]
    kept = TablePolicy.of(quarantine).days
    assert kept
    assert deliver(tables, kept) == ["stranger"]
    assert deliver(sound, 2 * kept) == ["stranger"]
    with engine.begin() as connection:
        forget(connection, NOW.date() + timedelta(days=2 * kept))
    assert _quarantine(engine)["value"].tolist() == ["stranger"]
    assert deliver(sound, 2 * kept + 2) == []
