"""Files under the storage root, local or remote."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from upath import UPath


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
