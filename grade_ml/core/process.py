"""Processes: which is which, what this process takes of the machine, and what it leaves."""

from __future__ import annotations

import ctypes
import math
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import psutil

from grade_ml.core.errors import OutOfMemoryError

Done = TypeVar("Done")


def keep_apart() -> None:
    """Make what this process and its children write its user's alone, and import nothing from cwd.

    Every process of grade_ml calls it before anything else. The current folder may be a delivery:
    one with a `yaml.py` in it was executed.
    """
    os.umask(0o077)
    os.environ["PYTHONSAFEPATH"] = "1"


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set `values` in the environment of this process for a while, for libraries that read them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


@dataclass(frozen=True)
class Identity:
    """A process, distinct from a later process with the same id; also the leader of its group."""

    pid: int
    created: str

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Return the identity of the running process `pid`."""
        return cls(pid, _beginning(pid))

    def is_alive(self) -> bool:
        """Return whether this very process still runs."""
        try:
            return (
                _beginning(self.pid) == self.created
                and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False

    def has_group(self) -> bool:
        """Return whether the group that this process leads, or led until it died, has processes.

        POSIX gives no process the number of a group that has any: if a later process has it, the
        group is that one's.
        """
        # After a boot, daemons of the system may have the numbers of groups whose leaders are dead.
        if not _is_since_boot(self.created):
            return False
        with suppress(psutil.NoSuchProcess):  # the leader is dead
            if _beginning(self.pid) != self.created:
                return False
        return any(_is_in_group(pid, self.pid) for pid in psutil.pids())


def _beginning(pid: int) -> str:
    """Return when a process began, as a text that stays the same if the machine's clock is set.

    Linux knows clock ticks since the boot; psutil adds the moment of the boot, which it computes
    from the present time. macOS keeps the moment itself.
    """
    if not sys.platform.startswith("linux"):
        return str(psutil.Process(pid).create_time())
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise psutil.NoSuchProcess(pid) from error
    # The name of the program, in parentheses, may contain anything. Behind it, the 20th field.
    ticks = stat.rpartition(b")")[2].split()[19].decode()
    return f"{_boot()}+{ticks}"


def _is_since_boot(created: str) -> bool:
    if not sys.platform.startswith("linux"):
        return float(created) >= psutil.boot_time()
    # Version 0.1 recorded a number, the moment.
    return str(created).startswith(_boot())


@cache
def _boot() -> str:
    """Return the id of this boot: after the next one, a process may have the same id and ticks."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _is_in_group(pid: int, group: int) -> bool:
    try:
        return os.getpgid(pid) == group and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):  # it has ended since it was listed
        return False


@dataclass(frozen=True)
class Usage:
    """What was used of the machine.

    Attributes
    ----------
    seconds
        From the beginning to the end.
    peak_rss_mb
        The most memory that the process and its children had together, in MB, where what they share
        counts for each; off Linux, what the process had since it began.
    cpu_seconds
        Of the process and of its children.
    """

    seconds: float
    peak_rss_mb: float
    cpu_seconds: float


class Meter:
    """Measures what this process and its children use from now on.

    The kernel keeps the peak of the process alone. Children, such as that of TensorFlow, count as
    far as `look` sees them.
    """

    def __init__(self) -> None:
        _forget_peak()
        self._began, self._cpu = time.perf_counter(), _cpu_seconds()
        self._seen = 0.0

    def look(self) -> None:
        """Take in what the process and its children have now."""
        own = psutil.Process()
        used = [_of(process, _resident) for process in (own, *own.children(recursive=True))]
        self._seen = max(self._seen, sum(used) / 2**20)

    def peak_megabytes(self) -> float:
        """Return the most memory seen so far, in MB."""
        return max(self._seen, peak_megabytes())

    def read(self) -> Usage:
        """Return what was used so far."""
        return Usage(
            time.perf_counter() - self._began, self.peak_megabytes(), _cpu_seconds() - self._cpu
        )


def _cpu_seconds() -> float:
    """Return the seconds of this process, of its children, and of those that have ended."""
    living = psutil.Process().children(recursive=True)
    return sum(os.times()[:4]) + sum(_of(process, _worked) for process in living)


def _of(process: psutil.Process, figure: Callable[[psutil.Process], float]) -> float:
    try:
        return figure(process)
    except psutil.NoSuchProcess:  # it ended in this moment, and has nothing any more
        return 0.0


def _resident(process: psutil.Process) -> float:
    return float(process.memory_info().rss)


def _worked(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:4]))


def _forget_peak() -> None:
    """Let the peak of memory begin at what this process has now, where the system can."""
    # No /proc off Linux, a read-only one in some containers: the peak is then the process's.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_megabytes() -> float:
    """Return the most memory that this process has had since its last `Meter` began, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def left_megabytes(control_group: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how much memory may still be taken, in MB: of the machine, or of this container.

    Parameters
    ----------
    control_group
        Where Linux shows the limit of the container, in the files of either version.
    """
    left = psutil.virtual_memory().available / 2**20
    for names in _LIMITS:
        limit, used, cached = (_number(control_group / name) for name in names)
        if limit is not None and used is not None:
            # A cache of which nothing is known cannot be counted on.
            free = limit - used if cached is None else limit - used + cached
            left = min(left, free / 2**20)
    return left


def total_megabytes(control_group: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the memory of the machine, in MB, or of this container where that is less."""
    limits = [_number(control_group / limit) for limit, *_ in _LIMITS]
    return min(psutil.virtual_memory().total, *filter(None, limits), math.inf) / 2**20


#: Files of a control group: its limit, what it uses, and how much of that is cache that can go.
_LIMITS = (
    ("memory.max", "memory.current", "memory.stat inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat total_inactive_file",
    ),
)


def _number(place: Path) -> int | None:
    """Return the number in a file, or of its line with the name after a blank; `None` if none."""
    path, _, name = str(place).partition(" ")
    try:
        text = Path(path).read_text()
    except OSError:  # no such control group: not Linux, or the other version
        return None
    match = re.search(rf"^{name} ?([0-9]+)$", text, re.MULTILINE)
    return int(match[1]) if match else None  # "max": no limit


def guarded(name: str, reserve_mb: float, work: Callable[[], Done], meter: Meter) -> Done:
    """Return what `work` does, and stop it before the machine runs out of memory.

    Without it, the kernel kills the largest process. Memory is checked while `work` runs, so
    work that ends at once is never stopped. Foreign code that computes is stopped when it returns.

    Parameters
    ----------
    name
        Is done, for the error.
    reserve_mb
        MB that stay free, for the database and the UI.
    meter
        Sees the memory of children meanwhile.

    Raises
    ------
    OutOfMemoryError
        Less are left, or no more can be had; the error has `name`, the need and the remedy.
    """
    watch = _MemoryWatch(reserve_mb, meter)
    try:
        try:
            watch.start()
            return work()
        finally:
            watch.end()
    except _Stop:
        watch.end()
        why = f"{watch.left:.0f} MB of memory are left, and {reserve_mb:.0f} MB have to stay free"
    except MemoryError:
        why = "no more memory can be had"
    raise OutOfMemoryError(
        f"{name} was stopped: {why}. This process and its children have "
        f"{meter.peak_megabytes():.0f} MB at their peak.",
        "Add memory to the machine, run fewer runs at once (GRADE_ML_RUN_AT_ONCE), choose "
        "fewer courses, or reserve less memory (GRADE_ML_RUN_MEMORY_RESERVE_MB).",
    )


class _Stop(BaseException):
    """What stops work; no `except Exception` on its way takes it for the failure of a part."""


class _MemoryWatch(threading.Thread):
    """Raises `_Stop` in the thread that made it, again and again, while memory is short."""

    #: A process fills a gigabyte in half a second when it copies, more slowly when it computes.
    PAUSE_SECONDS = 0.25

    def __init__(self, reserve_mb: float, meter: Meter) -> None:
        super().__init__(name="memory watch", daemon=True)
        self.left = math.inf
        self._meter = meter
        self._reserve = reserve_mb
        self._worker = threading.get_ident()
        self._over, self._lock = threading.Event(), threading.Lock()

    def run(self) -> None:
        while not self._over.wait(self.PAUSE_SECONDS):
            left = left_megabytes()
            with self._lock:
                if left < self._reserve and not self._over.is_set():
                    self.left = left
                    _raise_in(self._worker, _Stop)
            self._meter.look()

    def end(self) -> None:
        """Raise nothing any more, nor what is on its way."""
        with self._lock:
            self._over.set()
            _raise_in(self._worker, None)


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Make a thread raise at its next step in Python; `None` cancels what it was to raise."""
    given = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), given)
