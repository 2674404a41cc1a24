from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet
from upath import UPath

from grade_ml.core.errors import NotReadyError
from grade_ml.core.hashing import section_hashes
from grade_ml.core.storage import file_name
from grade_ml.features.store import KEPT_DAYS, SEQUENCES, SNAPSHOTS, Frames
from grade_ml_tests.factories import PSEUDONYMS

DAY = date(2025, 1, 2)


def rows(course: str, **columns: object) -> pd.DataFrame:
    frame = pd.DataFrame(
        {"course_id": course, "section_id": f"{course} 1", "cut_day": [1.0, 2.0], **columns}
    )
    return frame.astype({"course_id": "category"})


def test_what_was_written_is_read_in_order_of_course(tmp_path: Path) -> None:
    frames = Frames(str(tmp_path), DAY, PSEUDONYMS)
    for course in ("b/1 ü", "a"):
        frames.write(course, rows(course, level=np.float32([1, np.nan])))
    snapshots = frames.snapshots(None)
    assert snapshots["course_id"].astype(str).tolist() == ["a", "a", "b/1 ü", "b/1 ü"]
    assert snapshots["level"].dtype == "float32"
    assert frames.snapshots(["b/1 ü"])["cut_day"].tolist() == [1.0, 2.0]


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
    frames = Frames(str(tmp_path), DAY, PSEUDONYMS)
    for course in ODD:
        frames.write(course, rows(course))
    courses = frames.snapshots(None)["course_id"].astype(str)
    assert courses.unique().tolist() == sorted(ODD)
    assert set(frames.hashes(None)) == set(ODD)
    for course in ODD:
        assert set(frames.snapshots([course])["course_id"]) == {course}


def kept_by_a_former_version(folder: Path, course: str, day: date, name: str) -> Path:
    """Store the frame of a course as the only frame, in the single file that a course had."""
    Frames(str(folder), day, PSEUDONYMS).write(course, rows(course))
    (file,) = (folder / "features" / SNAPSHOTS / file_name(course)).iterdir()
    table = parquet.read_table(file)
    metadata = dict(table.schema.metadata)
    if name == quote(course, safe=""):  # the first versions kept no id beside the rows
        del metadata[b"course_id"]
    former = file.parent.with_name(f"{name}.parquet")
    parquet.write_table(table.replace_schema_metadata(metadata), former)
    file.unlink()
    file.parent.rmdir()
    return former


@pytest.mark.parametrize("named", [lambda course: quote(course, safe=""), file_name])
def test_what_a_former_version_kept_counts_as_the_frame_of_its_day(
    tmp_path: Path, named: Callable[[str], str]
) -> None:
    course = "MATH/1 ü"
    former = kept_by_a_former_version(tmp_path, course, DAY, named(course))
    before, today, later = (
        Frames(str(tmp_path), DAY + timedelta(days=days), PSEUDONYMS)
        for days in (-1, 0, KEPT_DAYS + 1)
    )
    today.write("math", rows("math"))
    assert set(today.snapshots(None)["course_id"]) == {course, "math"}
    assert set(today.hashes([course])) == {course}
    with pytest.raises(NotReadyError):
        before.snapshots([course])
    before.write(course, rows(course).head(0))
    assert (len(before.snapshots([course])), len(today.snapshots([course]))) == (0, 2)
    today.write(course, rows(course).head(1))
    assert len(today.snapshots([course])) == 1
    later.write(course, rows(course))
    assert not former.exists()
    assert set(later.snapshots(None)["course_id"]) == {course, "math"}


@pytest.fixture(params=["local", "object store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A storage root on a file system, and on a store that can neither rename nor make folders."""
    place = str(tmp_path) if request.param == "local" else f"memory://{tmp_path}"
    yield place
    if request.param != "local":
        UPath(place).fs.rm(str(tmp_path), recursive=True)


def test_a_day_knows_the_newest_frame_that_is_not_later(root: str) -> None:
    """Whatever the order in which frames are written, a model of a dictionary gives the same."""
    draw = random.Random(0)
    known: dict[tuple[str, str], dict[int, int]] = {}
    for number in range(60):
        kind, course = draw.choice([SNAPSHOTS, SEQUENCES]), draw.choice(["a", "b"])
        written, later = draw.randrange(KEPT_DAYS), draw.randrange(KEPT_DAYS)
        Frames(root, DAY + timedelta(days=written), PSEUDONYMS).write(
            course, rows(course, number=number), kind
        )
        known.setdefault((kind, course), {})[written] = number
        frames = Frames(root, DAY + timedelta(days=later), PSEUDONYMS)
        for read, name in ((frames.snapshots, SNAPSHOTS), (frames.sequences, SEQUENCES)):
            expected = {
                course_id: frames_by_day[max(day for day in frames_by_day if day <= later)]
                for (of_kind, course_id), frames_by_day in sorted(known.items())
                if of_kind == name and min(frames_by_day) <= later
            }
            if expected:
                snapshots = read(None)
                assert (
                    dict(zip(snapshots["course_id"], snapshots["number"], strict=True)) == expected
                )
            for missing in {"a", "b"} - set(expected):
                with pytest.raises(NotReadyError, match=f"of {missing} "):
                    read([missing])


def test_frames_are_kept_for_some_days_and_the_newest_always(root: str) -> None:
    def stored(course: str) -> set[date]:
        folder = UPath(root) / "features" / SNAPSHOTS / file_name(course)
        return {date.fromisoformat(path.stem) for path in folder.iterdir()}

    days = [DAY + timedelta(days=days) for days in range(KEPT_DAYS + 3)]
    Frames(root, DAY, PSEUDONYMS).write("seldom", rows("seldom"))
    for day in days:
        Frames(root, day, PSEUDONYMS).write("a", rows("a"))
    assert stored("a") == set(days[2:])
    assert stored("seldom") == {DAY}
    assert len(Frames(root, days[-1] + timedelta(days=400), PSEUDONYMS).snapshots(None)) == 4
    # A run for a day long past keeps its own frame, and takes none of a later day.
    Frames(root, DAY - timedelta(days=100), PSEUDONYMS).write("a", rows("a"))
    assert stored("a") == {DAY - timedelta(days=100), *days[2:]}


def test_who_reads_while_two_write_sees_a_whole_frame(tmp_path: Path) -> None:
    frames = Frames(str(tmp_path), DAY, PSEUDONYMS)

    def write(count: int) -> None:
        for _ in range(40):
            frames.write("a", pd.concat([rows("a", level=float(count))] * count))

    def read() -> set[tuple[int, float]]:
        reads = [frames.snapshots(["a"]) for _ in range(80)]
        return {
            (len(snapshots), level) for snapshots in reads for level in snapshots["level"].unique()
        }

    write(50)
    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write, count) for count in (50, 500)]
        seen = pool.submit(read).result()
        for writer in writers:
            writer.result()
    assert seen <= {(100, 50.0), (1000, 500.0)}
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_the_requested_columns_that_exist_are_read(tmp_path: Path) -> None:
    Frames(str(tmp_path), DAY, PSEUDONYMS).write("a", rows("a", level=[3.0, 4.0]))
    snapshots = Frames(str(tmp_path), DAY, PSEUDONYMS).snapshots(
        ["a"], columns=["level", "section_id", "elsewhere"]
    )
    assert sorted(snapshots) == ["level", "section_id"] and snapshots["level"].tolist() == [
        3.0,
        4.0,
    ]


def test_the_same_rows_give_the_same_bytes_and_the_day_is_kept(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        Frames(str(tmp_path / folder), DAY, PSEUDONYMS).write("a", rows("a"))
    first, second = sorted(tmp_path.rglob("*.parquet"))
    assert first.read_bytes() == second.read_bytes()
    assert parquet.read_metadata(first).metadata[b"as_of"] == b"2025-01-02"


def test_a_second_write_replaces_the_first_and_leaves_nothing_beside(tmp_path: Path) -> None:
    for count in (2, 1):
        Frames(str(tmp_path), DAY, PSEUDONYMS).write("a", rows("a").head(count))
    assert len(Frames(str(tmp_path), DAY, PSEUDONYMS).snapshots(["a"])) == 1
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_an_attribute_may_be_a_number_in_one_course_and_a_text_in_another(tmp_path: Path) -> None:
    frames = Frames(str(tmp_path), DAY, PSEUDONYMS)
    texts = pd.Categorical(["north", None])
    frames.write("a", rows("a", attribute_region=np.float32([3, np.nan])))
    frames.write("b", rows("b", attribute_region=texts, attribute_age=np.float32([1, 2])))
    snapshots = frames.snapshots(None)
    assert snapshots["attribute_region"].astype(object).where(
        snapshots["attribute_region"].notna(), None
    ).tolist() == ["3", None, "north", None]
    assert snapshots["attribute_age"].isna().tolist() == [True, True, False, False]


def test_what_was_never_computed_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="any course"):
        Frames(str(tmp_path), DAY, PSEUDONYMS).snapshots(None)
    Frames(str(tmp_path), DAY, PSEUDONYMS).write("a", rows("a"))
    with pytest.raises(NotReadyError, match="of b") as caught:
        Frames(str(tmp_path), DAY, PSEUDONYMS).snapshots(["a", "b"])
    assert "grade-ml run" in caught.value.remedy


def test_of_more_rows_than_wanted_each_course_gives_the_same_share(tmp_path: Path) -> None:
    frames = Frames(str(tmp_path), DAY, PSEUDONYMS)
    for course, times in (("a", 50), ("b", 150)):
        frames.write(course, pd.concat([rows(course)] * times))
    sample = frames.snapshots(None, most=200)
    assert sample.equals(frames.snapshots(None, most=200))
    assert 160 < len(sample) < 240
    assert (sample["course_id"] == "b").mean() == pytest.approx(0.75, abs=0.08)
    assert len(frames.snapshots(None, most=400)) == 400


def test_the_hashes_beside_stored_rows_are_those_of_the_rows(tmp_path: Path) -> None:
    frames = Frames(str(tmp_path), DAY, PSEUDONYMS)
    texts = pd.Categorical(["north", None])
    frame = rows("a", level=np.float32([0.1, np.nan]), attribute_region=texts)
    frames.write("a", frame)
    before = frames.hashes(["a"])
    assert before == {"a": section_hashes(frames.snapshots(None), PSEUDONYMS)}
    frames.write("a", frame.assign(level=np.float32([0.2, np.nan])))
    assert frames.hashes(["a"]) != before
    with pytest.raises(NotReadyError, match="b"):
        frames.hashes(["b"])
