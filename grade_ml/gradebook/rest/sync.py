"""Keeps the gradebook up to date with a OneRoster server: first all records, then changes.

Up to when each endpoint was read is in `gradebook.oneroster_sync`, written by the transaction
that loads the rows; so a sync that is killed at any moment is only done again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import insert

from grade_ml.core import database
from grade_ml.core.clock import Clock
from grade_ml.core.errors import AlreadyRunningError, ServiceError, SourceError
from grade_ml.core.locks import DatabaseLock
from grade_ml.core.settings import Settings
from grade_ml.gradebook import institution, oneroster
from grade_ml.gradebook.bundle import followed_by
from grade_ml.gradebook.loading import LoadReport, Progress, load
from grade_ml.gradebook.plausibility import with_findings
from grade_ml.gradebook.rest.client import Client
from grade_ml.gradebook.rest.export import OPTIONAL, download, endpoints, write_manifest
from grade_ml.gradebook.rest.settings import PREFIX, OneRosterSettings
from grade_ml.gradebook.schema import oneroster_sync as table

#: A delta begins so long before the last sync began: clocks differ, and rows are written late.
OVERLAP = timedelta(hours=1)
#: After this, all records are read again, since a delta does not name what a server has forgotten.
#: Some hours less than a week, so that the sync of the same weekday does it.
BULK_EVERY = timedelta(days=7) - timedelta(hours=12)
#: The next sync uses the files that a failed sync has read completely, up to this age.
RESUME = timedelta(hours=6)


@dataclass(frozen=True)
class Synced:
    """What a sync did.

    Parameters
    ----------
    rows
        Rows read by endpoint.
    modes
        bulk, delta or absent by endpoint.
    report
        What the load did; `None` if nothing had changed on the server.
    """

    rows: Mapping[str, int]
    modes: Mapping[str, str]
    report: LoadReport | None
    notes: tuple[str, ...] = ()


def sync(  # noqa: PLR0913 - one for each thing that differs
    engine: Engine,
    settings: Settings,
    server: OneRosterSettings,
    *,
    now: datetime,
    clock: Clock,
    full: bool = False,
    on_progress: Progress | None = None,
) -> Synced:
    """Read what changed on the server since the last sync, and load it.

    Parameters
    ----------
    now
        The moment of the sync; the next sync requests what changed after it.
    full
        Read all records, as the first sync does, and one sync a week.

    Raises
    ------
    ConfigurationError
        Server or credentials are not set, or the server refuses them.
    AlreadyRunningError
        Another process syncs.
    ServiceError
        The server does not answer as it should; nothing was loaded.
    SourceError
        Its answers cannot be loaded; nothing was loaded.
    """
    server.require()
    url = str(server.url)
    with database.only_one(engine, DatabaseLock.ONEROSTER) as alone:
        if not alone:
            raise AlreadyRunningError(
                "Another process reads from the OneRoster server.", "Wait until it has ended."
            )
        with database.reachable(engine) as connection:
            since = {} if full else _since(connection, url, now)
        work = _prepare(settings.staging / "oneroster", server, since, now)
        progress = on_progress or (lambda step, rows: None)
        with Client(server, clock) as client:
            rows, missing = _download(client, server, work, progress)
        modes = {name: _mode(name, rows, work) for name in endpoints(server.version)}
        notes = tuple(f"The server does not offer {name} to this client." for name in missing)

        def record(connection: Connection) -> None:
            _remember(connection, url, rows, work)

        report = None
        if set(modes.values()) == {"absent"}:
            with database.reachable(engine) as connection:
                record(connection)
        else:
            of_files = modes | ({"roles": modes["users"]} if server.version == "1.2" else {})
            write_manifest(work.folder, server.version, of_files, str(urlsplit(url).hostname))
            report = _load(engine, settings, work, now, record, progress)
        shutil.rmtree(work.folder)
        return Synced(rows, modes, report, notes)


@dataclass(frozen=True)
class _Plan:
    """What is read: from when on by endpoint (missing: all), as of when the sync began."""

    folder: Path
    began: datetime
    since: Mapping[str, datetime]


def _since(connection: Connection, url: str, now: datetime) -> dict[str, datetime]:
    """Return from when on each endpoint is to be read; a missing endpoint is read whole."""
    known = list(connection.execute(sa.select(table).where(table.c.url == url)))
    if any(now - row.bulk_at >= BULK_EVERY for row in known):
        return {}
    return {row.endpoint: row.read_at - OVERLAP for row in known}


def _prepare(
    folder: Path, server: OneRosterSettings, since: Mapping[str, datetime], now: datetime
) -> _Plan:
    """Return the plan, with the files of a recently failed sync if it had the same plan."""
    content = {
        "url": server.url,
        "version": server.version,
        "since": {name: moment.isoformat() for name, moment in since.items()},
    }
    plan = folder / "plan.json"
    try:
        known = json.loads(plan.read_text())
        began = datetime.fromisoformat(known.pop("began"))
        if known == content and timedelta() <= now - began <= RESUME:
            return _Plan(folder, began, since)
    except (FileNotFoundError, ValueError, KeyError, AttributeError):
        # There was none, or it was being written when its process was killed.
        pass
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    plan.write_text(json.dumps(content | {"began": now.isoformat()}))
    return _Plan(folder, now, since)


def _download(
    client: Client, server: OneRosterSettings, plan: _Plan, progress: Progress
) -> tuple[dict[str, int], list[str]]:
    """Return rows by endpoint, and the endpoints that the server does not offer."""
    rows: dict[str, int] = {}
    missing = []
    for name in endpoints(server.version):
        done = plan.folder / f"{name}.rows"
        if done.exists():
            rows[name] = int(done.read_text())
            continue
        count = download(client, server.version, name, plan.since.get(name), plan.folder)
        progress(f"Asking for {name}", count or 0)
        if count is not None:
            rows[name] = count
            done.write_text(str(count))
        elif name in OPTIONAL:
            missing.append(name)
        else:
            raise ServiceError(
                f"The OneRoster server does not offer {name} to this client.",
                f"Let the client read them, or correct {PREFIX}URL and {PREFIX}VERSION.",
            )
    return rows, missing


def _mode(name: str, rows: Mapping[str, int], plan: _Plan) -> str:
    """Return the mode of a file: an empty bulk counts as an empty delta."""
    if not rows.get(name):
        return "absent"
    return "delta" if name in plan.since else "bulk"


def _load(  # noqa: PLR0913, PLR0917 - the parts of one load
    engine: Engine,
    settings: Settings,
    plan: _Plan,
    now: datetime,
    record: Callable[[Connection], None],
    progress: Progress,
) -> LoadReport:
    try:
        today, decided = settings.date_at(now), institution.read(settings.institution)
        bundle = oneroster.bundle(
            plan.folder, today, decided, vanishing_share=settings.vanishing_share
        )
        report = load(engine, followed_by(bundle, record), loaded_at=now, on_progress=progress)
        return with_findings(engine, report, today, decided)
    except SourceError:
        # The same files would be refused again.
        shutil.rmtree(plan.folder)
        raise


def _remember(connection: Connection, url: str, rows: Mapping[str, int], plan: _Plan) -> None:
    for name in rows:
        values = {"read_at": plan.began}
        if name not in plan.since:
            values["bulk_at"] = plan.began
        row = insert(table).values(url=url, endpoint=name, bulk_at=plan.began, read_at=plan.began)
        connection.execute(
            row.on_conflict_do_update(index_elements=["url", "endpoint"], set_=values)
        )
