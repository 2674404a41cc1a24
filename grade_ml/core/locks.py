"""What one process at a time may hold: files, and numbers in PostgreSQL.

Both are given back however a process ends, by the kernel and by the end of its connection.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
import zlib
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import IO

import psutil
from sqlalchemy import Connection, text

from grade_ml.core.errors import AlreadyRunningError, ServiceError

#: A process that starts or stops the server holds its lock for at most 90 s, `START_SECONDS` there.
WAIT_SECONDS = 120
#: A wait that is longer than starting the server usually takes is logged.
_SILENT_SECONDS = 5
_KERNELS_LIST = Path("/proc/locks")


class DatabaseLock(IntEnum):
    """Every advisory lock of PostgreSQL that grade_ml takes; a number is valid in one database."""

    #: Two processes may start at once and make what is missing: databases, tables of each kind.
    DATABASES = 7146001
    MIGRATION = 7146002
    #: One load at a time changes the gradebook.
    LOAD = 7146003
    REGISTRY = 7146005
    TUNING = 7146010
    #: One transition of a model's version at a time.
    TRANSITION = 7146004
    #: One process at a time opens experiments and acts on what they decided.
    EXPERIMENTS = 7146006
    #: One process at a time empties the inbox, or reads the OneRoster server.
    INBOX = 7146020
    ONEROSTER = 7146021
    #: One process at a time removes what is outdated.
    CLEANUP = 7146030
    #: A step in a pool has one of its places.
    PLACE = 7146040

    def wait(self, connection: Connection) -> None:
        """Hold it until the transaction ends, as soon as no other process does."""
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": self.value})

    def wait_connected(self, connection: Connection) -> None:
        """Hold it until the connection closes, as soon as no other process does."""
        connection.execute(text("select pg_advisory_lock(:lock)"), {"lock": self.value})

    def take_connected(self, connection: Connection) -> bool:
        """Hold it until the connection closes, unless another process does; return whether."""
        query = text("select pg_try_advisory_lock(:lock)")
        return bool(connection.execute(query, {"lock": self.value}).scalar())

    def take_one_connected(self, connection: Connection, group: str, places: int) -> bool:
        """Hold one of the places of a group until the connection closes; return whether."""
        query = text("select pg_try_advisory_lock(:lock, :place)")
        return any(
            connection.execute(query, {"lock": self.value, "place": place}).scalar()
            for place in _numbers(group, places)
        )

    def holders(self, connection: Connection, group: str, places: int) -> list[str]:
        """Return the names of the applications whose connections have the places of a group."""
        query = text(
            "select application_name from pg_locks join pg_stat_activity using (pid) "
            "where locktype = 'advisory' and granted and classid = :lock and objid = any(:places) "
            "and database = (select oid from pg_database where datname = current_database())"
        )
        given = {"lock": self.value, "places": _numbers(group, places)}
        return sorted(connection.execute(query, given).scalars())


def _numbers(group: str, places: int) -> list[int]:
    """Return the numbers of the places of a group; PostgreSQL needs numbers below 2**31."""
    return [zlib.crc32(f"{group} {place}".encode()) >> 1 for place in range(places)]


def open_private(path: Path) -> IO[str]:
    """Open a lock file that its owner alone may open: who can read it can hold it.

    Raises
    ------
    ServiceError
        It cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
    except OSError as error:
        raise ServiceError(
            f"The file {path} cannot be opened: {error.strerror}.",
            "It may be another user's: run as that user, or set GRADE_ML_HOME to another folder.",
        ) from error
    return os.fdopen(descriptor, "r+")


def acquire(path: Path, kind: int, wait_seconds: float = WAIT_SECONDS) -> IO[str]:
    """Return the lock file `path`, held for as long as it is open; `kind` as in `fcntl.flock`.

    Raises
    ------
    AlreadyRunningError
        It was not free within `wait_seconds`; the error names who holds it.
    ServiceError
        It cannot be opened.
    """
    file = open_private(path)
    begun, has_logged = time.monotonic(), False
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return file
        except BlockingIOError as error:
            waited = time.monotonic() - begun
            if waited >= wait_seconds:
                file.close()
                raise AlreadyRunningError(
                    f"{holder(path)} holds {path}"
                    + (f" for more than {wait_seconds:.0f} seconds." if wait_seconds else "."),
                    "Stop that process, if it hangs, and try again.",
                ) from error
        if waited > _SILENT_SECONDS and not has_logged:
            logging.getLogger(__name__).warning("Waiting for %s, held by %s.", path, holder(path))
            has_logged = True
        time.sleep(0.05)


def is_last(shared: IO[str]) -> bool:
    """Return whether no other process shares the lock file; if none does, none can from now on."""
    try:
        fcntl.flock(shared, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder(path: Path) -> str:
    """Return who holds the lock file, by process id and command, as far as this system shows.

    Linux lists locks with their processes. Elsewhere those that have the file open are searched
    for, which shows other users' processes to the superuser only.
    """
    holders = _in_kernels_list(path) or _with_file_open(path)
    if not holders:
        return f"another process (`lsof {path}` names it to its owner and to the superuser)"
    return " or ".join(f"process {process.pid} ({_command(process)})" for process in holders)


def _in_kernels_list(path: Path) -> list[psutil.Process]:
    # 1: FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF
    pattern = rf"FLOCK\s+ADVISORY\s+\w+\s+(\d+)\s+\w+:\w+:{path.stat().st_ino}\s"
    try:
        listed = re.findall(pattern, _KERNELS_LIST.read_text())
    except OSError:  # not Linux
        return []
    return [process for pid in listed for process in _alive(int(pid))]


def _with_file_open(path: Path) -> list[psutil.Process]:
    holders = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and str(path) in [
                file.path for file in process.open_files()
            ]:
                holders.append(process)
    return holders


def _alive(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [psutil.Process(pid)]
    return []


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline()[:6]) or process.name()
    return "command not visible"
