"""What is decided of each table: who writes it, whose data it holds, how long, and if it is saved.

Each room declares the policy of its tables beside their columns, through `info=`. What deletes,
erases, saves or describes tables asks here and keeps no list of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

_KEY = "policy"


@dataclass(frozen=True)
class TablePolicy:
    """What is decided of one table.

    Attributes
    ----------
    owner
        The room that writes it; no other does.
    personal
        The columns that tell who a person is or what is known of one; `student_id` where a row is
        of one student. Empty: nothing of a person is in it.
    time
        The column by which rows age; None: rows are as old as the table.
    days
        Rows are kept for so many days after `time`; None: for ever.
    backed_up
        False where the table can be filled again from elsewhere.
    """

    owner: str
    personal: tuple[str, ...] = ()
    time: str | None = None
    days: int | None = None
    backed_up: bool = True

    @property
    def info(self) -> dict[str, Any]:
        """What a table takes as `info=`."""
        return {_KEY: self}

    @classmethod
    def of(cls, table: sa.Table) -> TablePolicy:
        """Return the policy that `table` declares; raise `KeyError` where it declares none."""
        found: TablePolicy = table.info[_KEY]
        return found


def outdated(table: sa.Table, as_of: date) -> sa.ColumnElement[bool]:
    """Return the condition of rows that are older on a day than their table keeps them."""
    policy = TablePolicy.of(table)
    if policy.time is None or policy.days is None:
        return sa.false()
    column = table.c[policy.time]
    oldest = as_of - timedelta(days=policy.days)
    if isinstance(column.type, sa.DateTime):
        return column < datetime.combine(oldest, time(), UTC)
    return column < oldest


def data_dictionary(tables: Iterable[sa.Table]) -> str:
    """Return in Markdown what each table holds, under which policy."""
    described = sorted(tables, key=lambda table: table.fullname)
    return "\n".join([_PREFACE, *(line for table in described for line in _described(table))])


_PREFACE = """# Data dictionary

Made of the tables' own declarations by `python -m grade_ml_tests.test_tables`; do not edit it.
A table's *owner* is the room of `grade_ml/` that writes it. *Personal* columns tell who a person
is or what is known of one.
"""


def _described(table: sa.Table) -> Iterable[str]:
    policy = TablePolicy.of(table)
    kept = "for ever" if policy.days is None else f"{policy.days} days after {policy.time}"
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
        yield f"| {column.name} | {kind} | {key} | {column.comment or ''} |"
    yield ""
