"""Stages of versions: recorded, shown as aliases, and whole after a kill at any statement."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.core import database
from grade_ml.core.errors import StageError
from grade_ml.core.settings import Settings
from grade_ml.registry.history import Stage, transition
from grade_ml.registry.registry import Alias
from grade_ml.registry.transition import Stages
from grade_ml_tests.conftest import new_database
from grade_ml_tests.killing import dying_at
from grade_ml_tests.registry.versions import NOW, WHY, register, stages_of

#: The last migration with promotions in the place of transitions.
BEFORE = "0014"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def stages(home: Settings) -> Iterator[Stages]:
    made = stages_of(home)
    yield made
    made.engine.dispose()


@pytest.fixture
def name() -> str:
    """A model of the test's own: the tables of MLflow take seconds to make and are shared."""
    return f"model-{next(_numbers)}"


def transitions_of(engine: Engine, name: str) -> list[tuple[int, str, str, int | None]]:
    """Return version, former stage, stage and replaced version of each record, in order."""
    table = transition.c
    query = sa.select(table.version, table.from_stage, table.to_stage, table.replaced)
    with engine.connect() as connection:
        rows = connection.execute(query.where(table.model_name == name).order_by(table.id))
        return [(row[0], row[1], row[2], row[3]) for row in rows]


def agree(stages: Stages, name: str) -> bool:
    """Return whether every record is confirmed and the aliases agree with the records."""
    newest: dict[int, str] = {}
    newest |= {version: stage for version, _, stage, _ in transitions_of(stages.engine, name)}
    recorded = {stage: version for version, stage in newest.items() if stage in set(Alias)}
    query = sa.select(sa.func.count()).where(transition.c.confirmed_at.is_(None))
    with stages.engine.connect() as connection:
        open_ = connection.execute(query).scalar()
    return not open_ and stages.registry.aliases(name).get(name, {}) == recorded


def test_a_version_lives_from_candidate_to_retired_and_each_step_is_recorded(
    stages: Stages, name: str, tmp_path: Path
) -> None:
    first = register(stages, name, tmp_path)
    assert stages.of(first) is Stage.CANDIDATE
    stages.transition(first, Stage.CHALLENGER, WHY)
    assert stages.registry.get(name, Alias.CHALLENGER) == first
    stages.transition(first, Stage.CHAMPION, WHY)
    assert stages.registry.get(name, Alias.CHAMPION) == first
    assert stages.registry.get(name, Alias.CHALLENGER) is None
    second = register(stages, name, tmp_path, Stage.CHALLENGER)
    third = register(stages, name, tmp_path, Stage.CHALLENGER, Stage.CHAMPION)
    assert stages.registry.get(name, Alias.CHAMPION) == third
    stages.transition(third, Stage.RETIRED, WHY)
    assert stages.registry.aliases(name) == {}
    assert [stages.of(version) for version in (first, second, third)] == [Stage.RETIRED] * 3
    assert transitions_of(stages.engine, name) == [
        (1, "candidate", "challenger", None),
        (1, "challenger", "champion", None),
        (2, "candidate", "challenger", None),
        (3, "candidate", "challenger", 2),
        (2, "challenger", "retired", None),
        (3, "challenger", "champion", 1),
        (1, "champion", "retired", None),
        (3, "champion", "retired", None),
    ]
    with stages.engine.connect() as connection:
        row = connection.execute(
            sa.select(transition).where(transition.c.model_name == name).order_by(transition.c.id)
        ).first()
    assert row and (row.reason, row.figures) == ("it errs less", {"rmse": 11.5})
    assert row.decided_at == row.confirmed_at == NOW


def test_a_champion_that_is_rolled_back_gives_place_to_its_predecessor(
    stages: Stages, name: str, tmp_path: Path
) -> None:
    serving = (Stage.CHALLENGER, Stage.CHAMPION)
    first, second = (
        register(stages, name, tmp_path, *serving),
        register(stages, name, tmp_path, *serving),
    )
    stages.transition(second, Stage.ROLLED_BACK, WHY)
    assert stages.of(second) is Stage.ROLLED_BACK
    assert stages.registry.get(name, Alias.CHAMPION) == first
    third = register(stages, name, tmp_path, *serving)
    stages.remove(first, "too old")
    stages.transition(third, Stage.ROLLED_BACK, WHY)
    assert stages.registry.aliases(name) == {} and agree(stages, name)


@pytest.mark.parametrize(
    ("through", "to"),
    [
        ((), Stage.CHAMPION),
        ((), Stage.ROLLED_BACK),
        ((Stage.CHALLENGER,), Stage.CHALLENGER),
        ((Stage.RETIRED,), Stage.CHALLENGER),
    ],
)
def test_a_stage_that_does_not_follow_is_refused(
    stages: Stages, name: str, tmp_path: Path, through: tuple[Stage, ...], to: Stage
) -> None:
    version = register(stages, name, tmp_path, *through)
    before = transitions_of(stages.engine, name)
    with pytest.raises(StageError, match=f"cannot become {to}"):
        stages.transition(version, to, WHY)
    assert transitions_of(stages.engine, name) == before and agree(stages, name)


def test_a_version_is_retired_before_it_is_deleted(
    stages: Stages, name: str, tmp_path: Path
) -> None:
    version = register(stages, name, tmp_path, Stage.CHALLENGER, Stage.CHAMPION)
    stages.remove(version, "too old")
    assert stages.of(version) is Stage.RETIRED
    assert not stages.registry.has(name, version.version)
    assert agree(stages, name)


def test_what_was_moved_outside_is_written_down(stages: Stages, name: str, tmp_path: Path) -> None:
    first = register(stages, name, tmp_path, Stage.CHALLENGER, Stage.CHAMPION)
    second = register(stages, name, tmp_path)
    stages.registry._point(name, Alias.CHAMPION, second.version)
    stages.reconcile()
    assert (stages.of(first), stages.of(second)) == (Stage.RETIRED, Stage.CHAMPION)
    assert agree(stages, name)


def test_a_transition_to_a_version_that_is_gone_ends_in_its_retirement(
    stages: Stages, name: str, tmp_path: Path
) -> None:
    """As after a restore of the registry from an earlier backup than that of the database."""
    version = register(stages, name, tmp_path, Stage.CHALLENGER)
    with stages.engine.begin() as connection:
        mine = transition.c.model_name == name
        connection.execute(sa.update(transition).where(mine).values(confirmed_at=None))
    stages.registry._remove(version)
    stages.reconcile()
    assert stages.of(version) is Stage.RETIRED and agree(stages, name)


def move_until(settings: Settings, name: str, version: int, to: Stage, number: int) -> None:
    """Bring a version to `to`, and die at the step of that number if there is one."""
    stages = stages_of(settings)
    chosen = stages.registry.at(name, version)
    with dying_at(number):
        stages.transition(chosen, to, WHY)


@pytest.mark.slow
@pytest.mark.security
@pytest.mark.parametrize("to", [Stage.CHAMPION, Stage.ROLLED_BACK])
def test_a_kill_at_any_step_leaves_the_one_state_or_the_other(
    home: Settings, stages: Stages, name: str, tmp_path: Path, to: Stage
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlflow.tracking", "mlflow.store.tracking", __name__])
    old = register(stages, name, tmp_path, Stage.CHALLENGER, Stage.CHAMPION)
    seen = set()
    for number in range(1000):
        before = [Stage.CHALLENGER] + [Stage.CHAMPION] * (to is Stage.ROLLED_BACK)
        new = register(stages, name, tmp_path, *before)
        child = context.Process(target=move_until, args=(home, name, new.version, to, number))
        child.start()
        child.join()
        serving = stages.registry.get(name, Alias.CHAMPION)
        assert serving in (old, new), "a model must always serve"
        stages.reconcile()
        assert agree(stages, name)
        after = stages.of(new)
        assert after in (before[-1], to)
        seen.add((child.exitcode, after))
        champion = new if Stage.CHAMPION is after else old
        assert stages.registry.get(name, Alias.CHAMPION) == champion
        if child.exitcode == 0:
            break
        old = champion
    assert seen == {(-signal.SIGKILL, before[-1]), (-signal.SIGKILL, to), (0, to)}


def test_an_installation_of_the_former_version_keeps_models_aliases_and_promotions(
    stages: Stages, server: database.DatabaseUrls, name: str, tmp_path: Path
) -> None:
    from alembic import command
    from alembic.config import Config

    first, second, third = (register(stages, name, tmp_path) for _ in range(3))
    plain, dropped = (register(stages, f"{name}-{kind}", tmp_path) for kind in ("plain", "dropped"))
    # As the former version left them: the champion was challenger as well, the baseline without a
    # record, and the course's champion was dropped without a record.
    registry = stages.registry
    for alias, version in ((Alias.CHAMPION, second), (Alias.CHALLENGER, third)):
        registry._point(name, alias, version.version)
    for alias in Alias:
        registry._point(plain.name, alias, plain.version)
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    promoted = """insert into registry.promotion (model_name, from_version, to_version, decided_at,
        reason, improvement, low, high, row_count, student_count) values
        (:name, null, 1, :now, 'there was no champion', null, null, null, null, null),
        (:dropped, null, 1, :now, 'it errs less', 0.1, 'NaN', 0.2, 10, 5),
        (:name, 1, 2, :now, 'it errs less', 0.1, 0.05, 0.2, 10, 5)"""
    with new_database(server, f"old_{name.replace('-', '_')}", "template1") as url:
        engine = database.connect(url)
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, BEFORE)
            names = {"name": name, "dropped": dropped.name, "now": NOW}
            connection.execute(sa.text(promoted), names)
        database.migrate(engine)
        upgraded = Stages(engine, registry, NOW + timedelta(days=1))
        upgraded.reconcile()
        assert transitions_of(engine, name) == [
            (1, "challenger", "champion", None),
            (2, "challenger", "champion", 1),
            (1, "champion", "retired", None),
            (3, "candidate", "challenger", None),
        ]
        with engine.connect() as connection:
            rows = connection.execute(sa.select(transition).order_by(transition.c.id)).all()
        assert rows[0].decided_at == rows[0].confirmed_at == NOW and rows[0].figures == {}
        assert rows[1].figures == {"improvement": 0.1, "high": 0.2, "rows": 10, "students": 5}
        assert [upgraded.of(registered) for registered in (second, third, plain, dropped)] == [
            Stage.CHAMPION,
            Stage.CHALLENGER,
            Stage.CHAMPION,
            Stage.RETIRED,
        ]
        assert registry.get(name, Alias.CHAMPION) == second
        assert registry.get(name, Alias.CHALLENGER) == third
        assert registry.get(plain.name, Alias.CHAMPION) == plain
        assert registry.fetch(first).is_dir()
        upgraded.transition(third, Stage.CHAMPION, WHY)
        assert registry.get(name, Alias.CHAMPION) == third
        assert upgraded.of(second) is Stage.RETIRED
        engine.dispose()
