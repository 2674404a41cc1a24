"""Every table of the database is declared once, with a policy that fits it and a description."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Engine

import grade_ml
from grade_ml.core.policy import TablePolicy, data_dictionary
from grade_ml.maintenance import tables

DICTIONARY = Path(__file__).parents[1] / "docs" / "data-dictionary.md"
PACKAGES = {module.name for module in pkgutil.iter_modules(grade_ml.__path__) if module.ispkg}
#: What alembic keeps for itself.
NOT_OURS = {"public.alembic_version"}


def every_table() -> list[sa.Table]:
    """Return the tables that the package's modules declare, each as often as it is declared."""
    below = ("cli", "core", "definitions", "orchestration")
    names = [
        module.name
        for module in pkgutil.walk_packages(grade_ml.__path__, "grade_ml.")
        if module.name.split(".")[1] not in below
    ]
    declared = {
        id(value): value
        for name in names
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, sa.MetaData)
    }
    return [
        table
        for tables_of_schema in declared.values()
        for table in tables_of_schema.tables.values()
    ]


def test_every_table_is_declared_once(engine: Engine) -> None:
    inspector = sa.inspect(engine)
    existing = {
        f"{schema}.{table}"
        for schema in inspector.get_schema_names()
        if schema != "information_schema"
        for table in inspector.get_table_names(schema)
    }
    declared = Counter(table.fullname for table in every_table())
    assert existing - NOT_OURS == set(declared)
    assert set(declared.values()) == {1}


def test_maintenance_knows_every_table() -> None:
    assert {id(table) for table in tables.every_table()} == {id(table) for table in every_table()}


def test_a_policy_names_what_there_is(engine: Engine) -> None:
    inspector = sa.inspect(engine)
    for table in every_table():
        policy = TablePolicy.of(table)
        columns = {
            str(column["name"]): column["type"]
            for column in inspector.get_columns(table.name, table.schema)
        }
        assert {column.name for column in table.columns} == set(columns), table.fullname
        assert policy.owner in PACKAGES, table.fullname
        assert set(policy.personal) <= set(columns), table.fullname
        assert ("student_id" in columns) == ("student_id" in policy.personal), table.fullname
        assert policy.days is None or policy.time, table.fullname
        if policy.time:
            assert isinstance(columns[policy.time], sa.Date | sa.DateTime), table.fullname


def test_the_data_dictionary_is_that_of_the_tables() -> None:
    assert DICTIONARY.read_text() == data_dictionary(every_table()), (
        f"{DICTIONARY.name} is out of date; make it again by python -m {__name__}."
    )


if __name__ == "__main__":
    DICTIONARY.write_text(data_dictionary(every_table()))
