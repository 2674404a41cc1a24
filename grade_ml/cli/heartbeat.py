"""Checks that Dagster's daemon works, for `grade-ml up`; without it no sensor runs."""

from __future__ import annotations

import time

from grade_ml.cli.supervision import Child
from grade_ml.core import database
from grade_ml.core.clock import Clock
from grade_ml.core.settings import AlertSettings, Settings
from grade_ml.orchestration import recorded

#: Between two checks by `grade-ml up`.
LOOK_SECONDS = 60


class Watch:
    """Checks the daemon `child` at intervals; reports a daemon that hangs, and restarts it.

    It hangs if it is silent in two checks: in the first after the machine was suspended, it is.
    """

    def __init__(self, settings: Settings, child: Child, clock: Clock) -> None:
        self._settings, self._child, self._clock = settings, child, clock
        self._alerts = AlertSettings.from_environment()
        self._due = time.monotonic() + LOOK_SECONDS
        self._suspects = False

    def tend(self) -> None:
        """Check the daemon if a check is due.

        Raises
        ------
        ServiceError
            A database does not answer.
        """
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + LOOK_SECONDS
        self.look()

    def look(self) -> None:
        """Send alerts about what began or ended; kill a daemon that hangs, so that it restarts."""
        from grade_ml.alerts import decisions
        from grade_ml.alerts.notifying import notify

        now, urls = self._clock.now(), database.start(self._settings)
        dagster = database.connect(urls.dagster)
        with database.reachable(dagster) as connection:
            reported = recorded.daemon_reported_at(connection)
        dagster.dispose()
        seen = filter(None, [reported, self._child.started_at])
        wrong = decisions.silent(max(seen, default=None), now)
        suspected, self._suspects = self._suspects, bool(wrong)
        if wrong and not suspected:
            return
        # A daemon that was restarted may hang again.
        reports = not decisions.silent(reported, now)
        engine = database.connect(urls.grade_ml)
        notified = notify(
            lambda: database.reachable(engine),
            self._alerts,
            wrong,
            lambda subject: reports and subject == decisions.DAEMON,
            now,
        )
        engine.dispose()
        for notice in notified.notices:
            self._child.say(f"{notice.title}. {notice.message}")
        if wrong:
            self._child.kill()
