"""Keeps the partition set `course` equal to the gradebook's courses.

A read that failed is not an empty gradebook: nothing here is called after one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

from grade_ml.orchestration.partitions import RANGE_END, RANGE_START, course

#: Courses added or removed at once; more follow at the next tick, well within its 60 seconds.
MAX_CHANGES = 1000

IN_FLIGHT = (
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
)

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


def covered(known: Sequence[str], tags: Mapping[str, str]) -> set[str]:
    """Return the partitions that a run with `tags` works on.

    >>> sorted(covered(["a", "b", "c"], {RANGE_START: "b", RANGE_END: "c"}))
    ['b', 'c']
    """
    if "dagster/partition" in tags:
        return {tags["dagster/partition"]}
    start, end = tags.get(RANGE_START), tags.get(RANGE_END)
    if start not in known or end not in known:
        return set()
    return set(known[known.index(start) : known.index(end) + 1])


def pending(instance: DagsterInstance, wanted: Iterable[str]) -> Change:
    """Return what would bring the partitions of `instance` in step with the courses `wanted`."""
    known = instance.get_dynamic_partitions(str(course.name))
    wanted = set(wanted)
    if wanted >= set(known):
        return decide(known, wanted, busy=())
    if instance.get_backfills(filters=BulkActionsFilter(statuses=ACTIVE_BACKFILL), limit=1):
        # A backfill names its partitions when it is asked for and starts their runs later.
        return decide(known, wanted, busy=known)
    runs = instance.get_runs(RunsFilter(statuses=IN_FLIGHT))
    return decide(known, wanted, busy=set().union(*(covered(known, run.tags) for run in runs)))


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
