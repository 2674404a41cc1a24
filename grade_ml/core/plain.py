"""Values as JSON knows them, for columns of JSONB and for reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from typing import Any

#: What JSON knows as it is; a report of all courses has a million of them.
_PLAIN = {str, int, bool, type(None)}


def plain(value: Any) -> Any:  # noqa: PLR0911 - one for each kind of value
    """Return the value as JSON knows it: frames as lists of rows, missing numbers as None.

    >>> plain({"p": float("nan"), "on": date(2025, 9, 1)})
    {'p': None, 'on': '2025-09-01'}
    """
    import pandas as pd

    if type(value) in _PLAIN:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else None
    if value is pd.NaT or value is pd.NA:
        return None
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("records")
    elif is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif hasattr(value, "item"):  # a number of numpy's
        return plain(value.item())
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, date):  # a datetime, too, and pandas' timestamps
        return (value.date() if isinstance(value, datetime) else value).isoformat()
    return value if isinstance(value, int) else str(value)
