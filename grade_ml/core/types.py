"""The types of the database's columns in Arrow and in pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.types import TypeEngine

if TYPE_CHECKING:
    import pyarrow as pa

#: SQL types with the names of their Arrow and pandas types. Everything else is read as text.
_TYPES: dict[type[TypeEngine[Any]], tuple[str, str]] = {
    sa.Boolean: ("bool", "bool"),
    sa.Integer: ("int64", "int64"),
    sa.Double: ("float64", "float64"),
    sa.Date: ("date32", "datetime64[ns]"),
}


def _names(kind: TypeEngine[Any]) -> tuple[str, str]:
    matches = (names for sql, names in _TYPES.items() if isinstance(kind, sql))
    return next(matches, ("string", "object"))


def arrow_types(query: sa.Select[Any]) -> dict[str, pa.DataType]:
    """Return the Arrow type of each column of `query`."""
    import pyarrow as pa

    return {
        name: pa.type_for_alias(_names(column.type)[0])
        for name, column in query.selected_columns.items()
    }


def pandas_types(table: sa.Table) -> dict[str, str]:
    """Return the pandas type of each column of `table`, for a frame without rows."""
    return {column.name: _names(column.type)[1] for column in table.columns}
