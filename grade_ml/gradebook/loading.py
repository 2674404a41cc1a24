"""Loading a bundle: every row is staged, judged and merged by set-based SQL in one transaction.

The sources (`bundle`) decide which rows they have. Rows that cannot be stored are in
`gradebook.quarantine` afterwards; a bundle that cannot be read leaves the gradebook as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import Connection, Engine, Table, text

from grade_ml.core import database
from grade_ml.core.errors import SourceError
from grade_ml.core.locks import DatabaseLock
from grade_ml.core.policy import outdated
from grade_ml.core.texts import line
from grade_ml.gradebook import schema
from grade_ml.gradebook.bundle import PROBLEM_COLUMNS, RANK, ROW, Batch, Bundle, Repeats, problems
from grade_ml.gradebook.frames import with_defaults
from grade_ml.gradebook.limits import LIMITS
from grade_ml.gradebook.rules import violations
from grade_ml.gradebook.schema import Status

#: Called with what is being done and how many rows were just read, 0 for steps without a count.
Progress = Callable[[str, int], None]

#: Problems that a report quotes; all of them are in the quarantine.
SAMPLE = 20
#: Characters of a problem in a report.
_QUOTED = 1000
#: Sorting and hashing of a million staged rows in memory; beyond it PostgreSQL uses its disk.
WORK_MEMORY = "64MB"
HIDDEN = "[hidden]"

_TABLES = {table.name: table for table in schema.TABLES}
#: How the courses of changed rows of a table are determined.
_COURSES_OF = {
    schema.student: "join gradebook.enrollment using (student_id) "
    "join gradebook.section using (section_id)",
    schema.term: "join gradebook.section using (term_id)",
    schema.course: "",
    schema.section: "",
    **dict.fromkeys(
        (schema.enrollment, schema.assignment, schema.activity),
        "join gradebook.section using (section_id)",
    ),
    schema.result: "join gradebook.assignment using (assignment_id) "
    "join gradebook.section using (section_id)",
}
_SEEN_ON = "coalesce(graded_on, submitted_on)"
_KEEP_HISTORY = (
    f"insert into {schema.earlier_result} "
    "(assignment_id, student_id, until, status, score, submitted_on, graded_on, late)"
)


@dataclass(frozen=True)
class Problem:
    """One row that was not loaded; `value` is hidden where it identifies a student."""

    file: str
    row: int
    column: str
    value: str | None
    reason: str

    def __str__(self) -> str:
        value = "" if self.value is None else f"{self.value} "
        return line(f"{self.file}, row {self.row}, {self.column}: {value}{self.reason}.", _QUOTED)


@dataclass(frozen=True)
class LoadReport:
    """What a load did: rows per table, and the first problems.

    `loaded` counts rows inserted or changed, `unchanged` rows that contained nothing new, `removed`
    rows deleted at the source's request, `rejected` rows put into quarantine, of which
    `newly_rejected` (all tables) were not there yet. `courses` are the ids of those whose records
    changed, `notes` further sentences.
    """

    source: str
    loaded: dict[str, int]
    unchanged: dict[str, int]
    removed: dict[str, int]
    rejected: dict[str, int]
    newly_rejected: int
    problems: tuple[Problem, ...]
    courses: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def quarantined(self) -> int:
        """Rows that were not loaded, all tables."""
        return sum(self.rejected.values())

    @property
    def changed(self) -> bool:
        """Whether the gradebook or its quarantine differ from before."""
        return any((*self.loaded.values(), *self.removed.values(), self.newly_rejected))


def load(
    engine: Engine,
    bundle: Bundle,
    *,
    loaded_at: datetime,
    on_progress: Progress | None = None,
) -> LoadReport:
    """Load a bundle and return what changed.

    Loads of several processes wait for each other. Rows are updated by key; nothing is deleted
    that the bundle does not name.

    Raises
    ------
    SourceError
        A file of the bundle cannot be read; the gradebook is as before.
    ServiceError
        The database does not answer.
    """
    progress = on_progress or (lambda step, rows: None)
    with database.reachable(engine) as connection:
        DatabaseLock.LOAD.wait(connection)
        connection.execute(text(f"set local work_mem = '{WORK_MEMORY}'"))
        work = _Load(connection, bundle, progress)
        work.stage()
        removed = {t.name: work.remove(t) for t in reversed(schema.TABLES) if t in work.removals}
        counts = {t.name: work.merge(t) for t in schema.TABLES if t in work.read}
        work.require_few_refused()
        rejected, newly_rejected = work.quarantine(loaded_at)
        forget(connection, loaded_at.date())
        report = LoadReport(
            source=bundle.source,
            loaded={name: loaded for name, (loaded, _) in counts.items()},
            unchanged={name: same for name, (_, same) in counts.items()},
            removed=removed,
            rejected=rejected,
            newly_rejected=newly_rejected,
            problems=work.sample(),
            courses=tuple(sorted(work.courses)),
            notes=tuple(work.notes),
        )
        if report.changed:
            connection.execute(
                schema.load.insert().values(
                    source=report.source,
                    loaded_at=loaded_at,
                    rows_loaded=report.loaded,
                    rows_unchanged=report.unchanged,
                    rows_removed=report.removed,
                    rows_quarantined=report.quarantined,
                    courses=list(report.courses),
                    notes=list(report.notes),
                )
            )
    return report


def forget(connection: Connection, day: date) -> None:
    """Delete from the quarantine the rows that are older than its days of retention."""
    connection.execute(schema.quarantine.delete().where(outdated(schema.quarantine, day)))


class _Load:
    """The steps of one load on one connection; staging tables vanish with the transaction."""

    def __init__(self, connection: Connection, bundle: Bundle, progress: Progress) -> None:
        self._connection = connection
        self._bundle = bundle
        self._progress = progress
        self.staged: set[Table] = set()
        self.removals: set[Table] = set()
        self.read: set[Table] = set()
        self.unchanged: Counter[Table] = Counter()
        self.courses: set[str] = set()
        self.notes: dict[str, None] = {}
        self._rows = self._refused = 0

    def stage(self) -> None:
        """Copy every batch into staging tables; rows that break a rule become problems."""
        self._run(
            'create temp table problem (owner text, file text, "row" bigint, "column" text, '
            "value text, reason text, personal boolean) on commit drop"
        )
        for batch in self._bundle.batches(self._connection):
            table = _TABLES[batch.table]
            unread = 0 if batch.problems is None else len(batch.problems)
            self._count(len(batch.rows) + batch.unchanged + unread)
            self.notes |= dict.fromkeys(batch.notes)
            self.unchanged[table] += batch.unchanged
            if batch.unchanged:
                self.read.add(table)
            if batch.problems is not None:
                self._add_problems(table, batch.problems)
            if not batch.rows.empty:
                rows = batch.rows[[*_keys(table), ROW]] if batch.delete else self._judged(batch)
                database.copy_frame(self._connection, self._stage_of(table, batch.delete), rows)
            self._progress(
                f"Reading {self._bundle.origins[batch.table].file}",
                len(batch.rows) + batch.unchanged,
            )
        for table in self.staged:
            self._run(f"analyze staged_{table.name}")

    def remove(self, table: Table) -> int:
        """Delete the rows that the source wants gone; return how many were there."""
        self._progress(f"Removing from {table.name}", 0)
        match = " and ".join(f"t.{c} = s.{c}" for c in _keys(table))
        self._reject(
            table,
            stage="removal",
            where=f"not exists (select from {table} t where {match})",
            columns=_keys(table),
            reason="is to be deleted but is not in the gradebook; was it deleted before?",
        )
        for child in reversed(schema.TABLES):
            for own, foreign in _references(child, table):
                self._reject(
                    table,
                    stage="removal",
                    where=f"exists (select from {child} c where c.{own} = s.{foreign})",
                    columns=_keys(table),
                    reason=f"is to be deleted but rows of {child.name} still refer to it; "
                    "deliver their deletion too",
                )
        if table is schema.result and self._bundle.delivered_on is not None:
            self._run(
                f"""
                {_KEEP_HISTORY}
                select t.assignment_id, t.student_id, :until, t.status, t.score, t.submitted_on,
                    t.graded_on, t.late
                from {table} t join removal_result s using (assignment_id, student_id)
                where coalesce(t.graded_on, t.submitted_on) < :until
                on conflict do nothing
                """,
                until=self._bundle.delivered_on,
            )
        return self._change(
            table,
            f"delete from {table} t using removal_{table.name} s where {match} returning t.*",
        )

    def merge(self, table: Table) -> tuple[int, int]:
        """Insert or update what differs; return the rows so changed, and the rows unchanged."""
        self._progress(f"Storing {table.name}", 0)
        again = self.unchanged[table]
        if table not in self.staged:
            return 0, again
        stage = f"staged_{table.name}"
        repeats = self._bundle.origins[table.name].repeats
        if repeats is Repeats.SUM:
            stage = self._sum(table)
        elif repeats is Repeats.FIRST:
            self._keep_first(table)
        elif repeats is Repeats.LATEST:
            if self._repeated(table):
                again += self._settle_repeats(table, f"{_SEEN_ON}, {RANK}")
                self._keep_latest()
        elif self._repeated(table):
            again += self._settle_repeats(table)
        for own, parent in _parents(table):
            self._reject(
                table,
                where=f"not exists (select from {parent} p where p.{_keys(parent)[0]} = s.{own})",
                columns=[own],
                reason=f"is no known {parent.name}; deliver the {parent.name}, or correct the id",
            )
        names = [c.name for c in table.columns]
        keys = _keys(table)
        others = [n for n in names if n not in keys]
        if table is schema.result:
            self._keep_replaced()
        loaded = self._change(
            table,
            f"""
            insert into {table} ({_list(names)})
            select {_list(names, "s.")} from {stage} s left join {table} t
                on {" and ".join(f"t.{k} = s.{k}" for k in keys)}
            where t.{keys[0]} is null
                or ({_list(others, "t.")}) is distinct from ({_list(others, "s.")})
            on conflict ({_list(keys)}) do update set
                {", ".join(f'"{n}" = excluded."{n}"' for n in others)}
            returning *
            """,
        )
        kept = self._scalar(f"select count(*) from {stage}")
        return loaded, kept - loaded + again

    def quarantine(self, seen_at: datetime) -> tuple[dict[str, int], int]:
        """Store the problems; return the rows rejected per table, and how many problems are new."""
        new = self._scalar(
            """
            with stored as (
                insert into gradebook.quarantine
                    (source, file, "row", "column", value, reason, seen_at)
                select distinct :source, file, "row", "column", value, reason,
                    cast(:seen_at as timestamptz)
                from problem order by file, "row"
                on conflict (source, file, "row", "column", md5(coalesce(value, '')), md5(reason))
                do update set seen_at = greatest(quarantine.seen_at, excluded.seen_at)
                returning xmax = 0 as is_new
            )
            select count(*) from stored where is_new
            """,
            source=self._bundle.source,
            seen_at=seen_at,
        )
        rows = self._connection.execute(
            text('select owner, count(distinct (file, "row")) from problem group by owner')
        )
        return {owner: count for owner, count in rows}, new

    def sample(self) -> tuple[Problem, ...]:
        """Return the first problems, students' data hidden."""
        rows = self._connection.execute(
            text(
                'select file, "row", "column", value, reason, personal from problem '
                f'order by file, "row", "column" limit {SAMPLE}'
            )
        )
        return tuple(
            Problem(r.file, r.row, r.column, HIDDEN if r.personal else r.value, r.reason)
            for r in rows
        )

    def _judged(self, batch: Batch) -> pd.DataFrame:
        """Return the rows that satisfy the table's rules; the others become problems.

        A result whose score or date breaks a rule stays, as one whose score is unknown: a grade
        that rests on it must not take it for missing.
        """
        table = _TABLES[batch.table]
        origin = self._bundle.origins[table.name]
        rows = with_defaults(table, batch.rows)
        if table is schema.assignment:
            rows = self._without_negative_weights(rows)
        accepted = np.ones(len(rows), dtype=bool)
        for column, mask, reason in violations(table, rows):
            bad = mask.astype("boolean").to_numpy(bool, na_value=False)
            if bad.any():
                faults = problems(
                    origin.file,
                    rows[ROW][bad],
                    origin.name(column),
                    rows[column][bad],
                    reason,
                    personal=column == "student_id",
                )
                self._add_problems(table, faults)
                if table is schema.result and column not in _keys(table):
                    rows = rows.assign(
                        status=rows["status"].mask(bad, Status.GRADED.value),
                        **{name: rows[name].mask(bad) for name in ("score", column)},
                    )
                else:
                    accepted &= ~bad
        return rows if accepted.all() else rows[accepted]

    def _without_negative_weights(self, rows: pd.DataFrame) -> pd.DataFrame:
        negative = (rows["weight"] < 0).fillna(False)
        if negative.any():
            self.notes[
                f"{negative.sum()} assignments have a negative weight, which exporters write for "
                "'not weighted'; they count with weight 0."
            ] = None
        return rows.assign(weight=rows["weight"].mask(negative, 0.0))

    def _stage_of(self, table: Table, delete: bool) -> str:
        stage = f"{'removal' if delete else 'staged'}_{table.name}"
        known = self.removals if delete else self.staged
        if table not in known:
            columns = _list(_keys(table) if delete else [c.name for c in table.columns])
            self._run(
                f"create temp table {stage} on commit drop as select {columns}, "
                f'0::bigint as "{ROW}", 0::bigint as "{RANK}" from {table} limit 0'
            )
            known.add(table)
            if not delete:
                self.read.add(table)
        return stage

    def _sum(self, table: Table) -> str:
        """Stage one row per key with the counts added up; return that stage's name."""
        keys = _list(_keys(table))
        self._run(
            f'create temp table summed on commit drop as select {keys}, sum("count")::bigint as '
            f'"count", min("{ROW}") as "{ROW}", 0::bigint as "{RANK}" '
            f"from staged_{table.name} group by {keys}"
        )
        self._run(f"drop table staged_{table.name}")
        self._run(f"alter table summed rename to staged_{table.name}")
        self._run(f"analyze staged_{table.name}")
        return f"staged_{table.name}"

    def _keep_first(self, table: Table) -> None:
        self._run(
            f"""
            delete from staged_{table.name} s using (
                select ctid as place, row_number() over (
                    partition by {_list(_keys(table))} order by "{RANK}", "{ROW}") as number
                from staged_{table.name}) numbered
            where s.ctid = place and number > 1
            """
        )

    def _keep_latest(self) -> None:
        """Keep the latest result of each key; the others become its history."""
        self._run(
            f"""
            create temp table attempt on commit drop as
            select ctid as place, row_number() over later as number,
                lag({_SEEN_ON}) over later as until
            from staged_result window later as (partition by assignment_id, student_id
                order by {_SEEN_ON} desc nulls last, "{RANK}" desc nulls last, "{ROW}" desc)
            """
        )
        self._run("delete from attempt where number = 1")
        self._run(
            f"""
            {_KEEP_HISTORY}
            select assignment_id, student_id, until, status, score, submitted_on, graded_on, late
            from staged_result s join attempt on place = s.ctid
            join {schema.assignment} using (assignment_id) join {schema.student} using (student_id)
            where {_SEEN_ON} < until on conflict (assignment_id, student_id, until) do update set
                status = excluded.status, score = excluded.score, late = excluded.late,
                submitted_on = excluded.submitted_on, graded_on = excluded.graded_on
            """
        )
        self._run("delete from staged_result s using attempt where place = s.ctid")

    def _keep_replaced(self) -> None:
        """Store the gradebook's version of a result that a later result replaces."""
        old, new = (f"coalesce({t}.graded_on, {t}.submitted_on)" for t in "ts")
        self._run(
            f"""
            {_KEEP_HISTORY}
            select t.assignment_id, t.student_id, {new}, t.status, t.score, t.submitted_on,
                t.graded_on, t.late
            from {schema.result} t join staged_result s using (assignment_id, student_id)
            where {old} < {new} and (t.status, t.score) is distinct from (s.status, s.score)
                and (t.score is not null or t.status <> 'submitted'
                    or t.submitted_on is distinct from s.submitted_on)
            on conflict do nothing
            """
        )

    def _repeated(self, table: Table) -> bool:
        return bool(
            self._scalar(
                f"select exists (select from staged_{table.name} "
                f"group by {_list(_keys(table))} having count(*) > 1)"
            )
        )

    def _settle_repeats(self, table: Table, of: str = "") -> int:
        """Keep the first row of each key; return how many equal rows were dropped.

        Rows that differ in `of`, more columns of the stage, are no repeats of each other.
        """
        stage, keys = f"staged_{table.name}", _list(_keys(table)) + (of and f", {of}")
        values = f"row({_list(c.name for c in table.columns)})"
        self._run(
            f"""
            create temp table repeat on commit drop as
            select place, differs from (
                select ctid as place, row_number() over by_key as number,
                    {values} is distinct from first_value({values}) over by_key as differs
                from {stage} window by_key as (partition by {keys} order by "{ROW}", ctid)
            ) numbered where number > 1
            """
        )
        self._reject(
            table,
            where="s.ctid in (select place from repeat where differs)",
            columns=_keys(table),
            reason="stands in an earlier row too, with other values, which was kept; "
            "deliver one row for each key",
        )
        same = self._run(
            f"delete from {stage} where ctid in (select place from repeat where not differs)"
        )
        self._run("drop table repeat")
        return same

    def _reject(
        self, table: Table, *, where: str, columns: list[str], reason: str, stage: str = "staged"
    ) -> None:
        """Move the staged rows (alias s) where `where` holds to the problems."""
        origin = self._bundle.origins[table.name]
        refused = self._run(
            f"""
            with bad as (delete from {stage}_{table.name} s where {where} returning s.*)
            insert into problem
            select :owner, :file, "{ROW}", :name, concat_ws(', ', {_list(columns)}), :reason,
                :personal
            from bad
            """,
            owner=table.name,
            file=origin.file,
            name=", ".join(dict.fromkeys(origin.name(c) for c in columns)),
            reason=reason,
            personal="student_id" in columns,
        )
        self._count_refused(refused)

    def _add_problems(self, table: Table, faults: pd.DataFrame) -> None:
        frame = faults[list(PROBLEM_COLUMNS)].assign(owner=table.name)
        database.copy_frame(self._connection, "problem", frame)
        self._count_refused(len(frame))

    def _count(self, rows: int) -> None:
        self._rows += rows
        if self._rows > LIMITS.rows:
            raise SourceError(
                f"The delivery has more than {LIMITS.rows:,} rows; none was loaded.",
                "Deliver one term or one school at a time.",
            )

    def _count_refused(self, rows: int) -> None:
        self._refused += rows
        if self._refused > LIMITS.refused_rows:
            raise self._too_many(f"more than {LIMITS.refused_rows:,}")

    def require_few_refused(self) -> None:
        """Raise `SourceError` where so much is refused that something is wrong with all of it."""
        share = self._refused / max(self._rows, 1)
        if self._refused > LIMITS.refused_from_rows and share > LIMITS.refused_share:
            raise self._too_many(f"{self._refused:,} ({share:.0%})")

    def _too_many(self, count: str) -> SourceError:
        first = " ".join(str(problem) for problem in self.sample()[:3])
        return SourceError(
            f"Too many rows cannot be loaded, {count}, so none was. The first: {first}",
            "Look for what they have in common: a wrong column, a file that was left out, another "
            f"delivery's ids. At most {LIMITS.refused_rows:,} rows go into quarantine, and at most "
            f"{LIMITS.refused_share:.0%} of a delivery once they are more than "
            f"{LIMITS.refused_from_rows:,}.",
        )

    def _change(self, table: Table, statement: str) -> int:
        """Run a statement that returns the rows it changes; remember their courses."""
        count, courses = self._connection.execute(
            text(
                f"with changed as ({statement}) select (select count(*) from changed), "
                f"array(select distinct course_id from changed {_COURSES_OF[table]})"
            )
        ).one()
        self.courses |= set(courses)
        return int(count)

    def _run(self, statement: str, **values: object) -> int:
        return self._connection.execute(text(statement), values).rowcount

    def _scalar(self, statement: str, **values: Any) -> int:
        value = self._connection.execute(text(statement), values).scalar_one()
        return int(value)


def _keys(table: Table) -> list[str]:
    return [column.name for column in table.primary_key]


def _parents(table: Table) -> Iterator[tuple[str, Table]]:
    """Yield the columns of `table` that name a row of another table, and that table."""
    for column in table.columns:
        for reference in column.foreign_keys:
            yield column.name, reference.column.table


def _references(child: Table, parent: Table) -> Iterator[tuple[str, str]]:
    for own, table in _parents(child):
        if table is parent:
            yield own, _keys(parent)[0]


def _list(names: Iterable[str], prefix: str = "") -> str:
    return ", ".join(f'{prefix}"{name}"' for name in names)
