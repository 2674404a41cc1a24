"""Keeps the partition set `course` equal to the gradebook's courses.

A failed read is not an empty gradebook: nothing here is called after a failed read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from dagster import DagsterInstance
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

from grade_ml.orchestration.in_flight import worked_on
from grade_ml.orchestration.partitions import course

#: Courses added or removed at once; more follow at the next tick, well within its 60 seconds.
MAX_CHANGES = 1000

ACTIVE_BACKFILL = (
    BulkActionStatus.REQUESTED,
    BulkActionStatus.CANCELING,
    BulkActionStatus.FAILING,
)


@dataclass(frozen=True)
class Change:
    """Partitions to add and to remove now, and those whose removal waits for a run."""

    add: tuple[str, ...]
    remove: tuple[str, ...]
    waiting: tuple[str, ...]


def decide(known: Collection[str], courses: Collection[str], busy: Collection[str]) -> Change:
    """Return the change from the partitions `known` to `courses` that leaves `busy` ones alone.

    >>> decide(["a", "b", "c"], ["c", "d"], busy=["b"])
    Change(add=('d',), remove=('a',), waiting=('b',))
    """
    removed = set(known) - set(courses)
    return Change(
        add=tuple(sorted(set(courses) - set(known)))[:MAX_CHANGES],
        remove=tuple(sorted(removed - set(busy)))[:MAX_CHANGES],
        waiting=tuple(sorted(removed & set(busy))),
    )


def pending(instance: DagsterInstance, courses: Iterable[str]) -> Change:
    """Return what would make the partitions of `instance` equal to `courses`."""
    known = instance.get_dynamic_partitions(str(course.name))
    courses = set(courses)
    if courses >= set(known):
        return decide(known, courses, busy=())
    if instance.get_backfills(filters=BulkActionsFilter(statuses=ACTIVE_BACKFILL), limit=1):
        # A backfill names its partitions when it is requested and starts their runs later.
        return decide(known, courses, busy=known)
    return decide(known, courses, busy=worked_on(instance, known))


def synchronize(instance: DagsterInstance, courses: Collection[str]) -> list[str]:
    """Make the partitions equal to `courses` at once; return them in their order."""
    name = str(course.name)
    while True:
        change = pending(instance, courses)
        if change.add:
            instance.add_dynamic_partitions(name, list(change.add))
        for key in change.remove:
            instance.delete_dynamic_partition(name, key)
        if not change.add and not change.remove:
            return list(instance.get_dynamic_partitions(name))
