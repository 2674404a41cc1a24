"""What is decided of each table: who writes it, whose data it holds, how long, and if it is saved.

Each package declares the policy of its tables beside their columns, through `info=`. Code that
deletes, erases, saves or describes tables reads it here and has no list of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from grade_ml.core.columns import description

_KEY = "policy"


@dataclass(frozen=True)
class TablePolicy:
    """The policy of one table.

    Attributes
    ----------
    owner
        The package that writes it; no other does.
    personal
        The columns that identify or describe a person; `student_id` if a row belongs to one
        student. Empty if the table holds no personal data.
    time
        The column by which rows age; `None` if rows are as old as the table.
    days
        Rows are kept for so many days after `time`; `None` means for ever.
    newest
        Columns: of each of their values the newest rows stay, however old, for they are what is
        known of it. Empty if all rows are deleted in the end.
    backed_up
        False where the table can be filled again from elsewhere.
    """

    owner: str
    personal: tuple[str, ...] = ()
    time: str | None = None
    days: int | None = None
    newest: tuple[str, ...] = ()
    backed_up: bool = True

    @property
    def info(self) -> dict[str, Any]:
        """What a table takes as `info=`."""
        return {_KEY: self}

    @classmethod
    def of(cls, table: sa.Table) -> TablePolicy:
        """Return the policy that `table` declares; raise `KeyError` if it declares none."""
        policy: TablePolicy = table.info[_KEY]
        return policy


def outdated(table: sa.Table, as_of: date) -> sa.ColumnElement[bool]:
    """Return the condition for rows that are older on a day than their table keeps them."""
    policy = TablePolicy.of(table)
    if policy.time is None or policy.days is None:
        return sa.false()
    column = table.c[policy.time]
    oldest: date = as_of - timedelta(days=policy.days)
    if isinstance(column.type, sa.DateTime):
        oldest = datetime.combine(oldest, time(), UTC)
    if not policy.newest:
        return column < oldest
    every = table.alias("every")
    keys = [every.c[name] for name in policy.newest]
    last = sa.func.max(every.c[policy.time]).label("last")
    newest = sa.select(*keys, last).group_by(*keys).subquery("newest")
    same = (newest.c[name] == table.c[name] for name in policy.newest)
    is_older = sa.exists().where(column < newest.c.last, *same).correlate(table)
    return sa.and_(column < oldest, is_older)


def data_dictionary(tables: Iterable[sa.Table]) -> str:
    """Return in Markdown what each table holds, under which policy."""
    described = sorted(tables, key=lambda table: table.fullname)
    return "\n".join([_PREFACE, *(line for table in described for line in _described(table))])


_PREFACE = """# Data dictionary

Made of the tables' own declarations by `python -m grade_ml_tests.test_tables`; do not edit it.
A table's *owner* is the package of `grade_ml/` that writes it. *Personal* columns identify a
person or describe one.
"""


def _described(table: sa.Table) -> Iterable[str]:
    policy = TablePolicy.of(table)
    kept = "forever" if policy.days is None else f"{policy.days} days after {policy.time}"
    if policy.newest:
        kept += f", of each {', '.join(policy.newest)} the newest forever"
    facts = [
        f"owner {policy.owner}",
        f"kept {kept}",
        *([f"ages by {policy.time}"] if policy.time and policy.days is None else []),
        f"personal: {', '.join(policy.personal)}" if policy.personal else "nothing personal",
        *([] if policy.backed_up else ["not backed up"]),
    ]
    yield f"## {table.fullname}\n"
    yield f"{'; '.join(facts)}.\n"
    yield "| column | type | key | |\n|---|---|---|---|"
    for column in table.columns:
        kind = column.type.compile(postgresql.dialect()).lower()  # type: ignore[no-untyped-call]
        key = "yes" if column.primary_key else ""
        yield f"| {column.name} | {kind} | {key} | {description(column)} |"
    yield ""
