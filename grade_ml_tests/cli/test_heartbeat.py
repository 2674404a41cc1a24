"""The supervisor reports a daemon that hangs, because no sensor can."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from dagster._daemon.types import DaemonHeartbeat

from grade_ml.cli.heartbeat import Watch
from grade_ml.cli.supervision import Child, stop
from grade_ml.core.clock import Clock
from grade_ml.core.settings import Settings
from grade_ml.orchestration.instance import open_instance
from grade_ml_tests.launch import wait_until


class Later(Clock):
    """The machine's time, moved on."""

    by = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.by


@pytest.fixture
def daemon(tmp_path) -> Iterator[Child]:
    """A process that hangs."""
    hangs = (sys.executable, "-c", "import threading; threading.Event().wait()")
    child = Child("daemon", hangs, os.environ, tmp_path, tmp_path / "log", print)
    child.start()
    yield child
    stop([child.identity])


@pytest.mark.slow
def test_a_daemon_that_hangs_is_reported_and_restarted(
    settings: Settings, environment, monkeypatch, daemon, capsys
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    clock = Later()
    watch = Watch(settings, daemon, clock)
    watch.look()
    assert capsys.readouterr().out == "" and daemon.identity.is_alive()
    clock.by = timedelta(minutes=6)
    watch.look()
    # Perhaps the machine was suspended.
    assert capsys.readouterr().out == "" and daemon.identity.is_alive()
    watch.look()
    assert "Alert: daemon. It has not reported since" in capsys.readouterr().out
    wait_until(lambda: not daemon.identity.is_alive(), "the end of the daemon")
    wait_until(daemon.tend, "a new one")
    clock.by = timedelta(minutes=3)
    watch.look()
    assert "Recovered" not in capsys.readouterr().out and daemon.identity.is_alive()
    with open_instance(settings) as instance:
        at = clock.now().timestamp()
        instance.add_daemon_heartbeat(DaemonHeartbeat(at, "SENSOR", "an id", []))
    watch.look()
    assert "Recovered: daemon" in capsys.readouterr().out
