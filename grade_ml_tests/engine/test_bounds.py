"""Slots, what is gathered for one computation, and what is kept."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from grade_ml.engine.bounds import Gathering, Once, Recent, Slots
from grade_ml.engine.errors import Overloaded
from grade_ml_tests.launch import wait_until


def test_what_waits_for_the_same_key_is_computed_together() -> None:
    slots, begun, go = Slots(1, 10, 30.0), threading.Event(), threading.Event()
    gathering: Gathering[int, int] = Gathering(slots)
    batches = []

    def compute(items: list[int]) -> list[int]:
        batches.append(items)
        begun.set()
        go.wait(30)
        return [10 * item for item in items]

    with ThreadPoolExecutor(6) as threads:
        first = threads.submit(gathering.of, "a", 0, compute)
        begun.wait(30)
        rest = [threads.submit(gathering.of, "a", item, compute) for item in range(1, 6)]
        wait_until(lambda: slots._waiting == 5, "five who wait")
        go.set()
        assert [future.result() for future in (first, *rest)] == [0, 10, 20, 30, 40, 50]
    assert batches[0] == [0] and len(batches) == 2 and sorted(batches[1]) == [1, 2, 3, 4, 5]


def test_an_error_reaches_all_who_wait_for_it() -> None:
    gathering: Gathering[int, int] = Gathering(Slots(1, 10, 30.0))

    def compute(items: list[int]) -> list[int]:
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            gathering.of("a", 1, compute)


def test_a_request_without_a_place_leaves_nothing_behind() -> None:
    slots = Slots(1, 0, 30.0)
    gathering: Gathering[int, int] = Gathering(slots)
    with slots.one(), pytest.raises(Overloaded, match="0 computations wait"):
        gathering.of("a", 1, lambda items: items)
    assert not gathering._waiting
    assert gathering.of("a", 2, lambda items: items) == 2
    slow = Slots(1, 1, 0.01)
    with slow.one(), pytest.raises(Overloaded, match=r"within 0\.01 seconds"), slow.one():
        pass


def test_what_was_used_last_is_kept_and_made_once() -> None:
    kept: Recent[int] = Recent(2)
    for name in "ab":
        kept.put(name, ord(name))
    assert kept.get("a") is not None
    kept.put("c", 3)
    assert kept.get("b") is None and kept.get("a") is not None
    assert kept.get("a", seconds=0.0) is None
    once: Once[int] = Once(2)
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return 7

    with ThreadPoolExecutor(8) as threads:
        results = {
            future.result() for future in [threads.submit(once.of, "a", make) for _ in range(8)]
        }
    assert results == {7} and made == [1]
