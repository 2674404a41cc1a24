"""Keeps the partition set `course` equal to the gradebook's courses.

A read that failed is not an empty gradebook: nothing here is called after one.
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


def decide(known: Collection[str], wanted: Collection[str], busy: Collection[str]) -> Change:
    """Return what turns the partitions `known` into `wanted` without touching `busy` ones.

    >>> decide(["a", "b", "c"], ["c", "d"], busy=["b"])
    Change(add=('d',), remove=('a',), waiting=('b',))
    """
    gone = set(known) - set(wanted)
    return Change(
        add=tuple(sorted(set(wanted) - set(known)))[:MAX_CHANGES],
        remove=tuple(sorted(gone - set(busy)))[:MAX_CHANGES],
        waiting=tuple(sorted(gone & set(busy))),
    )


def pending(instance: DagsterInstance, wanted: Iterable[str]) -> Change:
    """Return what would bring the partitions of `instance` in step with the courses `wanted`."""
    known = instance.get_dynamic_partitions(str(course.name))
    wanted = set(wanted)
    if wanted >= set(known):
        return decide(known, wanted, busy=())
    if instance.get_backfills(filters=BulkActionsFilter(statuses=ACTIVE_BACKFILL), limit=1):
        # A backfill names its partitions when it is asked for and starts their runs later.
        return decide(known, wanted, busy=known)
    return decide(known, wanted, busy=worked_on(instance, known))


def synchronize(instance: DagsterInstance, wanted: Collection[str]) -> list[str]:
    """Bring the partitions in step at once; return them in their order."""
    name = str(course.name)
    while True:
        change = pending(instance, wanted)
        if change.add:
            instance.add_dynamic_partitions(name, list(change.add))
        for key in change.remove:
            instance.delete_dynamic_partition(name, key)
        if not change.add and not change.remove:
            return list(instance.get_dynamic_partitions(name))
