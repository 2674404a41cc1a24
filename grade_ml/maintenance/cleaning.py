"""Cleans up several kinds of things, and reports what is outdated and what was removed.

Each kind decides what is outdated and how it is removed. If a kind fails, the others continue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.core import database
from grade_ml.core.errors import AlreadyRunningError, GradeMLError
from grade_ml.core.locks import DatabaseLock


@dataclass(frozen=True)
class Found:
    """The outdated things of one kind: their number, their bytes, and how many others stay."""

    count: int
    bytes: int
    kept: int


@dataclass(frozen=True)
class Freed:
    """The removed things of one kind: their number, and the bytes that became free.

    `freed` bytes went back to the file system, as measured; `reusable` bytes stay with the
    database, which fills them before it takes more from the disk.
    """

    count: int
    freed: int
    reusable: int = 0


class Kind(Protocol):
    """One kind of things that become outdated."""

    @property
    def name(self) -> str:
        """The name that reports show."""

    @property
    def may_be_emptied(self) -> bool:
        """Whether removing everything of this kind is acceptable."""

    def find(self) -> Found:
        """Return what is outdated."""

    def remove(self) -> Freed:
        """Remove what is outdated; afterwards `find` returns a count of 0."""


@dataclass(frozen=True)
class Part:
    """The result of one kind; `problem` is why nothing, or not everything, was removed."""

    kind: str
    found: Found | None = None
    freed: Freed | None = None
    problem: str = ""


@dataclass(frozen=True)
class Report:
    """The result of a clean-up."""

    dry_run: bool
    parts: tuple[Part, ...]

    @property
    def problems(self) -> list[str]:
        """The problems of all parts, each with its kind."""
        return [f"{part.kind}: {part.problem}" for part in self.parts if part.problem]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)


def clean(kinds: Iterable[Kind], *, dry_run: bool = False, force: bool = False) -> Report:
    """Remove what is outdated of each kind; with `dry_run`, only report it.

    Parameters
    ----------
    force
        Also empty kinds of which something should always stay; without it they are left as they
        are, for a setting or a clock is probably wrong.
    """
    return Report(dry_run, tuple(_clean(kind, dry_run, force) for kind in kinds))


def _clean(kind: Kind, dry_run: bool, force: bool) -> Part:
    outdated = None
    try:
        outdated = kind.find()
        if outdated.count and not outdated.kept and not kind.may_be_emptied and not force:
            return Part(kind.name, outdated, problem=_EMPTIED.format(count=outdated.count))
        freed = kind.remove() if outdated.count and not dry_run else None
    except GradeMLError as error:
        return Part(kind.name, outdated, problem=str(error))
    return Part(kind.name, outdated, freed)


def total(size: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """Return the sum of sizes; of no rows it is 0, where SQL returns null."""
    return sa.func.coalesce(sa.func.sum(size), 0)


@contextmanager
def alone(engine: Engine) -> Iterator[None]:
    """Hold the lock of the clean-up; it is released if this process dies.

    Raises
    ------
    AlreadyRunningError
        Another process cleans up.
    ServiceError
        The database does not answer.
    """
    with database.only_one(engine, DatabaseLock.CLEANUP) as held:
        if not held:
            raise AlreadyRunningError("Another clean-up is running.", "Wait until it has ended.")
        yield


_EMPTIED = (
    "all {count} are outdated, so nothing would be left; nothing was removed. Correct "
    "GRADE_ML_RETENTION_… or GRADE_ML_AS_OF, or clean up with --force (force in a run's "
    "configuration)."
)
