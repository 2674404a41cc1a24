"""How many threads work gets, in every pool of this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

#: Below this many rows per thread, threads wait for each other longer than they work: on a busy
#: machine of two cores a fit on 3,000 rows took 25 s with two threads and 3 s with one.
_ROWS_PER_THREAD = 15_000
#: Of any pool, and of a child that computes; a machine for this has two cores at least.
MOST = 2


@contextmanager
def limited_threads(rows: int) -> Iterator[None]:
    """Limit the threads of work on so many rows to a number that speeds it up."""
    with _thread_pools().limit(limits=threads(rows)):
        yield


@cache
def _thread_pools() -> ThreadpoolController:
    """Return the thread pools of this process; looking for them takes 4 ms."""
    import sklearn.ensemble  # noqa: F401 - a library that is loaded later would not be limited
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def threads(rows: int) -> int:
    """Return how many threads pay for work on so many rows."""
    return min(max(rows // _ROWS_PER_THREAD, 1), MOST)
