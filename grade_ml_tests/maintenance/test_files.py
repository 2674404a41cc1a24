"""Frames of past days and drafts go; the newest frame of a course and what is linked stay."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from upath import UPath

from grade_ml.core.storage import write_whole
from grade_ml.features.store import KEPT_DAYS, SEQUENCES, SNAPSHOTS, Frames
from grade_ml.maintenance import files
from grade_ml.maintenance.cleaning import clean
from grade_ml_tests.factories import PSEUDONYMS

TODAY = date(2026, 11, 30)
NOW = datetime.now(UTC) + timedelta(days=2)


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def write(root: str, course: str, kind: str, *days: date) -> None:
    """Write frames without removing those before, as runs of separate days in a replay do."""
    for day in sorted(days, reverse=True):
        rows = pd.DataFrame({"section_id": [course], "student_id": ["s"], "x": [1.0]})
        Frames(root, day, PSEUDONYMS).write(course, rows, kind)


def removed(root: str) -> dict[str, int]:
    report = clean([files.Frames(root, TODAY), files.Drafts(root, NOW)])
    assert not report.problems
    return {part.kind: part.freed.count for part in report.parts if part.freed}


@pytest.mark.parametrize("root", ["local", "memory://cleaned"])
def test_the_newest_frame_of_each_course_stays(root: str, tmp_path: Path) -> None:
    root = str(tmp_path) if root == "local" else root
    for kind in (SNAPSHOTS, SEQUENCES):
        write(root, "runs", kind, ago(KEPT_DAYS + 1), ago(KEPT_DAYS), ago(0))
        write(root, "ended", kind, ago(300), ago(301), ago(302))
        write(root, "replayed", kind, ago(200), ago(-10))
    assert removed(root) == {"frames": 2 * 3}
    assert removed(root) == {}
    frames = Frames(root, TODAY, PSEUDONYMS)
    for kind in (SNAPSHOTS, SEQUENCES):
        assert set(frames.hashes(None, kind)) == {"runs", "ended", "replayed"}


def test_drafts_of_a_killed_process_go_and_links_are_left(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "storage", tmp_path / "elsewhere"
    elsewhere.mkdir()
    draft = f".page.html.{'0a' * 16}"
    for folder in (root / "monitoring", elsewhere):
        write_whole(UPath(folder / "page.html"), b"whole")
        (folder / draft).write_bytes(b"half")
    os.symlink(elsewhere, root / "linked")
    assert clean([files.Drafts(str(root), datetime.now(UTC))]).parts[0].freed is None
    assert removed(str(root)) == {"unfinished files": 1}
    assert (elsewhere / draft).exists() and (root / "monitoring" / "page.html").exists()
    assert removed(str(root)) == {}
