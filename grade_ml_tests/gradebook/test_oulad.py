"""OULAD folders, end to end into PostgreSQL."""

from __future__ import annotations

import gzip
import json
import re
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import Engine, text

from grade_ml.core.errors import SourceError
from grade_ml.gradebook import frames, oulad
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.loading import LoadReport, load
from grade_ml_tests.factories import OULAD_HEADERS, write_csv, write_oulad

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SECTION = "code_module, code_presentation"
ENROLLMENT = f"{SECTION}, id_student"
RESULT = "id_assessment, id_student"
PERSON = (*"FWHIA", 0, 60, "N")


def _load(engine: Engine, folder: Path, running_on: date | None = None) -> LoadReport:
    return load(engine, oulad.bundle(folder, running_on), loaded_at=NOW)


def _read(engine: Engine) -> Gradebook:
    with engine.connect() as connection:
        return frames.read(connection)


def test_every_table_holds_what_the_files_say(engine: Engine, tmp_path: Path) -> None:
    report = _load(
        engine, write_oulad(tmp_path / "oulad", modules=["AAA"], presentations=["2013J"])
    )

    assert report.quarantined == 0
    book = _read(engine)
    assert book.terms.to_dict("records") == [
        {
            "term_id": "2013J",
            "title": "2013J",
            "starts_on": pd.Timestamp("2013-10-01"),
            "ends_on": pd.Timestamp("2014-05-29"),
        }
    ]
    assert book.sections["section_id"].tolist() == ["AAA_2013J"]
    assert book.assignments["due_on"].tolist()[0] == pd.Timestamp("2013-10-31")
    assert book.assignments["due_on"].isna().tolist() == [False, False, False, True]
    first = book.results.iloc[0]
    assert (first["score"], first["submitted_on"]) == (40, pd.Timestamp("2013-10-31"))
    assert first["graded_on"] == first["submitted_on"]
    last = book.enrollments.set_index("student_id").loc["65103"]
    assert (last["outcome"], last["withdrawn_on"]) == ("withdrawn", pd.Timestamp("2014-01-29"))
    assert json.loads(last["attributes"]) == {"num_of_prev_attempts": 0, "studied_credits": 60}
    assert json.loads(book.students["attributes"][0])["imd_band"] == "20-30%"
    clicks = book.activity.set_index(["student_id", "day"]).loc[("65103", "2013-10-11")]
    assert (clicks["kind"], clicks["count"]) == ("click", 5)


def test_loading_again_changes_nothing_and_leaves_no_record(engine: Engine, tmp_path: Path) -> None:
    folder = write_oulad(tmp_path / "oulad")
    first = _load(engine, folder)
    second = _load(engine, folder)

    assert first.changed
    assert not second.changed
    assert second.unchanged == first.loaded
    with engine.connect() as connection:
        assert connection.execute(text("select count(*) from gradebook.load")).scalar() == 1


def test_gzipped_files_and_a_missing_click_log_load_the_same(
    engine: Engine, tmp_path: Path
) -> None:
    folder = write_oulad(tmp_path / "oulad", activity=False)
    for path in list(folder.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    _load(engine, folder)
    report = _load(engine, write_oulad(tmp_path / "plain", activity=False))

    assert not report.changed
    assert _read(engine).activity.empty


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(
    engine: Engine, tmp_path: Path
) -> None:
    folder = write_oulad(tmp_path / "oulad")
    _load(engine, folder)
    for path in folder.iterdir():
        lines = path.read_bytes().replace(b"\n", b"\r\n", 3)
        path.write_bytes(b"\xef\xbb\xbf" + lines + b"\n\n")

    assert not _load(engine, folder).changed


def test_a_students_attributes_come_from_the_earliest_presentation(
    engine: Engine, tmp_path: Path
) -> None:
    person = ("F", "Wales", "HE Qualification", "20-30%")
    rows = [
        ("AAA", "2014B", 1, *person, "35-55", 1, 60, "N", "Pass"),
        ("AAA", "2013J", 1, *person, "0-35", 0, 60, "N", "Fail"),
    ]
    registrations = [("AAA", "2014B", 1, -5, "?"), ("AAA", "2013J", 1, "?", "?")]
    folder = write_oulad(
        tmp_path / "oulad",
        modules=["AAA"],
        activity=False,
        studentInfo=rows,
        studentRegistration=registrations,
        studentAssessment=[],
    )
    _load(engine, folder)

    book = _read(engine)
    assert json.loads(book.students["attributes"][0])["age_band"] == "0-35"
    assert [json.loads(a)["num_of_prev_attempts"] for a in book.enrollments["attributes"]] == [0, 1]
    assert pd.isna(book.enrollments["enrolled_on"][0])


def test_sites_give_activity_its_kind(engine: Engine, tmp_path: Path) -> None:
    folder = write_oulad(tmp_path / "oulad", modules=["AAA"], presentations=["2013J"])
    write_csv(
        folder / "vle.csv",
        "id_site,code_module,code_presentation,activity_type,week_from,week_to",
        [(1, "AAA", "2013J", "forumng", "?", "?")],
    )
    _load(engine, folder)

    assert set(_read(engine).activity["kind"]) == {"forumng", "click"}


def test_shifted_to_a_date_the_newest_presentations_are_half_over(
    engine: Engine, tmp_path: Path
) -> None:
    today = pd.Timestamp("2026-11-24")
    folder = write_oulad(tmp_path / "oulad")
    info = folder / "studentInfo.csv"
    # Who left may in the end have failed; that too is not known before the end.
    info.write_text(re.sub(r"(BBB.*),Withdrawn", r"\1,Fail", info.read_text()))
    _load(engine, folder, today.date())

    book = _read(engine)
    running = book.sections[book.sections["term_id"] == "2014B"]
    assert (running["starts_on"] + pd.Timedelta(days=120) == today).all()
    gaps = book.terms["starts_on"].diff().dropna().dt.days.tolist()
    assert gaps == [242, 123]
    enrolled = book.enrollments.merge(book.sections, on="section_id")
    over = enrolled["ends_on"] < today
    assert enrolled.loc[over, "outcome"].notna().all()
    assert set(enrolled.loc[~over, "outcome"].dropna()) == {"withdrawn"}
    for dates in (
        book.results["submitted_on"],
        book.results["graded_on"],
        book.activity["day"],
        book.enrollments["withdrawn_on"],
        book.enrollments["enrolled_on"],
    ):
        assert dates.max() <= today
    assert (book.assignments["due_on"] > today).any()


#: file, row to append, and of the problem: column, value, part of the reason
BAD_ROWS = [
    ("courses", ("AAA", "2013X", 240), "code_presentation", "2013X", "is no presentation"),
    ("courses", ("CC", "2013J", 0), "module_presentation_length", "0", "is not between"),
    ("assessments", ("AAA", "2013J", 77, "TMA", "soon", 5), "date", "soon", "whole number"),
    ("assessments", ("Z", "2013J", 77, "TMA", 5, 5), SECTION, "Z_2013J", "is no known section"),
    ("studentAssessment", (11, 1, 20, 0, 50), "id_student", "1", "is no known student"),
    ("studentAssessment", (99, 65000, 20, 0, 50), "id_assessment", "99", "is no known assignment"),
    ("studentAssessment", (11, 65000, 20, 0, 50), RESULT, "11, 65000", "stands in an earlier row"),
    ("studentAssessment", (19, "", 20, 0, 50), "id_student", None, "is empty"),
    ("studentInfo", ("AAA", "2013B", 5, *PERSON, "Great"), "final_result", "Great", "is unknown"),
    ("studentInfo", ("AAA", "2013B", 65000, *PERSON, "Pass"), ENROLLMENT, "AAA_2013B, 65000", "ea"),
    ("studentRegistration", ("AAA", "2013B", 65000, 9, "?"), "id_student", "65000", "has an ear"),
    ("studentRegistration", ("AAA", "2013B", 9, 9, "?"), "id_student", "9", "is registered but"),
    ("studentVle", ("AAA", "2013B", 9, 1, 1, 1), "id_student", "9", "is no known student"),
    ("studentVle", ("AAA", "2013B", 65000, 1, "?", 1), "date", None, "is empty"),
    ("studentVle", ("AAA", "2013B", 65000, 1, 1, -4), "sum_click", "-4", "is no count"),
]
#: Rows of which the student and the assessment can be read.
UNKNOWN_RESULTS = [
    ("studentAssessment", (19, 65000, 20, 0, 201), "score", "201.0", "is not between 0 and 200"),
    ("studentAssessment", (19, 65101, 20, 0, -1), "score", "-1.0", "is not between 0 and 200"),
    ("studentAssessment", (19, 65102, 20, 0, "good"), "score", "good", "is no finite number"),
    ("studentAssessment", (19, 65103, 20, 0, "inf"), "score", "inf", "is no finite number"),
    ("studentAssessment", (19, 65201, 20, 2, 50), "is_banked", "2", "is unknown"),
    ("studentAssessment", (19, 65202, 99999, 0, 5), "date_submitted", "99999", "days from the"),
    ("studentAssessment", (19, 65203, 9, 0, 5, 7), "(line)", None, "has 6 values"),
]


def test_bad_rows_are_quarantined_and_good_rows_load(engine: Engine, tmp_path: Path) -> None:
    good = _load(engine, write_oulad(tmp_path / "good"))
    folder = write_oulad(tmp_path / "bad")
    places = []
    bad = [*BAD_ROWS, *UNKNOWN_RESULTS]
    for file, row, *_ in bad:
        with (folder / f"{file}.csv").open("a") as lines:
            lines.write(",".join(map(str, row)) + "\n")
        places.append((f"{file}.csv", len((folder / f"{file}.csv").read_text().splitlines())))
    report = _load(engine, folder)

    assert report.quarantined == len(bad)
    assert report.loaded.pop("result") == len(UNKNOWN_RESULTS)
    assert not any(report.loaded.values())
    book = _read(engine)
    unknown = book.results[book.results["assignment_id"] == "19"]
    assert unknown["student_id"].tolist() == [str(row[1]) for _, row, *_ in UNKNOWN_RESULTS]
    assert unknown["status"].tolist() == ["graded"] * len(UNKNOWN_RESULTS)
    assert unknown["score"].isna().all()
    assert sum(report.unchanged.values()) == sum(good.loaded.values())
    with engine.connect() as connection:
        rejected = {
            (q["file"], q["row"]): q
            for q in connection.execute(text("select * from gradebook.quarantine")).mappings()
        }
    assert len(rejected) == len(bad)
    for place, (_, _, column, value, reason) in zip(places, bad, strict=True):
        assert (rejected[place]["column"], rejected[place]["value"]) == (column, value)
        assert reason in rejected[place]["reason"]
    assert not _load(engine, folder).changed
    assert "65000" not in " ".join(map(str, report.problems))


def test_whole_numbers_may_be_written_as_pandas_writes_them(engine: Engine, tmp_path: Path) -> None:
    _load(engine, write_oulad(tmp_path / "oulad"))
    folder = write_oulad(tmp_path / "pandas")
    for path in folder.iterdir():
        frame = pd.read_csv(path, na_values="?")
        numbers = frame.select_dtypes("number").columns
        frame.astype(dict.fromkeys(numbers, "float64")).to_csv(path)
    report = _load(engine, folder)

    assert not report.changed
    assert report.quarantined == 0
    assert len(report.notes) == len(OULAD_HEADERS)
    assert all("a column without a name" in note for note in report.notes)


def test_a_negative_weight_means_not_weighted(engine: Engine, tmp_path: Path) -> None:
    assessments = [("AAA", "2013J", 11, "TMA", 30, -1), ("AAA", "2013J", 12, "TMA", 60, 2)]
    folder = write_oulad(
        tmp_path / "oulad", modules=["AAA"], presentations=["2013J"], assessments=assessments,
        studentAssessment=[(11, 65000, 20, 0, 50)],
    )  # fmt: skip
    report = _load(engine, folder)

    assert report.quarantined == 0
    assert _read(engine).assignments["weight"].tolist() == [0, 2]
    assert len(_read(engine).results) == 1
    assert "negative weight" in report.notes[0]


@pytest.mark.parametrize("name", ["courses", "studentInfo", "studentAssessment"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write_oulad(tmp_path / "oulad")
    (folder / f"{name}.csv").unlink()

    with pytest.raises(SourceError, match=f"has no {name}.csv"):
        oulad.bundle(folder)


def test_a_huge_file_in_place_of_the_folder_is_not_read(tmp_path: Path) -> None:
    huge = tmp_path / "oulad"
    with huge.open("wb") as file:
        file.truncate(10 << 30)

    with pytest.raises(SourceError, match=r"is a file \(10,737,418,240 bytes\), not a folder"):
        oulad.bundle(huge)


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    folder = write_oulad(tmp_path / "oulad")
    (folder / "courses.csv").unlink()
    (folder / "courses.csv").mkdir()

    with pytest.raises(SourceError, match=r"courses\.csv is a folder"):
        oulad.bundle(folder)


def test_a_broken_file_leaves_the_gradebook_as_it_was(engine: Engine, tmp_path: Path) -> None:
    _load(engine, write_oulad(tmp_path / "first", modules=["AAA"]))
    before = _read(engine)
    folder = write_oulad(tmp_path / "second", activity=False)
    whole = gzip.compress((tmp_path / "first" / "studentVle.csv").read_bytes())
    (folder / "studentVle.csv.gz").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(SourceError, match="is cut short or damaged"):
        _load(engine, folder)
    after = _read(engine)
    for name in before.__dataclass_fields__:
        pd.testing.assert_frame_equal(getattr(after, name), getattr(before, name))


def test_files_with_a_header_only_load_nothing(engine: Engine, tmp_path: Path) -> None:
    empty = dict.fromkeys(OULAD_HEADERS, ())
    report = _load(engine, write_oulad(tmp_path / "oulad", **empty))

    assert not report.changed
