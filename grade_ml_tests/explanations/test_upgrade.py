"""An installation whose what-ifs named assignments otherwise."""

from __future__ import annotations

import json

import sqlalchemy as sa

from grade_ml.core import database
from grade_ml_tests.conftest import database_of

INSERT = """
insert into explanations.advice values ('c1', 's', '2026-01-01', :kind, 'c', 'm', 1, 'h', :body)
"""


def test_the_assignments_of_a_change_are_named_so_and_words_stay(server):
    words = {"en": ['hand in "pieces": [all]']}  # codespell:ignore
    with database_of(server, "0019") as engine:
        change = {"kind": "score", "to": 65, "pieces": ["a1", "a2"]}  # codespell:ignore
        body = {"what_ifs": [{"changes": [change]}], "words": words}
        with engine.begin() as connection:
            for kind in ("what_if", "narrative"):
                row = {"kind": kind, "body": json.dumps(body)}
                connection.execute(sa.text(INSERT), row)
        database.migrate(engine)
        with engine.connect() as connection:
            bodies = dict(
                connection.execute(sa.text("select kind, body from explanations.advice")).all()
            )
    assert bodies["narrative"] == body
    assert bodies["what_if"]["words"] == words
    (changed,) = bodies["what_if"]["what_ifs"][0]["changes"]
    assert changed == {"kind": "score", "to": 65, "assignments": ["a1", "a2"]}
