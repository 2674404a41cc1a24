"""Who may read what lies on disk: its owner alone.

New files and folders are private by the umask that `process.keep_apart` sets. Here the folders
of an installation are checked at every start, and what an earlier version left open is closed.
"""

from __future__ import annotations

import logging
import os
import pwd
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grade_ml.core.settings import Settings

#: The embedded PostgreSQL refuses to work as root, and works as this user then.
POSTGRES_USER = "pgserver"
_OTHERS = 0o077
#: What is closed by name, for a folder that was named by mistake, such as /opt, holds more than
#: what is ours. The cluster is closed by PostgreSQL itself.
_OF_HOME = (
    *(".env", "code_server", "dagster", "logs", "metrics", "secret", "staging", "storage"),
    *("postgres.held.lock", "postgres.start.lock", "up.lock"),
)
_OF_STORAGE = ("features", "maintenance", "models", "monitoring", "simulated")
_OF_DAGSTER = (".telemetry", "history", "logs", "schedules", "storage")
#: Paths that a warning names.
_NAMED = 5


def keep_private(settings: Settings) -> None:
    """Close the home, and a storage or a Dagster home outside of it, to all but their owner.

    Contents first and a folder last: what is closed needs no second look, and what was
    interrupted is taken up again. A first start after an upgrade looks at each file once, a later
    one at one folder. Links are not followed. What cannot be closed is named in a warning.
    """
    left: list[str] = []
    _close(settings.home, _OF_HOME, left, _postgres_group(settings))
    if "://" not in settings.storage_root:
        _close(Path(os.path.realpath(settings.storage_root)), _OF_STORAGE, left)
    dagster_home = settings.dagster_home or settings.home / "dagster"
    _close(Path(os.path.realpath(dagster_home)), _OF_DAGSTER, left)
    if left:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        named = "; ".join(left[:_NAMED]).encode(errors="backslashreplace").decode()
        logging.getLogger(__name__).warning(
            "These are open to other users of this machine: %s%s. "
            "Change their owner to the user who runs grade_ml (chown), or move them away.",
            named,
            more,
        )


def make_private(folder: Path) -> None:
    """Make a folder that its owner alone may enter, unless it is there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def let_in(folder: Path | int, group: int) -> None:
    """Let the members of `group` pass through the folder (or its descriptor), seeing nothing."""
    os.chown(folder, -1, group)
    os.chmod(folder, 0o710)


def _postgres_group(settings: Settings) -> int | None:
    """Return the group that has to pass through the home, if any."""
    if settings.embedded and os.geteuid() == 0:
        with suppress(KeyError):
            return pwd.getpwnam(POSTGRES_USER).pw_gid
    return None


def _close(folder: Path, names: Collection[str], left: list[str], group: int | None = None) -> None:
    try:
        state = folder.stat()
    except OSError:  # it does not exist or cannot be reached: the code that uses it reports that
        return
    if not stat.S_ISDIR(state.st_mode) or not _is_open(state, group) or not _is_ours(folder, names):
        return
    with _opened(folder, None, left) as descriptor:
        if descriptor is None:
            return
        for name in names:
            _close_in(descriptor, name, folder / name, left)
        if reason := _shared(folder, state):
            left.append(f"{folder} ({reason})")
            return
        _restrict(descriptor, folder, left, group)


def _is_ours(folder: Path, names: Collection[str]) -> bool:
    """Return whether the folder is empty or holds one of `names`: else it was named by mistake."""
    entries = os.listdir(folder)
    return not entries or not set(names).isdisjoint(entries)


def _is_open(status: os.stat_result, group: int | None) -> bool:
    if group is None:
        return bool(status.st_mode & _OTHERS)
    return (status.st_mode & _OTHERS, status.st_gid) != (0o010, group)


def _shared(folder: Path, status: os.stat_result) -> str:
    """Return why the folder must not be closed to others, or nothing."""
    if folder == folder.parent or status.st_mode & stat.S_ISVTX:
        return "a folder for everybody"
    if status.st_uid != os.geteuid():
        return f"belongs to {_name(status.st_uid)}"
    own = {os.geteuid(), *_postgres_users()}
    with os.scandir(folder) as entries:
        foreign = next(
            (entry for entry in entries if entry.stat(follow_symlinks=False).st_uid not in own),
            None,
        )
    if foreign:
        owner = _name(foreign.stat(follow_symlinks=False).st_uid)
        return f"{owner} keeps {foreign.name} there"
    return ""


def _postgres_users() -> Iterator[int]:
    with suppress(KeyError):
        yield pwd.getpwnam(POSTGRES_USER).pw_uid


def _name(user: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(user).pw_name
    return f"user {user}"


def _close_in(parent: int, name: str, path: Path, left: list[str]) -> None:
    """Close the entry `name` of the folder `parent` and all below; `path` is for the reader."""
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    directory = stat.S_ISDIR(status.st_mode)
    if not (directory or stat.S_ISREG(status.st_mode)) or not status.st_mode & _OTHERS:
        return
    if status.st_uid != os.geteuid():
        left.append(f"{path} (belongs to {_name(status.st_uid)})")
        return
    with _opened(path, parent, left) as descriptor:
        if descriptor is None:
            return
        if directory:
            for entry in os.listdir(descriptor):
                _close_in(descriptor, entry, path / entry, left)
        _restrict(descriptor, path, left)


@contextmanager
def _opened(path: Path, parent: int | None, left: list[str]) -> Iterator[int | None]:
    """Open a file or folder and no link, nor what came into its place meanwhile."""
    try:
        name = path if parent is None else path.name
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        left.append(f"{path} ({error.strerror})")
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _restrict(descriptor: int, path: Path, left: list[str], group: int | None = None) -> None:
    try:
        os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & ~_OTHERS)
        if group is not None:
            let_in(descriptor, group)
        if not _is_open(os.fstat(descriptor), group):
            return
        reason = "the file system stores no permissions"
    except OSError as error:
        reason = str(error.strerror)
    left.append(f"{path} ({reason})")
