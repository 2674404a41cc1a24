"""Which partitions a run is for, as tags: Dagster runs several only as a range in their order.

Apart from the partitions, because an application that submits runs is not to wait for Dagster.
"""

from collections.abc import Collection, Iterator, Sequence

#: Many courses in one run, since a process costs seconds; not all of them, which bounds the
#: memory of a run and what is lost if it dies.
IN_ONE_RUN = 100
PARTITION = "dagster/partition"
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


def few_ranges(known: Sequence[str], chosen: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield what `ranges` yields, as one range with others in between where one run can hold it.

    Starting a run costs more than computing a course that did not change.

    >>> list(few_ranges(["a", "b", "c", "d"], {"a", "d"}))
    [('a', 'd')]
    """
    places = [place for place, key in enumerate(known) if key in chosen]
    if places and places[-1] - places[0] < IN_ONE_RUN:
        yield known[places[0]], known[places[-1]]
    else:
        yield from ranges(known, chosen)
