"""`grade-ml up`: databases, first data, Dagster's UI and daemon, kept alive until it is stopped."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from grade_ml.cli import first_day
from grade_ml.cli.heartbeat import Watch
from grade_ml.cli.help import example
from grade_ml.cli.parameters import pass_clock, settings_at
from grade_ml.cli.supervision import Child, rotate, stop
from grade_ml.core import database, embedded_postgres
from grade_ml.core.clock import Clock
from grade_ml.core.errors import AlreadyRunningError, GradeMLError, ServiceError
from grade_ml.core.locks import acquire
from grade_ml.core.masking import masked
from grade_ml.core.optional import all_left_out
from grade_ml.core.permissions import make_private
from grade_ml.core.process import Identity
from grade_ml.core.settings import REPOSITORY, Settings, UiSettings
from grade_ml.core.storage import require_writable
from grade_ml.core.up_record import where

if TYPE_CHECKING:
    from sqlalchemy import Engine

HOST = "127.0.0.1"
#: Beyond this a child is slower than on any machine seen; its log then gives the reason.
START_SECONDS = 120
#: Children by their modules; the names are those of their logs.
_DEMO_TUNING = {"GRADE_ML_TUNING_SECONDS": "20"}
_CHILDREN = {
    "grade_ml.cli.webserver": "webserver",
    "dagster._daemon": "daemon",
    "dagster": "code_server",
    "grade_ml.cli": "providers",
}


@click.command("up", epilog=example("grade-ml up --demo", "grade-ml up --port 3001"))
@click.option("--demo", is_flag=True, help="Fill an empty gradebook with a simulated campus.")
@click.option(
    "--port",
    default=3000,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Where to serve the UI.",
)
@pass_clock
def command(clock: Clock, demo: bool, port: int) -> None:
    """Start everything on this machine and keep it running until Ctrl-C.

    Starts PostgreSQL (unless the URLs of other servers are set), brings its tables up to date, and
    runs Dagster's UI and daemon, which train and predict by themselves once there is a gradebook.
    The UI is reachable from this machine only.
    """
    from grade_ml.orchestration.queue import require_settings

    settings = settings_at(clock)
    # Before anything starts: its processes would say so in their logs only.
    require_settings()
    UiSettings.from_environment()
    with _interruptible(), _only_one(settings.home, f"http://{HOST}:{port}") as record:
        _require_free(port)
        _Launch(settings, port, record, clock).run(demo)


class _Record:
    """The file that records where `up` runs; while it runs, it is locked."""

    def __init__(self, file: IO[str], url: str) -> None:
        self.url = url
        self.providers: str | None = None
        self._file = file

    def write(self, children: list[Identity]) -> None:
        content = {
            "url": self.url,
            "providers": self.providers,
            "up": asdict(Identity.of(os.getpid())),
            "children": [asdict(child) for child in children],
        }
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps(content))
        self._file.flush()


def providers_variables(url: str) -> dict[str, str]:
    """Return the variables that point at simulated providers, but for what is set already."""
    from grade_ml.campus.providers import oneroster
    from grade_ml.external.settings import PREFIX, ExternalSettings
    from grade_ml.gradebook.rest.settings import OneRosterSettings

    variables = {}
    if not ExternalSettings.from_environment().model_fields_set:
        variables[f"{PREFIX}PROVIDERS_URL"] = url
    if not OneRosterSettings.from_environment().model_fields_set:
        variables |= oneroster.settings(url)
    return variables


@contextmanager
def _only_one(home: Path, url: str) -> Iterator[_Record]:
    require_writable(home, "Set GRADE_ML_HOME to a folder that can be written.")
    make_private(home)
    path = home / "up.lock"
    try:
        file = acquire(path, fcntl.LOCK_EX, wait_seconds=0)
    except AlreadyRunningError as error:
        running = where(home)
        if running is None:
            raise
        raise AlreadyRunningError(
            "grade-ml is already up at {} (process {}).".format(*running),
            "Open it there, or stop that process first.",
        ) from error
    with file:
        _stop_leftovers(file.read())
        record = _Record(file, url)
        record.write([])
        yield record


def _stop_leftovers(content: str) -> None:
    """End the children of an `up` that was killed: they would keep the port."""
    try:
        leaders = [Identity(**leader) for leader in json.loads(content)["children"]]
    except json.JSONDecodeError:
        return
    if any(leader.has_group() for leader in leaders):
        click.echo("The last grade-ml up was killed; stopping what it left behind.")
        stop(leaders)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServiceError(
                f"Port {port} cannot be used: {error.strerror}.",
                f"Choose another one: grade-ml up --port {port + 1} (make up PORT={port + 1}).",
            ) from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """End quietly at Ctrl-C and SIGTERM; while ending, neither can leave a process behind."""

    def interrupt(number: int, _: object) -> None:
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Stopped.")


class _Launch:
    """One `up` from its start to its end."""

    def __init__(self, settings: Settings, port: int, record: _Record, clock: Clock) -> None:
        from grade_ml.orchestration import code_server
        from grade_ml.orchestration.instance import prepare_home

        self._settings = settings
        self._port = port
        self._record = record
        self._clock = clock
        self._dagster_home = prepare_home(settings)
        environment = {
            **os.environ,
            **settings.places,
            "DAGSTER_HOME": str(self._dagster_home),
        }
        self._socket, workspace = code_server.prepare(settings)
        using = ("-w", str(workspace))
        self._ui = self._child("grade_ml.cli.webserver", environment, "-p", str(port), *using)
        self._daemon = self._child("dagster._daemon", environment, "run", *using)
        self._code_server = self._child(
            "dagster", environment, *code_server.arguments(self._socket)
        )
        # It loads the code in a child that ends after 30 s without a sign of life from it, as on a
        # machine that was suspended, and it does not start another one.
        self._code_server.has_worker = True
        self._children = [self._ui, self._daemon, self._code_server]
        self._watch = Watch(settings, self._daemon, clock)
        self._first_day: first_day.Watch | None = None

    def _child(self, module: str, environment: Mapping[str, str], *arguments: str) -> Child:
        name = _CHILDREN[module]
        return Child(
            name,
            # In the home and with -P, and in code servers by the variable that `keep_apart` sets:
            # from the folder in which `up` was called, nothing is imported and no `.env` is read.
            (sys.executable, "-P", "-m", module, *arguments),
            environment,
            self._settings.home,
            self._settings.home / "logs" / f"{name}.log",
            say=self._say,
        )

    def _say(self, words: str) -> None:
        click.echo(masked(words))

    def run(self, demo: bool) -> None:
        """Start everything and keep it alive until a signal comes."""
        try:
            self._start(demo)
            while True:
                self._tend()
                time.sleep(1)
        finally:
            # The children must end even if no terminal reads the output any more.
            with suppress(OSError):
                click.echo("Stopping …")
            stop(self._leaders())

    def _start(self, demo: bool) -> None:
        from grade_ml.orchestration import code_server

        chosen = "home" in self._settings.model_fields_set
        hint = "" if chosen else " (set GRADE_ML_HOME for another folder)"
        click.echo(f"Data in {self._settings.home}{hint}")
        with _step("PostgreSQL"):
            urls = database.start(self._settings)
        with _step("Tables of grade_ml"):
            gradebook = database.migrated(urls.grade_ml)
        with _step("Tables of Dagster"):
            killed = self._prepare_dagster()
        if killed:
            click.echo(f"Runs that had been killed, and are marked as failed now: {killed}")
        if demo and _is_demo(gradebook):
            self._add_providers()
            self._shorten_tuning()
            for reason in all_left_out():
                click.echo(reason)
        self._start_children(self._code_server)
        with _step("Tables of MLflow"):
            self._prepare_registry(urls.mlflow, gradebook)
        with _step("Code server"):
            self._wait_for(self._code_server, lambda: code_server.answers(self._socket))
        # Their first look finds it ready; otherwise they would log that it is not.
        self._start_children(*(child for child in self._children if child.identity is None))
        if demo and _is_empty(gradebook):
            with _step("Simulated campus"):
                _load_campus(gradebook, self._settings, self._clock.now())
        with _step("Dagster's UI"):
            self._wait_for(self._ui, lambda: answers(self._record.url))
        self._greet(gradebook)
        gradebook.dispose()

    def _shorten_tuning(self) -> None:
        """Shorten tuning so that users see the ensemble in minutes, unless a time was chosen."""
        if "tuning_seconds" in self._settings.model_fields_set:
            return
        for child in self._children:
            child.environment = {**child.environment, **_DEMO_TUNING}

    def _add_providers(self) -> None:
        """Serve the campus's surroundings to other children, unless they know real providers."""
        port = _providers_port(self._port)
        url = f"http://{HOST}:{port}"
        variables = providers_variables(url)
        if not variables:
            return
        for child in self._children:
            child.environment = {**child.environment, **variables}
        self._children.append(
            self._child("grade_ml.cli", self._ui.environment, "providers", "--port", str(port))
        )
        self._record.providers = url
        surroundings = any(name.startswith("GRADE_ML_EXTERNAL") for name in variables)
        subject = (
            "Weather, events and all else around the campus are"
            if surroundings
            else ("A small college that is read by OneRoster is")
        )
        click.echo(f"{subject} simulated, at {url}")

    def _prepare_dagster(self) -> int:
        """Bring Dagster's tables up to date; return how many runs had been killed."""
        from grade_ml.orchestration.instance import end_dead_runs, open_instance

        with open_instance(self._settings) as instance:
            instance.upgrade()
            killed = end_dead_runs(instance)
        if REPOSITORY and not {"GRADE_ML_HOME", "DAGSTER_HOME"} & set(os.environ):
            remember_dagster_home(REPOSITORY / ".env", self._dagster_home)
        return killed

    def _prepare_registry(self, url: str, gradebook: Engine) -> None:
        from grade_ml.registry.registry import Registry
        from grade_ml.registry.transition import Stages

        registry = Registry.of_installation(self._settings, url)
        registry.prepare()
        Stages(gradebook, registry, self._clock.now()).reconcile()

    def _start_children(self, *children: Child) -> None:
        for child in children:
            child.start()
        self._write_record()

    def _write_record(self) -> None:
        self._record.write(self._leaders())

    def _leaders(self) -> list[Identity]:
        """Return the children, then the dead children whose groups live on."""
        children = [child.identity for child in self._children if child.identity]
        return children + [leader for child in self._children for leader in child.earlier]

    def _tend(self) -> None:
        if self._settings.embedded:
            self._tend_postgres()
        if any([child.tend() for child in self._children if child.identity]):
            self._write_record()
        if self._daemon.identity:
            self._look("Whether the daemon works", self._watch)
        if self._first_day:
            self._look("How far the first day is", self._first_day)

    def _look(self, name: str, watch: Watch | first_day.Watch) -> None:
        try:
            watch.tend()
        except (GradeMLError, SQLAlchemyError) as error:
            click.echo(f"{name} could not be seen: {masked(str(error))}")

    def _tend_postgres(self) -> None:
        rotate(self._settings.postgres_dir / "log")
        if embedded_postgres.is_running(self._settings.postgres_dir):
            return
        click.echo("PostgreSQL ended; starting it again.")
        try:
            database.start(self._settings)
        except GradeMLError as error:
            click.echo(str(error))

    def _wait_for(self, child: Child, answers: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not answers():
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"The {child.name} does not answer. The end of its log:\n{child.last_lines()}",
                    f"Read {child.log}.",
                )
            self._tend()
            time.sleep(0.1)

    def _greet(self, gradebook: Engine) -> None:
        click.echo(f"\ngrade_ml is up: {self._record.url}\n")
        predicted, progress = _has_predictions(gradebook), first_day.newest(self._settings)
        goes_on = progress.goes_on if progress else not predicted
        if _is_empty(gradebook):
            click.echo("The gradebook is empty; fill it with `grade-ml load` (see --help).")
        elif not goes_on and predicted and (example := self._example()):
            click.echo(f"Try: {first_day.trial(example)}")
        elif goes_on and not (progress and progress.done):
            click.echo(
                "The first day begins: it fills the whole graph, usually within 15 minutes."
                "\nProgress is shown here; the job `first_day` under Runs shows more."
            )
        if progress and not goes_on and not progress.is_complete:
            click.echo(first_day.ending(progress))
        click.echo("`grade-ml status` shows the state of everything. Ctrl-C stops everything.")

        if goes_on:
            self._first_day = first_day.Watch(
                self._settings, self._record.url, self._example, self._say
            )

    def _example(self) -> first_day.Example | None:
        from grade_ml.campus.simulated import example

        gradebook = database.connect(database.start(self._settings).grade_ml)
        with database.reachable(gradebook) as connection:
            chosen = example(connection, self._settings.date_at(self._clock.now()))
        gradebook.dispose()
        return chosen


@contextmanager
def _step(name: str) -> Iterator[None]:
    started = time.monotonic()
    click.echo(f"  {name:<22}", nl=False)
    try:
        yield
    except BaseException:
        click.echo()
        raise
    click.echo(f" {time.monotonic() - started:5.1f} s")


def answers(url: str) -> bool:
    """Return whether Dagster's UI answers at `url`."""
    try:
        with urllib.request.urlopen(f"{url}/server_info", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _is_empty(gradebook: Engine) -> bool:
    from grade_ml.gradebook.catalog import course_ids, newest_load

    with database.reachable(gradebook) as connection:
        return not course_ids(connection) and newest_load(connection) is None


def _has_predictions(gradebook: Engine) -> bool:
    from grade_ml.serving.predictions import grade_prediction

    with database.reachable(gradebook) as connection:
        return connection.execute(sa.select(sa.exists(grade_prediction.select()))).scalar_one()


def _is_demo(gradebook: Engine) -> bool:
    """Return whether the gradebook holds a simulated campus, or nothing, which becomes one."""
    from grade_ml.gradebook.catalog import first_load

    if _is_empty(gradebook):
        return True
    with database.reachable(gradebook) as connection:
        first = first_load(connection)
    return first is not None and first.source == "simulated"


def _providers_port(port: int) -> int:
    """Return 100 above the UI's port if that is free, else any free port."""
    for candidate in (min(port + 100, 65535), 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, candidate))
            return int(probe.getsockname()[1])
    raise ServiceError("There is no free port for the simulated providers.")


def _load_campus(gradebook: Engine, settings: Settings, now: datetime) -> None:
    from grade_ml.campus.simulated import CampusConfig, load_campus

    load_campus(gradebook, settings, CampusConfig(), loaded_at=now)


def remember_dagster_home(env_file: Path, home: Path) -> None:
    """Add DAGSTER_HOME to `env_file` unless it is there, for a bare `dagster dev` beside it."""
    from dotenv import dotenv_values

    if "DAGSTER_HOME" in dotenv_values(env_file):
        return
    existing = env_file.read_text("utf-8") if env_file.exists() else ""
    separator = "" if existing.endswith("\n") or not existing else "\n"
    with env_file.open("a", encoding="utf-8") as file:
        quoted = str(home).replace("\\", "\\\\").replace("'", "\\'")
        file.write(f"{separator}DAGSTER_HOME='{quoted}'\n")
