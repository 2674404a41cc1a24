"""`grade-ml status`: how well it is, what runs, what was recorded and computed, what is wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from threading import Thread
from typing import TYPE_CHECKING, Any

import click

from grade_ml.cli.help import WIDEST, example
from grade_ml.cli.parameters import pass_clock
from grade_ml.core import database, embedded_postgres
from grade_ml.core.clock import Clock
from grade_ml.core.errors import ArtifactError, ConfigurationError, UnavailableError
from grade_ml.core.masking import masked
from grade_ml.core.optional import degraded, remedy
from grade_ml.core.settings import Settings
from grade_ml.core.storage import require_writable
from grade_ml.core.texts import line, terminal, wrapped

if TYPE_CHECKING:
    from rich.console import Console
    from sqlalchemy import Engine

    from grade_ml.orchestration.recorded import RecordedRun
    from grade_ml.registry.registry import ModelVersion, Registry

#: A course that was not rated for so many days is left out.
_RATED_DAYS = 3
#: The health is looked at every hour.
_HEALTH_AGE = timedelta(hours=2)
#: Lines of one kind.
_SHOWN = 10
#: One that is down is known after `CONNECT_SECONDS`; this is for one that connects, then hangs.
ANSWER_SECONDS = 45


@click.command("status", epilog=example("grade-ml status", "grade-ml status --json"))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@pass_clock
def command(clock: Clock, as_json: bool) -> None:
    """Say how the installation is: services, records, schedules, runs, models, alerts, gaps.

    Ends with status 0 also where something is wrong: then it says what.
    """
    settings = Settings.from_environment()
    report = collect(settings, clock.now())
    if as_json:
        click.echo(json.dumps(report, default=str))
    else:
        from rich.console import Console

        show(Console(highlight=False), report)


#: Some of the databases are embedded, some elsewhere, and asking one would start the embedded.
_UNKNOWN = {"error": "It is elsewhere, and is asked once `grade-ml up` or another command has run."}


def collect(settings: Settings, now: datetime) -> dict[str, Any]:
    """Return the sections of the report at the moment `now`.

    One that cannot be read is `{"error": why}`; a part that does not exist yet is None. An
    embedded server that was never started is not started for this; one that rests is, for a moment.
    """
    services = _services(settings)
    report: dict[str, Any] = {"home": str(settings.home), "services": services}
    if services["postgresql"] == "never started":
        urls = (settings.database_url, settings.dagster_postgres_url, settings.mlflow_tracking_uri)
        for url, sections in zip(urls, _SERVICES, strict=True):
            report |= dict.fromkeys(sections, None if url is None else _UNKNOWN)
    else:
        report |= _gathered(settings, now)
    return {**report, "degraded": degraded()}


def _gathered(settings: Settings, now: datetime) -> dict[str, Any]:
    """Query all services at once, each in a thread: a service that hangs does not stop the others.

    Only one of the threads may bring tables up to date, for Alembic's state is global: tables of
    Dagster and MLflow that do not exist yet are not made here.
    """
    sections: dict[str, Any] = {}
    threads = [
        Thread(target=_answer, args=(names, _Question(settings, now), sections), daemon=True)
        for names in _SERVICES
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + ANSWER_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = {"error": f"There was no answer within {ANSWER_SECONDS} seconds."}
    return {name: _masked(sections.get(name, late)) for name in _SECTIONS}


@dataclass(frozen=True)
class _Question:
    """What is read, and when; the databases are connected to when they are first read."""

    settings: Settings
    now: datetime

    @cached_property
    def grade_ml(self) -> Engine:
        return database.migrated(database.start(self.settings).grade_ml)

    @cached_property
    def dagster(self) -> Engine:
        return database.connect(database.start(self.settings).dagster)

    @property
    def as_of(self) -> date:
        return self.settings.date_at(self.now)


def _answer(names: Sequence[str], question: _Question, sections: dict[str, Any]) -> None:
    down: dict[str, str] | None = None
    for name in names:
        try:
            sections[name] = down or _SECTIONS[name](question)
        except Exception as error:  # whatever a library raises is what this command is there to say
            sections[name] = {"error": str(error) or type(error).__name__}
            if isinstance(error, UnavailableError):
                down = sections[name]


def _masked(section: Any) -> Any:
    if isinstance(section, dict) and "error" in section:
        return {"error": masked(section["error"])}
    return section


def _services(settings: Settings) -> dict[str, Any]:
    from grade_ml.cli.up import answers
    from grade_ml.core.up_record import where

    running = where(settings.home)
    url, pid = running or (None, None)
    return {
        "up": {"pid": pid, "url": url, "ui_answers": url is not None and answers(url)},
        "postgresql": _postgresql(settings),
    }


def _postgresql(settings: Settings) -> str:
    if not settings.embedded:
        return "elsewhere"
    try:
        require_writable(settings.home, "")
    except ConfigurationError as error:
        return f"cannot be started: {error.message}"
    if not (settings.postgres_dir / "PG_VERSION").exists():
        return "never started"
    return "running" if embedded_postgres.is_running(settings.postgres_dir) else "stopped"


def _gradebook(question: _Question) -> dict[str, Any]:
    import sqlalchemy as sa

    from grade_ml.gradebook import schema

    tables = (*schema.TABLES, schema.quarantine)
    counts = [sa.select(sa.func.count()).select_from(table).scalar_subquery() for table in tables]
    with database.reachable(question.grade_ml) as connection:
        numbers = connection.execute(sa.select(*counts)).one()
        newest = connection.execute(
            sa.select(schema.load.c.source, schema.load.c.loaded_at)
            .order_by(schema.load.c.id.desc())
            .limit(1)
        ).one_or_none()
    last_load = newest and {"source": newest.source, "loaded_at": newest.loaded_at.isoformat()}
    rows = {table.name: number for table, number in zip(tables, numbers, strict=True)}
    return {"rows": rows, "last_load": last_load}


def _published(question: _Question) -> dict[str, Any]:
    from grade_ml.core import views

    with database.reachable(question.grade_ml) as connection:
        readers = views.readers(connection)
    return {"role": readers.role, "missing": [] if readers.can_read else list(readers.remedy)}


def _health(question: _Question) -> dict[str, Any] | None:
    """Return the newest health, which the schedule `system_health` looks at; it takes seconds."""
    from grade_ml.maintenance import history

    with database.reachable(question.grade_ml) as connection:
        health = history.newest(connection)
    if health is None:
        return None
    return {
        "score": health.score,
        "as_of": health.as_of.isoformat(),
        "age_seconds": max((question.now - health.as_of).total_seconds(), 0.0),
        "worst": health.worst,
        "parts": {name: asdict(part) for name, part in health.parts.items()},
    }


def _predictions(question: _Question) -> dict[str, Any] | None:
    import sqlalchemy as sa

    from grade_ml.serving.predictions import grade_prediction

    day = grade_prediction.c.as_of
    with database.reachable(question.grade_ml) as connection:
        newest = connection.execute(
            sa.select(day, sa.func.count()).group_by(day).order_by(day.desc()).limit(1)
        ).one_or_none()
    return {"as_of": newest[0].isoformat(), "enrollments": newest[1]} if newest else None


def _monitoring(question: _Question) -> dict[str, Any]:
    from grade_ml.monitoring.store import Kind, newest_health, signals
    from grade_ml.training import requests

    as_of = question.as_of
    with database.reachable(question.grade_ml) as connection:
        health = newest_health(connection, as_of, _RATED_DAYS)
        newest = {
            signal.course_id: signal
            for signal in signals(connection, as_of, days=_RATED_DAYS)
            if signal.kind is Kind.DRIFT
        }
        requested = requests.newest(connection, as_of)
    return {
        "courses": len(health),
        "in_need": {
            name: course_health.says
            for name, course_health in health.items()
            if course_health.needs
        },
        "drifted": {name: signal.says for name, signal in newest.items() if signal.says},
        "asked_to_train": {
            name: {"asked_on": request.asked_on.isoformat(), "reason": request.reason}
            for name, request in requested.items()
            if not request.is_answered
        },
    }


def _experiments(question: _Question) -> list[dict[str, Any]]:
    from grade_ml.experiments import overview

    with database.reachable(question.grade_ml) as connection:
        return [asdict(experiment) for experiment in overview.running(connection, question.as_of)]


def _alerts(question: _Question) -> dict[str, Any]:
    from grade_ml.alerts import conditions, outbox

    with database.reachable(question.grade_ml) as connection:
        return {
            "open": [
                {
                    "subject": condition.subject,
                    "since": condition.opened_at.isoformat(),
                    "message": condition.message,
                }
                for condition in conditions.open_conditions(connection)
            ],
            "unsent": [str(notice) for notice in outbox.unsent(connection, question.now)],
        }


def _first_day(question: _Question) -> dict[str, Any] | None:
    """Return how far the first day is; None where there was none, or it is over with success."""
    from grade_ml.orchestration.progress import newest

    with database.reachable(question.dagster) as connection:
        progress = newest(connection)
    if progress is None or progress.is_complete:
        return None
    return {**asdict(progress), "says": progress.in_words()}


def _schedules(question: _Question) -> dict[str, Any]:
    """Return when each schedule runs next; None where it is switched off, or all are paused."""
    from grade_ml.core.up_record import DAEMON_SECONDS
    from grade_ml.orchestration import recorded
    from grade_ml.orchestration.timetable import CRONS, in_words, next_tick

    with database.reachable(question.dagster) as connection:
        reported = recorded.daemon_reported_at(connection)
        stopped = recorded.stopped_schedules(connection)
    silent = None if reported is None else (question.now - reported).total_seconds()
    daemon_alive = silent is not None and silent < DAEMON_SECONDS
    zone = question.settings.zone
    return {
        "daemon_alive": daemon_alive,
        "timezone": question.settings.timezone,
        "schedules": {
            name: {
                "is_on": name not in stopped,
                "when": in_words(cron),
                "next": next_tick(cron, question.now, zone).astimezone(zone).isoformat()
                if daemon_alive and name not in stopped
                else None,
            }
            for name, cron in CRONS.items()
        },
    }


def _jobs(question: _Question) -> dict[str, Any]:
    from grade_ml.orchestration import recorded
    from grade_ml.orchestration.job_descriptions import JOB_DESCRIPTIONS

    with database.reachable(question.dagster) as connection:
        runs = recorded.last_runs(connection, JOB_DESCRIPTIONS)
    return {
        "last_runs": {name: _last_run(runs.get(name)) for name in sorted(JOB_DESCRIPTIONS)},
    }


#: The statuses of Dagster that need another word.
_STATES = {
    "success": "succeeded",
    "failure": "failed",
    "started": "running",
    "queued": "waits in the queue",
    "not_started": "not started yet",
}


def _last_run(run: RecordedRun | None) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        "status": run.status,
        "created_at": run.created_at.isoformat(),
        "ended_at": run.ended_at and run.ended_at.isoformat(),
        "run_id": run.run_id,
    }


def _incomplete(question: _Question) -> dict[str, list[str]]:
    """Return by asset why it is degraded, according to the newest result of its check."""
    from grade_ml.orchestration import recorded

    with database.reachable(question.dagster) as connection:
        return recorded.incomplete(connection)


def _champions(question: _Question) -> dict[str, Any]:
    from grade_ml.gradebook.attributes import declarations
    from grade_ml.gradebook.institution import read
    from grade_ml.registry.registry import Alias, Registry

    settings = question.settings
    declared = declarations(read(settings.institution))
    urls = database.start(settings)
    registry = Registry.of_installation(settings, urls.mlflow, declared)
    return {
        version.name: {
            "version": version.version,
            "trained_at": version.trained_at.isoformat(),
            "metrics": dict(version.metrics),
            "refused": _refused(registry, version),
        }
        for version in registry.holders(Alias.CHAMPION)
    }


def _refused(registry: Registry, version: ModelVersion) -> str | None:
    """Return why the version may not serve; None: it may."""
    try:
        registry.fetch(version)
    except ArtifactError as error:
        return error.message
    return None


_Section = Callable[[_Question], Any]
_SECTIONS: dict[str, _Section] = {
    "gradebook": _gradebook,
    "health": _health,
    "predictions": _predictions,
    "published": _published,
    "monitoring": _monitoring,
    "experiments": _experiments,
    "alerts": _alerts,
    "first_day": _first_day,
    "schedules": _schedules,
    "jobs": _jobs,
    "incomplete": _incomplete,
    "champions": _champions,
}
#: Sections of one service, in their order: what comes first makes its tables.
_SERVICES = (
    (
        *("gradebook", "health", "predictions", "published", "monitoring", "experiments"),
        "alerts",
    ),
    ("schedules", "jobs", "first_day", "incomplete"),
    ("champions",),
)


def show(console: Console, report: dict[str, Any]) -> None:
    """Print what `collect` returned."""
    printers: dict[str, tuple[str, Callable[[Any], list[str]]]] = {
        "first_day": ("First day", _print_first_day),
        "health": ("Health", _print_health),
        "services": ("Services", _print_services),
        "gradebook": ("Gradebook", _print_gradebook),
        "predictions": ("Predictions", _print_predictions),
        "published": ("Tables to read", _print_published),
        "schedules": ("Schedules", _print_schedules),
        "jobs": ("Last runs", _print_jobs),
        "alerts": ("Open alerts", _print_alerts),
        "champions": ("Champion models", _print_champions),
        "monitoring": ("Health of the courses' models", _print_monitoring),
        "experiments": ("Running experiments", _print_experiments),
        "incomplete": ("Degraded", _print_incomplete),
        "degraded": ("Not installed", _print_degraded),
    }
    console.print(f"grade_ml, data in {report['home']}", markup=False)
    for name, (title, printer) in printers.items():
        section = report[name]
        if name == "first_day" and section is None:
            continue
        console.print(f"\n[bold]{title}[/bold]")
        if isinstance(section, dict) and "error" in section:
            console.print(terminal(f"  cannot be read: {section['error']}"), style="red")
        else:
            # Names are not cut or folded: users copy them.
            for paragraph in printer(section):
                lines = wrapped(paragraph, min(console.width, WIDEST) - 4).replace("\n", "\n    ")
                console.print(terminal(f"  {lines}"), soft_wrap=True)


def _print_first_day(first_day: dict[str, Any]) -> list[str]:
    return [line(first_day["says"])]


def _print_health(health: dict[str, Any] | None) -> list[str]:
    if health is None:
        return [
            "Not yet known; the job `system_health` rates it every hour, and ends the first day."
        ]
    parts, worst = health["parts"], health["worst"]
    age = timedelta(seconds=health["age_seconds"])
    score = "not yet known" if health["score"] is None else f"{health['score']:.0f} of 100"
    first = f"{score}, {_ago(age)}"
    if age > _HEALTH_AGE:
        first += "; it is rated every hour while `grade-ml up` runs"
    width = max(map(len, parts))
    return [
        first,
        *(
            f"{name:<{width}}  {_points(part['points'])}  {line(part['says'])}"
            for name, part in parts.items()
        ),
        *([f"What to do first ({worst}): {line(parts[worst]['remedy'])}"] if worst else []),
    ]


def _ago(age: timedelta) -> str:
    minutes = int(age.total_seconds() // 60)
    number, unit = (minutes, "minute") if minutes < _MANY_MINUTES else (minutes // 60, "hour")
    return f"{number} {unit}{'' if number == 1 else 's'} ago"


#: From this number on, hours are shown.
_MANY_MINUTES = 120


def _points(points: float | None) -> str:
    return "  ?" if points is None else f"{points:3.0f}"


def _print_services(services: dict[str, Any]) -> list[str]:
    up = services["up"]
    if up["pid"] is None:
        first = "UI and daemon are not running; start them with `grade-ml up`."
    elif up["ui_answers"]:
        first = f"UI at {up['url']} (process {up['pid']})"
    else:
        first = f"UI at {up['url']} does not answer yet (process {up['pid']})"
    return [first, f"PostgreSQL: {services['postgresql']}"]


def _print_gradebook(gradebook: dict[str, Any] | None) -> list[str]:
    if gradebook is None or gradebook["last_load"] is None:
        return ["Empty; load records with `grade-ml load` or try `grade-ml up --demo`."]
    load, rows = gradebook["last_load"], gradebook["rows"]
    return [
        f"Last load: {load['source']}, {_moment(load['loaded_at'])}",
        *(f"{name:<11} {count:>12,}" for name, count in rows.items()),
    ]


def _print_predictions(predictions: dict[str, Any] | None) -> list[str]:
    if predictions is None:
        return ["None yet; the first day brings them within minutes of the first load."]
    number, day = predictions["enrollments"], predictions["as_of"]
    return [f"{number:,} enrollments in running sections, as of {day}"]


def _print_published(published: dict[str, Any] | None) -> list[str]:
    if published is None:
        return ["None yet; they come with the first command that needs the database."]
    role = published["role"]
    if not published["missing"]:
        return [f"The schema `published`; members of the role {role} may read it."]
    return [
        f"The role {role} may not read them yet. As an administrator of PostgreSQL, run:",
        *(f"{statement};" for statement in published["missing"]),
    ]


def _print_schedules(timetable: dict[str, Any] | None) -> list[str]:
    paused = "The daemon is not running; schedules and sensors are paused."
    if timetable is None:
        return [paused]
    schedules = timetable["schedules"]
    names, times = (
        max(map(len, schedules)),
        max(len(schedule["when"]) for schedule in schedules.values()),
    )
    soonest = sorted(schedules, key=lambda name: (schedules[name]["next"] or "~", name))
    return [
        *([] if timetable["daemon_alive"] else [paused]),
        *(
            f"{name:<{names}}  {schedules[name]['when']:<{times}}  {_next_run(schedules[name])}"
            for name in soonest
        ),
        f"Schedules run in the time zone {timetable['timezone']} (GRADE_ML_TIMEZONE).",
    ]


def _next_run(schedule: dict[str, Any]) -> str:
    if schedule["next"]:
        return f"next {_moment(schedule['next'])}"
    return "paused" if schedule["is_on"] else "switched off"


def _print_jobs(jobs: dict[str, Any] | None) -> list[str]:
    if jobs is None:
        return ["None yet."]
    width = max(map(len, jobs["last_runs"]))
    return [
        f"{name:<{width}}  "
        + (
            f"{_STATES.get(run['status'], run['status'])}, {_moment(run['created_at'])}"
            if run
            else "never ran"
        )
        for name, run in jobs["last_runs"].items()
    ]


def _print_alerts(alerts: dict[str, Any] | None) -> list[str]:
    if alerts is None or not (alerts["open"] or alerts["unsent"]):
        return ["None."]
    lines = [
        f"{alert['subject']}, since {_moment(alert['since'])}: {line(alert['message'])}"
        for alert in alerts["open"]
    ]
    return _first_lines(lines) + _first_lines(alerts["unsent"])


def _print_champions(champions: dict[str, Any] | None) -> list[str]:
    return [
        f"{name}, version {champion['version']}, trained {_moment(champion['trained_at'])}"
        + (
            f"; REFUSED, so the next model in line predicts instead: {champion['refused']}"
            * bool(champion["refused"])
        )
        for name, champion in (champions or {}).items()
    ] or [
        "None yet; the first day brings those that pass their checks. To train at once: "
        "grade-ml run train_traditional_models"
    ]


def _print_monitoring(monitoring: dict[str, Any] | None) -> list[str]:
    if monitoring is None or not monitoring["courses"]:
        return [
            f"None was rated in the last {_RATED_DAYS} days; the job `monitor_model_performance` "
            "rates them every two hours, and on the first day."
        ]
    need, drifted = monitoring["in_need"], monitoring["drifted"]
    requests = monitoring["asked_to_train"]
    return [
        f"Courses: {monitoring['courses']}, of which {len(need)} need attention, "
        f"{len(drifted)} have drift, and {len(requests)} wait for a training.",
        *_first_lines([f"Attention: {name}, {text}" for name, text in need.items()]),
        *_first_lines([f"Drift: {name}, {text}" for name, text in drifted.items()]),
        *_first_lines(
            [
                f"Training: {name}, requested on {asked['asked_on']}: {line(asked['reason'])}"
                for name, asked in requests.items()
            ]
        ),
    ]


def _print_experiments(experiments: list[dict[str, Any]] | None) -> list[str]:
    lines = [
        f"{experiment['experiment']}: {experiment['kind']} of {experiment['subject']}, "
        f"{experiment['state']} since {experiment['since']}, {experiment['looks']} looks, "
        f"{experiment['labels']:,} labels"
        + (
            ""
            if experiment["fraction"] is None
            else f" ({experiment['fraction']:.0%} of those planned)"
        )
        + f". {line(experiment['says'])}"
        for experiment in experiments or []
    ]
    return _first_lines(lines) or ["None; one opens by itself when a challenger passes its checks."]


def _print_incomplete(incomplete: dict[str, list[str]] | None) -> list[str]:
    lines = [f"{name}: {why}" for name, reasons in (incomplete or {}).items() for why in reasons]
    return _first_lines(lines) or ["Nothing."]


def _first_lines(lines: list[str]) -> list[str]:
    more = len(lines) - _SHOWN
    return lines[:_SHOWN] + ([f"… and {more} more; --json has all"] if more > 0 else [])


def _print_degraded(sentences: list[str]) -> list[str]:
    if not sentences:
        return ["Nothing is missing."]
    return [*sentences, remedy("all")]


def _moment(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M %Z")
