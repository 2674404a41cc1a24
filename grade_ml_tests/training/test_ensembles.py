"""From training to serving on a small campus: PostgreSQL, MLflow and the files are real."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from importlib.metadata import version as installed_version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from grade_ml.core.errors import ArtifactError, NotReadyError
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.core.resampling import Improvement
from grade_ml.core.settings import Settings
from grade_ml.ensemble import baseline, pooled
from grade_ml.ensemble.baseline import BaselineModel
from grade_ml.ensemble.course import Change, CourseModel
from grade_ml.ensemble.evaluation import by_section
from grade_ml.ensemble.names import BASELINE, POOLED, name_of
from grade_ml.ensemble.pooled import Parameters, PooledModel
from grade_ml.ensemble.rows import ENROLLMENT, NAIVE, as_text, section_versions
from grade_ml.features.snapshots import grade_snapshots, weekly_cuts
from grade_ml.features.store import Frames
from grade_ml.gradebook.attributes import declarations
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS, Institution, Use
from grade_ml.registry.history import Stage, transition
from grade_ml.registry.registry import Alias, ModelVersion, Registry
from grade_ml.registry.transition import Evidence, Stages
from grade_ml.registry.workspace import Opening, Workspace
from grade_ml.serving.models import Models
from grade_ml.serving.predictions import read_predictions, read_shadows
from grade_ml.serving.scoring import Scored, score_running
from grade_ml.training import course
from grade_ml.training import pooled as training_of_pooled
from grade_ml.training.comparison import Comparison, Ratio
from grade_ml.training.course import CourseOutcome
from grade_ml.training.data import TrainingData, finished
from grade_ml.training.steps import Training
from grade_ml.training.tuning import Tuned
from grade_ml.training.verdicts import of_pooled
from grade_ml_tests.ensemble.campus import TODAY, campus, make_champion, store
from grade_ml_tests.ensemble.quick import quick
from grade_ml_tests.ensemble.snapshots import snapshots
from grade_ml_tests.factories import PSEUDONYMS
from grade_ml_tests.registry.versions import register as register_any

pytestmark = pytest.mark.slow

NOW = datetime(2025, 11, 10, 3, tzinfo=UTC)
SERVING = (Stage.CHALLENGER, Stage.CHAMPION)
MATHS, OTHER = "SIM-MATH101", "SIM-COMP101"


@dataclass(frozen=True)
class World:
    """A gradebook, its snapshots of every sixth week, and what came true in ended sections."""

    gradebook: Gradebook
    snapshots: pd.DataFrame
    results: pd.DataFrame

    @property
    def ended(self) -> pd.DataFrame:
        return self.snapshots[self.snapshots["section_id"].isin(self.results["section_id"])]


@pytest.fixture(scope="module")
def world() -> World:
    gradebook = campus(students=120)
    weekly = grade_snapshots(gradebook, weekly_cuts(gradebook.sections, TODAY), TODAY)
    newest = weekly["cut_on"] == weekly["cut_on"].max()
    chosen = weekly[newest | (weekly["cut_day"] // 7 % 6 == 2)].reset_index(drop=True)
    return World(gradebook, chosen, finished(gradebook, TODAY, DEFAULTS))


@pytest.fixture(scope="module")
def model(world: World) -> PooledModel:
    return pooled.fit(world.ended, world.results, seed=0, pseudonyms=PSEUDONYMS, parameters=quick())


@pytest.fixture(scope="module")
def plain() -> BaselineModel:
    # It only has to answer.
    return baseline.fit(*snapshots(sections=4, students=20, weeks=3), seed=0)


def opening(engine: Engine, registry: Registry, root: str) -> Opening:
    """Return what opens the stores of a test on `TODAY`."""

    @contextmanager
    def opened() -> Iterator[Workspace]:
        with engine.begin() as connection:
            yield Workspace(connection, registry, root, TODAY, NOW)

    return opened


@pytest.fixture
def registry(settings: Settings) -> Registry:
    assert settings.mlflow_tracking_uri
    return Registry(settings.mlflow_tracking_uri, settings.storage_root, PSEUDONYMS)


@pytest.fixture
def opened(settings: Settings, engine: Engine, registry: Registry) -> Opening:
    return opening(engine, registry, settings.storage_root)


@pytest.fixture
def stages(engine: Engine, registry: Registry) -> Stages:
    return Stages(engine, registry, NOW)


@pytest.fixture
def connection(engine: Engine, world: World) -> Iterator[Connection]:
    store(engine, world.gradebook)
    with engine.begin() as connection:
        yield connection


def tuned(rows: pd.DataFrame, results: pd.DataFrame, last: Parameters | None) -> Tuned:
    return Tuned(quick(), degraded=("nothing was tuned",))


def train(
    opened: Opening,
    snapshots: pd.DataFrame,
    results: pd.DataFrame,
) -> Training[PooledModel]:
    data = TrainingData.of(snapshots, results, PSEUDONYMS)
    return training_of_pooled.train(data, opened, tune=tuned)


def register(stages: Stages, model: PooledModel, *through: Stage) -> ModelVersion:
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        version = stages.registry.register(
            POOLED,
            Path(folder),
            metrics=model.evaluation.flat(),
            parameters={},
            features=model.features,
            data_version="data",
            code_version=installed_version("grade-ml"),
            trained_at=NOW,
        )
    for stage in through:
        stages.transition(version, stage, Evidence("arranged"))
    return version


def store_snapshots(settings: Settings, world: World) -> None:
    for name, rows in world.snapshots.groupby("course_id", observed=True):
        Frames(settings.storage_root, TODAY, PSEUDONYMS).write(str(name), rows)


def damage(settings: Settings, version: ModelVersion) -> None:
    for path in Path(settings.storage_root, "models", version.run_id).glob("model.json"):
        path.write_bytes(b"damaged")


def corrected(results: pd.DataFrame) -> pd.DataFrame:
    """Return the results with every grade changed by hundredths of a point."""
    change = np.random.default_rng(0).uniform(-0.05, 0.05, len(results))
    return results.assign(final_grade=(results["final_grade"] + change).clip(0, 100))


def with_worse_past(model: PooledModel) -> PooledModel:
    """Return the model as if its prediction of each held-out row were that of another row."""
    held = model.held_out
    order = np.random.default_rng(0).permutation(len(held))
    shuffled = held.assign(**{name: held[name].to_numpy()[order] for name in ("grade", "risk")})
    return replace(model, held_out=shuffled)


def with_perfect_past(model: PooledModel, but_low_in: str = "") -> PooledModel:
    """Return the model as if it had foretold every outcome, 30 points too low in one course."""
    held = model.held_out
    low = 30 * (held["course_id"] == but_low_in)
    exchanged = held.assign(
        raw_grade=(held["final_grade"] - low).clip(0), raw_risk=held["at_risk"] * 1.0
    )
    return replace(model, held_out=exchanged)


def beside(plain: BaselineModel, model: PooledModel, factor: float) -> BaselineModel:
    """Return the baseline as if its errors on the same rows were `factor` times the model's."""
    errors = by_section(model.held_out)
    errors[["mse", "brier"]] *= factor
    return replace(plain, section_errors=errors)


Told = tuple[str, int | None, int]


def promotions(connection: Connection) -> list[Told]:
    """Return who became champion instead of whom, as training decided."""
    table = transition.c
    query = sa.select(table.model_name, table.replaced, table.version).where(
        table.to_stage == Stage.CHAMPION, table.reason != "arranged", table.confirmed_at == NOW
    )
    return [tuple(row) for row in connection.execute(query.order_by(table.id))]


def test_the_first_version_serves_and_unchanged_data_are_not_fitted_again(
    world: World, opened: Opening, registry: Registry, connection: Connection
) -> None:
    first = train(opened, world.snapshots, world.results)
    assert first.fitted and first.accepted, first.verdicts
    assert first.reason == "became champion: there was no champion"
    assert registry.get(POOLED, Alias.CHAMPION) == first.version
    assert registry.get(POOLED, Alias.CHALLENGER) is None
    assert promotions(connection) == [(POOLED, None, 1)]
    assert {"all_rmse", "training_seconds", "peak_megabytes"} <= set(first.version.metrics)
    assert first.version.trained_at == NOW
    assert first.model.degraded == ("nothing was tuned",)
    assert first.version.parameters["grade.catboost.rounds"] == "240"
    assert {trial["source"] for trial in first.model.choices["external"]["trials"]}
    assert {"grade", "risk"} == set(first.model.importance_spread["task"])

    shuffled = world.snapshots.sample(frac=1, random_state=1), world.results[::-1]
    again = train(opened, *shuffled)
    assert not again.fitted and again.accepted
    assert again.reason == "version 1 is kept: nothing changed"

    assert promotions(connection) == [(POOLED, None, 1)]


def test_a_little_change_keeps_the_model(
    world: World, model: PooledModel, opened: Opening, stages: Stages, connection: Connection
) -> None:
    section = str(world.results["section_id"].iloc[0])
    odd = world.results["section_id"] == section
    # One student in ten of the section that changes: about 1 % of all.
    known = world.results[~odd | (world.results.index % 10 == 0)]
    versions = section_versions(world.ended, known, PSEUDONYMS)
    register(stages, replace(model, section_versions=versions), *SERVING)
    odd = known["section_id"] == section
    changed = known.assign(final_grade=known["final_grade"].where(~odd, 1.0))
    training = train(opened, world.ended, changed)
    share = odd.mean()
    assert not training.fitted
    assert 0 < share < 0.05
    assert training.reason == f"version 1 is kept: {share:.1%} of the outcomes changed"


def test_a_new_version_becomes_challenger_however_good_it_looks(  # noqa: PLR0917
    world: World,
    model: PooledModel,
    opened: Opening,
    stages: Stages,
    registry: Registry,
    connection: Connection,
) -> None:
    champion = register(stages, with_worse_past(model), *SERVING)
    training = train(opened, world.snapshots, corrected(world.results))
    assert training.fitted and training.accepted
    assert training.reason.startswith("became challenger: an experiment decides")
    assert registry.get(POOLED, Alias.CHALLENGER) == training.version
    assert registry.get(POOLED, Alias.CHAMPION) == champion
    assert promotions(connection) == []
    again = train(opened, world.snapshots, corrected(world.results))
    assert again.reason == "version 2 is kept: nothing changed"
    # What an experiment retired is not fitted again from the same data.
    stages.transition(training.version, Stage.RETIRED, Evidence("it was no better"))
    again = train(opened, world.snapshots, corrected(world.results))
    assert (again.version, again.fitted) == (training.version, False)
    assert registry.aliases(POOLED)[POOLED] == {Alias.CHAMPION: champion.version}


class StopError(Exception):
    """Ends a training that has shown what it had to."""


def test_no_transaction_is_open_while_a_model_is_fitted(
    world: World, engine: Engine, opened: Opening
) -> None:
    store(engine, world.gradebook)

    def look(*_: object) -> Tuned:
        assert engine.pool.checkedout() == 0
        raise StopError

    data = TrainingData.of(world.snapshots, world.results, PSEUDONYMS)
    with pytest.raises(StopError):
        training_of_pooled.train(data, opened, tune=look)


def test_a_candidate_of_a_process_that_died_does_not_pass_for_up_to_date(
    world: World, model: PooledModel, engine: Engine, opened: Opening, stages: Stages
) -> None:
    store(engine, world.gradebook)
    data = TrainingData.of(world.snapshots, world.results, PSEUDONYMS)
    version = register(stages, replace(model, section_versions=data.versions))

    def begin(*_: object) -> Tuned:
        raise StopError

    with pytest.raises(StopError):
        training_of_pooled.train(data, opened, tune=begin)
    for stage in SERVING:
        stages.transition(version, stage, Evidence("arranged"))
    assert training_of_pooled.train(data, opened, tune=begin).version == version


def test_a_challenger_that_a_dead_process_left_without_champion_serves(
    world: World, model: PooledModel, opened: Opening, stages: Stages, registry: Registry
) -> None:
    versions = section_versions(world.ended, world.results, PSEUDONYMS)
    left = register(stages, replace(model, section_versions=versions), Stage.CHALLENGER)
    training = train(opened, world.ended, world.results)
    assert not training.fitted
    assert registry.get(POOLED, Alias.CHAMPION) == training.version == left


def test_a_version_that_carrying_on_beats_has_no_alias(
    world: World, opened: Opening, registry: Registry, connection: Connection
) -> None:
    known = world.ended.merge(
        world.results.astype({"section_id": "string", "student_id": "string"}),
        how="left",
        on=["section_id", "student_id"],
    )["final_grade"]
    # The naive forecast is never wrong, and no member sees it.
    oracle = world.ended.assign(grade_if_nothing_more=0.0)
    oracle[NAIVE] = known.to_numpy("float32")
    training = train(opened, oracle, world.results)
    assert not training.accepted
    assert "better_than_naive" in training.reason
    assert training.reason.startswith("stays a candidate")
    assert registry.get(POOLED, Alias.CHALLENGER) is None
    assert registry.get(POOLED, Alias.CHAMPION) is None
    assert promotions(connection) == []


@pytest.mark.parametrize("challenged", [False, True])
def test_a_champion_that_cannot_be_read_is_replaced(  # noqa: PLR0917
    world: World,
    model: PooledModel,
    challenged: bool,
    opened: Opening,
    stages: Stages,
    registry: Registry,
    connection: Connection,
    settings: Settings,
) -> None:
    champion = register(stages, model, *SERVING)
    if challenged:
        register(stages, model, Stage.CHALLENGER)
    damage(settings, champion)
    training = train(opened, world.snapshots, world.results)
    assert training.fitted
    assert training.reason.startswith("became champion: version 1 cannot serve")
    assert registry.get(POOLED, Alias.CHAMPION) == training.version
    assert promotions(connection) == [(POOLED, 1, training.version.version)]


def test_verdicts_name_what_is_missing(model: PooledModel) -> None:
    poor = {"rmse": 30.0, "naive_rmse": 20.0, "coverage80": 0.5, "coverage95": 0.9, "ece": 0.5}
    evaluation = replace(model.evaluation, metrics={"all": poor | {"brier": 0.3}})
    worse = Comparison(6, {"rmse": Ratio(0.0, 0.01), "brier": Ratio(0.1, 0.01)})
    judged = of_pooled(replace(model, evaluation=evaluation), worse, None)
    assert {check.name: check.passed for check in judged} == {
        "better_than_naive": False,
        "better_than_baseline": False,
        "intervals_cover": False,
        "calibrated": False,
        "explanations_add_up": True,
    }
    unknown = replace(model, evaluation=replace(model.evaluation, metrics={"all": {"rmse": None}}))
    assert all(check.passed for check in of_pooled(unknown, None, None))


@pytest.mark.parametrize(("factor", "serves"), [(2.0, True), (0.5, False)])
def test_a_baseline_that_is_better_on_the_same_rows_serves(  # noqa: PLR0917
    world: World,
    model: PooledModel,
    plain: BaselineModel,
    tmp_path: Path,
    opened: Opening,
    stages: Stages,
    registry: Registry,
    settings: Settings,
    factor: float,
    serves: bool,
) -> None:
    make_champion(settings, beside(plain, model, factor), tmp_path / "plain")
    versions = section_versions(world.ended, world.results, PSEUDONYMS)
    version = register(stages, replace(model, section_versions=versions), Stage.CHALLENGER)
    data = TrainingData.of(world.ended, world.results, PSEUDONYMS)
    training = training_of_pooled.train(data, opened, tune=tuned)
    assert (training.version, training.fitted) == (version, False)
    judged = {verdict.name: verdict for verdict in training.verdicts}["better_than_baseline"]
    assert judged.passed is serves
    ratio = pytest.approx(1 / factor, rel=1e-6)
    assert judged.figures["brier_ratio"] == judged.figures["brier_ratio_high"] == ratio
    assert judged.figures["sections_compared"] == len(model.sections)


def test_before_any_section_has_ended_the_ensemble_states_what_it_needs(
    world: World, opened: Opening
) -> None:
    nothing = TrainingData.of(world.snapshots, world.results.head(0), PSEUDONYMS)
    with pytest.raises(NotReadyError, match=r"at least 20 enrollments .* the gradebook has 0"):
        training_of_pooled.train(nothing, opened, tune=lambda *_: Tuned({}))


def test_the_next_in_line_serves_and_reports_it(  # noqa: PLR0917
    world: World,
    model: PooledModel,
    plain: BaselineModel,
    tmp_path: Path,
    opened: Opening,
    stages: Stages,
    registry: Registry,
    connection: Connection,
    settings: Settings,
) -> None:
    with pytest.raises(NotReadyError, match="No model has been trained"):
        Models(registry).serving(MATHS)
    refused = register_any(stages, BASELINE, tmp_path)
    with pytest.raises(NotReadyError, match=f"version {refused.version}.*Load more finished terms"):
        Models(registry).serving(MATHS)
    make_champion(settings, plain, tmp_path / "plain")
    served = Models(registry).serving(MATHS)
    assert (served.version.name, served.degraded) == ("baseline", ())

    champion = register(stages, replace(model, degraded=("no catboost",)), *SERVING)
    served = Models(registry).serving(MATHS)
    assert (served.version, served.degraded) == (champion, ("no catboost",))
    store_snapshots(settings, world)

    damage(settings, champion)
    served = Models(registry).serving(MATHS)
    assert served.version.name == "baseline"
    assert len(served.degraded) == 1
    served_models = Models(registry).serving_each([MATHS, "elsewhere"])
    assert [(trained.version, trained.degraded) for trained in served_models.values()] == [
        (served.version, served.degraded)
    ] * 2
    assert "pooled version 1 cannot serve" in served.degraded[0]
    assert "model.json" in served.degraded[0]
    scored = score(opened, MATHS)
    assert scored.models == (f"baseline {served.version.version}",)
    assert scored.degraded == served.degraded
    rows = read_predictions(connection, as_of=TODAY)
    assert rows["degraded"].str.contains("cannot serve").all()


def test_shadows_predict_beside_the_champion_and_cost_it_nothing(  # noqa: PLR0917
    world: World,
    model: PooledModel,
    opened: Opening,
    stages: Stages,
    connection: Connection,
    settings: Settings,
) -> None:
    store_snapshots(settings, world)
    champion = register(stages, model, *SERVING)
    alone = score(opened, MATHS, OTHER)
    assert alone.shadows == ()
    challenger = register(stages, replace(model, base_rate=0.1), Stage.CHALLENGER)
    broken = register(stages, model)
    damage(settings, broken)
    compared = [(POOLED, kept.version) for kept in (champion, challenger, broken)]
    with opened() as workspace:
        scored = score_running(workspace, [MATHS, OTHER], [*compared, (POOLED, 99)])
    pd.testing.assert_frame_equal(scored.predictions, alone.predictions)
    assert scored.models == (f"pooled {champion.version}",)
    assert scored.shadows == (f"pooled {champion.version}", f"pooled {challenger.version}")
    unread, absent = scored.degraded
    silent = "the shadow pooled {} did not predict: {}".format
    assert unread.startswith(silent(broken.version, "The file model.json"))
    assert absent.startswith(silent(99, "The registry has no version 99"))
    served = read_predictions(connection, as_of=TODAY)
    assert set(served["model_version"]) == {champion.version}
    newest = as_text(world.snapshots[world.snapshots["cut_on"] == world.snapshots["cut_on"].max()])
    for version in (champion, challenger):
        rows = read_shadows(connection, version, as_of=TODAY)
        assert len(rows) == len(served) == len(scored.predictions) > 0
        assert rows[["grade", "risk", "lower80"]].notna().all(axis=None)
        both = rows.merge(newest, on=ENROLLMENT)
        known = both[both["weight_remaining"] >= 1]
        assert len(known) and both["implied"].notna().sum() == len(known)
        assert known["implied"].between(0, 100).all()
        points = known["implied"] * known["weight_remaining"] / 100
        certain = known["grade_if_nothing_more"].fillna(0)
        assert np.allclose(points, known["grade"] - certain, atol=1e-3)
    shadows = read_shadows(connection, champion, as_of=TODAY)
    assert shadows["grade"].tolist() == served["grade"].tolist()


def correct(
    opened: Opening, *courses: str, changes: Mapping[str, Change] | None = None
) -> list[CourseOutcome]:
    return list(course.train(courses, opened, changes or {}))


def score(opened: Opening, *courses: str) -> Scored:
    with opened() as workspace:
        return score_running(workspace, courses)


def test_a_model_that_reads_what_none_may_steps_aside_and_is_replaced(  # noqa: PLR0917
    world: World,
    model: PooledModel,
    tmp_path: Path,
    stages: Stages,
    registry: Registry,
    connection: Connection,
    settings: Settings,
) -> None:
    frame, truth = snapshots(sections=4, students=20, weeks=3)
    plain = baseline.fit(frame.drop(columns="attribute_region"), truth, seed=0)
    make_champion(settings, beside(plain, model, 2.0), tmp_path / "plain")
    register(stages, model, *SERVING)
    assert "attribute_region" in model.features
    assert Models(registry).serving(MATHS).version.name == POOLED

    declared = declarations(Institution(attributes={"region": Use.PROTECTED}))
    stricter = Registry(registry.tracking_uri, settings.storage_root, PSEUDONYMS, declared)
    served = Models(stricter).serving(MATHS)
    assert served.version.name == "baseline"
    (reason,) = served.degraded
    assert "pooled version 1 cannot serve" in reason and "region (protected)" in reason
    assert "train_advanced_ml_models" in reason
    store_snapshots(settings, world)
    (outcome,) = correct(opening(stages.engine, stricter, settings.storage_root), MATHS)
    assert not outcome.fitted and "region (protected)" in outcome.reason

    data = TrainingData.stored(
        Frames(settings.storage_root, TODAY, PSEUDONYMS), world.results, declared
    )
    training = training_of_pooled.train(
        data, opening(stages.engine, stricter, settings.storage_root), tune=tuned
    )
    assert training.fitted and training.reason.startswith("became champion: version 1 cannot serve")
    assert "attribute_region" not in training.model.features
    assert Models(stricter).serving(MATHS).version == training.version


@pytest.mark.security
def test_a_model_whose_students_another_secret_hides_is_replaced_and_removed(  # noqa: PLR0917
    world: World,
    model: PooledModel,
    stages: Stages,
    registry: Registry,
    connection: Connection,
    settings: Settings,
) -> None:
    old = register(stages, model, *SERVING)
    mine = Registry(registry.tracking_uri, settings.storage_root, Pseudonyms(b"another"))
    with pytest.raises(NotReadyError, match="not registered under this installation's secret"):
        Models(mine).pooled_champion()
    training = train(
        opening(stages.engine, mine, settings.storage_root), world.snapshots, world.results
    )
    assert training.reason.startswith("became champion: version 1 cannot serve")
    assert Models(mine).serving(MATHS).version == training.version
    assert not set(training.model.held_out["student"]) & set(model.held_out["student"])
    assert [path.name for path in (Path(settings.storage_root) / "models").iterdir()] == [
        training.version.run_id
    ]
    with pytest.raises(ArtifactError, match="no version 1"):
        mine.at(POOLED, old.version)


def test_a_course_is_corrected_once_and_serves_itself(  # noqa: PLR0917
    world: World,
    model: PooledModel,
    opened: Opening,
    stages: Stages,
    registry: Registry,
    connection: Connection,
    settings: Settings,
) -> None:
    store_snapshots(settings, world)
    (nothing,) = correct(opened, MATHS)
    assert (nothing.kept, nothing.fitted) == (False, False)
    assert nothing.reason == "No ensemble has been trained yet."
    champion = register(stages, with_perfect_past(model, but_low_in=MATHS), *SERVING)
    outcomes = course.train((MATHS, OTHER), opened)
    first = next(outcomes)
    # It is recorded before the next is begun.
    done = sa.select(course.course_training.c.course_id)
    assert list(connection.execute(done).scalars()) == [MATHS]
    (other,) = outcomes
    assert first.kept and first.fitted, first.reason
    assert first.model and first.model.pooled_version == champion.version
    assert other.fitted and not other.kept
    version = registry.get(name_of(MATHS), Alias.CHAMPION)
    assert version and registry.get(name_of(MATHS), Alias.CHALLENGER) is None
    assert registry.get(name_of(OTHER), Alias.CHAMPION) is None
    assert promotions(connection) == [(name_of(MATHS), None, 1)]

    again = correct(opened, MATHS, OTHER)
    assert [(trained.kept, trained.fitted) for trained in again] == [(True, False), (False, False)]
    assert all(trained.reason.startswith("nothing changed: ") for trained in again)
    assert registry.get(name_of(MATHS), Alias.CHAMPION) == version

    scored = score(opened, MATHS, OTHER)
    assert scored.models == (f"{name_of(MATHS)} 1", "pooled 1")

    # Scores of the running section have changed: that comes on top, and stays in later runs.
    change = Change(date(2025, 11, 5), -0.3, Improvement(0.2, 0.1, 0.3, 100, 50))
    (outcome,) = correct(opened, MATHS, changes={MATHS: change})
    assert outcome.fitted and "points to come are -30%" in outcome.reason
    assert outcome.model and first.model and outcome.model.changed_on == change.since
    lower = score(opened, MATHS)
    assert lower.models == (f"{name_of(MATHS)} 2",)
    assert lower.of_course(MATHS)["mean_grade"] < scored.of_course(MATHS)["mean_grade"] - 1
    (kept,) = correct(opened, MATHS)
    assert kept.kept and not kept.fitted and str(change.since) in kept.reason
    served = Models(registry).serving(MATHS).model
    assert isinstance(served, CourseModel) and served.changed_on == change.since

    # Another champion, of which the course has nothing to correct.
    register(stages, with_perfect_past(model), *SERVING)
    (gone,) = correct(opened, MATHS)
    assert gone.fitted and not gone.kept
    assert registry.get(name_of(MATHS), Alias.CHAMPION) is None
    assert stages.of(registry.at(name_of(MATHS), 2)) is Stage.RETIRED
    assert Models(registry).serving(MATHS).version.name == POOLED
