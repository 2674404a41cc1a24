"""Explanations and advice of a small campus: what is new, what is kept, who is left out."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.core import database
from grade_ml.core.errors import ConfigurationError
from grade_ml.core.plain import plain
from grade_ml.core.settings import Settings
from grade_ml.engine import Narratives, PredictiveAnalyticsEngine
from grade_ml.ensemble.importance import spread_between_fits
from grade_ml.explanations import advice, nightly, pictures, store, tables
from grade_ml.explanations.advice import Kind
from grade_ml.explanations.contract import TOLERANCE
from grade_ml.explanations.messages import languages
from grade_ml.explanations.narratives import Reader
from grade_ml.gradebook import schema
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml.registry.registry import Registry
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.models import Models
from grade_ml.training.data import finished
from grade_ml_tests.conftest import TABLES, installation, new_database
from grade_ml_tests.monitoring.world import TODAY, fill, register, world

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Campus:
    """One installation whose predictions are explained; what a test writes is rolled back."""

    settings: Settings
    engine: Engine
    registry: Registry

    @property
    def root(self) -> str:
        return self.settings.storage_root

    @contextmanager
    def workspace(self) -> Iterator[Workspace]:
        with self.engine.connect() as connection:
            now = datetime(2025, 11, 24, 20, tzinfo=UTC)
            yield Workspace(connection, self.registry, self.root, TODAY, now)


@pytest.fixture(scope="module")
def campus(server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campus]:
    made = world()
    spread = spread_between_fits(
        made.model, made.snapshots, finished(made.gradebook, TODAY, DEFAULTS), seed=0
    )
    with (
        new_database(server, "explained", TABLES) as url,
        installation(server, url, tmp_path_factory.mktemp("explained")) as settings,
    ):
        engine = database.connect(url)
        model = replace(made.model, importance_spread=spread)
        registry = fill(settings, engine, replace(made, model=model))
        prepared = Campus(settings, engine, registry)
        with prepared.workspace() as workspace:
            nightly.attributions(workspace, Models(prepared.registry), world().courses)
            workspace.connection.commit()
        yield prepared
        engine.dispose()


@pytest.fixture
def workspace(campus: Campus) -> Iterator[Workspace]:
    with campus.workspace() as workspace:
        yield workspace


@pytest.fixture
def models(campus: Campus) -> Models:
    return Models(campus.registry)


def test_only_what_changed_is_explained_again(settings: Settings, engine: Engine) -> None:
    registry = fill(settings, engine, world())
    own = Campus(settings, engine, registry)

    def look() -> dict[str, tuple[int, int]]:
        with own.workspace() as workspace:
            attributed = nightly.attributions(workspace, Models(registry), world().courses)
            workspace.connection.commit()
        assert all(result.adds_up and not result.degraded for result in attributed.values())
        assert max(result.grade_error for result in attributed.values()) <= TOLERANCE
        return {name: (result.rows, result.fresh) for name, result in attributed.items()}

    first = look()
    assert all(rows == fresh for rows, fresh in first.values())
    assert sum(rows for rows, _ in first.values()) > 50
    assert look() == {name: (rows, 0) for name, (rows, _) in first.items()}

    # One student of one course has other features.
    name = max(first, key=lambda course: first[course])
    with own.workspace() as workspace:
        change(workspace, name, [0], 3.25)
    assert {key: fresh for key, (_, fresh) in look().items() if fresh} == {name: 1}

    # A new version of the model: every row is explained again.
    register(engine, registry, world().model)
    assert all(rows == fresh for rows, fresh in look().values())


def change(workspace: Workspace, course: str, places: list[int], score: float) -> list[str]:
    """Give some current snapshots of a course another mean score; return whose they are."""
    snapshots = workspace.frames.snapshots([course])
    current = snapshots.index[snapshots["cut_on"] == pd.Timestamp(TODAY)]
    chosen = current[places]
    snapshots.loc[chosen, "score_mean"] = np.float32(score)
    workspace.frames.write(course, snapshots)
    return snapshots.loc[chosen, "student_id"].astype(str).tolist()


def test_importance_groups_paths_and_effects_follow_from_what_is_explained(
    workspace: Workspace, models: Models
) -> None:
    weighed = nightly.importance(workspace, models, world().courses)
    groups, reason = nightly.fairness(workspace, models)
    ways = nightly.paths(workspace, models, world().courses)
    assert nightly.paths(workspace, models, world().courses) == ways
    rows = store.read_importance(workspace.connection, TODAY, None, TODAY - timedelta(days=7))
    explanations = store.read_explanations(workspace.connection, world().courses[:1], TODAY)
    effects = nightly.effects(
        workspace, models, world().courses, ["missed_share", "grade_rate_so_far"]
    )

    everybody = rows[rows["grouping"] == ""]
    shares = everybody.groupby(["course_id", "task"])["share"].sum()
    assert shares.to_numpy() == pytest.approx(np.ones(len(shares)))
    assert set(shares.index.get_level_values("course_id")) == {store.EVERYWHERE, *world().courses}
    assert {"gender", "age_band"} & set(rows["grouping"])
    judged = everybody[everybody["band_low"].notna()]
    assert set(judged["course_id"]) == {
        key for key, weighing in weighed.items() if not weighing.reason
    }
    assert len(judged)
    main = nightly.main_features(workspace)
    assert 0 < len(main) <= 12 and main["importance"].is_monotonic_decreasing

    assert not reason and {"mae", "selection_rate"} <= set(groups["metric"])
    for paths_of_course in ways.values():
        assert "surrogate" in {path.tree.split()[0] for *_, path in paths_of_course.paths}
        assert not paths_of_course.degraded
    assert {effect.feature for effect in effects} <= {"missed_share", "grade_rate_so_far"}

    today = everybody[everybody["course_id"] == world().courses[0]]
    for figure in (
        pictures.waterfall(explanations[0]),
        pictures.beeswarm(*store.matrix_of(explanations, "grade"), "points"),
        pictures.importance_bars(today.query("task == 'grade'")),
        pictures.decision_path(ways[world().courses[0]].paths[0][-1]),
        pictures.effects(effects),
        pictures.gaps(groups),
    ):
        figure.canvas.draw()


def test_no_member_is_fitted_to_weigh_features(settings: Settings, engine: Engine) -> None:
    """A model without its spread, as earlier versions made them, has no band, with the reason."""
    own = Campus(settings, engine, fill(settings, engine, world()))
    models = Models(own.registry)
    with own.workspace() as workspace:
        nightly.attributions(workspace, models, world().courses[:1])
        (weights,) = nightly.importance(workspace, models, world().courses[:1]).values()
        assert "unknown" in weights.reason and not weights.alarms
        assert len(weights.rows) and weights.rows["band_low"].isna().all()
        assert store.read_reference(workspace.connection, "pooled", 1).empty


def test_advice_is_given_once_and_again_only_where_something_changed(
    workspace: Workspace, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where more would like some than get it: the same students are chosen again."""
    few = replace(advice.SETTINGS, most_per_course=3)
    monkeypatch.setattr(advice, "SETTINGS", few)
    courses = world().courses[:1]
    (written,) = nightly.narratives(workspace, models, courses).values()
    assert written.fresh == len(written.bodies) > 20
    for body in written.bodies:
        assert body["problems"] == []
        languages_by_reader = {reader: sorted(texts) for reader, texts in body["texts"].items()}
        assert languages_by_reader == {str(reader): list(languages()) for reader in Reader}
    text = json.dumps(written.bodies)
    students = set(world().gradebook.students["student_id"])
    assert not [name for name in students if f'"{name}"' in text or f" {name} " in text]

    (opinions,) = nightly.second_opinions(workspace, models, courses).values()
    assert 0 < opinions.fresh == len(opinions.bodies)
    for body in opinions.bodies:
        assert body["reason"] and (bool(body["effects"]) != bool(body["hidden"]))

    (answers,) = nightly.what_ifs(workspace, models, courses).values()
    assert 0 < answers.fresh == len(answers.bodies)
    for body in answers.bodies:
        assert body["words"]["en"] and body["words"]["de"]
        assert all(what_if["grade"] >= body["goal"] for what_if in body["what_ifs"])

    (again,) = nightly.narratives(workspace, models, courses).values()
    assert again == replace(written, fresh=0)
    assert 0 < len(opinions.bodies) <= 3 and len(answers.bodies) <= 3
    (same,) = nightly.second_opinions(workspace, models, courses).values()
    assert same == replace(opinions, fresh=0)
    assert nightly.what_ifs(workspace, models, courses)[courses[0]] == replace(answers, fresh=0)
    table = tables.advice
    row = workspace.connection.execute(sa.select(table).limit(1)).one()
    workspace.connection.execute(
        sa.update(table)
        .where(table.c.student_id == row.student_id, table.c.kind == str(Kind.NARRATIVE))
        .values(features_hash="old")
    )
    assert nightly.narratives(workspace, models, courses)[courses[0]].fresh == 1

    monkeypatch.setitem(sys.modules, "lime", None)
    (without,) = nightly.second_opinions(workspace, models, courses).values()
    assert without.bodies == () and "lime is not installed" in without.degraded[0]


@pytest.mark.parametrize("places", [[0], [3, 7, 11]])
@pytest.mark.parametrize("score", [np.inf, -np.inf])
def test_an_enrollment_that_cannot_be_explained_costs_only_itself(
    campus: Campus, models: Models, tmp_path: Path, places: list[int], score: float
) -> None:
    shutil.copytree(Path(campus.root) / "features", tmp_path / "features")
    course = world().courses[0]
    elsewhere = campus.settings.model_copy(update={"storage": str(tmp_path)})
    with replace(campus, settings=elsewhere).workspace() as workspace:
        connection = workspace.connection
        before = stored(connection, course)
        odd = change(workspace, course, places, score)
        connection.execute(sa.delete(tables.attribution))
        attributed = nightly.attributions(workspace, models, world().courses)
        others = [row for row in before if row["student_id"] not in odd]
        for row, was in zip(stored(connection, course), others, strict=True):
            assert row["student_id"] == was["student_id"]
            # A network's sums differ in the last digit by how many rows it reads at once.
            for task in ("grade", "risk"):
                now, then = row[task]["contributions"], was[task]["contributions"]
                assert now == pytest.approx(then, abs=1e-5)
        assert [
            why.startswith(f"no explanation of {len(odd)} enrollments: ")
            for why in attributed[course].degraded
        ] == [True]
        assert not [
            result for name, result in attributed.items() if result.degraded and name != course
        ]
        ways = nightly.paths(workspace, models, world().courses)[course]
        assert others
        students = {str(row["student_id"]) for row in others}
        assert students <= {student for _, student, _ in ways.paths}
        (opinions,) = nightly.second_opinions(workspace, models, [course]).values()
        assert opinions.bodies and not opinions.degraded


def stored(connection: sa.Connection, course: str) -> list[dict[str, Any]]:
    query = sa.select(tables.attribution).where(tables.attribution.c.course_id == course)
    ordered = query.order_by(tables.attribution.c.section_id, tables.attribution.c.student_id)
    return [dict(row) for row in connection.execute(ordered).mappings()]


def unenroll(connection: sa.Connection, student: str) -> None:
    for table in (schema.activity, schema.result, schema.enrollment):
        connection.execute(sa.delete(table).where(table.c.student_id == student))


def garble(connection: sa.Connection, student: str) -> None:
    own = tables.attribution.c
    connection.execute(
        sa.update(tables.attribution)
        .where(own.student_id == student)
        .values(feature_values={"weight_remaining": "?", "score_mean": "?", "progress": 0.5})
    )


@pytest.mark.parametrize(
    ("make", "what", "spoil"),
    [
        (nightly.what_ifs, "what if", unenroll),
        (nightly.narratives, "narrative", garble),
    ],
)
def test_an_enrollment_that_cannot_be_advised_costs_only_itself(
    workspace: Workspace,
    models: Models,
    make: Callable[..., dict[str, nightly.Advice]],
    what: str,
    spoil: Callable[[sa.Connection, str], None],
) -> None:
    connection, course = workspace.connection, world().courses[0]
    make(workspace, models, [course])
    advice = tables.advice.c
    whole = sa.select(advice.student_id, advice.body).where(advice.course_id == course)
    before = {
        student_id: body
        for student_id, body in connection.execute(whole.order_by(advice.student_id))
    }
    student = list(before)[len(before) // 2]
    connection.execute(sa.delete(tables.advice))
    spoil(connection, student)
    (made_again,) = make(workspace, models, [course]).values()
    after = {student_id: body for student_id, body in connection.execute(whole)}
    assert {*before} - {*after} == {student}
    assert [why.startswith(f"no {what} of 1 enrollments: ") for why in made_again.degraded] == [
        True
    ]
    assert student not in str(made_again.degraded)


def test_stored_narratives_are_returned_until_something_changes(campus: Campus) -> None:
    course = world().courses[0]
    with campus.workspace() as workspace:
        nightly.narratives(workspace, Models(campus.registry), [course])
        workspace.connection.commit()
        columns = tables.advice.c
        query = sa.select(columns.student_id, columns.body).where(
            columns.course_id == course, columns.kind == str(Kind.NARRATIVE)
        )
        student, body = workspace.connection.execute(query.limit(1)).one()
    engine = PredictiveAnalyticsEngine(campus.settings)
    try:
        stored = engine.get_model_explanations(student, course, as_of=TODAY)
        assert stored.narratives == Narratives(body["texts"], stored=True)
        assert stored.explanation is not None
        grade = plain(store.as_kept(stored.explanation).grade)
        assert published(campus, student, course) == grade | {"narratives": body["texts"]}
        # Another day has other features: nothing is stored of them, so the sentences are made.
        other = engine.get_model_explanations(student, course, as_of=TODAY - timedelta(days=1))
        assert other.narratives and not other.narratives.stored
        assert set(other.narratives.texts) == {*map(str, Reader)}
        mine = sa.and_(columns.student_id == student, columns.kind == str(Kind.NARRATIVE))
        with campus.engine.begin() as connection:
            connection.execute(
                sa.update(tables.advice).where(mine).values(body={**body, "problems": ["a digit"]})
            )
        doubtful = engine.get_model_explanations(student, course, as_of=TODAY)
        assert doubtful.narratives == Narratives(body["texts"], stored=False)
        with pytest.raises(ConfigurationError, match="no goal"):
            engine.get_model_explanations(student, course, as_of=TODAY, goal=101.0)
        with_pairs = engine.get_model_explanations(student, course, as_of=TODAY, pairs=3)
        assert len(with_pairs.interactions) == 3
    finally:
        engine.close()


def published(campus: Campus, student: str, course: str) -> dict[str, object]:
    """Return how the view for readers explains a student's grade in a course."""
    query = sa.text(
        "select grade as predicted, grade_baseline as baseline, "
        "grade_contributions as contributions, grade_remainders as remainders, narratives "
        "from published.explanations where student_id = :student and course_id = :course"
    )
    with campus.engine.connect() as connection:
        return dict(
            connection.execute(query, {"student": student, "course": course}).mappings().one()
        )
