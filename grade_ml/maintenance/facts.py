"""The facts about an installation at one moment, before they are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median

#: The fewest earlier runs from which a usual duration is computed: those of a working week.
_FEWEST_RUNS = 4


@dataclass(frozen=True)
class JobRuns:
    """The runs of one job that ended in the last week, without canceled runs.

    Attributes
    ----------
    durations
        Seconds of the runs that succeeded, oldest first.
    succeeded_at
        When the newest of them ended.
    """

    failed: int = 0
    newest_failed: bool = False
    durations: tuple[float, ...] = ()
    succeeded_at: datetime | None = None

    @property
    def succeeded(self) -> int:
        """How many runs succeeded."""
        return len(self.durations)

    @property
    def success_rate(self) -> float | None:
        """The share (0-1) of runs that succeeded; None if no run has ended."""
        ended = self.succeeded + self.failed
        return self.succeeded / ended if ended else None

    @property
    def seconds(self) -> float | None:
        """The duration of the newest run that succeeded; None if none has."""
        return self.durations[-1] if self.durations else None

    @property
    def usual_seconds(self) -> float | None:
        """The median duration of the runs before the newest; None if they are too few."""
        before = self.durations[:-1]
        return median(before) if len(before) >= _FEWEST_RUNS else None


@dataclass(frozen=True)
class Queue:
    """The numbers of waiting and of started runs, and how long the first waiting run has waited."""

    queued: int = 0
    started: int = 0
    longest_wait_seconds: float = 0.0


@dataclass(frozen=True)
class Records:
    """The gradebook: its newest load, its running sections, and the rows of the last week."""

    loaded_at: datetime | None
    running_sections: int
    rows: int
    quarantined: int


@dataclass(frozen=True)
class Course:
    """The health of one course's model: its score, and whether the course drifted."""

    score: float | None = None
    needs: bool = False
    drifted: bool | None = None


@dataclass(frozen=True)
class Disk:
    """The file system of a folder."""

    size_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Step:
    """The usage of one step in the last week: peak memory, and the sum of CPU time."""

    peak_bytes: float
    cpu_seconds: float


@dataclass(frozen=True)
class Database:
    """One database, and the clients of its server."""

    size_bytes: int
    connections: int
    limit: int

    @property
    def used(self) -> float:
        """The share (0-1) of the connections that are in use."""
        return self.connections / self.limit


@dataclass(frozen=True)
class Facts:
    """The facts about an installation at the moment `at`; empty fields are unknown.

    Attributes
    ----------
    made, stale
        The number of assets, and the assets that are older than the records they are made of.
    refused
        Deliveries refused in the last week.
    completeness
        The reasons why each asset is degraded that can be repaired, by asset; empty if there is
        none.
    memory_bytes
        Memory of the machine.
    databases
        None if the database did not answer.
    """

    at: datetime
    records: Records
    queue: Queue = Queue()
    jobs: Mapping[str, JobRuns] = field(default_factory=dict)
    made: int = 0
    stale: tuple[str, ...] = ()
    refused: int = 0
    courses: Mapping[str, Course] = field(default_factory=dict)
    completeness: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    disks: Mapping[str, Disk] = field(default_factory=dict)
    steps: Mapping[str, Step] = field(default_factory=dict)
    memory_bytes: int = 0
    databases: Mapping[str, Database | None] = field(default_factory=dict)
