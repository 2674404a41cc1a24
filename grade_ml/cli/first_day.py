"""What `grade-ml up` prints about the first day: which part runs, and what can be tried then."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote

from grade_ml.core import database
from grade_ml.core.errors import ServiceError
from grade_ml.core.settings import Settings
from grade_ml.core.texts import line
from grade_ml.core.up_record import where
from grade_ml.orchestration import progress
from grade_ml.orchestration.progress import Progress, State
from grade_ml.orchestration.timetable import FIRST_DAY

#: Between two looks.
LOOK_SECONDS = 3
#: What the part that runs a job brings.
BRINGS = {
    "sync_gradebook": "records of the OneRoster server",
    "train_traditional_models": "baseline model and predictions",
    "collect_external_data": "external data of every day",
    "train_advanced_ml_models": "ensemble and its predictions",
    "generate_time_series_forecasts": "forecasts",
    "update_model_explanations": "explanations",
    "monitor_model_performance": "monitoring",
    "manage_ab_tests": "experiments",
    "data_cleanup": "clean-up of data",
    "model_cleanup": "clean-up of models",
    "system_health": "health of the installation",
}
#: What may be tried once a job has run, as options of `grade-ml predict`.
_TRIALS = {
    "train_traditional_models": "",
    "generate_time_series_forecasts": " --forecast --plot fan.png",
    "update_model_explanations": " --explain --goal 70",
}
#: A student and a course of whom predictions are there.
Example = tuple[str, str]


class Watch:
    """Reads now and then how far the first day is, and prints what is new, until it is over."""

    def __init__(
        self,
        settings: Settings,
        url: str,
        example: Callable[[], Example | None],
        say: Callable[[str], None],
    ) -> None:
        self._settings, self._url, self._example, self._say = settings, url, example, say
        self._seen: Progress | None = None
        self._is_over = False
        self._due = time.monotonic()

    def tend(self) -> None:
        """Look, if it is time to.

        Raises
        ------
        ServiceError, SQLAlchemyError
            A database does not answer.
        """
        if self._is_over or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + LOOK_SECONDS
        self.look()

    def look(self) -> None:
        """Say what is new since the last look."""
        now = newest(self._settings)
        if now is None:
            return
        for words in news(self._seen, now, self._url, self._example()):
            self._say(words)
        self._seen = now
        self._is_over = not now.goes_on


def newest(settings: Settings) -> Progress | None:
    """Return how far the newest first day of an installation is; None: there was none."""
    dagster = database.connect(database.start(settings).dagster)
    try:
        with database.reachable(dagster) as connection:
            return progress.newest(connection)
    finally:
        dagster.dispose()


def news(
    before: Progress | None, now: Progress, url: str, example: Example | None
) -> Iterator[str]:
    """Yield a line for each change since `before`; None: nothing was printed yet.

    If a first day continues after an interruption, the first line states how much is done. A first
    day that was over before has no line.
    """
    count = len(now.parts)
    if before is None and not now.goes_on:
        return
    if before is None and now.done:
        yield f"The first day goes on: {now.done} of {count} parts are done."
    if before and now.interrupted and not before.interrupted:
        yield "  The first day was interrupted; it goes on within a minute."
    states = {part.job: part.state for part in before.parts} if before else {}
    for number, part in enumerate(now.parts, 1):
        was = states.get(part.job, State.WAITING)
        if part.state is was:
            continue
        if was is State.WAITING and (before or part.state is not State.DONE):
            yield f"First day, part {number} of {count}: {BRINGS[part.job]}"
        if part.state is State.DONE and example and part.job in _TRIALS:
            yield f"  Ready. Try: {trial(example, _TRIALS[part.job])}"
        if part.state is State.FAILED:
            yield f"  It failed: {part.reason} See {url}/runs/{now.run_id}"
    if not now.goes_on:
        yield ending(now)


def advised(text: str, settings: Settings) -> str:
    """Return the text; instead of a job to run, it names the part of the first day that brings it.

    The text is unchanged if the first day does not go on, or is past that part.
    """
    advice = _ADVICE.search(text)
    coming = advice and _coming(settings, advice["job"])
    return _ADVICE.sub(coming, text) if coming else text


#: How messages name the job that makes what is missing.
_ADVICE = re.compile(r"Run grade-ml run (?P<job>\w+)[^.]*\.")


def _coming(settings: Settings, job: str) -> str | None:
    if job not in FIRST_DAY.parts:
        return None
    number, count = FIRST_DAY.parts.index(job) + 1, len(FIRST_DAY.parts)
    what = f"part {number} of {count} ({BRINGS[job]})"
    try:
        reached = newest(settings)
    except ServiceError:  # the text without this addition states already what is wrong
        return None
    if reached is None:
        return f"The first day brings it with {what}." if where(settings.home) else None
    states = [part.state for part in reached.parts]
    state = states[number - 1]
    if not reached.goes_on or state in {State.DONE, State.FAILED}:
        return None
    if state is State.RUNNING:
        return f"The first day makes it now, with {what}; try again in a few minutes."
    now = states.index(State.RUNNING) + 1 if State.RUNNING in states else None
    return f"The first day brings it with {what}; {f'part {now} runs' if now else 'it waits'} now."


def ending(now: Progress) -> str:
    """Return the line that is printed when the first day is over."""
    if now.is_complete:
        return "The first day is over: everything in the graph is filled, and schedules renew it."
    return f"The first day is over, but not all is done. To do the rest: {program()} run first_day"


def trial(example: Example, options: str = "") -> str:
    """Return a command that predicts the example."""
    student, course = (quote(line(name)) for name in example)
    return f"{program()} predict --student {student} --course {course}{options}"


def program() -> str:
    """Return how this program is called from the current folder."""
    own = Path(sys.executable).with_name("grade-ml")
    if not own.exists() or shutil.which(own.name) == str(own):
        return own.name
    folder = Path.cwd()
    return str(own.relative_to(folder) if own.is_relative_to(folder) else own)
