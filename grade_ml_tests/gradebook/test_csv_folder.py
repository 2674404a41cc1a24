"""CSV folders: what was written is what the gradebook then holds."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as options
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from grade_ml.core.errors import SourceError
from grade_ml.core.texts import STEERING
from grade_ml.gradebook import csv_files, csv_folder, frames
from grade_ml.gradebook.csv_folder import FILES
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import Institution
from grade_ml.gradebook.loading import LoadReport, load

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SMALL = {
    "students.csv": 'student_id,region,note\ns1,Wales,\ns2,,"says ""hi"""\n',
    "terms.csv": "term_id,title,starts_on,ends_on\nT,Autumn,2024-09-01,2024-12-20\n",
    "courses.csv": "course_id\nC\n",
    "sections.csv": "section_id,course_id,term_id,starts_on,ends_on\nS,C,T,2024-09-01,2024-12-20\n",
    "enrollments.csv": "section_id,student_id,outcome,credits\nS,s1,Pass,60\nS,s2,,\n",
    "assignments.csv": "assignment_id,section_id,category,weight,max_score\nA,S,TMA,1,20\n",
    "results.csv": "assignment_id,student_id,score,submitted_on,carried_over\n"
    "A,s1,55.5,2024-10-01,t\n",
}


def _write(folder: Path, **changed: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in {**SMALL, **{f"{k}.csv": v for k, v in changed.items()}}.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def _load(engine: Engine, folder: Path) -> LoadReport:
    return load(engine, csv_folder.bundle(folder), loaded_at=NOW)


def _read(engine: Engine) -> Gradebook:
    with engine.connect() as connection:
        return frames.read(connection)


def test_columns_may_be_left_out_and_further_columns_become_attributes(
    engine: Engine, tmp_path: Path
) -> None:
    report = _load(engine, _write(tmp_path / "csv"))

    assert report.quarantined == 0
    book = _read(engine)
    assert [json.loads(a) for a in book.students["attributes"]] == [
        {"region": "Wales"},
        {"note": 'says "hi"'},
    ]
    assert [json.loads(a) for a in book.enrollments["attributes"]] == [{"credits": "60"}, {}]
    assert book.enrollments["outcome"].fillna("-").tolist() == ["pass", "-"]
    assert book.results[["score", "carried_over"]].to_numpy().tolist() == [[55.5, True]]
    assert book.results["graded_on"].isna().all()


def test_a_file_may_be_left_out_once_the_gradebook_has_its_table(
    engine: Engine, tmp_path: Path
) -> None:
    folder = tmp_path / "csv"
    folder.mkdir()
    (folder / "results.csv").write_text(SMALL["results.csv"])
    with pytest.raises(
        SourceError, match=r"has no students\.csv, and the gradebook has no student"
    ):
        _load(engine, folder)
    _load(engine, _write(tmp_path / "whole"))

    assert not _load(engine, folder).changed


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("results", "assignment_id,score\nA,5\n", "results.csv has no column student_id"),
        ("results", SMALL["results.csv"].replace("score", "mark"), "unknown column mark"),
        ("students", "student_id,attributes\ns1,{}\n", "has a column attributes"),
        ("courses", "", "courses.csv is empty"),
        ("student", SMALL["students.csv"], "student.csv, which is no file of this format"),
    ],
)
def test_a_file_of_another_shape_is_named_and_nothing_is_loaded(
    engine: Engine, tmp_path: Path, file: str, content: str, message: str
) -> None:
    folder = _write(tmp_path / "csv", **{file: content})
    with pytest.raises(SourceError, match=message):
        _load(engine, folder)
    assert _read(engine).students.empty


def test_a_folder_without_any_file_of_the_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no CSV file of this format"):
        csv_folder.bundle(tmp_path)


def test_an_index_of_pandas_is_ignored_with_a_note(engine: Engine, tmp_path: Path) -> None:
    changed = {
        name.removesuffix(".csv"): "\n".join(
            ("" if n == 0 else str(n)) + "," + line for n, line in enumerate(content.splitlines())
        )
        for name, content in SMALL.items()
    }
    _load(engine, _write(tmp_path / "csv"))
    report = _load(engine, _write(tmp_path / "saved", **changed))

    assert not report.changed
    assert len(report.notes) == len(SMALL)


def test_attempts_statuses_extra_credit_policies_and_texts(engine: Engine, tmp_path: Path) -> None:
    folder = _write(
        tmp_path / "csv",
        sections="section_id,course_id,term_id,starts_on,ends_on,grading_policy\n"
        "S,C,T,2024-09-01,2024-12-20,Points\n",
        assignments="assignment_id,section_id,category,weight,max_score\n"
        "A,S,TMA,1,20\nB,S,TMA,-1,10\nX,S,TMA,0,0\n",
        results="assignment_id,student_id,status,score,submitted_on,late\n"
        "A,s1,graded,80,2024-10-08 23:59:59,yes\n"
        "A,s1,graded,50,2024-10-01,\n"
        "B,s1,Exempt,,2024-10-01,no\n"
        "X,s1,graded,5,2024-10-01,\n"
        "A,s2,graded,Complete,2024-10-01,\n"
        "B,s2,graded,Perhaps,2024-10-01,\n"
        "X,s2,handed,7,2024-10-01,\n",
    )
    institution = Institution(texts={"complete": 100})
    report = load(engine, csv_folder.bundle(folder, institution), loaded_at=NOW)

    assert report.rejected == {"result": 2}
    book = _read(engine)
    assert book.sections["grading_policy"].tolist() == ["points"]
    items = book.assignments.set_index("assignment_id")
    assert items["extra_credit"].tolist() == [False, False, True]
    assert items["max_score"].tolist() == [20, 10, 100]
    assert items["weight"].tolist() == [1, 0, 0]
    results = book.results.set_index(["student_id", "assignment_id"]).sort_index()
    assert results["status"].tolist() == ["graded", "exempt"] + ["graded"] * 4
    assert results["score"].fillna(-1).tolist() == [80, -1, 5, 100, -1, -1]
    assert results["late"].astype(object).where(results["late"].notna(), None).tolist() == [
        True, False, None, None, None, None,
    ]  # fmt: skip
    (earlier,) = book.earlier_results.to_dict("records")
    assert (earlier["score"], earlier["until"]) == (50, pd.Timestamp("2024-10-08"))
    assert not load(engine, csv_folder.bundle(folder, institution), loaded_at=NOW).changed


_ids = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=6)
# Without the carriage return, which pandas leaves unquoted, as if a line ended there, and without
# what is refused.
_texts = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=9).map(
    lambda value: re.sub(STEERING, "", value).strip() or None
)
_dates = st.none() | st.dates(pd.Timestamp("1950-01-01").date(), pd.Timestamp("2150-01-01").date())
_numbers = st.floats(0, 100)


@st.composite
def _gradebooks(draw: st.DrawFn) -> dict[str, pd.DataFrame]:
    """Draw tables as the user would write them, every reference known."""
    start, end = pd.Timestamp("2024-01-01").date(), pd.Timestamp("2024-06-30").date()

    def unique(most: int) -> list[str]:
        return draw(st.lists(_ids, min_size=1, max_size=most, unique=True))

    students, courses, sections, assignments = unique(4), unique(2), unique(3), unique(4)
    course = st.sampled_from(courses)
    section = st.sampled_from(sections)

    def pairs(left: list[str]) -> list[tuple[str, str]]:
        both = st.tuples(st.sampled_from(left), st.sampled_from(students))
        return draw(st.lists(both, max_size=6, unique=True))

    rows: dict[str, list[tuple[object, ...]]] = {
        "student": [(s, draw(_texts)) for s in students],
        "term": [("T", draw(_texts), start, end)],
        "course": [(c, draw(_texts), draw(_texts)) for c in courses],
        "section": [(s, draw(course), "T", start, end) for s in sections],
        "enrollment": [
            (*pair, draw(_dates), None, draw(st.sampled_from([None, "pass", "fail"])))
            for pair in pairs(sections)
        ],
        "assignment": [
            (a, draw(section), draw(_ids), draw(_texts), draw(_dates), draw(_numbers), 1.0)
            for a in assignments
        ],
        "result": [
            (*pair, draw(st.none() | _numbers), draw(_dates), None, draw(st.booleans()))
            for pair in pairs(assignments)
        ],
        "activity": [(*p, start, "click", draw(st.integers(0, 2**40))) for p in pairs(sections)],
    }
    columns = {
        "student": "student_id note",
        "term": "term_id title starts_on ends_on",
        "course": "course_id title subject",
        "section": "section_id course_id term_id starts_on ends_on",
        "enrollment": "section_id student_id enrolled_on withdrawn_on outcome",
        "assignment": "assignment_id section_id category title due_on weight max_score",
        "result": "assignment_id student_id score submitted_on graded_on carried_over",
        "activity": "section_id student_id day kind count",
    }
    return {
        name: pd.DataFrame(rows[name], columns=columns[name].split(), dtype=object)
        for name in columns
    }


@pytest.mark.slow
@options(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables=_gradebooks())
def test_what_is_written_is_what_is_read(
    engine: Engine, tmp_path: Path, tables: dict[str, pd.DataFrame]
) -> None:
    with engine.begin() as connection:
        names = "gradebook.student, gradebook.term, gradebook.course"
        connection.execute(text(f"truncate {names} cascade"))
    for name, frame in tables.items():
        frame.to_csv(tmp_path / FILES[name], index=False)
    report = _load(engine, tmp_path)

    assert report.quarantined == 0
    book = _read(engine)
    for written, field in zip(tables.values(), fields(Gradebook), strict=False):
        assert _rows(getattr(book, field.name), written.columns) == _rows(written, written.columns)
    assert not _load(engine, tmp_path).changed


def _rows(frame: pd.DataFrame, columns: pd.Index) -> list[tuple[object, ...]]:
    if "note" in columns and "note" not in frame:
        frame = frame.assign(note=[json.loads(a).get("note") for a in frame["attributes"]])
    plain = [
        tuple(None if pd.isna(v) else str(v).removesuffix(" 00:00:00") for v in row)
        for row in frame[list(columns)].astype(object).to_numpy().tolist()
    ]
    return sorted(plain, key=str)


@pytest.mark.parametrize("course", ["a\x07b", "a\x7fb", "a\x85b", "and so on... and on"])
def test_a_course_that_dagster_cannot_name_is_quarantined_with_the_reason(
    engine: Engine, tmp_path: Path, course: str
) -> None:
    section = f"S,{course},T,2024-09-01,2024-12-20"
    report = _load(
        engine,
        _write(
            tmp_path / "csv",
            courses=f"course_id\nC\n{course}\n",
            sections=f"{SMALL['sections.csv']}{section.replace('S', 'S2', 1)}\n",
        ),
    )
    assert report.loaded["course"] == report.loaded["section"] == 1
    with engine.connect() as connection:
        reasons = connection.execute(text("select reason from gradebook.quarantine")).scalars()
        assert any("control character" in reason or "three dots" in reason for reason in reasons)


@pytest.mark.parametrize("course", ["я" * 255, "😀" * 255, "%/..", "x, y", '"q"', "$(id)"])
def test_a_course_may_have_any_other_id(engine: Engine, tmp_path: Path, course: str) -> None:
    quoted = '"' + course.replace('"', '""') + '"'
    report = _load(
        engine,
        _write(
            tmp_path / "csv",
            courses=f"course_id\n{quoted}\n",
            sections=SMALL["sections.csv"].replace(",C,", f",{quoted},"),
        ),
    )
    assert report.quarantined == 0
    assert _read(engine).courses["course_id"].tolist() == [course]


@pytest.mark.security
@given(
    place=st.integers(0, 5),
    shift=st.sampled_from([",surplus", '"', ',"', ""]),
    lines=st.integers(1, 4),
)
@options(max_examples=40, deadline=None)
def test_the_quarantine_keeps_nothing_of_columns_that_are_not_read(
    tmp_path_factory: pytest.TempPathFactory, place: int, shift: str, lines: int
) -> None:
    """Whatever shifts the values of a line: a comma too many, a quote that is never closed."""
    folder = tmp_path_factory.mktemp("delivery")
    path = folder / "results.csv"
    row = ["a1", "s1", "fifty", "2024-02-30", "", "hunter2-password"]
    row[place] += shift
    header = "assignment_id,student_id,score,submitted_on,graded_on,password"
    path.write_text("\n".join([header, *[",".join(row)] * lines, 'a2,s2,"50",,,hunter2-password']))
    with suppress(SourceError):  # a file that ends inside a quote is refused whole
        for rows in csv_files.read(
            csv_files.opener(path),
            path.name,
            ("assignment_id", "student_id"),
            optional=("score", "submitted_on", "graded_on"),
        ):
            rows.number("score")
            rows.date("submitted_on")
            rows.identifier("assignment_id")
            rows.whole("student_id")
            problems = rows.problems
            assert problems is None or "hunter2" not in problems.to_csv()
