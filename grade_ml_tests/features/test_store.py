from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from grade_ml.core.errors import NotReadyError
from grade_ml.features.hashing import section_hashes
from grade_ml.features.store import read_snapshots, stored_hashes, write_snapshots

DAY = date(2025, 1, 2)


def rows(course: str, **columns: object) -> pd.DataFrame:
    frame = pd.DataFrame(
        {"course_id": course, "section_id": f"{course} 1", "cut_day": [1.0, 2.0], **columns}
    )
    return frame.astype({"course_id": "category"})


def test_what_was_written_is_read_in_order_of_course(tmp_path: Path) -> None:
    root = str(tmp_path)
    for course in ("b/1 ü", "a"):
        write_snapshots(root, course, rows(course, level=np.float32([1, np.nan])), DAY)
    found = read_snapshots(root, None)
    assert found["course_id"].astype(str).tolist() == ["a", "a", "b/1 ü", "b/1 ü"]
    assert found["level"].dtype == "float32"
    assert read_snapshots(root, ["b/1 ü"])["cut_day"].tolist() == [1.0, 2.0]


ODD = [
    "Введение в математический анализ и линейную алгебру",
    "я" * 255,
    "😀" * 255,
    "%" * 255,
    "a/b",
    "..",
    ".",
    "a.",
    "~",
    "CON",
    "x,y",
    "MATH",
    "math",
    "Math",
    "é",
    "e\u0301",
]


def test_a_course_may_have_any_id(tmp_path: Path) -> None:
    root = str(tmp_path)
    for course in ODD:
        write_snapshots(root, course, rows(course), DAY)
    found = read_snapshots(root, None)["course_id"].astype(str)
    assert found.unique().tolist() == sorted(ODD)
    assert set(stored_hashes(root, None)) == set(ODD)
    for course in ODD:
        assert set(read_snapshots(root, [course])["course_id"]) == {course}


def test_what_an_earlier_version_kept_is_read_until_it_is_replaced(tmp_path: Path) -> None:
    root = str(tmp_path)
    for course in ("MATH/1 ü", "math"):
        write_snapshots(root, course, rows(course), DAY)
    (file,) = tmp_path.rglob("MATH-*")
    # A frame without the course's id in it, under the quoted id.
    table = parquet.read_table(file)
    metadata = {
        name: value for name, value in table.schema.metadata.items() if name != b"course_id"
    }
    former = file.with_name("MATH%2F1%20%C3%BC.parquet")
    parquet.write_table(table.replace_schema_metadata(metadata), former)
    file.unlink()
    assert set(read_snapshots(root, None)["course_id"]) == {"MATH/1 ü", "math"}
    assert set(read_snapshots(root, ["MATH/1 ü"])["course_id"]) == {"MATH/1 ü"}
    write_snapshots(root, "MATH/1 ü", rows("MATH/1 ü").head(1), DAY)
    assert len(read_snapshots(root, ["MATH/1 ü"])) == 1
    assert not former.exists()


def test_of_the_columns_asked_for_those_that_there_are_come(tmp_path: Path) -> None:
    write_snapshots(str(tmp_path), "a", rows("a", level=[3.0, 4.0]), DAY)
    found = read_snapshots(str(tmp_path), ["a"], columns=["level", "section_id", "elsewhere"])
    assert sorted(found) == ["level", "section_id"] and found["level"].tolist() == [3.0, 4.0]


def test_the_same_rows_give_the_same_bytes_and_the_day_is_kept(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_snapshots(str(tmp_path / folder), "a", rows("a"), DAY)
    one, two = sorted(tmp_path.rglob("*.parquet"))
    assert one.read_bytes() == two.read_bytes()
    assert parquet.read_metadata(one).metadata[b"as_of"] == b"2025-01-02"


def test_a_second_write_replaces_the_first_and_leaves_nothing_beside(tmp_path: Path) -> None:
    for count in (2, 1):
        write_snapshots(str(tmp_path), "a", rows("a").head(count), DAY)
    assert len(read_snapshots(str(tmp_path), ["a"])) == 1
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_an_attribute_may_be_a_number_in_one_course_and_a_text_in_another(tmp_path: Path) -> None:
    root = str(tmp_path)
    texts = pd.Categorical(["north", None])
    write_snapshots(root, "a", rows("a", attribute_region=np.float32([3, np.nan])), DAY)
    write_snapshots(
        root, "b", rows("b", attribute_region=texts, attribute_age=np.float32([1, 2])), DAY
    )
    found = read_snapshots(root, None)
    assert found["attribute_region"].astype(object).where(
        found["attribute_region"].notna(), None
    ).tolist() == ["3", None, "north", None]
    assert found["attribute_age"].isna().tolist() == [True, True, False, False]


def test_what_was_never_computed_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="any course"):
        read_snapshots(str(tmp_path), None)
    write_snapshots(str(tmp_path), "a", rows("a"), DAY)
    with pytest.raises(NotReadyError, match="of b") as caught:
        read_snapshots(str(tmp_path), ["a", "b"])
    assert "grade-ml run" in caught.value.remedy


def test_of_more_rows_than_wanted_each_course_gives_the_same_share(tmp_path: Path) -> None:
    root = str(tmp_path)
    for course, times in (("a", 50), ("b", 150)):
        write_snapshots(root, course, pd.concat([rows(course)] * times), DAY)
    some = read_snapshots(root, None, most=200)
    assert some.equals(read_snapshots(root, None, most=200))
    assert 160 < len(some) < 240
    assert (some["course_id"] == "b").mean() == pytest.approx(0.75, abs=0.08)
    assert len(read_snapshots(root, None, most=400)) == 400


def test_the_hashes_beside_stored_rows_are_those_of_the_rows(tmp_path: Path) -> None:
    root = str(tmp_path)
    texts = pd.Categorical(["north", None])
    frame = rows("a", level=np.float32([0.1, np.nan]), attribute_region=texts)
    write_snapshots(root, "a", frame, DAY)
    before = stored_hashes(root, ["a"])
    assert before == {"a": section_hashes(read_snapshots(root, None))}
    write_snapshots(root, "a", frame.assign(level=np.float32([0.2, np.nan])), DAY)
    assert stored_hashes(root, ["a"]) != before
    with pytest.raises(NotReadyError, match="b"):
        stored_hashes(root, ["b"])
