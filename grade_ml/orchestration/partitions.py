"""The partition set `course`, and how many of its keys are asked for in one run.

Dagster runs several partitions in one run only as a range in the order of the set.
"""

from collections.abc import Collection, Iterator, Sequence

from dagster import DynamicPartitionsDefinition

#: Kept equal to the gradebook's courses by the sensor `course_catalog`.
course = DynamicPartitionsDefinition(name="course")

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"


def range_tags(first: str, last: str) -> dict[str, str]:
    """Return the tags of a run over all partitions from `first` to `last`, both included."""
    return {RANGE_START: first, RANGE_END: last}


def ranges(known: Sequence[str], chosen: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield first and last key of each unbroken stretch of `chosen` within `known`.

    >>> list(ranges(["a", "b", "c", "d"], {"a", "b", "d"}))
    [('a', 'b'), ('d', 'd')]
    """
    first = last = None
    for key in known:
        if key in chosen:
            first, last = first or key, key
        elif first and last:
            yield first, last
            first = last = None
    if first and last:
        yield first, last
