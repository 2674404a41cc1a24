"""Where a computation reads and writes, for which day, and under which institution's rules."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property

from sqlalchemy import Connection

from grade_ml.features.store import Frames
from grade_ml.gradebook.institution import DEFAULTS, Institution
from grade_ml.registry.registry import Registry
from grade_ml.registry.transition import Stages


@dataclass(frozen=True)
class Workspace:
    """The stores of one installation in one transaction, and the moment of the computation.

    Attributes
    ----------
    connection
        On the `grade_ml` database.
    root
        The storage root, a path or URL for `universal_pathlib`.
    as_of
        The day for which everything is computed; nothing dated later is read.
    now
        Timezone-aware; what is written is stamped with it.
    """

    connection: Connection
    registry: Registry
    root: str
    as_of: date
    now: datetime
    institution: Institution = DEFAULTS
    seed: int = 0

    @cached_property
    def frames(self) -> Frames:
        """The stored snapshots and sequences as `as_of` knows them."""
        return Frames(self.root, self.as_of, self.registry.pseudonyms)

    @property
    def stages(self) -> Stages:
        """What moves versions between stages, in transactions of its own."""
        return Stages(self.connection.engine, self.registry, self.now)


#: Opens one transaction; work that takes long opens several, and none while it computes.
Opening = Callable[[], AbstractContextManager[Workspace]]
