"""Where a Unix socket can lie: in a directory of its owner's only, with a path that is short."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

#: With the socket's own name it must stay under 104 bytes, the limit of macOS; Linux has 108.
_LONGEST_DIRECTORY = 88


def socket_directory(directory: Path) -> Path:
    """Return `directory`, or a short private one of this user where a socket cannot lie there."""
    if _holds_socket(directory):
        return directory
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
    name = f"grade_ml-{os.getuid()}-{digest}"
    temporary = Path(tempfile.gettempdir()) / name
    short = temporary if _holds_socket(temporary) else Path("/tmp") / name
    short.mkdir(exist_ok=True)
    short.chmod(0o700)  # fails where somebody else made it
    return short


def _holds_socket(directory: Path) -> bool:
    """Return whether the path is short and without what has a meaning in a list of paths."""
    return len(os.fsencode(directory)) <= _LONGEST_DIRECTORY and bool(
        re.fullmatch(r"[\w./+@=-]+", str(directory), re.ASCII)
    )
