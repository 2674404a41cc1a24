"""OneRoster deliveries, bulk and delta, end to end into PostgreSQL."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import Engine, text

from grade_ml.core.errors import SourceError
from grade_ml.gradebook import frames, oneroster
from grade_ml.gradebook.bundle import Bundle
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import Institution
from grade_ml.gradebook.loading import LoadReport, load

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
#: In the middle of the term of the files below.
DAY = date(2024, 11, 15)
Files = Mapping[str, str]

V11: Files = {
    "academicSessions": """\
sourcedId,status,dateLastModified,title,type,startDate,endDate,parentSourcedId,schoolYear
y,,,2024/25,schoolYear,2024-09-01,2025-06-30,,2025
t1,,,Autumn,term,2024-09-01,2024-12-20,y,2025
g1,,,First weeks,gradingPeriod,2024-09-01,2024-10-15,t1,2025
""",
    "orgs": "sourcedId,status,dateLastModified,name,type,identifier\no,,,U,school,\n",
    "courses": """\
sourcedId,status,dateLastModified,schoolYearSourcedId,title,courseCode,grades,orgSourcedId,subjects,subjectCodes
c1,,,y,Logic,LOG,,o,"Mathematics,Philosophy",
""",
    "classes": """\
sourcedId,status,dateLastModified,title,grades,courseSourcedId,classCode,classType,location,schoolSourcedId,termSourcedIds,subjects,subjectCodes,periods
k1,,,Logic A,,c1,,scheduled,,o,t1,,,
k2,,,Logic B,,c1,,scheduled,,o,g1,,,
k3,,,Logic all year,,c1,,scheduled,,o,y,,,
""",
    "users": """\
sourcedId,status,dateLastModified,enabledUser,orgSourcedIds,role,username,userIds,givenName,familyName,middleName,identifier,email,sms,phone,agentSourcedIds,grades,password,metadata.housing
s1,,,true,o,student,ann,,Ann,Smith,,,a@example.org,,,,,,campus
s2,,,true,o,student,bob,,Bob,Jones,,,b@example.org,,,,,,
x1,,,true,o,teacher,eve,,Eve,Brown,,,e@example.org,,,,,,
""",
    "demographics": """\
sourcedId,status,dateLastModified,birthDate,sex,asian
s1,,,2005-05-17,female,false
x1,,,1970-01-01,female,false
""",
    "enrollments": """\
sourcedId,status,dateLastModified,classSourcedId,schoolSourcedId,userSourcedId,role,primary,beginDate,endDate
e1,,,k1,o,s1,student,false,2024-09-01,2024-12-13
e2,,,k1,o,s2,student,false,2024-09-03,2024-10-01
e3,,,k1,o,x1,teacher,true,,
""",
    "categories": "sourcedId,status,dateLastModified,title\nh,,,Homework\nx,,,Exam\n",
    "lineItems": """\
sourcedId,status,dateLastModified,title,description,assignDate,dueDate,classSourcedId,categorySourcedId,gradingPeriodSourcedId,resultValueMin,resultValueMax
l1,,,Sheet 1,,2024-09-02,2024-09-20,k1,h,g1,0,20
l2,,,Sheet 2,,2024-09-02,2024-10-20,k1,h,g1,10,60
l3,,,Exam,,2024-09-02,2024-12-20,k1,x,g1,0,100
""",
    "results": """\
sourcedId,status,dateLastModified,lineItemSourcedId,studentSourcedId,scoreStatus,score,scoreDate,comment
r1,,,l1,s1,fully graded,15,2024-09-25,
r2,,,l2,s1,fully graded,35,2024-10-25,well done
r3,,,l1,s2,submitted,,2024-09-20,
r4,,,l2,s2,not submitted,,2024-10-20,
""",
}
#: The columns that 1.2 changed: roles in a file of their own, weights, more facts of a result.
V12: Files = {
    **V11,
    "users": """\
sourcedId,status,dateLastModified,enabledUser,username,userIds,givenName,familyName,middleName,identifier,email,sms,phone,agentSourcedIds,grades,password,userMasterIdentifier,resourceSourcedIds,preferredGivenName,preferredMiddleName,preferredFamilyName,primaryOrgSourcedId,pronouns,metadata.housing
s1,,,true,ann,,Ann,Smith,,,,,,,,,,,,,,o,,campus
s2,,,true,bob,,Bob,Jones,,,,,,,,,,,,,,o,,
x1,,,true,eve,,Eve,Brown,,,,,,,,,,,,,,o,,
""",
    "roles": """\
sourcedId,status,dateLastModified,userSourcedId,roleType,role,beginDate,endDate,orgSourcedId,userProfileSourcedId
p1,,,s1,primary,student,,,o,
p2,,,s2,primary,student,,,o,
p3,,,x1,primary,teacher,,,o,
""",
    "categories": "sourcedId,status,dateLastModified,title,weight\nh,,,Homework,40\nx,,,Exam,60\n",
    "results": """\
sourcedId,status,dateLastModified,lineItemSourcedId,studentSourcedId,scoreStatus,score,scoreDate,comment,textScore,classSourcedId,inProgress,incomplete,late,missing
r1,,,l1,s1,fully graded,15,2024-09-25,,,k1,false,false,false,false
r2,,,l2,s1,fully graded,35,2024-10-25,,,k1,false,false,false,false
r3,,,l1,s2,submitted,,2024-09-20,,,k1,false,false,true,false
r4,,,l2,s2,fully graded,0,2024-10-20,,,k1,false,false,false,true
""",
}


def _write(folder: Path, files: Files, mode: str = "bulk", version: str = "1.1") -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / f"{name}.csv").write_text(content)
    names = {"orgs", "roles", *V11}
    lines = [f"file.{n},{mode if n in files else 'absent'}" for n in sorted(names)]
    lines = ["propertyName,value", "manifest.version,1.0", f"oneroster.version,{version}", *lines]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def _bundle(path: Path) -> Bundle:
    return oneroster.bundle(path, DAY, Institution())


def _load(engine: Engine, path: Path) -> LoadReport:
    return load(engine, _bundle(path), loaded_at=NOW)


def _read(engine: Engine) -> Gradebook:
    with engine.connect() as connection:
        return frames.read(connection)


def _quarantine(engine: Engine) -> list[tuple[str, int, str, str, str]]:
    with engine.connect() as connection:
        query = 'select file, "row", "column", value, reason from gradebook.quarantine order by id'
        return [tuple(row) for row in connection.execute(text(query))]  # type: ignore[misc]


@pytest.mark.parametrize(("version", "files"), [("1.1", V11), ("1.2", V12)])
def test_a_bulk_delivery_fills_the_gradebook(
    engine: Engine, tmp_path: Path, version: str, files: Files
) -> None:
    folder = _write(tmp_path / "delivery", files, version=version)
    report = _load(engine, folder)

    assert report.quarantined == 0
    book = _read(engine)
    assert book.terms["term_id"].tolist() == ["t1", "y"]
    assert book.courses[["course_id", "subject"]].to_numpy().tolist() == [["c1", "Mathematics"]]
    sections = book.sections.set_index("section_id")
    assert sections["term_id"].to_dict() == {"k1": "t1", "k2": "t1", "k3": "y"}
    assert sections["ends_on"]["k2"] == pd.Timestamp("2024-10-15")
    assert book.students["student_id"].tolist() == ["s1", "s2"]
    assert json.loads(book.students["attributes"][0]) == {
        "asian": "false",
        "birthYear": "2005",
        "housing": "campus",
        "sex": "female",
    }
    left = book.enrollments.set_index("student_id")["withdrawn_on"]
    assert left.fillna(pd.Timestamp(0)).tolist() == [pd.Timestamp(0), pd.Timestamp("2024-10-01")]
    assert book.enrollments["outcome"].fillna("-").tolist() == ["-", "withdrawn"]
    items = book.assignments.set_index("assignment_id")
    assert items["category"].tolist() == ["Homework", "Homework", "Exam"]
    assert items["max_score"].tolist() == [20, 50, 100]
    assert items["weight"].tolist() == ([20, 50, 100] if version == "1.1" else [20, 20, 60])
    assert not items["extra_credit"].any()
    results = book.results.set_index(["assignment_id", "student_id"])
    assert results["score"].fillna(-1).to_dict() == {
        ("l1", "s1"): 75,
        ("l1", "s2"): -1,
        ("l2", "s1"): 50,
        ("l2", "s2"): -1,
    }
    assert results["status"].tolist() == ["graded", "submitted", "graded", "missing"]
    assert results["graded_on"].isna().tolist() == [False, True, False, False]
    late = [None, None, None, None] if version == "1.1" else [False, True, False, False]
    assert results["late"].astype(object).where(results["late"].notna(), None).tolist() == late
    policy = "points" if version == "1.1" else "categories"
    assert set(book.sections["grading_policy"]) == {"points", policy}
    assert not _load(engine, folder).changed


def test_a_zip_file_loads_like_its_folder(engine: Engine, tmp_path: Path) -> None:
    folder = _write(tmp_path / "delivery", V11)
    with zipfile.ZipFile(tmp_path / "delivery.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"export/{path.name}")
    _load(engine, folder)

    assert not _load(engine, tmp_path / "delivery.zip").changed


def test_a_delta_changes_adds_and_deletes_what_it_names(engine: Engine, tmp_path: Path) -> None:
    _load(engine, _write(tmp_path / "bulk", V12, version="1.2"))
    delta = {
        "users": "sourcedId,status,dateLastModified,metadata.housing\ns1,active,2024-11-01,home\n",
        "lineItems": V12["lineItems"].splitlines()[0]
        + "\nl4,active,2024-11-01,Sheet 3,,2024-11-01,2024-11-20,k1,h,g1,0,10\n",
        "results": "lineItemSourcedId,studentSourcedId,scoreStatus,score,scoreDate,status\n"
        "l4,s1,fully graded,5,2024-11-25,active\n"
        "l1,s1,fully graded,20,2024-11-02,active\n"
        "l2,s1,fully graded,35,2024-10-25,tobedeleted\n"
        "l1,s2,not submitted,,2024-09-20,active\n",
    }
    report = _load(engine, _write(tmp_path / "delta", delta, "delta", "1.2"))

    assert report.quarantined == 0
    assert report.removed == {"result": 1}
    book = _read(engine)
    assert json.loads(book.students["attributes"][0])["housing"] == "home"
    assert json.loads(book.students["attributes"][0])["sex"] == "female"
    scores = book.results.set_index(["assignment_id", "student_id"])["score"].dropna()
    assert scores.to_dict() == {("l1", "s1"): 100, ("l4", "s1"): 50}
    status = book.results.set_index(["assignment_id", "student_id"])["status"]
    assert status[("l1", "s2")] == "missing"
    items = book.assignments.set_index("assignment_id")
    assert items["category"]["l4"] == "Homework"
    assert items["weight"].round(3).tolist() == [13.333, 13.333, 60, 13.333]


def test_a_delta_may_delete_a_whole_student(engine: Engine, tmp_path: Path) -> None:
    _load(engine, _write(tmp_path / "bulk", V11))
    delta = {
        "users": "sourcedId,status,role\ns2,tobedeleted,student\n",
        "demographics": "sourcedId,status,sex\ns1,tobedeleted,\n",
        "enrollments": "classSourcedId,userSourcedId,role,status\nk1,s2,student,tobedeleted\n",
        "results": "lineItemSourcedId,studentSourcedId,scoreStatus,score,scoreDate,status\n"
        "l1,s2,submitted,,2024-09-20,tobedeleted\nl2,s2,,,,tobedeleted\n",
    }
    report = _load(engine, _write(tmp_path / "delta", delta, "delta"))

    assert report.quarantined == 0
    assert report.removed == {"result": 2, "enrollment": 1, "student": 1}
    assert _read(engine).students["student_id"].tolist() == ["s1"]
    assert "sex" not in json.loads(_read(engine).students["attributes"][0])


def test_a_delta_for_rows_that_do_not_exist_is_quarantined(engine: Engine, tmp_path: Path) -> None:
    _load(engine, _write(tmp_path / "bulk", V11))
    delta = {
        "users": "sourcedId,status,role\nnobody,tobedeleted,student\n",
        "enrollments": "classSourcedId,userSourcedId,role,status\n"
        "k9,s1,student,active\nk1,nobody,student,active\nk1,s1,student,later\n",
        "results": "lineItemSourcedId,studentSourcedId,scoreStatus,score,scoreDate,status\n"
        "l9,s1,fully graded,9,2024-09-25,active\n"
        "l1,nobody,fully graded,9,2024-09-25,active\n"
        "l3,s1,fully graded,9,2024-09-25,tobedeleted\n",
    }
    before = _read(engine)
    report = _load(engine, _write(tmp_path / "delta", delta, "delta"))

    assert not any((*report.loaded.values(), *report.removed.values()))
    quarantined = {
        (file, row): (column, value) for file, row, column, value, _ in _quarantine(engine)
    }
    assert quarantined == {
        ("users.csv", 2): ("sourcedId", "nobody"),
        ("enrollments.csv", 2): ("classSourcedId", "k9"),
        ("enrollments.csv", 3): ("userSourcedId", "nobody"),
        ("enrollments.csv", 4): ("status", "later"),
        ("results.csv", 2): ("lineItemSourcedId", "l9"),
        ("results.csv", 3): ("studentSourcedId", "nobody"),
        ("results.csv", 4): ("lineItemSourcedId, studentSourcedId", "l3, s1"),
    }
    assert "nobody" not in str(report)
    pd.testing.assert_frame_equal(_read(engine).results, before.results)


def test_a_class_without_a_known_session_takes_its_rows_along(
    engine: Engine, tmp_path: Path
) -> None:
    files = {**V11, "classes": V11["classes"].replace(",t1,", ",t9,")}
    report = _load(engine, _write(tmp_path / "delivery", files))

    assert report.rejected == {"section": 1, "enrollment": 2, "assignment": 3, "result": 4}
    assert _quarantine(engine)[0][:4] == ("classes.csv", 2, "termSourcedIds", "t9")


def test_what_is_no_oneroster_delivery_is_named(tmp_path: Path) -> None:
    huge = tmp_path / "huge.zip"
    with huge.open("wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(SourceError, match="neither a folder nor a whole zip file"):
        _bundle(huge)
    with pytest.raises(SourceError, match="does not exist"):
        _bundle(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"no manifest\.csv"):
        _bundle(tmp_path / "empty")
    with pytest.raises(SourceError, match=r"oneroster\.version 2\.0"):
        _bundle(_write(tmp_path / "two", V11, version="2.0"))
    with pytest.raises(SourceError, match=r"file\.\w+ is sometimes"):
        _bundle(_write(tmp_path / "mode", V11, mode="sometimes"))
    missing = _write(tmp_path / "missing", V11)
    (missing / "results.csv").unlink()
    with pytest.raises(SourceError, match=r"no results\.csv, which its manifest"):
        _bundle(missing)


def test_a_damaged_zip_entry_leaves_the_gradebook_as_it_was(engine: Engine, tmp_path: Path) -> None:
    folder = _write(tmp_path / "delivery", V11)
    path = tmp_path / "delivery.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    path.write_bytes(path.read_bytes().replace(b"r1,,,l1,s1,fully", b"r1,,,l1,s2,fully"))

    with pytest.raises(SourceError, match=r"results\.csv is cut short or damaged"):
        _load(engine, path)
    assert _read(engine).students.empty


@pytest.mark.security
@pytest.mark.parametrize(
    "day",
    [
        pytest.param("0001-01-01", marks=pytest.mark.slow),
        "0001-01-01T00:00:00+14:00",
        pytest.param("1677-09-20", marks=pytest.mark.slow),
        pytest.param("1677-09-21T00:12:43Z", marks=pytest.mark.slow),
        "2262-04-12",
        pytest.param("9999-12-31", marks=pytest.mark.slow),
        pytest.param("9999-12-31T23:59:59-12:00", marks=pytest.mark.slow),
    ],
)
def test_a_day_that_no_time_stamp_holds_stops_no_delivery(
    engine: Engine, tmp_path: Path, day: str
) -> None:
    for name, content in V11.items():
        changed = re.sub(r"(?<=,)\d{4}-\d\d-\d\d(?=,|$)", day, content, flags=re.MULTILINE)
        if changed != content:
            _load(engine, _write(tmp_path / name, {**V11, name: changed}))
            assert any(day in problem for problem in _quarantine(engine)), name


@pytest.mark.security
def test_a_file_whose_name_is_not_utf_8_is_refused(engine: Engine, tmp_path: Path) -> None:
    folder = _write(tmp_path / "delivery", V11)
    (folder / os.fsdecode(b"\xff.csv")).write_text("x")
    with pytest.raises(SourceError, match="not UTF-8"):
        _load(engine, folder)
