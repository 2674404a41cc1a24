"""Loads what is in the inbox, once and in order, and moves it away with a report beside it.

`arrivals` knows what a delivery is, `loading` how one is loaded. A delivery is recorded in
`gradebook.delivery` by the transaction that loads it and marked when it was moved; so a process
that is killed in between leaves neither a delivery that is lost nor one that is loaded twice.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from upath import UPath

from grade_ml.core import database
from grade_ml.core.errors import (
    AlreadyRunningError,
    ConfigurationError,
    GradeMLError,
    ServiceError,
    SourceError,
)
from grade_ml.core.locks import DatabaseLock
from grade_ml.core.settings import Settings
from grade_ml.core.storage import open_file, write_whole
from grade_ml.core.texts import readable
from grade_ml.gradebook import institution
from grade_ml.gradebook.arrivals import DONE, REFUSED, Delivery, Kind, is_local, look
from grade_ml.gradebook.bundle import Bundle, followed_by
from grade_ml.gradebook.institution import Institution
from grade_ml.gradebook.loading import LoadReport, Progress, load
from grade_ml.gradebook.plausibility import with_findings
from grade_ml.gradebook.schema import delivery as table
from grade_ml.gradebook.schema import load as loads

#: What is not the delivery's fault: it stays, and the next time it is tried again.
_NOT_ITS_FAULT = (ServiceError, ConfigurationError, AlreadyRunningError)
#: How new each file of a delivery is: its newest dateLastModified, and when it was written.
Dates = dict[str, tuple[str | None, str | None]]


@dataclass(frozen=True)
class Outcome:
    """The result of one delivery.

    Parameters
    ----------
    report
        What its load did; None if it was refused.
    message, remedy
        Why it was refused, or the summary of the load; and the remedy.
    moved_to
        Its new place, within the inbox; empty if it could not be moved because of `problem`.
    """

    name: str
    kind: str
    report: LoadReport | None = None
    message: str = ""
    remedy: str = ""
    moved_to: str = ""
    problem: str = ""

    @property
    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain values."""
        return {"state": DONE if self.report else REFUSED, **asdict(self)}

    def __str__(self) -> str:
        lines = [f"{self.name}: {'loaded' if self.report else 'refused'}"]
        lines += [text for text in (self.message, self.remedy) if text]
        if self.report:
            lines += _lines(self.report)
        return readable("\n".join(lines)) + "\n"


@dataclass(frozen=True)
class Emptied:
    """What was done with an inbox: outcomes in the order of loading, and what was left alone."""

    outcomes: tuple[Outcome, ...] = ()
    notes: tuple[str, ...] = ()


def empty(
    engine: Engine, settings: Settings, *, now: datetime, on_progress: Progress | None = None
) -> Emptied:
    """Load every delivery that has arrived, in order, and move it to `done` or `refused`.

    Where another process is at it, nothing is done. A report that cannot be written or a delivery
    that cannot be moved is an outcome with a `problem`; the next call moves it without a second
    load.

    Parameters
    ----------
    settings
        Their `inbox` is emptied; they define the day of the deliveries.
    now
        The moment of the load.

    Raises
    ------
    ConfigurationError
        No inbox is set, or there is no such folder.
    ServiceError
        The database does not answer, or a delivery cannot be read; what was not loaded stays.
    """
    if settings.inbox is None:
        raise ConfigurationError(
            "No inbox is set.", "Set GRADE_ML_INBOX to a folder, or to s3://… or the like."
        )
    root = UPath(settings.inbox)
    with database.only_one(engine, DatabaseLock.INBOX) as alone:
        if not alone:
            return Emptied(notes=("Another process loads from the inbox; it takes all there is.",))
        inbox = look(root)
        day = settings.date_at(now)
        decided, share = institution.read(settings.institution), settings.vanishing_share
        staging = settings.staging / "inbox"
        work = _Work(engine, root, staging, now, day, decided, share, on_progress)
        work.forget_missing({delivery.name for delivery in inbox.deliveries})
        outcomes = tuple(work.take(delivery) for delivery in inbox.arrived(now))
    waiting = [delivery.name for delivery in inbox.deliveries[len(outcomes) :]]
    waits = [f"{waiting[0]} has not arrived whole yet."] if waiting else []
    waits += [f"{', '.join(waiting[1:])} wait until it has."] if waiting[1:] else []
    return Emptied(outcomes, (*inbox.notes, *waits))


@dataclass(frozen=True)
class _Work:
    """One pass over an inbox."""

    engine: Engine
    root: UPath
    staging: Path
    now: datetime
    today: date
    institution: Institution
    vanishing_share: float
    progress: Progress | None

    def forget_missing(self, names: set[str]) -> None:
        """Mark deliveries moved by a process that was killed before it could mark them."""
        is_missing = table.c.moved_at.is_(None) & table.c.name.not_in(names)
        with database.reachable(self.engine) as connection:
            connection.execute(sa.update(table).where(is_missing).values(moved_at=self.now))

    def take(self, delivery: Delivery) -> Outcome:
        """Load a delivery unless that was done before, and move it."""
        kind = str(delivery.kind or "")
        try:
            if delivery.fault:
                raise SourceError(delivery.fault, "Put the files themselves into the inbox.")
            with self._here(delivery) as path:
                message, report = self._load(delivery, path)
            outcome = Outcome(delivery.name, kind, report, message)
        except _NOT_ITS_FAULT:
            raise
        except OSError as error:
            raise ServiceError(
                f"{delivery.name} could not be read or copied: {error.strerror or error}.",
                "It stays in the inbox; free disk space or let the user who runs grade_ml read it.",
            ) from error
        except GradeMLError as error:
            outcome = Outcome(delivery.name, kind, None, error.message, error.remedy)
        return self._move(delivery, outcome)

    @contextmanager
    def _here(self, delivery: Delivery) -> Iterator[Path]:
        """Yield a local path of the delivery, a copy if it is elsewhere."""
        if is_local(delivery.place):
            yield Path(delivery.place.path)
            return
        shutil.rmtree(self.staging, ignore_errors=True)
        target = self.staging / delivery.name
        try:
            for file in delivery.files:
                place, copy = (_at(base, file.path) for base in (delivery.place, target))
                copy.parent.mkdir(parents=True, exist_ok=True)
                with place.open("rb") as source, copy.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
            yield target
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)

    def _load(self, delivery: Delivery, path: Path) -> tuple[str, LoadReport]:
        files = {file.path: _sha256(_at(path, file.path)) for file in delivery.files}
        with database.reachable(self.engine) as connection:
            earlier = _unmoved(connection, delivery.name, files)
        if earlier is not None:
            return earlier
        bundle = _bundle(delivery, path, self.today, self.institution, self.vanishing_share)
        source, dates = _source(path, bundle), _dates(delivery, path)
        with database.reachable(self.engine) as connection:
            _refuse_older(connection, source, dates)
        row = {"name": delivery.name, "source": source, "files": files, "dates": dates}

        def record(connection: Connection) -> None:
            if self._has_changed(delivery):
                raise ServiceError(f"{delivery.name} was written to while it was loaded.")
            connection.execute(sa.insert(table).values(**row, loaded_at=self.now))

        report = load(
            self.engine,
            followed_by(bundle, record),
            loaded_at=self.now,
            on_progress=self.progress,
        )
        return "", with_findings(self.engine, report, self.today, self.institution)

    def _has_changed(self, delivery: Delivery) -> bool:
        return delivery.stamp not in {other.stamp for other in look(self.root).deliveries}

    def _move(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        """Write the report, then move the delivery: none is in `done` without a report."""
        folder = self.root / (DONE if outcome.report else REFUSED)
        try:
            _make(folder)
            target = _free(folder, delivery.name)
            outcome = replace(outcome, moved_to=f"{folder.name}/{target.name}")
            as_json = json.dumps(outcome.as_dict | {"at": self.now.isoformat()}, indent=2)
            write_whole(folder / f"{target.name}.report.json", as_json.encode())
            write_whole(folder / f"{target.name}.report.txt", str(outcome).encode())
            _move(delivery, target)
        except OSError as error:
            problem = (
                f"{delivery.name} was {'loaded' if outcome.report else 'refused'} but could not be "
                f"moved to {folder}: {error.strerror or error}. Free disk space, or let the user "
                "who runs grade_ml write there; the next run moves it and does not load it again."
            )
            return replace(outcome, moved_to="", problem=problem)
        unmoved = (table.c.name == delivery.name) & table.c.moved_at.is_(None)
        with database.reachable(self.engine) as connection:
            connection.execute(sa.update(table).where(unmoved).values(moved_at=self.now))
        return outcome


def _at(base: Any, path: str) -> Any:
    return base / path if path else base


def _sha256(path: Path) -> str:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unmoved(
    connection: Connection, name: str, files: Mapping[str, str]
) -> tuple[str, LoadReport] | None:
    """Return what the load of this delivery did, if it was loaded but not wholly moved."""
    query = sa.select(table).where(table.c.name == name, table.c.moved_at.is_(None))
    for row in connection.execute(query.order_by(table.c.id.desc())):
        if files.items() <= row.files.items():
            done = connection.execute(
                sa.select(loads).where(loads.c.loaded_at == row.loaded_at).limit(1)
            ).one_or_none()
            source = row.source.partition("/")[0]
            loaded, unchanged, removed = (
                ({}, {}, {})
                if done is None
                else (done.rows_loaded, done.rows_unchanged, done.rows_removed)
            )
            rejected = {"all": done.rows_quarantined} if done and done.rows_quarantined else {}
            message = (
                f"It was loaded at {row.loaded_at:%Y-%m-%d %H:%M} UTC and not again; the process "
                "ended before it was moved."
            )
            return message, LoadReport(source, loaded, unchanged, removed, rejected, 0, ())
    return None


def _bundle(
    delivery: Delivery, path: Path, today: date, institution: Institution, vanishing_share: float
) -> Bundle:
    from grade_ml.gradebook import csv_folder, oneroster, oulad

    match delivery.kind:
        case Kind.ONEROSTER:
            return oneroster.bundle(path, today, institution, vanishing_share=vanishing_share)
        case Kind.OULAD:
            return oulad.bundle(path)
        case Kind.CSV:
            return csv_folder.bundle(path, institution)
    raise SourceError(
        f"The folder {delivery.name} holds no files of OneRoster, OULAD or the gradebook's CSV "
        "format.",
        "Put the files directly into it; docs/loading.md has their names.",
    )


def _files(path: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]], datetime | None]]:
    """Yield the plain CSV files of a local delivery: name, opener, and a zip's time of writing."""
    if path.is_dir():
        for file in sorted(path.glob("*.csv")):
            yield file.name, lambda file=file: open_file(file), None  # type: ignore[misc]
        return
    archive = zipfile.ZipFile(open_file(path))
    for info in archive.infolist():
        written = _written(info)
        if info.filename.endswith(".csv"):
            name = Path(info.filename).name
            yield name, lambda info=info: archive.open(info), written  # type: ignore[misc]


def _written(info: zipfile.ZipInfo) -> datetime | None:
    """Return when a member was written, `None` if the time is missing or impossible."""
    if info.date_time[0] == 1980:  # written by programs that store no time
        return None
    try:
        return datetime(*info.date_time, tzinfo=UTC)
    except ValueError:
        return None


def _source(path: Path, bundle: Bundle) -> str:
    """Return the kind and, of OneRoster, the system that made it."""
    if bundle.source != Kind.ONEROSTER:
        return bundle.source
    for name, opened, _ in _files(path):
        if name == "manifest.csv":
            with opened() as file:
                lines = csv.reader(io.TextIOWrapper(file, "utf-8-sig", errors="replace"))
                properties = {line[0].strip(): line[1].strip() for line in lines if len(line) > 1}
            system = (
                properties.get("source.systemCode") or properties.get("source.systemName") or ""
            )
            return f"{bundle.source}/{system}"
    return bundle.source


def _dates(delivery: Delivery, path: Path) -> Dates:
    """Return how new each file is, ISO times in UTC."""
    made = {Path(file.path).name: file.modified_at for file in delivery.files}
    dates: Dates = {}
    for name, opened, written in _files(path):
        if name == "manifest.csv":
            continue
        made_at = made.get(name, delivery.files[0].modified_at)
        since = written or datetime.fromtimestamp(made_at, UTC)
        modified = _last_modified(opened) if delivery.kind is Kind.ONEROSTER else None
        dates[name] = (modified, since.isoformat(timespec="seconds"))
    return dates


def _last_modified(opened: Callable[[], IO[bytes]]) -> str | None:
    """Return the newest dateLastModified; None where the file has none that can be read."""
    import pandas as pd
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    column = "dateLastModified"
    newest: pd.Timestamp | None = None
    try:
        with (
            opened() as file,
            arrow_csv.open_csv(
                file,
                parse_options=arrow_csv.ParseOptions(
                    newlines_in_values=True, invalid_row_handler=lambda row: "skip"
                ),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=[column],
                    include_missing_columns=True,
                    column_types={column: pa.string()},
                ),
            ) as reader,
        ):
            for batch in reader:
                texts = pd.Series(batch.column(0).unique().to_pylist(), dtype=object)
                # An invalid time does not show the file's age; the loader reports such rows.
                times = pd.to_datetime(texts, utc=True, errors="coerce", format="ISO8601")
                if times.notna().any():
                    newest = times.max() if newest is None else max(newest, times.max())
    except pa.ArrowInvalid:
        # The loader reports what is wrong with the file; its age is unknown here.
        return None
    return None if newest is None else newest.isoformat()


def _refuse_older(connection: Connection, source: str, dates: Dates) -> None:
    """Refuse a delivery that would bring back the past.

    It is older if one of its files is older than the newest loaded from the same source and none
    is newer. Two files are compared by dateLastModified if both have it, which survives copying,
    else by when they were written.

    Raises
    ------
    SourceError
        It is older.
    """
    newest: dict[str, list[str]] = {}
    query = sa.select(table.c.dates).where(table.c.source == source)
    for known in connection.execute(query).scalars():
        for name, pair in known.items():
            before = newest.get(name, ["", ""])
            newest[name] = [max(a or "", b) for a, b in zip(pair, before, strict=True)]
    older = ""
    for name, pair in dates.items():
        both = zip(pair, newest.get(name, ["", ""]), strict=True)
        delivered, newest_loaded = next(((a, b) for a, b in both if a and b), ("", ""))
        if name not in newest or delivered > newest_loaded:
            return
        if delivered < newest_loaded:
            older = f"its {name} is of {delivered}, the newest loaded is of {newest_loaded}"
    if older:
        raise SourceError(
            f"It is older than what was loaded from the same source: {older}.",
            "If its records are right all the same, load it with `grade-ml load`.",
        )


def _free(folder: UPath, name: str) -> UPath:
    """Return a place in `folder` that nothing has, the name with a number if it has to be."""
    stem, dot, ending = name.rpartition(".")
    if not stem or len(ending) > 4:
        stem, dot, ending = name, "", ""
    target, number = folder / name, 1
    while target.exists() or (is_local(target) and Path(target.path).is_symlink()):
        number += 1
        target = folder / f"{stem}-{number}{dot}{ending}"
    return target


def _make(folder: UPath) -> None:
    """Make a folder of the inbox; a link in its place would lead what is moved anywhere."""
    if is_local(folder) and Path(folder.path).is_symlink():
        raise OSError(errno.ELOOP, f"{folder.name} is a link, which is not followed; remove it")
    folder.mkdir(parents=True, exist_ok=True)


def _move(delivery: Delivery, target: UPath) -> None:
    if is_local(target):
        try:
            Path(delivery.place.path).rename(target.path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.move(delivery.place.path, target.path)
        return
    store = delivery.place.fs
    for file in delivery.files:
        store.copy(_at(delivery.place, file.path).path, _at(target, file.path).path)
    # What is left of a OneRoster folder after a kill must not look like one.
    for file in sorted(delivery.files, key=lambda file: file.path != "manifest.csv"):
        store.rm_file(_at(delivery.place, file.path).path)


def _lines(report: LoadReport) -> Iterator[str]:
    for table_name in {**report.loaded, **report.removed, **report.rejected}:
        counts = (report.loaded, report.unchanged, report.removed, report.rejected)
        loaded, unchanged, removed, rejected = (count.get(table_name, 0) for count in counts)
        yield (
            f"  {table_name}: {loaded:,} new or changed, {unchanged:,} unchanged, "
            f"{removed:,} removed, {rejected:,} quarantined"
        )
    if not report.changed:
        yield "Nothing changed: the gradebook already held all of this."
    yield from report.notes
    if report.quarantined:
        yield "Rows that were not loaded are in gradebook.quarantine; the first of them:"
        yield from (f"  {problem}" for problem in report.problems)
