"""A real `grade-ml up` for the tests that need one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from dotenv import dotenv_values

from grade_ml.cli.up import answers
from grade_ml_tests import REPOSITORY

PATIENCE_SECONDS = 120
#: With these of a developer's `.env`, a test would work on something else than its own folder.
FOREIGN = {
    "DAGSTER_POSTGRES_URL",
    "GRADE_ML_AS_OF",
    "GRADE_ML_DATABASE_URL",
    "GRADE_ML_STORAGE",
    "GRADE_ML_TIMEZONE",
    "MLFLOW_TRACKING_URI",
}

#: In the order of the record of `up`.
_CHILDREN = ("webserver", "daemon", "code_server")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], Any], what: str, patience: float = PATIENCE_SECONDS) -> Any:
    """Return the first value of `condition` that is true."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {patience} s")
        time.sleep(0.1)
    return value


class Installation:
    """An installation under `home`; nothing of the surrounding environment reaches it.

    A developer's `.env` would, so one that names other stores or another day is refused. `user` is
    the id of the one whom it belongs to, if not whoever runs the tests.
    """

    def __init__(self, home: Path, user: int | None = None, **variables: str) -> None:
        foreign = set(dotenv_values(REPOSITORY / ".env")) & FOREIGN
        assert not foreign, f"move .env away while the tests run: it sets {sorted(foreign)}"
        self.home = home
        self.folder = REPOSITORY
        self._user: dict[str, Any] = (
            {} if user is None else {"user": user, "group": user, "extra_groups": []}
        )
        self.port = free_port()
        self.output = ""
        self._process: subprocess.Popen[str] | None = None
        kept = ("PATH", "PYTHONPATH", "HOME", "LANG", "TMPDIR")
        self._environment = {
            **{name: os.environ[name] for name in kept if name in os.environ},
            # Children import nothing from cwd; another copy may be installed than is tested.
            "PYTHONPATH": str(REPOSITORY),
            "GRADE_ML_HOME": str(home),
            "DAGSTER_HOME": str(home / "dagster"),
            "OMP_NUM_THREADS": "2",
            **variables,
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._words(arguments),
            cwd=self.folder,
            env=self._environment,
            **self._user,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *arguments: str, **streams: Any) -> subprocess.Popen[str]:
        """Start a command in a group of its own; both its outputs are one unless `streams` say."""
        return subprocess.Popen(
            self._words(arguments),
            cwd=self.folder,
            env=self._environment,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **streams},
            **self._user,
            text=True,
            start_new_session=True,
        )

    def up(self, *arguments: str) -> None:
        """Start `up` and wait until it says that it is."""
        self.output = ""
        self._process = self.start("up", "--port", str(self.port), *arguments)
        threading.Thread(target=self._read, args=[self._process], daemon=True).start()
        wait_until(lambda: "Ctrl-C stops everything" in self.output or self.ended, "up")
        assert not self.ended and f"is up: {self.url}" in self.output, self.output

    @property
    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def signal(self, number: signal.Signals) -> int:
        """Send a signal to the whole group of `up`, as a terminal does; return its status."""
        assert self._process
        os.killpg(self._process.pid, number)
        return self._process.wait(60)

    def stop(self) -> None:
        if not self.ended:
            self.signal(signal.SIGTERM)

    def child(self, name: str) -> int:
        """Return the process id of a child, running or just killed."""
        # While `up` writes the record anew, it is empty for a moment.
        record = json.loads(wait_until((self.home / "up.lock").read_text, "a record of up"))
        return int(record["children"][_CHILDREN.index(name)]["pid"])

    def graphql(self, query: str) -> dict[str, Any]:
        """Return the data that the UI's server answers."""
        request = urllib.request.Request(
            f"{self.url}/graphql",
            json.dumps({"query": query}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            data: dict[str, Any] = json.load(answer)["data"]
        return data

    def postgres(self) -> psutil.Process | None:
        try:
            return psutil.Process(
                int((self.home / "postgres" / "postmaster.pid").read_text().split()[0])
            )
        except (FileNotFoundError, IndexError, psutil.NoSuchProcess):
            return None

    def _words(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-P", "-m", "grade_ml.cli", *arguments]

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            self.output += line


@contextmanager
def webserver(environment: Mapping[str, str], log: Path, *arguments: str) -> Iterator[str]:
    """Serve Dagster's UI as `up` does, without any code, and yield its URL."""
    port = free_port()
    words = [sys.executable, "-m", "grade_ml.cli.webserver", "-p", str(port), "--empty-workspace"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*words, *arguments],
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(url) or process.poll() is not None, "the UI")
        assert process.poll() is None, log.read_text()
        yield url
    finally:
        process.terminate()
        process.wait(60)
