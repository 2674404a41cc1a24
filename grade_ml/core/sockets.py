"""Where a Unix socket can lie: in a directory of its owner's only, with a path that is short."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

#: With the socket's own name it must stay under 104 bytes, the limit of macOS; Linux has 108.
_LONGEST_DIRECTORY = 88


def socket_directory(directory: Path) -> Path:
    """Return `directory`, or a short private directory of this user if its path is too long.

    That directory is new and has an unguessable name: with a predictable name, another user of the
    machine created the directory first, and with it the socket that the superuser's UI used.
    """
    if _holds_socket(directory):
        return directory
    temporary = Path(tempfile.gettempdir())
    place = temporary if _holds_socket(temporary / "grade_ml-12345678") else Path("/tmp")
    return Path(tempfile.mkdtemp(prefix="grade_ml-", dir=place))


def _holds_socket(directory: Path) -> bool:
    """Return whether the path is short and without what has a meaning in a list of paths."""
    return len(os.fsencode(directory)) <= _LONGEST_DIRECTORY and bool(
        re.fullmatch(r"[\w./+@=-]+", str(directory), re.ASCII)
    )
