"""What an earlier version left open is closed, and nothing else is touched."""

from __future__ import annotations

import logging
import os
import socket
import stat
from pathlib import Path

import pytest

from grade_ml.core.permissions import keep_private
from grade_ml.core.settings import Settings

pytestmark = pytest.mark.security
ROOT = os.geteuid() == 0
#: A user without an account.
STRANGER = 65533


@pytest.fixture
def installation(tmp_path: Path) -> Settings:
    """An installation as it was left by a version that closed nothing; nothing is embedded."""
    home, storage, dagster = (tmp_path / name for name in ("home", "storage", "dagster"))
    for path in (
        home / "logs" / "daemon.log",
        home / "staging" / "inbox" / "delivery" / "users.csv",
        home / ".env",
        home / "up.lock",
        home / "postgres.start.lock",
        storage / "models" / "a" / "b" / "fitted.skops",
        storage / "features" / "grade_snapshots" / "c.parquet",
        dagster / "storage" / "run" / "compute_logs" / "x.out",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("records")
    for folder in (home, storage, dagster):
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    return Settings(
        _env_file=None,
        home=home,
        storage=str(storage),
        dagster_home=dagster,
        database_url="postgresql://nowhere/a",
        dagster_postgres_url="postgresql://nowhere/b",
        mlflow_tracking_uri="postgresql://nowhere/c",
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(folder: Path) -> list[Path]:
    return [
        path
        for path in (folder, *folder.rglob("*"))
        if not path.is_symlink() and mode(path) & 0o077
    ]


def test_all_that_was_open_is_closed(installation: Settings, tmp_path: Path):
    keep_private(installation)
    assert open_to_others(tmp_path) == []
    assert mode(installation.home) == 0o700
    assert mode(installation.home / "logs" / "daemon.log") == 0o600


def test_what_was_interrupted_is_taken_up_again(installation: Settings):
    keep_private(installation)
    for left in (installation.home / "logs" / "daemon.log", installation.home / "logs"):
        left.chmod(mode(left) | 0o044)
    installation.home.chmod(0o755)
    keep_private(installation)
    assert open_to_others(installation.home) == []


def test_what_is_closed_is_not_looked_into(installation: Settings, monkeypatch: pytest.MonkeyPatch):
    keep_private(installation)
    monkeypatch.delattr(os, "listdir")
    monkeypatch.delattr(os, "scandir")
    keep_private(installation)


def test_links_are_not_followed(installation: Settings, tmp_path: Path):
    theirs = tmp_path / "theirs"
    (theirs / "folder").mkdir(parents=True)
    (theirs / "folder" / "file").write_text("public")
    for path in (theirs, theirs / "folder", theirs / "folder" / "file"):
        path.chmod(0o755)
    models = Path(installation.storage_root) / "models"
    (models / "file").symlink_to(theirs / "folder" / "file")
    (models / "folder").symlink_to(theirs / "folder")
    (installation.home / "logs" / "up").symlink_to("..")
    keep_private(installation)
    assert {mode(path) for path in (theirs, *theirs.rglob("*"))} == {0o755}
    assert open_to_others(models) == []


def test_a_storage_behind_a_link_is_closed(installation: Settings, tmp_path: Path):
    (installation.home / "storage").symlink_to(tmp_path / "storage")
    keep_private(installation.model_copy(update={"storage": None}))
    assert open_to_others(tmp_path / "storage") == []


def test_odd_entries_stop_nothing(installation: Settings):
    logs = installation.home / "logs"
    os.mkfifo(logs / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(logs / "s"))
        (logs / "😀 \n x").write_text("records")
        (logs / os.fsdecode(b"\xff")).write_text("records")
        keep_private(installation)
    assert mode(logs) == mode(installation.home) == 0o700


@pytest.mark.skipif(not ROOT, reason="giving a file away needs root")
def test_what_belongs_to_others_is_named(installation: Settings, caplog: pytest.LogCaptureFixture):
    foreign = installation.home / "logs" / "daemon.log"
    os.chown(foreign, STRANGER, -1)
    keep_private(installation)
    assert f"{foreign} (belongs to user {STRANGER})" in caplog.text
    assert mode(foreign) == 0o644
    assert mode(installation.home) == 0o700


@pytest.mark.skipif(not ROOT, reason="giving a file away needs root")
def test_a_folder_that_others_use_too_stays_open_to_them(
    installation: Settings, caplog: pytest.LogCaptureFixture
):
    home = installation.home
    (home / "alice").mkdir()
    os.chown(home / "alice", STRANGER, -1)
    (home / "unknown").mkdir()
    (home / "unknown").chmod(0o755)  # with any umask
    keep_private(installation)
    assert mode(home) == 0o755
    assert str(home) in caplog.text
    assert mode(home / "unknown") == 0o755
    assert open_to_others(home / "logs") == []


def test_a_folder_for_everybody_is_not_closed(
    installation: Settings, caplog: pytest.LogCaptureFixture
):
    installation.home.chmod(0o1777)
    keep_private(installation)
    assert mode(installation.home) == 0o1777
    assert "a folder for everybody" in caplog.text
    assert open_to_others(installation.home / "logs") == []


def test_an_inbox_outside_of_home_stays_as_it_is(installation: Settings, tmp_path: Path):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    inbox.chmod(0o1777)
    keep_private(installation.model_copy(update={"inbox": str(inbox)}))
    assert mode(inbox) == 0o1777


def test_nothing_is_reported_where_nothing_is_wrong(
    installation: Settings, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    keep_private(installation)
    keep_private(installation.model_copy(update={"home": installation.home / "not yet"}))
    assert caplog.text == ""


def test_a_folder_of_something_else_is_left_alone(installation: Settings, tmp_path: Path):
    other = tmp_path / "opt"
    (other / "program").mkdir(parents=True)
    for path in (other, other / "program"):
        path.chmod(0o755)
    keep_private(installation.model_copy(update={"home": other, "storage": str(other)}))
    assert mode(other) == mode(other / "program") == 0o755
