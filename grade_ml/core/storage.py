"""Files: their names, how they are written whole, and what a place for them must be like."""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from grade_ml.core.errors import ConfigurationError, SourceError
from grade_ml.core.hashing import checksum

if TYPE_CHECKING:
    from upath import UPath


#: Characters of the readable part of a name.
_READABLE = 40


def file_name(identifier: str) -> str:
    """Return the name of the file of what `identifier` (any text) names; suffixes may follow.

    ASCII of at most 61 bytes, whose first part helps a reader and whose second tells apart: also
    identifiers that are long, differ by case only, or hold what file systems refuse.

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
    # Asked before it is opened, for opening a device may do something, and again afterwards, for
    # another thing may have taken its place; without waiting for who writes into a pipe.
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


def write_whole(path: UPath, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    Object stores replace an object at once; a local file is written beside its place and moved.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.protocol not in ("", "file"):
        path.write_bytes(content)
        return
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    draft.write_bytes(content)
    draft.replace(path)


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
