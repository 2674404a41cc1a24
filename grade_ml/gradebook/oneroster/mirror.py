"""Keeping the mirror: rows of a delivery are compared with those before by `sourcedId`.

Set-based SQL on temporary tables that vanish with the load's transaction. What the rows mean for
the gradebook is known in `deriving`, which of them a bulk file takes away in `vanishing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection, Table

from grade_ml.core import database
from grade_ml.gradebook import schema
from grade_ml.gradebook.bundle import RANK, ROW
from grade_ml.gradebook.oneroster import tables
from grade_ml.gradebook.oneroster.files import Mode

#: The gradebook's key of the object of a row, if several rows may have the same object.
KEYS: Mapping[Table, tuple[str, str]] = {
    tables.enrollment: ("section_id", "student_id"),
    tables.result: ("assignment_id", "student_id"),
}
FATE = "fate"
#: First character of the ids for rows without an id of their own; no sourcedId may hold it.
_OWN = "chr(31)"


class Fate(StrEnum):
    """What becomes of a row that was delivered."""

    KEEP = "keep"
    DELETE = "delete"
    DROP = "drop"
    """It is no longer one of our rows; a row that was never known is not reported."""
    REJECT = "reject"
    """It cannot be read; what is known under its id stays."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of applying the rows of a file.

    Attributes
    ----------
    changed
        How many rows of the mirror are new, different or gone.
    conflicts
        row and sourced_id of rows that contradict an earlier row of their id.
    unmatched
        row, sourced_id and the key (if any) of rows to be deleted that were not known; `standing`
        is true for a row with a key of which other rows stay.
    stale
        How many rows were older than what was known.
    """

    changed: int
    conflicts: pd.DataFrame
    unmatched: pd.DataFrame
    stale: int

    def objections(self) -> Iterator[tuple[pd.DataFrame, str]]:
        """Yield rows (row, sourced_id) with something wrong about them, and what."""
        yield self.conflicts, "stands in an earlier row too, with other values, which was kept"
        if "standing" in self.unmatched:
            reason = "is to be deleted but is not known; another row says the same, and stays"
            yield self.unmatched[self.unmatched["standing"]], reason
            nowhere = ~self.unmatched["standing"] & self.unmatched.isna().any(axis=1)
            reason = "is to be deleted but is not known; was it deleted before?"
            yield self.unmatched[nowhere], reason

    @property
    def unknown(self) -> pd.DataFrame:
        """The rows to be deleted of which the mirror knows nothing, but maybe the gradebook."""
        if "standing" not in self.unmatched:
            return self.unmatched
        return self.unmatched[~self.unmatched["standing"]].dropna()


def incoming(table: Table) -> str:
    """Return the name of the temporary table of a table's delivered rows."""
    return f"incoming_{table.name.removeprefix('oneroster_')}"


def affected(table: Table) -> str:
    """Return the name of the temporary table of keys whose rows changed, with the line or 0."""
    return f"affected_{table.name.removeprefix('oneroster_')}"


class Mirror:
    """The mirror on one connection, inside the transaction of a load."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._prepared: set[Table] = set()

    def prepare(self, table: Table) -> None:
        """Make the temporary table of a file that was delivered."""
        self.run(
            f"create temp table {incoming(table)} on commit drop as "
            f"select *, 0::bigint as \"{ROW}\", ''::text as {FATE} from {table} limit 0"
        )
        self._prepared.add(table)

    def prepare_affected(self) -> None:
        """Make the lists of keys whose rows changed, and of what the gradebook did not have."""
        for table, keys in KEYS.items():
            self.run(
                f"create temp table {affected(table)} on commit drop as "
                f"select {', '.join(keys)} from {table} limit 0"
            )
        for name in (schema.student, schema.section, schema.assignment):
            self.run(f"create temp table new_{name.name} (id text) on commit drop")

    def stage(self, table: Table, frame: pd.DataFrame, fate: Fate) -> None:
        """Take in some delivered rows: columns of the table and the line."""
        if not frame.empty:
            database.copy_frame(
                self._connection, incoming(table), frame.assign(**{FATE: fate.value})
            )

    def apply(self, table: Table, mode: Mode) -> Outcome:
        """Apply the delivered rows to the mirror; a bulk file removes nothing here."""
        stage, keys = incoming(table), KEYS.get(table, ())
        if keys:
            self._name_those_without_id(table)
        self.run(f"create index on {stage} (sourced_id)")
        self.run(f"analyze {stage}")
        conflicts = self._settle_repeats(table)
        changed, stale, unmatched = 0, 0, pd.DataFrame()
        if mode is Mode.DELTA:
            stale = self.run(
                f"delete from {stage} i using {table} m "
                "where m.sourced_id = i.sourced_id and m.modified > i.modified"
            )
            unmatched = self._unmatched(table)
            changed += self._delete(table)
        changed += self._upsert(table)
        if keys:
            self.run(f"analyze {affected(table)}")
        if keys and len(unmatched):
            unmatched = self._with_standing(table, unmatched)
        return Outcome(changed, conflicts, unmatched, stale)

    def claim(self, system: str) -> None:
        """Note that the delivered classes are those of a system."""
        self.run(
            f"insert into {tables.system} select sourced_id, :system from "
            f"{incoming(tables.class_)} where {FATE} = '{Fate.KEEP}' "
            "on conflict (class_id) do update set system = excluded.system",
            system=system,
        )

    def run(self, statement: str, **values: object) -> int:
        """Run a statement and return how many rows it changed."""
        return self._connection.execute(sa.text(statement), values).rowcount

    def frame(self, query: str, **values: object) -> pd.DataFrame:
        """Return the rows of a query that has few."""
        rows = self._connection.execute(sa.text(query), values)
        return pd.DataFrame(rows.all(), columns=list(rows.keys()))

    def number(self, query: str, **values: object) -> int:
        """Return the single number that a query returns."""
        return int(self._connection.execute(sa.text(query), values).scalar_one())

    def _name_those_without_id(self, table: Table) -> None:
        """Give rows without sourcedId an id made of their key: they represent all rows of it."""
        stage, keys = incoming(table), KEYS[table]
        nameless = f"sourced_id is null and {FATE} in ('{Fate.KEEP}', '{Fate.DELETE}')"
        if not self.number(f"select count(*) from {stage} where {nameless}"):
            return
        others = ", ".join(c.name for c in table.columns if c.name not in keys)
        self.run(
            f"update {stage} i set sourced_id = concat_ws({_OWN}, '', {_of('i', keys)}, n) from "
            f"(select ctid as place, row_number() over (partition by {', '.join(keys)} "
            f'order by {others}, "{ROW}") as n from {stage} where {nameless}) numbered '
            "where place = i.ctid"
        )
        self.run(f"analyze {stage}")
        self.run(
            f"with gone as (delete from {table} m using (select distinct {', '.join(keys)} "
            f"from {stage} where left(sourced_id, 1) = {_OWN}) i where {_same(keys)} "
            f"and not exists (select from {stage} j where j.sourced_id = m.sourced_id) "
            f"returning {_of('m', keys)}) "
            f"insert into {affected(table)} select {', '.join(keys)} from gone"
        )

    def _settle_repeats(self, table: Table) -> pd.DataFrame:
        """Keep the last modified row of each id; return those that contradict it.

        A result that contradicts in its key, too, is none of the id's: it stays as unknown.
        """
        stage, keys = incoming(table), KEYS.get(table, ())
        if not self.number(
            f"select count(*) from (select from {stage} where sourced_id is not null "
            "group by sourced_id having count(*) > 1 limit 1) repeated"
        ):
            return pd.DataFrame(columns=[ROW, "sourced_id"])
        data = f"row({_of('i', [*(c.name for c in table.columns), FATE])})"
        key = f"row({_of('i', keys)})" if keys else "null"
        self.run(
            f"""
            create temp table repeat on commit drop as
            select * from (
                select ctid as place, i."{ROW}", sourced_id, row_number() over best as number,
                    {FATE} = '{Fate.REJECT}' or {data} is not distinct from first_value({data})
                        over best as same,
                    modified is distinct from first_value(modified) over best as older,
                    {key} is distinct from first_value({key}) over best as elsewhere
                from {stage} i where sourced_id is not null
                window best as (partition by sourced_id order by {FATE} = '{Fate.REJECT}',
                    modified desc nulls last, "{ROW}", ctid)
            ) numbered where number > 1
            """
        )
        contradicts = "not same and not older" + (" or elsewhere and not same" if keys else "")
        contradicting = self.frame(f'select "{ROW}", sourced_id from repeat where {contradicts}')
        if table is tables.result:
            unknown = ("status", "points", "words"), ("'graded'", "null", "null")
            self.run(
                f"update {stage} i set ({', '.join(unknown[0])}) = ({', '.join(unknown[1])}), "
                f"sourced_id = concat_ws({_OWN}, '', i.sourced_id, {_of('i', keys)}) "
                "from repeat where place = i.ctid and elsewhere and not same"
            )
            self.run(
                f"delete from {stage} i using {stage} j where i.ctid > j.ctid "
                f"and i.sourced_id = j.sourced_id and left(j.sourced_id, 1) = {_OWN}"
            )
            self.run("delete from repeat where elsewhere and not same")
        self.run(f"delete from {stage} i using repeat where place = i.ctid")
        self.run("drop table repeat")
        return contradicting

    def _unmatched(self, table: Table) -> pd.DataFrame:
        """Return the rows to be deleted that are not known."""
        stage, keys = incoming(table), KEYS.get(table, ())
        by_key = (
            f" and not (left(i.sourced_id, 1) = {_OWN} and exists "
            f"(select from {affected(table)} m where {_same(keys)}))"
            if keys
            else ""
        )
        return self.frame(
            f'select "{ROW}", {_of("i", ["sourced_id", *keys])} from {stage} i '
            f"where {FATE} = '{Fate.DELETE}' and not exists "
            f"(select from {table} m where m.sourced_id = i.sourced_id){by_key}"
        )

    def _delete(self, table: Table) -> int:
        """Delete the rows that a delta marks as deleted; return how many were known."""
        keys = KEYS.get(table, ())
        deletion = (
            f"delete from {table} m using {incoming(table)} i where m.sourced_id = i.sourced_id "
            f"and {FATE} in ('{Fate.DELETE}', '{Fate.DROP}')"
        )
        if not keys:
            return self.run(deletion)
        return self.run(
            f"with gone as ({deletion} returning {_of('m', keys)}) "
            f"insert into {affected(table)} select * from gone"
        )

    def _with_standing(self, table: Table, unmatched: pd.DataFrame) -> pd.DataFrame:
        keys = KEYS[table]
        self.run(
            f'create temp table asked on commit drop as select *, 0::bigint as "{ROW}" '
            f"from {affected(table)} limit 0"
        )
        database.copy_frame(
            self._connection, "asked", unmatched[[*keys, ROW]].astype({ROW: "int64"})
        )
        standing = self.frame(
            f'select "{ROW}" from asked i where exists (select from {table} m where {_same(keys)})'
        )
        self.run("drop table asked")
        return unmatched.assign(standing=unmatched[ROW].isin(standing[ROW]))

    def _upsert(self, table: Table) -> int:
        stage, keys = incoming(table), KEYS.get(table, ())
        names = [c.name for c in table.columns]
        others = [n for n in names if n != "sourced_id"]
        self.run(
            f"""
            create temp table differing on commit drop as
            select i.*{"".join(f", m.{k} as old_{k}" for k in keys)}
            from {stage} i left join {table} m on m.sourced_id = i.sourced_id
            where {FATE} = '{Fate.KEEP}' and (m.sourced_id is null
                or ({_of("m", others)}) is distinct from ({_of("i", others)}))
            """
        )
        if keys:
            self.run(
                f"""
                insert into {affected(table)}
                select {", ".join(keys)} from differing
                union all
                select {", ".join(f"old_{k}" for k in keys)} from differing
                where old_{keys[0]} is not null
                    and ({_of("differing", keys)}) <> ({", ".join(f"old_{k}" for k in keys)})
                """
            )
        changed = self.run(
            f"insert into {table} ({', '.join(names)}) select {', '.join(names)} from differing "
            "on conflict (sourced_id) do update set "
            + ", ".join(f"{n} = excluded.{n}" for n in others)
        )
        self.run("drop table differing")
        return changed

    # What follows from it

    def touch(self, table: Table, where: str, **values: object) -> None:
        """Mark all rows for which a condition holds to be derived again."""
        self.run(
            f"insert into {affected(table)} select {', '.join(KEYS[table])} from {table} "
            f"where {where}",
            **values,
        )

    def touch_delivered(self, table: Table, owner: Table, where: str) -> int:
        """Mark delivered rows without a good row of the gradebook (alias r) to be derived again.

        Returns how many delivered rows contain nothing new.
        """
        if table not in self._prepared:
            return 0
        keys = KEYS[table]
        given = f"{incoming(table)} i left join"
        on = " and ".join(f"r.{k} = i.{k}" for k in keys)
        self.run(
            f"insert into {affected(table)} select {_of('i', keys)} from {given} {owner} r on {on} "
            f"where i.{FATE} = '{Fate.KEEP}' and ({where}) and not exists "
            f"(select from {affected(table)} m where {_same(keys)})"
        )
        return self.number(
            f"select count(*) from {given} (select distinct {', '.join(keys)}, true as found "
            f"from {affected(table)}) r on {on} where i.{FATE} = '{Fate.KEEP}' and found is null"
        )

    def touch_waiting(self, table: Table, owner: Table, parent: Table) -> None:
        """Have rows derived that waited for a student, or a row of `parent`, that now arrived."""
        first, second = KEYS[table]

        def known(column: str, of: Table) -> str:
            return (
                f"(m.{column} in (select id from new_{of.name}) or "
                f"exists (select from {of} p where p.{column} = m.{column}))"
            )

        if not self.number(
            f"select (select count(*) from new_student) + (select count(*) from new_{parent.name})"
        ):
            return
        self.run(
            f"insert into {affected(table)} select m.{first}, m.{second} from {table} m "
            f"left join {owner} r on r.{first} = m.{first} and r.{second} = m.{second} "
            f"where r.{first} is null and (m.{second} in (select id from new_student) "
            f"or m.{first} in (select id from new_{parent.name})) "
            f"and {known(first, parent)} and {known(second, schema.student)} and not exists "
            f"(select from {affected(table)} i where {_same(KEYS[table])})"
        )

    def touch_texts(self, texts: Mapping[str, float]) -> None:
        """Mark results whose text has a new meaning since the last delivery for deriving again."""
        before = self.frame(f"select text, per_cent from {tables.text}")
        known = dict(zip(before["text"], before["per_cent"], strict=True))
        if known == texts:
            return
        words = self.frame(f"select distinct words from {tables.result} where words is not null")
        changed = [w for w in words["words"] if known.get(w.casefold()) != texts.get(w.casefold())]
        self.touch(tables.result, "words = any(:changed)", changed=changed)
        self.run(f"delete from {tables.text}")
        database.copy_frame(
            self._connection,
            str(tables.text),
            pd.DataFrame({"text": list(texts), "per_cent": list(texts.values())}),
        )

    def arrived(self, table: Table, ids: pd.Series) -> None:
        """List which of the ids that this delivery brings the gradebook does not have."""
        self.run("create temp table brought (id text) on commit drop")
        database.copy_frame(self._connection, "brought", pd.DataFrame({"id": ids}))
        self.run(
            f"insert into new_{table.name} select distinct id from brought where not exists "
            f"(select from {table} where {table.primary_key.columns[0].name} = id)"
        )
        self.run("drop table brought")

    def without_row(self, table: Table, owner: Table) -> pd.DataFrame:
        """Return the keys of the gradebook that the mirror no longer has."""
        keys = KEYS[table]
        return self.frame(
            f'select distinct {_of("i", keys)}, 0 as "{ROW}" from {affected(table)} i '
            f"join {owner} using ({', '.join(keys)}) "
            f"where not exists (select from {table} m where {_same(keys)})"
        )

    def deleted_ids(self, table: Table) -> pd.DataFrame:
        """Return sourced_id and row of what a delta deletes."""
        return self.frame(
            f"select sourced_id, \"{ROW}\" from {incoming(table)} where {FATE} = '{Fate.DELETE}'"
        )

    def stints(self) -> pd.DataFrame:
        """Return the enrollments to be derived again, their stints folded.

        section_id, student_id, enrolled_on (the earliest; missing where one is unknown), left_on
        (the latest; missing where one is open), row.
        """
        table = tables.enrollment
        keys = ", ".join(KEYS[table])
        stints = self.frame(
            f"""
            select m.section_id, m.student_id,
                case when bool_and(m.begins_on is not null) then min(m.begins_on) end
                    as enrolled_on,
                case when bool_and(m.ends_on is not null) then max(m.ends_on) end as left_on,
                coalesce(min(i."{ROW}"), 0) as "{ROW}"
            from {table} m join (select distinct {keys} from {affected(table)}) a using ({keys})
            {self._lines(table)} group by 1, 2
            """
        )
        return stints.assign(**{n: pd.to_datetime(stints[n]) for n in ("enrolled_on", "left_on")})

    def attempts(self, foremost: int) -> int:
        """Put the results to be derived again into `attempt_row`; return how many there are.

        An attempt that cannot be read and has no date gets that of the latest one and the rank
        `foremost`.
        """
        table = tables.result
        keys = ", ".join(KEYS[table])
        self.run(
            f"""
            create temp table attempt_row on commit drop as
            select m.assignment_id, m.student_id, m.status, m.points, m.words,
                coalesce(m.scale, l.scale) as scale, m.dated_on, m.late,
                coalesce(i."{ROW}", 0) as "{ROW}",
                coalesce(extract(epoch from m.modified) * 1000, 0)::bigint as "{RANK}",
                row_number() over () as number
            from {table} m join (select distinct {keys} from {affected(table)}) a using ({keys})
            left join (select distinct on (result_id) result_id, scale from {tables.result_scale}
                order by result_id, sourced_id) l on l.result_id = m.sourced_id
            {self._lines(table)}
            """
        )
        unreadable = "status = 'graded' and points is null and words is null and dated_on is null"
        self.run(
            f"""
            update attempt_row r set dated_on = latest, "{RANK}" = :foremost from (
                select {keys}, max(dated_on) as latest
                from attempt_row join (select distinct {keys} from attempt_row where {unreadable}) u
                using ({keys}) group by {keys}
            ) known where {" and ".join(f"r.{k} = known.{k}" for k in KEYS[table])} and {unreadable}
            """,
            foremost=foremost,
        )
        return self.number("select count(*) from attempt_row")

    def _lines(self, table: Table) -> str:
        """Return a join that gives the line of each row of the mirror (alias m) as i.row."""
        if table in self._prepared:
            return f"left join {incoming(table)} i on i.sourced_id = m.sourced_id"
        return f'left join (select null::bigint as "{ROW}") i on false'


def _of(alias: str, names: Iterable[str]) -> str:
    return ", ".join(f"{alias}.{name}" for name in names)


def _same(keys: Iterable[str]) -> str:
    return " and ".join(f"m.{key} = i.{key}" for key in keys)
