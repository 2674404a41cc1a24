"""Attributes as columns: by any name of a source, a model gets what is declared usable."""

from __future__ import annotations

import json

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from grade_ml.ensemble.encoding import attributes
from grade_ml.features.attribute_columns import attribute_columns
from grade_ml.features.attributes import (
    ATTRIBUTE,
    PROTECTED,
    as_declared,
    barred,
    protected_columns,
)
from grade_ml.gradebook.attributes import Declarations
from grade_ml.gradebook.institution import Use

NAMES = st.text(min_size=1, max_size=8) | st.sampled_from(
    ["sex", "protected_sex", "attribute_sex", "metadata.sex", "Sex"]
)
USES = st.dictionaries(NAMES, st.sampled_from(Use), max_size=6).map(Declarations.of)
VALUES = st.none() | st.integers(-5, 5) | st.sampled_from(["a", "b", "7"])
ROWS = st.lists(st.dictionaries(NAMES, VALUES, max_size=6), min_size=1, max_size=12)


def table(rows: list[dict[str, object]]) -> pd.DataFrame:
    ids = [f"s{i}" for i in range(len(rows))]
    return pd.DataFrame({"student_id": ids, "attributes": [json.dumps(row) for row in rows]})


def usable(names: list[str], declared: Declarations) -> bool:
    return all(declared.use_of(name.removeprefix(ATTRIBUTE)) is Use.USABLE for name in names)


@given(ROWS, ROWS, USES, USES)
def test_a_model_reads_what_is_declared_usable_and_nothing_else(
    people: list[dict[str, object]],
    own: list[dict[str, object]],
    before: Declarations,
    now: Declarations,
) -> None:
    students, enrollments = table(people), table(own)
    columns = attribute_columns(students, enrollments, before)
    given = {name for row in [*people[: len(own)], *own] for name in row}
    whole = {name for row in [*people, *own] for name in row}
    for prefix, use in ((ATTRIBUTE, Use.USABLE), (PROTECTED, Use.PROTECTED)):
        declared = {f"{prefix}{name}" for name in whole if before.use_of(name) is use}
        present = {name for name in columns if name.startswith(prefix)}
        assert present <= declared
        assert {f"{prefix}{name}" for name in given} & declared <= present
    rows = columns.assign(student_id=enrollments["student_id"])
    numeric, texts = attributes(rows)
    assert usable([*numeric, *texts], before)
    assert not barred([*numeric, *texts], before)
    # Computed under other declarations, or before there were any.
    old = rows.assign(**{f"{ATTRIBUTE}{name}": 1.0 for name in whole})
    for frame in (rows, old):
        known = as_declared(frame, now)
        numeric, texts = attributes(known)
        assert usable([*numeric, *texts], now)
        assert all(now.use_of(name) is Use.PROTECTED for name in protected_columns(known))


def test_one_spelling_is_not_another() -> None:
    declared = Declarations.of({"Entry": Use.USABLE, "SEX": Use.PROTECTED})
    rows = table([{"entry": "a", "sex": "f", "metadata.Sex": "f", "name": "Ann"}])
    columns = attribute_columns(rows, rows.assign(attributes="{}"), declared)
    assert list(columns) == ["attribute_entry", "protected_metadata.Sex", "protected_sex"]
