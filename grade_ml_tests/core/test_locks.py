"""A lock that another process holds: the wait ends, and the message names the holder."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grade_ml.cli import up
from grade_ml.core import database, embedded_postgres, locks
from grade_ml.core.errors import AlreadyRunningError
from grade_ml.core.locks import DatabaseLock
from grade_ml_tests import REPOSITORY

pytestmark = pytest.mark.security
_HOLD = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDONLY | os.O_CREAT, 0o644)
fcntl.flock(file, int(sys.argv[2]))
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[subprocess.Popen[str]]:
    """Let another program hold the lock file, opened for reading only."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path), str(kind)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    process.stdout.readline()
    try:
        yield process
    finally:
        process.communicate()


@pytest.mark.parametrize("ours", [fcntl.LOCK_EX, fcntl.LOCK_SH])
@pytest.mark.parametrize("listed", ["/proc/locks", "/not/linux"])
def test_a_wait_ends_and_names_the_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: int, listed: str
):
    monkeypatch.setattr(locks, "_KERNELS_LIST", Path(listed))
    path = tmp_path / "a.lock"
    with held(path) as process:
        with pytest.raises(AlreadyRunningError, match=rf"process {process.pid} \(.*-c") as caught:
            locks.acquire(path, ours, wait_seconds=0)
        assert str(path) in caught.value.message
    locks.acquire(path, ours, wait_seconds=0).close()


def test_a_long_wait_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(locks, "_SILENT_SECONDS", 0)
    path = tmp_path / "a.lock"
    with held(path) as process, pytest.raises(AlreadyRunningError):
        locks.acquire(path, fcntl.LOCK_EX, wait_seconds=0.3)
    assert f"Waiting for {path}, held by process {process.pid}" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["postgres.start.lock", "postgres.held.lock"])
def test_no_start_of_the_server_waits_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setattr(locks.acquire, "__defaults__", (0.2,))
    with held(tmp_path / name) as process, pytest.raises(AlreadyRunningError) as caught:
        embedded_postgres.hold(tmp_path / "postgres")
    assert f"process {process.pid}" in caught.value.message
    embedded_postgres.hold(tmp_path / "postgres")
    embedded_postgres.release(tmp_path / "postgres")


def test_a_stranger_that_holds_the_lock_of_up_is_named(tmp_path: Path):
    with (
        held(tmp_path / "up.lock") as process,
        pytest.raises(AlreadyRunningError, match=f"process {process.pid}"),
        up._only_one(tmp_path, ""),
    ):
        pass


@pytest.mark.parametrize("before", [None, 0o644])
def test_a_lock_file_is_private(tmp_path: Path, before: int | None):
    path = tmp_path / "a.lock"
    if before is not None:
        path.touch()
        path.chmod(before)
    old = os.umask(0)
    try:
        locks.open_private(path).close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_locks_are_taken_in_one_place_only():
    package = REPOSITORY / "grade_ml"
    taking = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"pg_(try_)?advisory|fcntl\.(flock|lockf)\(", path.read_text())
    }
    assert taking == {"core/locks.py"}


def test_no_two_locks_have_one_number():
    assert len({lock.value for lock in DatabaseLock}) == len(DatabaseLock.__members__)


def test_a_lock_of_a_transaction_ends_with_it(gradebook_url: str):
    engine = database.connect(gradebook_url)
    with engine.connect() as connection, engine.connect() as other:
        with connection.begin():
            DatabaseLock.LOAD.wait(connection)
            assert not DatabaseLock.LOAD.take_connected(other)
            assert DatabaseLock.MIGRATION.take_connected(other)
        assert DatabaseLock.LOAD.take_connected(other)
        other.invalidate()
    engine.dispose()


def test_who_shares_a_lock_file_is_not_the_last(tmp_path: Path):
    path = tmp_path / "a.lock"
    with locks.acquire(path, fcntl.LOCK_SH) as ours:
        with held(path, fcntl.LOCK_SH):
            assert not locks.is_last(ours)
        assert locks.is_last(ours)
