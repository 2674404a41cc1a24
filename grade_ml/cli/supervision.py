"""Keeps child processes alive: starts them in their own group, restarts them, stops the group.

`up` decides which processes are started, and when.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from grade_ml.core.process import Identity

#: A process that lived this long (seconds) starts again at once when it dies.
STEADY_SECONDS = 60
LONGEST_PAUSE_SECONDS = 30
#: After so many deaths in a row, the report includes the end of the log.
DEATHS_REPORTED = 3
#: Dagster's long-lived processes grow over weeks (its issue 32070); their runs outlive a restart.
MEMORY_LIMIT_BYTES = 2 << 30
#: A running step needs a moment to record that it was stopped.
STOP_SECONDS = 15
LOG_BYTES = 10 << 20


@dataclass
class Child:
    """One supervised process, which works in `folder`.

    `say` is called with each message for the user; the process's output goes to `log`. The last
    process is `identity`; `earlier` are dead processes whose groups live on, as runs outlive the
    daemon. If a process `has_worker`, a child of its own does its work: it starts again, too, once
    that has ended.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    say: Callable[[str], None]
    has_worker: bool = False
    identity: Identity | None = None
    earlier: list[Identity] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None
    _worker: Identity | None = None
    _deaths: int = 0
    _started: float = 0.0
    _due: float = field(default=0.0)

    def start(self) -> None:
        """Start the process in a group of its own, which a Ctrl-C in the terminal misses."""
        if self.identity and self.identity.has_group():
            self.earlier = [*self.earlier, self.identity]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.identity, self._worker = Identity.of(self._process.pid), None
        self._started = time.monotonic()

    def tend(self) -> bool:
        """Start the process again if it died and its pause is over.

        Return whether `identity` or `earlier` changed.
        """
        rotate(self.log)
        before = self.identity, self.earlier
        # Forgotten in time: later, a process of another user may get the number.
        self.earlier = [leader for leader in self.earlier if leader.has_group()]
        if self._process is not None and self._process.poll() is not None:
            self._bury(self._process.returncode)
        if self._process is not None:
            self._limit_memory()
            self._require_worker()
        elif time.monotonic() >= self._due:
            self.start()
        return (self.identity, self.earlier) != before

    @property
    def started_at(self) -> datetime | None:
        """When the running process was started, by the machine's clock as it is set now."""
        if self._process is None:
            return None
        try:
            return datetime.fromtimestamp(psutil.Process(self._process.pid).create_time(), UTC)
        except psutil.NoSuchProcess:  # it has ended in this moment
            return None

    def kill(self) -> None:
        """End the process at once, whatever it does; `tend` starts another process."""
        if self._process is not None:
            self._process.kill()

    def _bury(self, status: int) -> None:
        self._process = None
        steady = time.monotonic() - self._started > STEADY_SECONDS
        self._deaths = 1 if steady else self._deaths + 1
        pause = min(2.0 ** (self._deaths - 1), LONGEST_PAUSE_SECONDS)
        self._due = time.monotonic() + pause
        self.say(f"{self.name} ended (status {status}); it starts again in {pause:.0f} s.")
        if self._deaths % DEATHS_REPORTED == 0:
            self.say(f"{self.name} keeps ending. The end of {self.log}:\n{self.last_lines()}")

    def _limit_memory(self) -> None:
        assert self._process is not None
        with suppress(psutil.Error):
            if psutil.Process(self._process.pid).memory_info().rss > MEMORY_LIMIT_BYTES:
                self.say(f"{self.name} has grown beyond {MEMORY_LIMIT_BYTES >> 20} MB.")
                self._process.terminate()

    def _require_worker(self) -> None:
        assert self._process is not None
        if not self.has_worker or (self._worker and self._worker.is_alive()):
            return
        lost, self._worker = self._worker, None
        with suppress(psutil.NoSuchProcess):  # one of them has ended in this moment
            workers = [
                Identity.of(child.pid) for child in psutil.Process(self._process.pid).children()
            ]
            self._worker = next((worker for worker in workers if worker.is_alive()), None)
        if lost and not self._worker:
            self.say(f"The process in which {self.name} works has ended.")
            self.kill()

    def last_lines(self, count: int = 15) -> str:
        """Return the end of the log."""
        with suppress(FileNotFoundError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])
        return ""


def rotate(log: Path) -> None:
    """Move the content of a long `log` to `….old.log`.

    Its writers have it open to append, so their next lines are at its new beginning. The few lines
    that they write between copying and cutting are lost.
    """
    with suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES:
            shutil.copyfile(log, log.with_suffix(".old.log"))
            os.truncate(log, 0)


def stop(leaders: Sequence[Identity]) -> None:
    """End the groups of `leaders`: with SIGTERM, then, after `STOP_SECONDS`, with SIGKILL."""
    _signal(leaders, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline and any(leader.has_group() for leader in leaders):
        time.sleep(0.1)
    _signal(leaders, signal.SIGKILL)


def _signal(leaders: Sequence[Identity], number: signal.Signals) -> None:
    for leader in leaders:
        if leader.has_group():
            with suppress(ProcessLookupError):  # its last process has ended in this moment
                os.killpg(leader.pid, number)
