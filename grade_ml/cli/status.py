"""`grade-ml status`: what runs, what the gradebook holds, what was computed, what is wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, cast

import click

from grade_ml.cli.parameters import pass_clock
from grade_ml.core import database, embedded_postgres
from grade_ml.core.clock import Clock
from grade_ml.core.errors import ArtifactError, ConfigurationError
from grade_ml.core.masking import masked
from grade_ml.core.optional import degraded
from grade_ml.core.settings import Settings
from grade_ml.core.storage import require_writable
from grade_ml.core.texts import line, terminal

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from rich.console import Console

    from grade_ml.registry.registry import ModelVersion, Registry

#: The daemon reports every 30 seconds.
DAEMON_SECONDS = 90
#: A course that was not judged for so many days is not spoken of.
_JUDGED_DAYS = 3
#: Lines of one kind.
_SHOWN = 10
#: One that is down is known after `CONNECT_SECONDS`; this is for one that connects, then hangs.
ANSWER_SECONDS = 45


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@pass_clock
def command(clock: Clock, as_json: bool) -> None:
    """Say how the installation is: services, records, runs, models, alerts, what is missing.

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
        report |= _ask(settings, now)
    return {**report, "degraded": degraded()}


def _ask(settings: Settings, now: datetime) -> dict[str, Any]:
    """Ask all services at once, each in a process of its own.

    One that hangs keeps no other from answering and can be ended; and the migrations of Alembic,
    which Dagster and MLflow use too, have global state: in threads, one made its tables in the
    database of another.
    """
    context = get_context("spawn")
    found: dict[str, Any] = {}
    asked = []
    for sections in _SERVICES:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_tell, args=(sections, settings, now, sender), daemon=True)
        process.start()
        sender.close()
        asked.append((process, receiver))
    deadline = time.monotonic() + ANSWER_SECONDS
    for process, receiver in asked:
        with suppress(EOFError):
            while receiver.poll(max(0.0, deadline - time.monotonic())):
                name, section = receiver.recv()
                found[name] = section
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
    late = {"error": f"There was no answer within {ANSWER_SECONDS} seconds."}
    return {name: _masked(found.get(name, late)) for name in _SECTIONS}


def _tell(sections: Sequence[str], settings: Settings, now: datetime, sender: Connection) -> None:
    for name in sections:
        sender.send((name, _or_error(_SECTIONS[name], settings, now)))


def _or_error(section: _Section, settings: Settings, now: datetime) -> Any:
    try:
        return section(settings, now)
    except Exception as error:  # whatever a library raises is what this command is there to tell
        return {"error": str(error) or type(error).__name__}


def _masked(section: Any) -> Any:
    if isinstance(section, dict) and "error" in section:
        return {"error": masked(section["error"])}
    return section


def _services(settings: Settings) -> dict[str, Any]:
    from grade_ml.cli.up import answers, where

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


def _gradebook(settings: Settings, _: datetime) -> dict[str, Any]:
    import sqlalchemy as sa

    from grade_ml.gradebook import schema

    engine = database.migrated(database.start(settings).grade_ml)
    count = sa.select(sa.func.count())
    with database.reachable(engine) as connection:
        rows = {
            table.name: connection.execute(count.select_from(table)).scalar_one()
            for table in (*schema.TABLES, schema.quarantine)
        }
        newest = connection.execute(
            sa.select(schema.load.c.source, schema.load.c.loaded_at)
            .order_by(schema.load.c.id.desc())
            .limit(1)
        ).one_or_none()
    engine.dispose()
    last_load = newest and {"source": newest.source, "loaded_at": newest.loaded_at.isoformat()}
    return {"rows": rows, "last_load": last_load}


def _predictions(settings: Settings, _: datetime) -> dict[str, Any] | None:
    import sqlalchemy as sa

    from grade_ml.serving.predictions import grade_prediction

    day = grade_prediction.c.as_of
    engine = database.connect(database.start(settings).grade_ml)
    with database.reachable(engine) as connection:
        newest = connection.execute(
            sa.select(day, sa.func.count()).group_by(day).order_by(day.desc()).limit(1)
        ).one_or_none()
    engine.dispose()
    return {"as_of": newest[0].isoformat(), "enrollments": newest[1]} if newest else None


def _monitoring(settings: Settings, now: datetime) -> dict[str, Any]:
    from grade_ml.monitoring.store import Kind, newest_health, signals
    from grade_ml.training import requests

    as_of = settings.date_at(now)
    engine = database.connect(database.start(settings).grade_ml)
    with database.reachable(engine) as connection:
        health = newest_health(connection, as_of, _JUDGED_DAYS)
        newest = {
            one.course_id: one
            for one in signals(connection, as_of, days=_JUDGED_DAYS)
            if one.kind is Kind.DRIFT
        }
        asked = requests.newest(connection, as_of)
    engine.dispose()
    return {
        "courses": len(health),
        "in_need": {name: says for name, says in health.items() if says},
        "drifted": {name: one.says for name, one in newest.items() if one.says},
        "asked_to_train": {
            name: {"asked_on": one.asked_on.isoformat(), "reason": one.reason}
            for name, one in asked.items()
            if not one.is_answered
        },
    }


def _experiments(settings: Settings, now: datetime) -> list[dict[str, Any]]:
    from dataclasses import asdict

    from grade_ml.experiments import overview

    engine = database.connect(database.start(settings).grade_ml)
    with database.reachable(engine) as connection:
        found = overview.running(connection, settings.date_at(now))
    engine.dispose()
    return [asdict(one) for one in found]


def _alerts(settings: Settings, now: datetime) -> dict[str, Any]:
    from grade_ml.alerts import conditions, outbox

    engine = database.connect(database.start(settings).grade_ml)
    with database.reachable(engine) as connection:
        unsent = outbox.unsent(connection, now)
        found = {
            "open": [
                {"subject": one.subject, "since": one.opened_at.isoformat(), "message": one.message}
                for one in conditions.open_conditions(connection)
            ],
            "unsent": [str(one) for one in unsent],
        }
    engine.dispose()
    return found


def _jobs(settings: Settings, now: datetime) -> dict[str, Any]:
    from grade_ml.orchestration.instance import end_dead_runs, open_instance
    from grade_ml.orchestration.jobs import JOBS

    with open_instance(settings) as instance:
        end_dead_runs(instance)
        return {
            "daemon_alive": _daemon_alive(instance, now),
            "last_runs": {job.name: _last_run(instance, job.name) for job in JOBS},
        }


def _daemon_alive(instance: DagsterInstance, now: datetime) -> bool:
    beats = instance.get_daemon_heartbeats().values()
    newest = max((beat.timestamp for beat in beats), default=0.0)
    return now.timestamp() - newest < DAEMON_SECONDS


def _last_run(instance: DagsterInstance, job: str) -> dict[str, Any] | None:
    from dagster import RunsFilter

    for record in instance.get_run_records(RunsFilter(job_name=job), limit=1):
        ended = record.end_time and datetime.fromtimestamp(record.end_time, UTC).isoformat()
        return {
            "status": record.dagster_run.status.value.lower(),
            "created_at": record.create_timestamp.isoformat(),
            "ended_at": ended,
            "run_id": record.dagster_run.run_id,
        }
    return None


def _incomplete(settings: Settings, _: datetime) -> dict[str, list[str]]:
    """Return by asset why it made do with less, as the newest answer of its check says."""
    from dagster import AssetCheckKey

    from grade_ml.orchestration.degradation import NAME
    from grade_ml.orchestration.instance import open_instance

    with open_instance(settings) as instance:
        keys = [AssetCheckKey(key, NAME) for key in instance.all_asset_keys()]
        storage = instance.event_log_storage
        found = storage.get_latest_asset_check_execution_by_key(keys) if keys else {}
        answers = {
            key.asset_key.to_user_string(): record.event.asset_check_evaluation
            for key, record in found.items()
            if record.event
        }
    return {
        name: [*map(str, cast(Sequence[str], answer.metadata["degraded"].value))]
        for name, answer in sorted(answers.items())
        if answer and not answer.passed
    }


def _champions(settings: Settings, _: datetime) -> dict[str, Any]:
    from grade_ml.gradebook.attributes import declarations
    from grade_ml.gradebook.institution import read
    from grade_ml.registry.registry import Alias, Registry

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


_Section = Callable[[Settings, datetime], Any]
_SECTIONS: dict[str, _Section] = {
    "gradebook": _gradebook,
    "predictions": _predictions,
    "monitoring": _monitoring,
    "experiments": _experiments,
    "alerts": _alerts,
    "jobs": _jobs,
    "incomplete": _incomplete,
    "champions": _champions,
}
#: Sections of one service, in their order: what comes first makes its tables.
_SERVICES = (
    ("gradebook", "predictions", "monitoring", "experiments", "alerts"),
    ("jobs", "incomplete"),
    ("champions",),
)


def show(console: Console, report: dict[str, Any]) -> None:
    """Print what `collect` returned."""
    printers: dict[str, tuple[str, Callable[[Any], list[str]]]] = {
        "services": ("Services", _print_services),
        "gradebook": ("Gradebook", _print_gradebook),
        "predictions": ("Predictions", _print_predictions),
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
        console.print(f"\n[bold]{title}[/bold]")
        if isinstance(section, dict) and "error" in section:
            console.print(terminal(f"  cannot be read: {section['error']}"), style="red")
        else:
            # Names are not cut or folded: whoever reads them copies them.
            for one in printer(section):
                console.print(terminal(f"  {one}"), soft_wrap=True)


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
        return ["None yet; they come with the first training."]
    return [f"{predictions['enrollments']:,} running enrollments as of {predictions['as_of']}"]


def _print_jobs(jobs: dict[str, Any] | None) -> list[str]:
    if jobs is None:
        return ["None yet."]
    width = max(map(len, jobs["last_runs"]))
    lines = [
        f"{name:<{width}}  "
        + (f"{run['status']}, {_moment(run['created_at'])}" if run else "never ran")
        for name, run in jobs["last_runs"].items()
    ]
    if not jobs["daemon_alive"]:
        lines.append("The daemon is not running; schedules and sensors are paused.")
    return lines


def _print_alerts(alerts: dict[str, Any] | None) -> list[str]:
    if alerts is None or not (alerts["open"] or alerts["unsent"]):
        return ["None."]
    told = [
        f"{one['subject']}, since {_moment(one['since'])}: {line(one['message'])}"
        for one in alerts["open"]
    ]
    return _some(told) + _some(alerts["unsent"])


def _print_champions(champions: dict[str, Any] | None) -> list[str]:
    return [
        f"{name}, version {champion['version']}, trained {_moment(champion['trained_at'])}"
        + (
            f"; REFUSED, the next in line answers: {champion['refused']}"
            * bool(champion["refused"])
        )
        for name, champion in (champions or {}).items()
    ] or ["None yet; run `grade-ml run train_traditional_models`, or wait for 02:00."]


def _print_monitoring(monitoring: dict[str, Any] | None) -> list[str]:
    if monitoring is None or not monitoring["courses"]:
        return ["Not judged lately; `monitor_model_performance` does so every two hours."]
    need, drifted = monitoring["in_need"], monitoring["drifted"]
    asked = monitoring["asked_to_train"]
    return [
        f"{monitoring['courses']} courses: {len(need)} in need, {len(drifted)} drifted, "
        f"{len(asked)} asked to be trained again",
        *_some([f"in need: {name}, {says}" for name, says in need.items()]),
        *_some([f"drifted: {name}, {says}" for name, says in drifted.items()]),
        *_some([f"to train: {name}, asked on {one['asked_on']}" for name, one in asked.items()]),
    ]


def _print_experiments(experiments: list[dict[str, Any]] | None) -> list[str]:
    told = [
        f"{one['experiment']}: {one['kind']} of {one['subject']}, {one['state']} since "
        f"{one['since']}, {one['looks']} looks, {one['labels']:,} labels"
        + ("" if one["fraction"] is None else f" ({one['fraction']:.0%} of those planned)")
        + f". {line(one['says'])}"
        for one in experiments or []
    ]
    return _some(told) or ["None; one opens by itself when a challenger passes its checks."]


def _print_incomplete(incomplete: dict[str, list[str]] | None) -> list[str]:
    told = [f"{name}: {why}" for name, some in (incomplete or {}).items() for why in some]
    return _some(told) or ["Nothing."]


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - _SHOWN
    return lines[:_SHOWN] + ([f"… and {more} more; --json has all"] if more > 0 else [])


def _print_degraded(sentences: list[str]) -> list[str]:
    if not sentences:
        return ["Nothing is missing."]
    return [*sentences, "To install one: .venv/bin/pip install -c constraints.txt -e '.[EXTRA]'"]


def _moment(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M %Z")
