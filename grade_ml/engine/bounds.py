"""The bounds of an engine: slots for computations, and caches of limited size."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Condition, Lock
from time import monotonic
from typing import Generic, TypeVar

from grade_ml.engine.errors import Overloaded

Value = TypeVar("Value")
Item = TypeVar("Item")


class Slots:
    """Limits how many threads compute at a time, and how many wait for their turn.

    Parameters
    ----------
    at_once, waiting
        How many threads compute, and how many wait.
    seconds
        The longest that a thread waits.
    """

    def __init__(self, at_once: int, waiting: int, seconds: float) -> None:
        self._free, self._places, self._seconds = at_once, waiting, seconds
        self._waiting = 0
        self._changed = Condition()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a slot.

        Raises
        ------
        Overloaded
            Too many threads wait already, or no slot became free in time.
        """
        with self._changed:
            if not self._free:
                self._wait()
            self._free -= 1
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify()

    def _wait(self) -> None:
        if self._waiting >= self._places:
            raise Overloaded(
                f"{self._waiting} computations wait already.",
                "Ask again in a moment, or for many students in one call.",
            )
        self._waiting += 1
        try:
            if not self._changed.wait_for(lambda: self._free, self._seconds):
                raise Overloaded(
                    f"No computation could begin within {self._seconds:g} seconds.",
                    "Ask again in a moment, or for many students in one call.",
                )
        finally:
            self._waiting -= 1


class Gathering(Generic[Item, Value]):
    """Computes the items of many threads that share a key together.

    The thread that gets a slot first computes for all threads that wait with the same key: 200
    callers who request the students of a few sections cost a few computations.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._lock = Lock()
        self._waiting: defaultdict[Hashable, list[tuple[Item, Future[Value]]]] = defaultdict(list)

    def of(
        self, key: Hashable, item: Item, compute: Callable[[list[Item]], Sequence[Value]]
    ) -> Value:
        """Return the value of `item`; `compute` receives all items that wait for the key.

        Raises
        ------
        Overloaded
            As `Slots.one` does.
        """
        own: Future[Value] = Future()
        with self._lock:
            self._waiting[key].append((item, own))
        try:
            with self._slots.one():
                batch = [] if own.done() else self._taken(key)
                if batch:
                    _compute_for(batch, compute)
        except Overloaded:
            with self._lock:
                others = [entry for entry in self._waiting.pop(key, []) if entry[1] is not own]
                if others:
                    self._waiting[key] = others
            raise
        # Another thread may have taken the item and still be computing.
        return own.result()

    def _taken(self, key: Hashable) -> list[tuple[Item, Future[Value]]]:
        with self._lock:
            return self._waiting.pop(key, [])


def _compute_for(
    batch: list[tuple[Item, Future[Value]]], compute: Callable[[list[Item]], Sequence[Value]]
) -> None:
    try:
        values = compute([item for item, _ in batch])
    except BaseException as error:  # each waiting caller gets it, and none waits for ever
        for _, future in batch:
            future.set_exception(error)
        if not isinstance(error, Exception):
            raise
        return
    for (_, future), value in zip(batch, values, strict=True):
        future.set_result(value)


class Recent(Generic[Value]):
    """The values used last by key; safe to share between threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, tuple[float, Value]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, seconds: float = float("inf")) -> tuple[float, Value] | None:
        """Return a value that is not older than `seconds`, and how many seconds old it is."""
        with self._lock:
            entry = self._values.get(key)
            if entry is None or monotonic() - entry[0] > seconds:
                return None
            self._values.move_to_end(key)
            return monotonic() - entry[0], entry[1]

    def put(self, key: Hashable, value: Value) -> None:
        """Store a value and drop the least recently used values beyond the limit."""
        with self._lock:
            self._values[key] = (monotonic(), value)
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)


class Once(Generic[Value]):
    """Values that the first caller makes; callers of the same key wait, others do not."""

    def __init__(self, most: int) -> None:
        self._made: Recent[Value] = Recent(most)
        self._making: dict[Hashable, Lock] = {}
        self._lock = Lock()

    def known(self, key: Hashable) -> Value | None:
        """Return the value of a key if it was made."""
        entry = self._made.get(key)
        return None if entry is None else entry[1]

    def of(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key, and call `make` if it was not made yet."""
        with self._lock:
            own = self._making.setdefault(key, Lock())
        try:
            with own:
                value = self.known(key)
                if value is None:
                    value = make()
                    self._made.put(key, value)
                return value
        finally:
            with self._lock:
                self._making.pop(key, None)
