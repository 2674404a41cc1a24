from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.gradebook import quality, schema

START, END = date(2024, 9, 1), date(2024, 12, 20)
TABLE = {table.name: table for table in schema.TABLES}


@pytest.fixture
def gradebook(engine: Engine) -> Engine:
    """One course in one term, two students with two assignments each, no constraint enforced."""
    rows: dict[str, list[dict[str, Any]]] = {
        "student": [{"student_id": s} for s in ("s1", "s2")],
        "term": [{"term_id": "t", "title": "T", "starts_on": START, "ends_on": END}],
        "course": [{"course_id": "c", "title": "C", "subject": "x"}],
        "section": [
            {
                "section_id": "c1",
                "course_id": "c",
                "term_id": "t",
                "starts_on": START,
                "ends_on": END,
            }
        ],
        "enrollment": [
            {"section_id": "c1", "student_id": s, "enrolled_on": START} for s in ("s1", "s2")
        ],
        "assignment": [
            {
                "assignment_id": f"a{n}",
                "section_id": "c1",
                "category": "TMA",
                "title": f"A{n}",
                "due_on": date(2024, 10, n),
                "weight": 50,
                "max_score": 10,
            }
            for n in (1, 2)
        ],
        "result": [
            {
                "assignment_id": f"a{n}",
                "student_id": s,
                "score": 95,
                "submitted_on": date(2024, 10, n),
            }
            for n in (1, 2)
            for s in ("s1", "s2")
        ],
        "activity": [
            {
                "section_id": "c1",
                "student_id": "s1",
                "day": date(2024, 9, 30),
                "kind": "forum",
                "count": 3,
            }
        ],
    }
    with engine.begin() as connection:
        for name, values in rows.items():
            connection.execute(sa.insert(TABLE[name]), values)
    return engine


def _drop_constraints(engine: Engine, table: str) -> None:
    query = sa.text(
        "select conname from pg_constraint "
        "where conrelid = cast(:name as regclass) and contype <> 'n' order by contype"
    )
    with engine.begin() as connection:
        names = connection.execute(query, {"name": f"gradebook.{table}"}).scalars().all()
        for name in names:
            connection.execute(
                sa.text(f'alter table gradebook.{table} drop constraint "{name}" cascade')
            )


def _broken(engine: Engine, table: str) -> dict[str, int]:
    with engine.connect() as connection:
        counts = {
            rule.name: quality.violations(connection, rule) for rule in quality.rules(TABLE[table])
        }
    return {name: count for name, count in counts.items() if count}


@pytest.mark.parametrize("table", TABLE)
def test_a_sound_gradebook_breaks_no_rule(gradebook: Engine, table: str):
    assert _broken(gradebook, table) == {}


@pytest.mark.parametrize(
    ("table", "statement", "expected"),
    [
        ("student", "insert into student values ('s1', '{}')", {"keys": 1}),
        (
            "result",
            "insert into result select * from result where student_id = 's1'",
            {"keys": 2},
        ),
        ("result", "update result set score = 201 where student_id = 's2'", {"ranges": 2}),
        ("result", "update result set graded_on = '2024-09-01'", {"dates_in_order": 4}),
        (
            "result",
            "update result set assignment_id = 'x' where student_id = 's1'",
            {"orphans": 2, "keys": 1},
        ),
        ("section", "update section set term_id = 'x'", {"orphans": 1}),
        ("section", "update section set ends_on = '2024-08-31'", {"dates_in_order": 1}),
        ("section", "update section set ends_on = '2025-08-31'", {"within_term": 1}),
        ("enrollment", "update enrollment set outcome = 'lost'", {"ranges": 2}),
        (
            "enrollment",
            "update enrollment set withdrawn_on = '2024-08-01'",
            {"dates_in_order": 2},
        ),
        ("assignment", "update assignment set weight = -1", {"ranges": 2}),
        ("assignment", "update assignment set due_on = '2025-01-01'", {"due_within_section": 2}),
        (
            "assignment",
            "update assignment set title = 'A1', due_on = '2024-10-01'",
            {"duplicates": 1},
        ),
        ("activity", "update activity set count = -1", {"ranges": 1}),
        ("activity", "update activity set student_id = 's3'", {"orphans": 1, "enrolled": 1}),
        (
            "course",
            "insert into course select 'd', title, subject from course",
            {"duplicates": 1},
        ),
    ],
)
def test_each_rule_counts_what_breaks_it(
    gradebook: Engine, table: str, statement: str, expected: dict[str, int]
):
    _drop_constraints(gradebook, table)
    with gradebook.begin() as connection:
        connection.execute(sa.text("set local search_path to gradebook"))
        connection.execute(sa.text(statement))
    assert _broken(gradebook, table) == expected


def test_the_same_course_twice_in_a_term_is_a_duplicate_enrollment(gradebook: Engine):
    with gradebook.begin() as connection:
        connection.execute(sa.text("set local search_path to gradebook"))
        connection.execute(
            sa.text(
                "insert into section select 'c2', course_id, term_id, starts_on, ends_on "
                "from section"
            )
        )
        connection.execute(sa.text("insert into enrollment values ('c2', 's1')"))
    assert _broken(gradebook, "enrollment") == {"duplicates": 1}


def test_results_of_students_who_are_not_enrolled(gradebook: Engine):
    with gradebook.begin() as connection:
        connection.execute(sa.delete(schema.enrollment).where(sa.text("student_id = 's2'")))
    assert _broken(gradebook, "result") == {"enrolled": 2}


def test_a_profile_counts_rows_gaps_dates_and_quarantine(gradebook: Engine):
    moment = datetime(2024, 12, 1, tzinfo=UTC)
    with gradebook.begin() as connection:
        before = quality.profile(connection, schema.result)
        connection.execute(
            sa.insert(schema.quarantine),
            [
                {
                    "source": "oulad",
                    "file": file,
                    "row": row,
                    "column": "score",
                    "value": "x",
                    "reason": "not a number",
                    "seen_at": moment,
                }
                for row, file in enumerate(
                    ("studentAssessment.csv.gz", "in/results.csv", "students.csv")
                )
            ],
        )
        connection.execute(
            sa.insert(schema.load).values(
                source="oulad",
                loaded_at=moment,
                rows_loaded={"result": 2, "student": 0},
                rows_unchanged={},
                rows_quarantined=3,
            )
        )
        after = quality.profile(connection, schema.result)
        student = quality.profile(connection, schema.student)
        assert quality.quarantined(connection, schema.result) == {"not a number": 2}
        assert quality.days_since_load(connection, date(2024, 12, 4)) == 3
        assert quality.running_sections(connection, date(2024, 12, 4)) == 1
        assert quality.running_sections(connection, date(2025, 12, 4)) == 0
    assert (before.rows, before.quarantined, before.newest) == (4, 0, date(2024, 10, 2))
    assert before.null_shares == {
        "score": 0.0,
        "submitted_on": 0.0,
        "graded_on": 1.0,
        "late": 1.0,
    }
    assert after.quarantined == 2
    assert before.version != after.version
    assert student.version == "2-0"
    assert (student.quarantined, student.newest, student.null_shares) == (1, None, {})


def test_the_profile_of_an_empty_table(engine: Engine):
    with engine.connect() as connection:
        for table in schema.TABLES:
            assert quality.profile(connection, table).rows == 0
        assert quality.days_since_load(connection, START) is None
        assert quality.score_histogram(connection)[0] == ("0-9", 0)


def test_distributions(gradebook: Engine):
    with gradebook.begin() as connection:
        connection.execute(
            sa.update(schema.result).values(score=9.5).where(sa.text("student_id='s1'"))
        )
        histogram = dict(quality.score_histogram(connection))
        assert (histogram["0-9"], histogram["90-100"], sum(histogram.values())) == (2, 2, 4)
        assert quality.enrollments_per_term(connection) == [("t", 2)]
        assert quality.weekly(connection, schema.result.c.submitted_on) == [(date(2024, 9, 30), 4)]
