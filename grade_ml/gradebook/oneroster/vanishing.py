"""What a bulk file no longer names: it is whole, so what it leaves out has left the source.

Sources export the current year: a class of which a file names nothing retains all rows, unless it
runs on the day of the delivery. A setting limits how much may vanish before a delivery counts as
truncated.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import pandas as pd
from sqlalchemy import Table

from grade_ml.core.errors import SourceError
from grade_ml.gradebook import schema
from grade_ml.gradebook.bundle import ROW
from grade_ml.gradebook.oneroster import tables
from grade_ml.gradebook.oneroster.mirror import Mirror, incoming

_NAMED = {
    tables.line_item: "select section_id from {0}",
    tables.enrollment: "select section_id from {0}",
    tables.result: f"select section_id from {{0}} i join {tables.line_item} m "
    "on m.sourced_id = i.assignment_id",
}
#: Under which condition a row of the mirror belongs to a class in question.
_OF_SECTION = {
    tables.line_item: "m.section_id in (select section_id from {0})",
    tables.enrollment: "m.section_id in (select section_id from {0})",
    tables.result: f"m.assignment_id in (select sourced_id from {tables.line_item} "
    "where section_id in (select section_id from {0}))",
}
#: What happens to rows that are no longer named: the words for one, and for several.
ENDED = "ends", "end"
WITHDRAWN = "was withdrawn", "were withdrawn"
REMOVED = "was removed, not having begun,", "were removed, not having begun,"
_WORDS = {
    tables.line_item: "line item",
    tables.enrollment: "enrollment",
    tables.result: "result",
}


@dataclass(frozen=True)
class Whole:
    """A bulk delivery on a day.

    Parameters
    ----------
    mirror
        Of the load.
    day
        Whose state of the source the delivery describes.
    share
        More than this share of what a file should name may not be missing from it, 0-1.
    system
        The source's; a file does not describe the classes of another system.
    """

    mirror: Mirror
    day: date
    share: float
    system: str

    def find_scope(self, table: Table) -> None:
        """Find the classes in question, before the file's rows are applied."""
        scope = _scope(table)
        self.mirror.run(
            f"create temp table {scope} on commit drop as "
            f"{_NAMED[table].format(incoming(table))} union "
            f"select section_id from {schema.section} s join {tables.class_} c "
            f"on c.sourced_id = s.section_id join {tables.system} y on y.class_id = s.section_id "
            "where :day between s.starts_on and s.ends_on and y.system = :system",
            day=self.day,
            system=self.system,
        )
        self.mirror.run(f"analyze {scope}")

    def line_items(self) -> list[str]:
        """Forget the line items that are no longer named, and return their ids."""
        table, scope = tables.line_item, _scope(tables.line_item)
        gone = self.mirror.frame(
            f"delete from {table} m where {_OF_SECTION[table].format(scope)} and not exists "
            f"(select from {incoming(table)} i where i.sourced_id = m.sourced_id) "
            "returning sourced_id"
        )["sourced_id"]
        kept = self.mirror.number(
            f"select count(*) from {table} m where {_OF_SECTION[table].format(scope)} and exists "
            f"(select from {schema.assignment} where assignment_id = m.sourced_id)"
        )
        self._check(table, len(gone), kept)
        return list(gone)

    def enrollments(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the enrollments that end on the day, and those that had not begun: they go."""
        self._forget(tables.enrollment)
        live = (
            f"from {schema.enrollment} e join {_scope(tables.enrollment)} using (section_id) "
            f"join {schema.section} s using (section_id) "
            "where (withdrawn_on is null or withdrawn_on > :day)"
        )
        gone = self.mirror.frame(
            "select section_id, student_id, enrolled_on, outcome, attributes::text as attributes, "
            f"s.ends_on {live} and not exists (select from {tables.enrollment} m "
            "where m.section_id = e.section_id and m.student_id = e.student_id)",
            day=self.day,
        )
        before = self.mirror.number(f"select count(*) {live}", day=self.day)
        self._check(tables.enrollment, len(gone), before - len(gone))
        day = pd.Timestamp(self.day)
        gone = gone.assign(
            enrolled_on=pd.to_datetime(gone["enrolled_on"]),
            withdrawn_on=day,
            outcome=gone["outcome"].mask(
                pd.to_datetime(gone["ends_on"]) >= day, schema.Outcome.WITHDRAWN.value
            ),
            **{ROW: 0},
        ).drop(columns="ends_on")
        begun = ~(gone["enrolled_on"] > day)
        return gone[begun], gone.loc[~begun, ["section_id", "student_id", ROW]]

    def results(self) -> pd.DataFrame:
        """Return the keys of the results to be withdrawn.

        Those of students who left the class stay: they are history.
        """
        table, scope = tables.result, _scope(tables.result)
        of_scope = (
            f"from {schema.result} r join {schema.assignment} a using (assignment_id) "
            f"join {scope} using (section_id)"
        )
        gone_students = (
            f"select e.section_id, e.student_id from {schema.enrollment} e "
            f"join {scope} using (section_id) where exists "
            f"(select from {tables.enrollment} m where m.section_id = e.section_id) and not exists "
            f"(select from {tables.enrollment} m "
            "where m.section_id = e.section_id and m.student_id = e.student_id)"
        )
        self.mirror.run(f"create temp table gone_student on commit drop as {gone_students}")
        self.mirror.run("analyze gone_student")
        self._forget(
            table,
            " and not exists (select from gone_student g "
            f"join {tables.line_item} l using (section_id) "
            "where l.sourced_id = m.assignment_id and g.student_id = m.student_id)",
        )
        gone = self.mirror.frame(
            f'select r.assignment_id, r.student_id, 0 as "{ROW}" {of_scope} '
            f"left join {table} m on m.assignment_id = r.assignment_id "
            "and m.student_id = r.student_id where m.sourced_id is null and not exists "
            "(select from gone_student g where g.section_id = a.section_id "
            "and g.student_id = r.student_id)"
        )
        before = self.mirror.number(f"select count(*) {of_scope}")
        self._check(table, len(gone), before - len(gone))
        return gone

    def _forget(self, table: Table, but: str = "") -> None:
        self.mirror.run(
            f"delete from {table} m where {_OF_SECTION[table].format(_scope(table))} and not "
            f"exists (select from {incoming(table)} i where i.sourced_id = m.sourced_id){but}"
        )

    def _check(self, table: Table, gone: int, kept: int) -> None:
        if gone > self.share * (gone + kept):
            raise SourceError(
                f"{gone:,} of {gone + kept:,} {_WORDS[table]}s would vanish, because the delivery "
                f"states that it is whole and does not name them; {self.share:.0%} may. Nothing "
                "was loaded.",
                "If the source is right, load it with --allow-vanishing, or raise "
                "GRADE_ML_VANISHING_SHARE. If the files hold changes only, the manifest must say "
                "delta; if they are cut, export them again.",
            )


def vanished(count: int, table: Table, fate: tuple[str, str], day: date) -> tuple[str, ...]:
    """Return the note on what is no longer in the source, none if nothing is.

    `fate` is what happens to them: the words for one, and for several.
    """
    if not count:
        return ()
    words = f"{_WORDS[table]} is" if count == 1 else f"{_WORDS[table]}s are"
    return (f"{count:,} {words} no longer in the source and {fate[count > 1]} on {day}.",)


def _scope(table: Table) -> str:
    return f"scope_{table.name.removeprefix('oneroster_')}"
