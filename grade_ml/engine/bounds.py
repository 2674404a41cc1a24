"""What keeps an engine within bounds: slots for computations, and the answers given last."""

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
    """Lets few compute at a time and few more wait for it.

    Parameters
    ----------
    at_once, waiting
        How many compute, and how many wait.
    seconds
        The longest that one waits.
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
            Too many wait already, or it took too long.
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
    """Computes what many threads ask for the same thing at once in one go.

    Whoever gets a slot first computes for all who wait for the same key: 200 callers who ask for
    the students of a few sections cost a few computations.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._lock = Lock()
        self._waiting: defaultdict[Hashable, list[tuple[Item, Future[Value]]]] = defaultdict(list)

    def of(
        self, key: Hashable, item: Item, compute: Callable[[list[Item]], Sequence[Value]]
    ) -> Value:
        """Return what `compute`, given the items that wait for a key, makes of this one.

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
                some = [] if own.done() else self._taken(key)
                if some:
                    _compute_for(some, compute)
        except Overloaded:
            with self._lock:
                others = [one for one in self._waiting.pop(key, []) if one[1] is not own]
                if others:
                    self._waiting[key] = others
            raise
        # Another may have taken it along and still compute.
        return own.result()

    def _taken(self, key: Hashable) -> list[tuple[Item, Future[Value]]]:
        with self._lock:
            return self._waiting.pop(key, [])


def _compute_for(
    some: list[tuple[Item, Future[Value]]], compute: Callable[[list[Item]], Sequence[Value]]
) -> None:
    try:
        values = compute([item for item, _ in some])
    except BaseException as error:  # each waiting caller gets it; none waits for ever
        for _, future in some:
            future.set_exception(error)
        if not isinstance(error, Exception):
            raise
        return
    for (_, future), value in zip(some, values, strict=True):
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
            found = self._values.get(key)
            if found is None or monotonic() - found[0] > seconds:
                return None
            self._values.move_to_end(key)
            return monotonic() - found[0], found[1]

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value; the one that was not used for longest makes room."""
        with self._lock:
            self._values[key] = (monotonic(), value)
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)


class Once(Generic[Value]):
    """Values that are made once, whoever asks first; others wait for that one alone."""

    def __init__(self, most: int) -> None:
        self._made: Recent[Value] = Recent(most)
        self._making: dict[Hashable, Lock] = {}
        self._lock = Lock()

    def known(self, key: Hashable) -> Value | None:
        """Return the value of a key if it was made."""
        found = self._made.get(key)
        return None if found is None else found[1]

    def of(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key, which `make` makes where nobody did."""
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
