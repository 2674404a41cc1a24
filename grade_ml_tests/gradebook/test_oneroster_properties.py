"""Random OneRoster sources: how, and in how many deliveries, they are written does not matter."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from datetime import date, timedelta
from itertools import count
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as options
from hypothesis import strategies as st
from sqlalchemy import Engine

from grade_ml.gradebook.frames import Gradebook
from grade_ml_tests.gradebook import roster
from grade_ml_tests.gradebook.roster import Row, Rows, as_text, class_, empty, grades, load_path

_folders = count()
CLASSES = {"alg": "algebra", "bio": "biology"}
STUDENTS = ("u1", "u2", "u3")
CATEGORIES = ("hw", "ts", "qz")
ITEMS = tuple(f"{class_id}-{n}" for class_id in CLASSES for n in range(4))
#: What a random row of a file may be, by its id.
Make = Callable[[random.Random, str], Row]


def _day(chance: random.Random) -> str:
    return str(date(2025, 8, 25) + timedelta(chance.randrange(100)))


def _category(chance: random.Random, id_: str) -> Row:
    return {"sourcedId": id_, "title": f"The {id_}", "weight": chance.choice(["", "", -1, 10, 40])}


def _item(chance: random.Random, id_: str) -> Row:
    return roster.item(
        id_,
        id_.partition("-")[0],
        chance.choice(CATEGORIES),
        chance.choice([0, 5, 10, 20, 100]),
        **{
            "metadata.weight": chance.choice(["", "", "", "", "", -1, 2]),
            "metadata.extraCredit": chance.choice(["", "", "false", "true"]),
        },
    )


def _result(chance: random.Random, id_: str, item: str = "", user: str = "") -> Row:
    usual = ["fully graded"] * 8 + ["exempt", "not submitted"]
    status = chance.choice(usual * 3 + ["submitted", "partially graded"])
    return roster.result(
        id_,
        item or chance.choice(ITEMS),
        user or chance.choice(STUDENTS),
        chance.randrange(11) if status == "fully graded" else "",
        _day(chance),
        scoreStatus=status,
        late=chance.choice(["", "true", "false"]),
    )


def _stint(chance: random.Random, id_: str) -> Row:
    begin, end = sorted([_day(chance), _day(chance)])
    return roster.stint(
        id_,
        chance.choice(list(CLASSES)),
        chance.choice(STUDENTS),
        chance.choice([begin, roster.START]),
        chance.choice([end, "", roster.END]),
    )


#: How a row of a file comes about, and the ids that there are.
_ROWS: Mapping[str, tuple[Make, tuple[str, ...]]] = {
    "categories": (_category, CATEGORIES),
    "lineItems": (_item, ITEMS),
    "results": (_result, tuple(f"r{n}" for n in range(40))),
    "enrollments": (_stint, tuple(f"e{n}" for n in range(8))),
}


def _frame_of_source() -> Rows:
    return {
        "academicSessions": [roster.session()],
        "courses": [{"sourcedId": id_, "title": id_} for id_ in CLASSES.values()],
        "classes": [class_(id_, course) for id_, course in CLASSES.items()],
        "users": [{"sourcedId": id_, "role": "student"} for id_ in STUDENTS],
    }


def _source(chance: random.Random) -> Rows:
    """Return a source in which everyone is in both classes and has results of most of it."""
    rows = _frame_of_source()
    rows["categories"] = [_category(chance, id_) for id_ in CATEGORIES]
    rows["lineItems"] = [_item(chance, id_) for id_ in ITEMS]
    pairs = [(class_id, user) for class_id in CLASSES for user in STUDENTS]
    rows["enrollments"] = [roster.stint(f"e{n}", *pair) for n, pair in enumerate(pairs)]
    keys = [(item, user) for item in ITEMS for user in STUDENTS] * 2
    rows["results"] = [
        {**_result(chance, f"r{n}", *key), "dateLastModified": f"2025-09-01T00:00:{n:02}.000Z"}
        for n, key in enumerate(chance.sample(keys, 30))
    ]
    return rows


#: Large random sources are drawn by their seed: hypothesis itself prefers small sources.
_seeds = st.integers(0, 2**32).map(random.Random)


def _expected(rows: Rows) -> dict[tuple[str, str], float | None]:
    """Compute the final grades of a source in the plainest way."""
    last: dict[tuple[str, str], Row] = {}
    for row in sorted(rows["results"], key=lambda r: (r["scoreDate"], r["dateLastModified"])):
        last[(row["lineItemSourcedId"], row["studentSourcedId"])] = row
    return {
        (enrollment["classSourcedId"], enrollment["userSourcedId"]): _grade(
            [i for i in rows["lineItems"] if i["classSourcedId"] == enrollment["classSourcedId"]],
            {c["sourcedId"]: max(c["weight"] or 0, 0) for c in rows["categories"]},
            {
                item: row
                for (item, user), row in last.items()
                if user == enrollment["userSourcedId"]
            },
        )
        for enrollment in rows["enrollments"]
    }


def _grade(
    items: list[Row], category_weight: dict[str, float], results: dict[str, Row]
) -> float | None:
    bonus = [i for i in items if i["resultValueMax"] == 0 or i["metadata.extraCredit"] == "true"]
    regular = [i for i in items if i not in bonus]
    own = {i["sourcedId"]: max(i["metadata.weight"] or 0, 0) for i in items}
    points = {i["sourcedId"]: i["resultValueMax"] or 100 for i in items}

    def unit(item: Row, kept: list[Row]) -> float:
        """Return what 100% of an item is worth beside those that are kept."""
        id_, category = item["sourcedId"], item["categorySourcedId"]
        if any(own[i["sourcedId"]] for i in regular):
            return own[id_]
        if any(category_weight[i["categorySourcedId"]] for i in regular):
            mates = [i for i in regular if i["categorySourcedId"] == category]
            left = [i for i in kept if i["categorySourcedId"] == category]
            if not left:
                return 0.0
            mean = sum(points[i["sourcedId"]] for i in mates) / len(mates)
            relative = points[id_] / mean if item in bonus else 1.0
            return category_weight[category] / len(left) * relative
        return points[id_]

    exempt = {id_ for id_, row in results.items() if row["scoreStatus"] == "exempt"}
    kept = [i for i in regular if i["sourcedId"] not in exempt]
    possible = sum(unit(i, kept) for i in kept)
    if possible == 0:
        return None
    earned = 0.0
    for item in (i for i in items if i["sourcedId"] not in exempt):
        row, worth = results.get(item["sourcedId"]), unit(item, kept)
        if row is None or worth == 0 or row["scoreStatus"] == "not submitted":
            continue
        if row["scoreStatus"] != "fully graded" or row["score"] > 2 * points[item["sourcedId"]]:
            return None
        earned += worth * row["score"] / points[item["sourcedId"]]
    return min(100 * earned / possible, 100)


@pytest.mark.slow
@options(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(chance=_seeds)
def test_final_grades_are_those_of_a_plain_calculation(
    engine: Engine, tmp_path: Path, chance: random.Random
) -> None:
    empty(engine)
    rows = _source(chance)
    load_path(engine, roster.write(tmp_path / str(next(_folders)), rows))
    expected = _expected(rows)

    final_grades = grades(engine)
    assert {k: v is None for k, v in final_grades.items()} == {
        k: v is None for k, v in expected.items()
    }
    known = {k: v for k, v in expected.items() if v is not None}
    assert {k: final_grades[k] for k in known} == pytest.approx(known)


def _spelt(value: object, chance: random.Random, column: str) -> str:
    """Return a value as some program would write it."""
    if isinstance(value, int):
        return chance.choice([f"{value}", f"{value}.0", f"{value:.3f}", f"{float(value):e}"])
    if value in ("true", "false"):
        word = str(value)
        return chance.choice(
            [word, word.upper(), word.title(), word[0], "1" if word == "true" else "0"]
        )
    if str(value)[:3] == "202" and column != "dateLastModified":
        clock = ["", "T10:00:00Z", " 23:59:59", " 08:15:00.123+00", "T00:00:00.000+05:30"]
        return f"{value}{chance.choice(clock)}"
    if column in ("scoreStatus", "role"):
        return chance.choice([str(value), str(value).title(), str(value).upper()])
    return str(value)


def _write_somehow(folder: Path, rows: Rows, chance: random.Random) -> Path:
    """Write a source in a random one of the spellings in which nothing is lost."""
    texts = {}
    for name, all_of in rows.items():
        columns = list({column for row in all_of for column in row})
        chance.shuffle(columns)
        lines = [
            {c: _spelt(row[c], chance, c) if row.get(c, "") != "" else "" for c in columns}
            for row in chance.sample(all_of, len(all_of))
        ]
        extra = {"": "0"} if chance.random() < 0.2 else {"metadata.note": "x, y"}
        lines = [{**line, **extra} for line in lines] if name != "users" else lines
        text = as_text(lines, name) if lines else as_text([], name)
        text = text if chance.random() < 0.5 else text.replace("\n", "\r\n")
        texts[name] = text if chance.random() < 0.5 else "\ufeff" + text
    version = chance.choice(["1.1", "1.2", "1.2.1"])
    modes = {name: chance.choice(["bulk", "BULK"]) for name in rows}
    texts["manifest"] = roster.manifest(modes, version)
    cases = {name: chance.choice([name, name.lower(), name.upper()]) for name in texts}
    if chance.random() < 0.5:
        folder.mkdir()
        for name, text in texts.items():
            (folder / f"{cases[name]}.csv").write_text(text, encoding="utf-8", newline="")
        return folder
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in texts.items():
            archive.writestr(f"export/{cases[name]}.csv", text)
    return path


@pytest.mark.slow
@options(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(chance=_seeds)
def test_every_spelling_loads_to_the_same_gradebook(
    engine: Engine, tmp_path: Path, chance: random.Random
) -> None:
    empty(engine)
    rows = _source(chance)
    load_path(engine, roster.write(tmp_path / str(next(_folders)), rows))
    before, expected = _content(engine), grades(engine)
    path = _write_somehow(tmp_path / str(next(_folders)), rows, chance)
    again = load_path(engine, path)

    assert not any((*again.loaded.values(), *again.removed.values()))
    empty(engine)
    load_path(engine, path)
    assert _content(engine) == before
    assert grades(engine) == expected


def _content(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    """Return the gradebook without what later attempts replaced, which shows how it came about."""
    book = roster.read(engine)
    return {
        field.name: [
            tuple(None if pd.isna(v) else v for v in row)
            for row in getattr(book, field.name).to_numpy(object)
        ]
        for field in fields(Gradebook)
        if field.name != "earlier_results"
    }


@pytest.mark.slow
@options(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(chance=_seeds)
def test_deltas_load_to_the_same_gradebook_as_the_whole_of_what_they_lead_to(
    engine: Engine, tmp_path: Path, chance: random.Random
) -> None:
    empty(engine)
    clock = _moments()
    state: dict[str, dict[str, Row]] = {name: {} for name in _ROWS}
    load_path(engine, roster.write(tmp_path / str(next(_folders)), _frame_of_source()))
    for _ in range(3):
        delivery: Rows = {}
        for name in chance.sample(list(_ROWS), chance.randint(1, len(_ROWS))):
            delivery[name] = list(_changes(chance, name, state[name], clock))
        load_path(engine, roster.delta(tmp_path / str(next(_folders)), delivery))
    after, expected = _content(engine), grades(engine)

    empty(engine)
    final = _frame_of_source() | {name: list(state[name].values()) for name in _ROWS}
    whole = roster.write(tmp_path / str(next(_folders)), final)
    load_path(engine, whole)
    assert _content(engine) == after
    assert grades(engine) == expected
    assert not any(load_path(engine, whole).loaded.values())


def _changes(
    chance: random.Random, name: str, state: dict[str, Row], clock: Iterator[str]
) -> Iterator[Row]:
    """Yield changes of a file, some of them deletions, and keep the state up to date."""
    make, ids = _ROWS[name]
    for id_ in chance.sample(ids, chance.randint(1, len(ids))):
        if id_ in state and chance.random() < 0.3:
            yield {**roster.gone(state.pop(id_)), "dateLastModified": next(clock)}
        else:
            state[id_] = {**make(chance, id_), "dateLastModified": next(clock)}
            yield state[id_]


def _moments() -> Iterator[str]:
    for n in count():
        yield f"2025-09-01T00:{n // 60:02}:{n % 60:02}.000Z"
