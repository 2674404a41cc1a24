"""Removes files below the storage root that are no longer needed: old frames and drafts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from upath import UPath

from grade_ml.core.errors import ServiceError
from grade_ml.core.storage import drafts, remove_tree, size_of
from grade_ml.features import store
from grade_ml.maintenance.cleaning import Found, Freed

#: Writing a file takes seconds.
_UNFINISHED = timedelta(days=1)


@dataclass(frozen=True)
class Frames:
    """Frames of days that no day from `as_of` on needs."""

    root: str
    as_of: date
    name: str = "frames"
    may_be_emptied: bool = False

    def find(self) -> Found:
        """Return what is outdated."""
        with _answering(self.root):
            outdated, kept = store.outdated(self.root, self.as_of)
            return Found(len(outdated), sum(map(size_of, outdated)), kept)

    def remove(self) -> Freed:
        """Delete the files."""
        with _answering(self.root):
            return _removed(store.outdated(self.root, self.as_of)[0])


@dataclass(frozen=True)
class Drafts:
    """Files that a killed process was writing."""

    root: str
    at: datetime
    name: str = "unfinished files"
    may_be_emptied: bool = True

    def find(self) -> Found:
        """Return what is outdated."""
        with _answering(self.root):
            outdated = drafts(UPath(self.root), self.at - _UNFINISHED)
            return Found(len(outdated), sum(map(size_of, outdated)), 0)

    def remove(self) -> Freed:
        """Delete the files."""
        with _answering(self.root):
            return _removed(drafts(UPath(self.root), self.at - _UNFINISHED))


def _removed(files: Sequence[UPath]) -> Freed:
    size = sum(map(size_of, files))
    for file in files:
        remove_tree(file)
    return Freed(len(files), size)


@contextmanager
def _answering(root: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ServiceError(
            f"The storage {root} cannot be cleaned up: {error.strerror or error}.",
            "Correct its permissions or GRADE_ML_STORAGE; the next clean-up continues.",
        ) from error
