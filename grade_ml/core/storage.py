"""Files: their names, how they are written whole, and what a place for them must be like."""

from __future__ import annotations

import errno
import math
import os
import re
import stat
import tempfile
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from grade_ml.core.errors import ConfigurationError, SourceError
from grade_ml.core.hashing import checksum

if TYPE_CHECKING:
    from datetime import datetime

    from upath import UPath

_DRAFT = re.compile(r"\..+\.[0-9a-f]{32}")
#: Characters of the readable part of a name.
_READABLE = 40


def file_name(identifier: str) -> str:
    """Return the name of the file of what `identifier` (any text) names; suffixes may follow.

    ASCII of at most 61 bytes, whose first part helps a reader and whose second distinguishes:
    also identifiers that are long, differ by case only, or hold what file systems refuse.

    >>> file_name("MATH 101/a")
    'MATH-101-a-f3c7c825e44b68885c04'
    """
    readable = re.sub(r"[^A-Za-z0-9]+", "-", identifier)[:_READABLE].strip("-")
    digest = checksum(identifier.encode())[:20]
    return f"{readable}-{digest}" if readable else digest


def open_file(path: Path) -> BufferedReader:
    """Open a file for reading; a pipe, which may never be written to, is no file.

    Raises
    ------
    SourceError
        It is a pipe, socket, device or folder, or a link to one.
    OSError
        It is not there, or must not be read.
    """
    # Checked before it is opened, because opening a device may have an effect, and afterwards,
    # because another file may have replaced it; without waiting for a writer of a pipe.
    if stat.S_ISREG(path.stat().st_mode):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        else:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return os.fdopen(descriptor, "rb")
            os.close(descriptor)
    raise SourceError(
        f"{path} is a pipe, socket, device or folder, not a file; it was not read.",
        "Put the file itself in its place.",
    )


def write_whole(path: UPath, content: bytes, mode: int | None = None) -> None:
    """Write a file so that a reader sees the old content or the new content, never a part.

    Object stores replace an object at once; a local file is written beside its place and moved.
    It has the permissions `mode`, if given, else those of the umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.protocol not in ("", "file"):
        path.write_bytes(content)
        return
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    draft.write_bytes(content)
    if mode is not None:
        draft.chmod(mode)
    draft.replace(path)


def drafts(root: UPath, before: datetime) -> list[UPath]:
    """Return the drafts under `root` that `write_whole` left, being killed before a moment.

    Links are not followed. Object stores have no drafts.
    """
    if root.protocol not in ("", "file"):
        return []
    drafts = (
        root.joinpath(os.path.relpath(folder, root.path), name)
        for folder, _, names in os.walk(root.path)
        for name in names
        if _DRAFT.fullmatch(name)
    )
    return sorted((draft for draft in drafts if _written(draft) < before.timestamp()), key=str)


def _written(path: UPath) -> float:
    """Return when a file was written, as seconds of the epoch; a file that vanished is not old."""
    try:
        return os.lstat(path.path).st_mtime
    except FileNotFoundError:  # another process finished or removed it meanwhile
        return math.inf


def size_of(path: UPath) -> int:
    """Return the bytes of the files at and under `path`; links are not followed, nor counted."""
    if _is_link(path):
        return 0
    try:
        if path.is_file():
            return int(path.stat().st_size)
        return sum(size_of(entry) for entry in path.iterdir())
    except (FileNotFoundError, NotADirectoryError):  # it is gone; object stores say the latter
        return 0


def remove_tree(path: UPath) -> None:
    """Remove a file or folder, if it is there; of a link only the link is removed."""
    if _is_link(path):
        path.unlink()
        return
    with suppress(FileNotFoundError):  # another process removes it, too
        path.fs.rm(path.path, recursive=True)


def _is_link(path: UPath) -> bool:
    """Return whether it is a link; object stores have none."""
    return path.protocol in ("", "file") and Path(path.path).is_symlink()


def require_writable(folder: Path, remedy: str) -> None:
    """Make sure that `folder` can be written, or be made where it does not exist yet.

    Raises
    ------
    ConfigurationError
        It cannot; the error names the folder and the system's reason.
    """
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"The folder {folder} cannot be written: {error.strerror}.", remedy
        ) from error
