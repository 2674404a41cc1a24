"""Whatever happened to versions: what something needs is there after a clean-up, the rest is not.

What is needed is found by doing what needs it: serving, rolling back, comparing, explaining.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
import sqlalchemy as sa

from grade_ml.core.settings import Settings
from grade_ml.ensemble.names import POOLED
from grade_ml.experiments import store
from grade_ml.explanations.tables import attribution, reference
from grade_ml.forecasting.tables import trajectory_model
from grade_ml.forecasting.trajectory import NAME as TRAJECTORY
from grade_ml.maintenance import versions
from grade_ml.maintenance.cleaning import Report, clean
from grade_ml.registry.history import Stage, transition
from grade_ml.registry.registry import Alias, ModelVersion, Registered, Registry
from grade_ml.registry.transition import Stages
from grade_ml.serving.predictions import grade_prediction
from grade_ml_tests.experiments.lab import Lab
from grade_ml_tests.experiments.plans import of_models
from grade_ml_tests.factories import PSEUDONYMS
from grade_ml_tests.killing import dying_at
from grade_ml_tests.registry.versions import NOW, WHY, register, stages_of

DAYS = 30
LATER = datetime.now(UTC) + timedelta(days=DAYS + 1)
CORRECTION = "course-c-1"
TABLES = (attribution, reference, grade_prediction, trajectory_model, transition)


@pytest.fixture
def emptied(lab: Lab) -> Iterator[Lab]:
    """The installation without versions, of this test or of others."""
    forget(lab)
    yield lab
    forget(lab)


def forget(lab: Lab) -> None:
    lab.reset()
    with lab.engine.begin() as connection:
        for table in TABLES:
            connection.execute(sa.delete(table))
    for version in lab.stages.registry.registered():
        lab.stages.registry._remove(version)
        lab.stages.registry.drop_run(version.run_id)
    for run_id in lab.stages.registry.unregistered(LATER):
        lab.stages.registry.drop_run(run_id)


def cleaned(stages: Stages, at: datetime = LATER, **options: bool) -> Report:
    return clean(versions.outdated_versions(stages, at, DAYS), **options)


def left(lab: Lab) -> set[tuple[str, int]]:
    return {(version.name, version.version) for version in lab.stages.registry.registered()}


def removed(report: Report) -> dict[str, int]:
    assert not report.problems
    return {part.kind: part.freed.count for part in report.parts if part.freed}


def explain(lab: Lab, version: ModelVersion | Registered, section: str) -> None:
    row = {
        **{"section_id": section, "student_id": "s", "as_of": date(2026, 3, 1), "course_id": "c-1"},
        **{"model_name": version.name, "model_version": version.version, "features_hash": "h"},
        **{"risk": {}, "feature_values": {}, "risk_error": 0.0},
    }
    with lab.engine.begin() as connection:
        connection.execute(sa.insert(attribution), row)


#: What may happen, and how often beside the others.
LIKELY = {"train": 3, "succeed": 4, "challenge": 2, "promote": 1, "retire": 1, "roll_back": 1}
LIKELY |= {"correct": 3, "compare": 2, "end": 1, "explain": 2, "mark": 1}


class History:
    """What may happen to versions; what cannot happen at the moment does not."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.explained = lab, list[Registered]()
        self.marked: list[tuple[str, int]] = []

    @property
    def registry(self) -> Registry:
        return self.lab.stages.registry

    def happen(self, event: str) -> None:
        getattr(self, event)()

    def succeed(self) -> None:
        """Let a new version become champion."""
        self.train()
        self.challenge()
        self.promote()

    def train(self) -> None:
        register(self.lab.stages, POOLED, self.lab.folder)

    def correct(self) -> None:
        """Register a correction of the newest version, which serves with it."""
        if newest := self.registry.newest(POOLED):
            through = (Stage.CHALLENGER, Stage.CHAMPION)
            folder, stages = self.lab.folder, self.lab.stages
            register(stages, CORRECTION, folder, *through, pooled_version=newest.version)

    def challenge(self) -> None:
        newest = self.registry.newest(POOLED)
        if newest and self.lab.stages.of(newest) is Stage.CANDIDATE:
            self.lab.stages.transition(newest, Stage.CHALLENGER, WHY)

    def promote(self) -> None:
        if version := self.registry.get(POOLED, Alias.CHALLENGER):
            self.lab.stages.transition(version, Stage.CHAMPION, WHY)

    def retire(self) -> None:
        if version := self.registry.get(POOLED, Alias.CHALLENGER):
            self.lab.stages.transition(version, Stage.RETIRED, WHY)

    def roll_back(self) -> None:
        if version := self.registry.get(POOLED, Alias.CHAMPION):
            self.lab.stages.transition(version, Stage.ROLLED_BACK, WHY)

    def compare(self) -> None:
        arms = [self.registry.get(POOLED, alias) for alias in (Alias.CHAMPION, Alias.CHALLENGER)]
        if arms[0] and arms[1]:
            with self.lab.engine.begin() as connection:
                plan = of_models(arms[0].version, arms[1].version)
                store.create(connection, plan, NOW, "x", "to see")

    def end(self) -> None:
        with self.lab.engine.begin() as connection:
            for experiment in store.running(connection):
                event = store.Event(store.Happened.STOPPED, NOW, "x", "enough")
                store.record(connection, experiment.plan.experiment_id, event)

    def explain(self) -> None:
        registered = self.registry.registered()
        if registered:
            version = registered[len(registered) // 2]
            explain(self.lab, version, f"section-{len(self.explained)}")
            self.explained.append(version)

    def mark(self) -> None:
        """Give the oldest version an alias of the user's own in MLflow."""
        if registered := self.registry.registered():
            oldest = min(registered, key=lambda version: version.version)
            self.registry._client.set_registered_model_alias(
                oldest.name, "paper", str(oldest.version)
            )
            self.marked = [(oldest.name, oldest.version)]

    def require_all(self) -> None:
        """Do what needs a version."""
        registry, stages = self.registry, self.lab.stages
        for alias in Alias:
            for holder in registry.holders(alias):
                registry.fetch(holder)
                if beneath := holder.parameters.get("pooled_version"):
                    registry.fetch(registry.at(POOLED, int(beneath)))
        for made_by in self.explained:
            registry.fetch(registry.at(made_by.name, made_by.version))
        for name, version in self.marked:
            registry.fetch(registry.at(name, version))
        with self.lab.engine.connect() as connection:
            for name, version in store.compared(connection):
                registry.fetch(registry.at(name, version))
        if newest := registry.newest(POOLED):
            registry.fetch(newest)
        if champion := registry.get(POOLED, Alias.CHAMPION):
            stages.transition(champion, Stage.ROLLED_BACK, WHY)
            if restored := registry.get(POOLED, Alias.CHAMPION):
                registry.fetch(restored)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 3])
def test_what_is_needed_stays_whatever_happened(emptied: Lab, seed: int) -> None:
    history, chance = History(emptied), Random(seed)
    for event in chance.choices(list(LIKELY), list(LIKELY.values()), k=30):
        history.happen(event)
    rollback = restored_by_a_rollback(emptied)
    removed(cleaned(emptied.stages))
    stayed = left(emptied)
    assert rollback <= stayed
    assert removed(cleaned(emptied.stages)) == {}
    assert left(emptied) == stayed
    history.require_all()


def restored_by_a_rollback(lab: Lab) -> set[tuple[str, int]]:
    """Return what a rollback of the champion would return to, by its records."""
    champion = lab.stages.registry.get(POOLED, Alias.CHAMPION)
    if champion is None:
        return set()
    column = transition.c
    with lab.engine.connect() as connection:
        before = connection.execute(
            sa.select(column.replaced)
            .where(column.model_name == POOLED, column.version == champion.version)
            .where(column.to_stage == Stage.CHAMPION)
            .order_by(column.id.desc())
        ).scalar()
    return set() if before is None else {(POOLED, before)}


def test_only_what_nothing_needs_goes_with_its_files_and_rows(
    emptied: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "_AT_ONCE", 2)
    stages, registry = emptied.stages, emptied.stages.registry
    made_versions = [emptied.version() for _ in range(3)]
    first = emptied.version(Stage.CHALLENGER, Stage.CHAMPION)
    champion = emptied.version(Stage.CHALLENGER, Stage.CHAMPION)
    refused = emptied.version(Stage.CHALLENGER, Stage.RETIRED)
    newest = emptied.version()
    explain(emptied, made_versions[1], "section")
    row = {"course_id": "", "phase": "", "task": "", "feature": "f", "share": 1, "spread": 0}
    with emptied.engine.begin() as connection:
        for candidate in (made_versions[0], champion):
            values = {"model_name": POOLED, "model_version": candidate.version, **row}
            connection.execute(sa.insert(reference), values)
    assert removed(cleaned(stages, datetime.now(UTC))) == {}, "they are young"
    dry = cleaned(stages, dry_run=True).parts[0]
    assert dry.found and (dry.found.count, dry.found.kept) == (3, 4)
    gone = cleaned(stages)
    assert removed(gone) == {"model versions": 3, "explanations.reference": 1}
    assert gone.parts[0].freed and gone.parts[0].freed.freed == dry.found.bytes > 0
    stay = (made_versions[1], first, champion, newest)
    assert left(emptied) == {(POOLED, version.version) for version in stay}
    for candidate in (made_versions[0], made_versions[2], refused):
        assert stages.of(candidate) is Stage.RETIRED
        assert not (registry._models / candidate.run_id).exists()
        with pytest.raises(Exception, match="not found"):
            registry._client.get_run(candidate.run_id)
    for candidate in stay:
        registry.fetch(candidate)
    assert removed(cleaned(stages)) == {}


def test_what_a_killed_training_left_goes_and_a_link_is_not_followed(
    emptied: Lab, tmp_path: Path
) -> None:
    registry = emptied.stages.registry
    emptied.version()
    kept = emptied.version()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis").write_text("three years of work")
    abandoned = registry._client.create_run(registry._group(POOLED, registry._models))
    folder = Path(registry._models.path) / abandoned.info.run_id
    folder.mkdir(parents=True)
    (folder / "half").write_bytes(b"half a model")
    os.symlink(tmp_path / "elsewhere", folder / "link")
    linked = registry._client.create_run(registry._group(POOLED, registry._models))
    os.symlink(tmp_path / "elsewhere", folder.parent / linked.info.run_id)
    foreign_run = registry._client.create_run(registry._client.create_experiment("my own work"))
    report = cleaned(emptied.stages)
    assert removed(report) == {"model versions": 1, "runs without a version": 2}
    assert report.parts[1].freed and report.parts[1].freed.freed == len(b"half a model")
    assert (tmp_path / "elsewhere" / "thesis").read_text() == "three years of work"
    assert not folder.exists() and not (folder.parent / linked.info.run_id).is_symlink()
    assert registry._client.get_run(foreign_run.info.run_id)
    registry.fetch(kept)


def test_files_in_an_object_store_go_with_their_version(emptied: Lab) -> None:
    uri = str(emptied.settings.mlflow_tracking_uri)
    stages = Stages(emptied.engine, Registry(uri, "memory://kept", PSEUDONYMS), NOW)
    old, kept = (register(stages, POOLED, emptied.folder) for _ in range(2))
    report = cleaned(stages)
    assert removed(report) == {"model versions": 1}
    assert report.parts[0].freed and report.parts[0].freed.freed > 0
    assert not (stages.registry._models / old.run_id).exists()
    stages.registry.fetch(kept)


def clean_until(home: Settings, number: int) -> None:
    """Clean up, and die at the step of that number if there is one."""
    stages = stages_of(home)
    with dying_at(number):
        cleaned(stages)


@pytest.mark.slow
@pytest.mark.security
def test_what_a_kill_left_half_done_the_next_clean_up_finishes(emptied: Lab) -> None:
    registry = emptied.stages.registry
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlflow.tracking", "mlflow.store.tracking", __name__])
    champion = emptied.version(Stage.CHALLENGER, Stage.CHAMPION)
    for number in range(0, 1000, 6):
        old, newest = emptied.version(), emptied.version()
        child = context.Process(target=clean_until, args=(emptied.settings, number))
        child.start()
        child.join()
        removed(cleaned(emptied.stages))
        assert left(emptied) == {(POOLED, version.version) for version in (champion, newest)}
        assert not (registry._models / old.run_id).exists()
        with pytest.raises(Exception, match="not found"):
            registry._client.get_run(old.run_id)
        assert removed(cleaned(emptied.stages)) == {}
        registry.fetch(champion)
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
    assert number > 0


def test_a_registry_that_lost_its_versions_empties_no_table(emptied: Lab) -> None:
    row = {"course_id": "", "phase": "", "task": "", "feature": "f", "share": 1, "spread": 0}
    with emptied.engine.begin() as connection:
        values = {"model_name": POOLED, "model_version": 7, **row}
        connection.execute(sa.insert(reference), values)
    (problem,) = cleaned(emptied.stages).problems
    assert "explanations.reference" in problem and "--force" in problem
    assert removed(cleaned(emptied.stages, force=True)) == {"explanations.reference": 1}


@pytest.mark.parametrize("model", [POOLED, TRAJECTORY])
def test_rows_of_a_version_registered_during_a_clean_up_stay(
    emptied: Lab, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training registers a version, then writes its rows, while the clean-up has its list."""
    stages, registered = emptied.stages, Registry.registered
    first = register(stages, model, emptied.folder).version
    store_use(emptied, model, first)
    store_use(emptied, model, first + 1000)  # registered no more
    trained: list[int] = []

    def registered_and_trained(registry: Registry) -> list[Registered]:
        listed = registered(registry)
        trained.append(register(stages, model, emptied.folder).version)
        store_use(emptied, model, trained[-1])
        return listed

    monkeypatch.setattr(Registry, "registered", registered_and_trained)
    for kind in versions.outdated_versions(stages, datetime.now(UTC), DAYS)[2:]:
        kind.remove()
    assert versions_in_use(emptied, model) == {first, *trained}


def store_use(lab: Lab, model: str, version: int) -> None:
    row = {"course_id": "", "phase": "", "task": "", "feature": "f", "share": 1, "spread": 0}
    fitted = {"version": version, "as_of": date(2026, 3, 1), "sections": {}, "accepted": True}
    with lab.engine.begin() as connection:
        if model == TRAJECTORY:
            connection.execute(sa.insert(trajectory_model), fitted)
        else:
            values = {"model_name": model, "model_version": version, **row}
            connection.execute(sa.insert(reference), values)


def versions_in_use(lab: Lab, model: str) -> set[int]:
    column = trajectory_model.c.version if model == TRAJECTORY else reference.c.model_version
    with lab.engine.connect() as connection:
        return set(connection.execute(sa.select(column)).scalars())


def test_an_mlflow_that_is_away_fails_its_part_with_its_reason(emptied: Lab) -> None:
    away = Registry("http://127.0.0.1:1", emptied.settings.storage_root, PSEUDONYMS)
    stages = Stages(emptied.engine, away, NOW)
    report = cleaned(stages)
    assert len(report.problems) == len(report.parts)
    assert "does not answer" in report.problems[0]
