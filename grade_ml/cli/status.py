"""`grade-ml status`: what runs, what the gradebook holds, what was computed from it, what lacks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import click

from grade_ml.core import database, embedded_postgres
from grade_ml.core.clock import Clock
from grade_ml.core.errors import ConfigurationError
from grade_ml.core.masking import masked
from grade_ml.core.optional import degraded
from grade_ml.core.settings import Settings
from grade_ml.core.storage import require_writable
from grade_ml.core.texts import terminal

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from rich.console import Console

#: The daemon reports every 30 seconds.
DAEMON_SECONDS = 90
#: One that is down is known after `CONNECT_SECONDS`; this is for one that connects, then hangs.
ANSWER_SECONDS = 45


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def command(as_json: bool) -> None:
    """Say how the installation is: services, gradebook, runs, champions, what is missing.

    Ends with status 0 also where something is wrong: then it says what.
    """
    settings = Settings.from_environment()
    report = collect(settings)
    if as_json:
        click.echo(json.dumps(report, default=str))
    else:
        from rich.console import Console

        _print(Console(highlight=False), report)


#: Some of the databases are embedded, some elsewhere, and asking one would start the embedded.
_UNKNOWN = {"error": "It is elsewhere, and is asked once `grade-ml up` or another command has run."}


def collect(settings: Settings) -> dict[str, Any]:
    """Return the sections of the report; one that cannot be read is `{"error": why}`.

    A part that does not exist yet is None. An embedded server that was never started is not
    started for this; one that rests is, for a moment.
    """
    services = _services(settings)
    report: dict[str, Any] = {"home": str(settings.home), "services": services}
    if services["postgresql"] == "never started":
        elsewhere = {
            "gradebook": settings.database_url,
            "predictions": settings.database_url,
            "jobs": settings.dagster_postgres_url,
            "champions": settings.mlflow_tracking_uri,
        }
        report |= {name: None if url is None else _UNKNOWN for name, url in elsewhere.items()}
    else:
        report |= _ask(settings)
    return {**report, "degraded": degraded()}


def _ask(settings: Settings) -> dict[str, Any]:
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
        process = context.Process(target=_tell, args=(sections, settings, sender), daemon=True)
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


def _tell(sections: Sequence[str], settings: Settings, sender: Connection) -> None:
    for name in sections:
        sender.send((name, _or_error(_SECTIONS[name], settings)))


def _or_error(section: Callable[[Settings], Any], settings: Settings) -> Any:
    try:
        return section(settings)
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
    return "running" if embedded_postgres.is_running(settings.postgres_dir) else "resting"


def _gradebook(settings: Settings) -> dict[str, Any]:
    import sqlalchemy as sa

    from grade_ml.gradebook import schema

    engine = database.connect(database.start(settings).grade_ml)
    database.migrate(engine)
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


def _predictions(settings: Settings) -> dict[str, Any] | None:
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


def _jobs(settings: Settings) -> dict[str, Any]:
    from grade_ml.orchestration.instance import end_dead_runs, open_instance
    from grade_ml.orchestration.jobs import JOBS

    with open_instance(settings) as instance:
        end_dead_runs(instance)
        return {
            "daemon_alive": _daemon_alive(instance),
            "last_runs": {job.name: _last_run(instance, job.name) for job in JOBS},
        }


def _daemon_alive(instance: DagsterInstance) -> bool:
    beats = instance.get_daemon_heartbeats().values()
    newest = max((beat.timestamp for beat in beats), default=0.0)
    return Clock().now().timestamp() - newest < DAEMON_SECONDS


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


def _champions(settings: Settings) -> dict[str, Any]:
    from grade_ml.core.pseudonyms import Pseudonyms
    from grade_ml.registry.registry import Alias, Registry

    pseudonyms = Pseudonyms.of_installation(settings)
    registry = Registry(database.start(settings).mlflow, settings.storage_root, pseudonyms)
    return {
        version.name: {
            "version": version.version,
            "trained_at": version.trained_at.isoformat(),
            "metrics": dict(version.metrics),
        }
        for version in registry.holders(Alias.CHAMPION)
    }


_SECTIONS: dict[str, Callable[[Settings], Any]] = {
    "gradebook": _gradebook,
    "predictions": _predictions,
    "jobs": _jobs,
    "champions": _champions,
}
#: Sections of one service, in their order: what comes first makes its tables.
_SERVICES = (("gradebook", "predictions"), ("jobs",), ("champions",))


def _print(console: Console, report: dict[str, Any]) -> None:
    printers: dict[str, tuple[str, Callable[[Any], list[str]]]] = {
        "services": ("Services", _print_services),
        "gradebook": ("Gradebook", _print_gradebook),
        "predictions": ("Predictions", _print_predictions),
        "jobs": ("Last runs", _print_jobs),
        "champions": ("Champion models", _print_champions),
        "degraded": ("Not installed", _print_degraded),
    }
    console.print(f"grade_ml, data in {report['home']}", markup=False)
    for name, (title, printer) in printers.items():
        section = report[name]
        console.print(f"\n[bold]{title}[/bold]")
        if isinstance(section, dict) and "error" in section:
            console.print(terminal(f"  cannot be read: {section['error']}"), style="red")
        else:
            for line in printer(section):
                console.print(terminal(f"  {line}"))


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
    lines = [
        f"{name:<26} " + (f"{run['status']}, {_moment(run['created_at'])}" if run else "never ran")
        for name, run in jobs["last_runs"].items()
    ]
    if not jobs["daemon_alive"]:
        lines.append("No daemon runs, so schedules and sensors rest.")
    return lines


def _print_champions(champions: dict[str, Any] | None) -> list[str]:
    return [
        f"{name}, version {champion['version']}, trained {_moment(champion['trained_at'])}"
        for name, champion in (champions or {}).items()
    ] or ["None yet; run `grade-ml run train_traditional_models`, or wait for 02:00."]


def _print_degraded(sentences: list[str]) -> list[str]:
    if not sentences:
        return ["Nothing is missing."]
    return [*sentences, "To install one: .venv/bin/pip install -c constraints.txt -e '.[EXTRA]'"]


def _moment(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M %Z")
