"""What must hold for a row on its own, whatever its source; relations between rows are elsewhere.

The same rules are constraints in the database; here they give each offending row a reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, Any
from unicodedata import category

import sqlalchemy as sa

from grade_ml.core.texts import UNSEEN
from grade_ml.gradebook import schema

if TYPE_CHECKING:
    import pandas as pd

#: PostgreSQL cannot index texts beyond 2,700 bytes; no source's ids come near.
LONGEST_ID = 255
#: (first, second): the second date may not come before the first.
_ORDERED_DATES = {
    "term": ("starts_on", "ends_on"),
    "section": ("starts_on", "ends_on"),
    "enrollment": ("enrolled_on", "withdrawn_on"),
    "result": ("submitted_on", "graded_on"),
}


def can_be_id(text: str) -> bool:
    r"""Return whether the gradebook can hold `text` as an id.

    >>> can_be_id("sim-1"), can_be_id("a\0b"), can_be_id("\udcff")
    (True, False, False)
    """
    return not {category(character) for character in text} & {"Cc", "Cs"}


def violations(table: sa.Table, rows: pd.DataFrame) -> Iterator[tuple[str, pd.Series, str]]:
    """Yield (column, mask of offending rows, reason with remedy) for each rule of the table.

    Parameters
    ----------
    table
        One of `schema.TABLES`.
    rows
        Columns of the table in the types that `bundle.Batch` names; columns may be missing.
    """
    for column in table.columns:
        if column.name in rows and not column.nullable:
            yield column.name, rows[column.name].isna(), "is empty; every row needs a value here"
        if column.name in rows and (column.primary_key or column.foreign_keys) and _is_text(column):
            long = rows[column.name].str.len() > LONGEST_ID
            yield column.name, long, f"is longer than {LONGEST_ID} characters; look for lost quotes"
        # The ids of other tables are known ids, or go with their rows.
        if column.name in rows and column.primary_key and len(table.primary_key) == 1:
            strange = rows[column.name].str.contains(UNSEEN, regex=True)
            yield column.name, strange, "holds a control character; remove it from the id"
        if column.name in rows and column.name == schema.course.c.course_id.name:
            spread = rows[column.name].str.contains("...", regex=False)
            yield column.name, spread, "holds three dots, which mean a range of courses to Dagster"
    if table is schema.result:
        yield (
            "score",
            rows["score"].notna() & ~rows["score"].between(0, schema.HIGHEST_SCORE),
            f"is not between 0 and {schema.HIGHEST_SCORE} per cent of the maximum; correct the "
            "score or the maximum",
        )
    if table is schema.assignment:
        weight, highest = rows["weight"], rows["max_score"]
        yield (
            "weight",
            (weight < 0) | (weight == inf),
            "is no weight; write a number of 0 or more",
        )
        yield (
            "max_score",
            (highest <= 0) | (highest == inf),
            "is no maximum; write a number above 0",
        )
    if table is schema.activity:
        yield "count", rows["count"] < 0, "is less than 0; correct the count"
    if table.name in _ORDERED_DATES:
        first, second = _ORDERED_DATES[table.name]
        if first in rows and second in rows:
            yield (
                second,
                rows[second] < rows[first],
                f"comes before {first.replace('_', ' ')}; correct one of the two dates",
            )


def _is_text(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, sa.Text)
