"""One delivery: its files go into the mirror, and the derived rows go to the loader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection, Table

from grade_ml.core import database
from grade_ml.gradebook import csv_files, schema
from grade_ml.gradebook.bundle import RANK, ROW, Batch, problems
from grade_ml.gradebook.csv_files import CsvRows
from grade_ml.gradebook.frames import read_table
from grade_ml.gradebook.oneroster import deriving, people, scales, tables
from grade_ml.gradebook.oneroster.files import Files, Manifest, Mode
from grade_ml.gradebook.oneroster.mirror import FATE, KEYS, Fate, Mirror, incoming
from grade_ml.gradebook.oneroster.reading import SOURCES, STUDENT, Source, without_maximum
from grade_ml.gradebook.oneroster.vanishing import ENDED, REMOVED, WITHDRAWN, Whole, vanished

if TYPE_CHECKING:
    pass

#: Results that are held at a time.
CHUNK = 250_000
#: An attempt whose date cannot be read has priority over others: it may be the last attempt.
_FOREMOST = 2**62
_SOURCES = {source.name: source for source in SOURCES}
_STRUCTURE = ("academicSessions", "classes", "categories", "lineItems")


class Delivery:
    """One delivery being read inside the transaction of its load.

    Parameters
    ----------
    files, manifest
        What was delivered.
    delivered_on
        The day on which what is no longer named ends.
    texts
        Per cent of the institution's texts, case-folded.
    vanishing_share
        See `bundle`.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what `bundle` was given
        self,
        connection: Connection,
        files: Files,
        manifest: Manifest,
        delivered_on: date,
        texts: Mapping[str, float],
        vanishing_share: float,
    ) -> None:
        self._connection = connection
        self._files, self._manifest, self._texts = files, manifest, texts
        self._mirror = Mirror(connection)
        self._day = delivered_on
        self._whole = Whole(self._mirror, delivered_on, vanishing_share, manifest.system)
        #: Lines per file of which not even an id could be read.
        self._unreadable: Counter[str] = Counter()
        self._items = pd.DataFrame()
        self._section_ends = pd.Series(dtype="datetime64[ns]")

    def batches(self) -> Iterator[Batch]:
        """Yield every batch of the delivery."""
        yield Batch("student", pd.DataFrame(), notes=self._manifest.notes)
        self._mirror.prepare_affected()
        for source in SOURCES:
            yield from self._take_in(source)
        courses = yield from self._courses()
        yield from self._students()
        yield from self._structure(courses)
        yield from self._enrollments()
        yield from self._results()

    def _mode(self, name: str) -> Mode:
        return self._manifest.modes[name]

    def _has(self, *names: str) -> bool:
        return any(self._mode(name) is not Mode.ABSENT for name in names)

    def _read(
        self,
        name: str,
        required: tuple[str, ...] = ("sourcedId",),
        optional: tuple[str, ...] | None = None,
        personal: str = "",
    ) -> Iterator[tuple[CsvRows, CsvRows]]:
        """Yield the rows of a file to keep and those to delete, block by block."""
        mode, opener = self._mode(name), self._files.opener(name)
        if mode is Mode.ABSENT or opener is None:
            return
        for rows in csv_files.read(
            opener,
            f"{name}.csv",
            [*required, "status"] if mode is Mode.DELTA else required,
            optional=None if optional is None else [*optional, "status", "dateLastModified"],
            personal=[personal],
        ):
            kept, deleted = rows.split(rows.text("status").str.lower().eq("tobedeleted"))
            if mode is Mode.DELTA:
                strange = ~kept.text("status").str.lower().eq("active").fillna(False)
                kept.reject(strange, "status", "is no status; write active or tobedeleted")
            yield kept, deleted

    def _take_in(self, source: Source) -> Iterator[Batch]:
        """Read a mirrored file into its temporary table; yield what cannot be read of it."""
        if not self._has(source.name):
            return
        self._mirror.prepare(source.table)
        personal = source.keys[1] if source.keys else ""
        assumed = 0
        for kept, deleted in self._read(source.name, source.required, source.optional, personal):
            rows = kept
            if source.table is tables.enrollment:
                rows, others = kept.split(kept.text("role").str.lower().ne(STUDENT))
                self._stage_ids(source, others, Fate.DROP)
            self._stage(source, rows)
            role = deleted.text("role").str.lower()
            others, ours = deleted.split(role.eq(STUDENT) | role.isna())
            self._stage_ids(source, others, Fate.DROP)
            self._stage_ids(source, ours, Fate.DELETE)
            if source.table is tables.line_item:
                assumed += without_maximum(rows)
            yield Batch(source.owner.name, pd.DataFrame(), rows.problems, notes=rows.notes)
            yield Batch(source.owner.name, pd.DataFrame(), ours.problems)
        if assumed:
            yield self._note(source, f"{assumed:,} line items state no maximum; 100 is assumed.")

    def _stage(self, source: Source, rows: CsvRows) -> None:
        """Stage the rows to keep, and the ids of those that cannot be read."""
        ids = rows.identifier("sourcedId", not source.keys)
        columns = {"sourced_id": ids, "modified": rows.moment("dateLastModified")}
        frame = rows.frame(
            {**columns, **source.read(rows)}, keys=source.keys, unknown=source.unknown
        )
        self._mirror.stage(source.table, frame, Fate.KEEP)
        lost = rows.rejected & ~np.isin(rows.lines, frame[ROW])
        named = lost & rows.readable("sourcedId")
        ids_of_lost = pd.DataFrame({"sourced_id": ids, ROW: rows.lines})[named]
        self._mirror.stage(source.table, ids_of_lost, Fate.REJECT)
        self._unreadable[source.name] += int((lost & ~named).sum())

    def _stage_ids(self, source: Source, rows: CsvRows, fate: Fate) -> None:
        """Stage rows of a delta that are to be deleted or no longer ours."""
        if self._mode(source.name) is not Mode.DELTA:
            return
        ids = rows.identifier("sourcedId", not source.keys)
        columns = {"sourced_id": ids}
        if fate is Fate.DELETE:
            for name, column in zip(source.keys, KEYS.get(source.table, ()), strict=True):
                columns[column] = rows.identifier(name, ids.isna())
        self._mirror.stage(source.table, rows.frame(columns), fate)

    def _apply(self, name: str) -> Iterator[Batch]:
        """Apply a file that was read; yield what contradicts what is known."""
        source = _SOURCES[name]
        if not self._has(name):
            return
        outcome = self._mirror.apply(source.table, self._mode(name))
        if source.table is tables.class_:
            self._mirror.claim(self._manifest.system)
        if outcome.changed and source.owner is schema.result and not source.keys:
            self._mirror.touch(tables.result, "words is not null")
        if outcome.stale:
            yield self._note(
                source,
                f"{outcome.stale:,} rows of {name}.csv are older than what is known of them and "
                "were left out.",
            )
        for rows, reason in outcome.objections():
            faults = problems(f"{name}.csv", rows[ROW], "sourcedId", rows["sourced_id"], reason)
            yield Batch(source.owner.name, pd.DataFrame(), faults)
        # What a gradebook holds from before there was a mirror is known by its key only.
        if source.keys or source.table is tables.line_item:
            unknown = outcome.unknown.rename(
                columns={"sourced_id": "assignment_id"} if not source.keys else {}
            )
            yield Batch(source.owner.name, unknown, delete=True)
        if self._mode(name) is Mode.BULK and self._unreadable[name]:
            yield self._note(
                source,
                f"{self._unreadable[name]:,} lines of {name}.csv cannot be distinguished, so "
                "nothing that it does not name is taken to have left the source.",
            )

    def _is_whole(self, name: str) -> bool:
        """Return whether a file contains all rows of the source."""
        return self._mode(name) is Mode.BULK and not self._unreadable[name]

    @staticmethod
    def _note(source: Source, note: str) -> Batch:
        return Batch(source.owner.name, pd.DataFrame(), notes=(note,))

    def _courses(self) -> Generator[Batch, None, set[str]]:
        """Yield the courses; return the ids of those that are or will be known."""
        known = set(read_table(self._connection, schema.course)["course_id"])
        for kept, deleted in self._read("courses", ("sourcedId", "title"), ("subjects",)):
            columns = {
                "course_id": kept.identifier("sourcedId"),
                "title": kept.text("title"),
                "subject": kept.text("subjects").str.partition(",")[0],
            }
            frame = kept.frame(columns)
            known |= set(frame["course_id"])
            yield Batch("course", frame, kept.problems, notes=kept.notes)
            if self._mode("courses") is Mode.DELTA:
                ids = {"course_id": deleted.identifier("sourcedId")}
                yield Batch("course", deleted.frame(ids), deleted.problems, delete=True)
        return known

    def _students(self) -> Iterator[Batch]:
        """Yield users with the role of a student; other users are none of ours."""
        facts: people.Facts = {}
        for kept, deleted in self._read("demographics", personal="sourcedId"):
            facts |= people.demographics(kept, deleted)
            yield Batch("student", pd.DataFrame(), kept.problems, notes=kept.notes)
        students: set[str] = set()
        for kept, _ in self._read("roles", ("userSourcedId", "role"), (), "userSourcedId"):
            is_student = kept.text("role").str.lower().eq(STUDENT).fillna(False).astype(bool)
            students |= set(kept.required("userSourcedId")[is_student].dropna())
            yield Batch("student", pd.DataFrame(), kept.problems, notes=kept.notes)
        for kept, deleted in self._read("users", personal="sourcedId"):
            ids = kept.identifier("sourcedId")
            known = self._attributes(ids.dropna())
            is_student = kept.text("role").str.lower().eq(STUDENT).fillna(False).astype(bool)
            attributes = [
                people.merged(known.get(id_, {}), own, facts.pop(id_, {}))
                for id_, own in zip(ids, people.own_attributes(kept), strict=True)
            ]
            chosen = is_student | ids.isin(students) | ids.isin(list(known))
            frame = kept.frame(people.table(ids, attributes), chosen)
            self._mirror.arrived(schema.student, frame["student_id"])
            yield Batch("student", frame, kept.problems, notes=kept.notes)
            if self._mode("users") is Mode.DELTA:
                ids = deleted.identifier("sourcedId")
                is_student = deleted.text("role").str.lower().eq(STUDENT).fillna(False).astype(bool)
                chosen = is_student | ids.isin(list(self._attributes(ids.dropna())))
                frame = deleted.frame({"student_id": ids}, chosen)
                yield Batch("student", frame, deleted.problems, delete=True)
        known = self._attributes(facts)
        attributes = [people.merged(had, facts[id_]) for id_, had in known.items()]
        yield Batch("student", pd.DataFrame({**people.table(known, attributes), ROW: 0}))

    def _attributes(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the attributes of those students that the gradebook has."""
        query = sa.text(
            "select student_id, attributes from gradebook.student where student_id = any(:ids)"
        )
        rows = self._connection.execute(query, {"ids": list(ids)})
        return {row.student_id: row.attributes for row in rows}

    def _structure(self, courses: set[str]) -> Iterator[Batch]:
        """Yield terms, sections and assignments."""
        before = self._table(tables.line_item)
        if self._is_whole("lineItems"):
            self._whole.find_scope(tables.line_item)
        for name in _STRUCTURE:
            yield from self._apply(name)
        if self._is_whole("lineItems"):
            vanished_items = self._whole.line_items()
            notes = vanished(len(vanished_items), tables.line_item, WITHDRAWN, self._day)
            yield Batch("assignment", pd.DataFrame(), notes=notes)
        self._items = self._table(tables.line_item, "lineItems")
        sections = read_table(self._connection, schema.section)
        if self._has(*_STRUCTURE, "courses"):
            categories = self._table(tables.category)
            policy = deriving.policies(self._items, categories)
            sections = yield from self._sections(sections, policy, courses)
            derived = deriving.assignments(self._items, categories, policy)
            yield from self._assignments(before, derived, sections["section_id"])
        self._section_ends = sections.set_index("section_id")["ends_on"]

    def _sections(
        self, stored: pd.DataFrame, policy: pd.Series, courses: set[str]
    ) -> Generator[Batch, None, pd.DataFrame]:
        """Yield terms and sections; return the sections that there will be."""
        sessions = self._table(tables.session, "academicSessions")
        classes = self._table(tables.class_, "classes")
        derived = deriving.sections(classes, sessions)
        known_terms = read_table(self._connection, schema.term)
        used = pd.concat([derived["term_id"].dropna(), known_terms["term_id"]])
        yield Batch("term", _news(deriving.terms(sessions, used), known_terms))
        homeless = derived["term_id"].isna()
        lost = homeless & (derived[ROW] > 0)
        reason = "names no known session; deliver the session"
        faults = problems(
            "classes.csv",
            derived.loc[lost, ROW],
            "termSourcedIds",
            classes["sessions"][lost],
            reason,
        )
        yield Batch("section", pd.DataFrame(), faults)
        # For a class that was never delivered since there is a mirror, the gradebook has its row.
        older = stored[~stored["section_id"].isin(classes["sourced_id"])]
        older = older[older["section_id"].isin(policy.index)].assign(**{ROW: 0})
        waits = (derived[ROW] == 0) & ~derived["course_id"].isin(list(courses))
        derived = pd.concat([derived[~homeless & ~waits], older], ignore_index=True)
        rule = derived["section_id"].map(policy).astype("string[pyarrow]")
        derived["grading_policy"] = rule.fillna(schema.GradingPolicy.POINTS.value)
        news = _news(derived, stored)
        self._mirror.arrived(schema.section, news["section_id"])
        moved = news.merge(stored, on="section_id", suffixes=("", "_before"))
        moved = moved[moved["ends_on"] != moved["ends_on_before"]]
        ids = moved["section_id"].tolist()
        self._mirror.touch(tables.enrollment, "section_id = any(:ids)", ids=ids)
        yield Batch("section", news)
        for name, table in (("classes", schema.section), ("academicSessions", schema.term)):
            if self._mode(name) is Mode.DELTA:
                deleted = self._mirror.deleted_ids(_SOURCES[name].table)
                deleted = deleted.rename(columns={"sourced_id": table.primary_key.columns[0].name})
                if table is schema.term:
                    deleted = deleted[deleted["term_id"].isin(known_terms["term_id"])]
                yield Batch(table.name, deleted, delete=True)
        return pd.concat([stored, derived]).drop_duplicates("section_id", keep="last")

    def _assignments(
        self, before: pd.DataFrame, derived: pd.DataFrame, sections: pd.Series
    ) -> Iterator[Batch]:
        """Yield the assignments, and the removal of those that are gone, with their results."""
        stored = read_table(self._connection, schema.assignment)
        lost = before.loc[~before["sourced_id"].isin(self._items["sourced_id"]), "sourced_id"]
        deleted = stored.loc[stored["assignment_id"].isin(lost), ["assignment_id"]]
        results = self._mirror.frame(
            f'select assignment_id, student_id, 0 as "{ROW}" from {schema.result} '
            "where assignment_id = any(:gone)",
            gone=list(deleted["assignment_id"]),
        )
        yield Batch("result", results, delete=True)
        yield Batch("assignment", deleted.assign(**{ROW: 0}), delete=True)
        waits = (derived[ROW] == 0) & ~derived["section_id"].isin(sections)
        news = _news(derived[~waits], stored)
        self._mirror.arrived(schema.assignment, news["assignment_id"])
        pairs = before.merge(self._items, on="sourced_id", suffixes=("_before", ""))
        differs = np.logical_or.reduce(
            [_differs(pairs[n], pairs[f"{n}_before"]) for n in ("min_score", "max_score", "scale")]
        )
        ids = pairs["sourced_id"][differs].tolist()
        self._mirror.touch(tables.result, "assignment_id = any(:ids)", ids=ids)
        yield Batch("assignment", news)

    def _enrollments(self) -> Iterator[Batch]:
        table, owner = tables.enrollment, schema.enrollment
        whole = self._is_whole("enrollments")
        if whole:
            self._whole.find_scope(table)
        yield from self._apply("enrollments")
        if whole:
            ending, not_begun = self._whole.enrollments()
            notes = vanished(len(ending), table, ENDED, self._day)
            notes += vanished(len(not_begun), table, REMOVED, self._day)
            yield Batch("enrollment", ending, notes=notes)
            yield Batch("enrollment", not_begun, delete=True)
        else:
            yield Batch("enrollment", self._mirror.without_row(table, owner), delete=True)
        unchanged = self._mirror.touch_delivered(table, owner, "r.section_id is null")
        self._mirror.touch_waiting(table, owner, schema.section)
        stints = deriving.enrollments(self._mirror.stints(), self._section_ends)
        yield Batch("enrollment", stints, unchanged=unchanged)

    def _results(self) -> Iterator[Batch]:
        table, owner = tables.result, schema.result
        for name in ("scoreScales", "lineItemScoreScales", "resultScoreScales"):
            yield from self._apply(name)
        whole = self._is_whole("results")
        if whole:
            self._whole.find_scope(table)
        yield from self._apply("results")
        if whole:
            vanished_results = self._whole.results()
            notes = vanished(len(vanished_results), table, WITHDRAWN, self._day)
            yield Batch("result", vanished_results, delete=True, notes=notes)
        else:
            yield Batch("result", self._mirror.without_row(table, owner), delete=True)
        self._mirror.touch_texts(self._texts)
        unchanged = self._mirror.touch_delivered(
            table, owner, "r.assignment_id is null or (r.status = 'graded' and r.score is null)"
        )
        self._mirror.touch_waiting(table, owner, schema.assignment)
        yield Batch("result", pd.DataFrame(), unchanged=unchanged)
        entries, items = self._scales()
        for first in range(0, self._mirror.attempts(_FOREMOST), CHUNK):
            rows = self._attempts(first)
            rows["scale"] = rows["scale"].fillna(rows["assignment_id"].map(items["scale"]))
            frame, nothing = deriving.results(rows, items, entries, self._texts)
            of_file = nothing & (rows[ROW] > 0)
            faults = problems(
                "results.csv",
                rows.loc[of_file, ROW],
                "score, textScore",
                rows.loc[of_file, "words"],
                "is a text that neither a scale of scoreScales.csv nor [texts] of the "
                "institution's file explains; deliver the scale, or add the text",
            )
            yield Batch("result", frame, faults)

    def _scales(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the entries of all scales, and the line items by id, each with its scale."""
        known = self._table(tables.score_scale)
        links = self._table(tables.line_item_scale).drop_duplicates("assignment_id")
        of_class = known.dropna(subset="section_id").drop_duplicates("section_id", keep=False)
        items = self._items.set_index("sourced_id")
        linked = items.index.to_series().map(links.set_index("assignment_id")["scale"])
        usual = items["section_id"].map(of_class.set_index("section_id")["sourced_id"])
        for others in (linked, usual):
            items["scale"] = items["scale"].fillna(others.astype(items["scale"].dtype))
        return scales.read(known), items

    def _attempts(self, first: int) -> pd.DataFrame:
        """Return the rows of some of the results that are to be derived again."""
        derived = [c for c in tables.result.columns if c.name not in _NOT_DERIVED]
        numbers = [sa.column(name, sa.BigInteger()) for name in (ROW, RANK)]
        columns = [*(sa.column(c.name, c.type) for c in derived), *numbers]
        rows = sa.table("attempt_row", *columns, sa.column("number", sa.BigInteger()))
        query = sa.select(*(rows.c[column.name] for column in columns)).where(
            rows.c.number.between(first + 1, first + CHUNK)
        )
        return database.read_frame(self._connection, query)

    def _table(self, table: Table, name: str = "") -> pd.DataFrame:
        """Return a small table of the mirror, with the lines of the rows of a delivered file."""
        line: sa.ColumnElement[int] = sa.literal_column("0::bigint", sa.BigInteger)
        source: sa.FromClause = table
        if name and self._has(name):
            staged = sa.table(incoming(table), *map(sa.column, ("sourced_id", ROW, FATE)))
            delivered = (
                sa.select(staged.c.sourced_id, staged.c[ROW])
                .where(staged.c[FATE] == Fate.KEEP.value)
                .subquery()
            )
            source = table.outerjoin(delivered, delivered.c.sourced_id == table.c.sourced_id)
            line = sa.func.coalesce(delivered.c[ROW], 0, type_=sa.BigInteger)
        columns = [c for c in table.columns if c.name != "modified"]
        query = sa.select(*columns, line.label(ROW)).select_from(source)
        return database.read_frame(self._connection, query)


_NOT_DERIVED = ("sourced_id", "modified")


def _news(derived: pd.DataFrame, stored: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that were delivered, and those that differ from what is stored."""
    key = str(stored.columns[0])
    before = stored.set_index(key).reindex(derived[key])
    differs = derived[ROW].to_numpy() > 0
    for name in derived.columns.intersection(before.columns):
        differs |= _differs(derived[name], before[name])
    return derived[differs | ~derived[key].isin(stored[key]).to_numpy(bool)]


def _differs(left: pd.Series, right: pd.Series) -> np.ndarray:
    left_values, right_values = left.to_numpy(object), right.to_numpy(object)
    both_missing = pd.isna(left_values) & pd.isna(right_values)
    either_missing = pd.isna(left_values) | pd.isna(right_values)
    same = np.array([a == b for a, b in zip(left_values, right_values, strict=True)], dtype=object)
    same = np.where(either_missing, both_missing, same)
    return np.asarray(~same.astype(bool))
