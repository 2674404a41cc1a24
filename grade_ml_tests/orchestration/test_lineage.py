"""What each asset reads, recorded while the graph is made, is what the UI shows that it reads.

The recorder sits below the domain: at the database's driver, at the store of frames and at the
registry. So it sees what is read in any way, and needs no list of its own.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from dagster import DagsterEventType, DagsterInstance
from sqlalchemy import Engine

from grade_ml.campus.providers.server import serve
from grade_ml.campus.simulated import CampusConfig
from grade_ml.core import database
from grade_ml.core.clock import Clock
from grade_ml.core.settings import Settings
from grade_ml.experiments import store
from grade_ml.experiments.plan import Kind
from grade_ml.external.settings import ExternalSettings
from grade_ml.features.store import Frames
from grade_ml.orchestration.build import COURSE_ASSETS, build_defs
from grade_ml.orchestration.catalog import synchronize
from grade_ml.orchestration.ranges import range_tags
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.running import QUIET
from grade_ml.registry.history import Stage
from grade_ml.registry.registry import Registry
from grade_ml_tests.conftest import TABLES, installation, new_database
from grade_ml_tests.experiments.plans import of_actions, of_models
from grade_ml_tests.monitoring import world as campuses
from grade_ml_tests.monitoring.world import TODAY

pytestmark = pytest.mark.slow

#: The daily and nightly jobs, in their order. The fit of `pooled_ensemble`, which takes minutes,
#: is left out: the campus comes with a serving model.
NIGHT = (
    "train_traditional_models",
    "retrain_drifted_courses",
    "generate_time_series_forecasts",
    "monitor_model_performance",
    "update_model_explanations",
)
#: Forecasters that take minutes to fit and read what the others read; they are not installed here.
SLOW = ("tensorflow", "keras", "prophet")
#: What the columns named kind and source separate in tables that several assets write.
PARTS = {
    "monitoring.report": {
        "drift": "drift_report",
        "performance": "performance_report",
        "concept": "concept_drift",
        "health": "model_health",
    },
    "explanations.advice": {
        "second_opinion": "lime_explanations",
        "what_if": "counterfactuals",
        "narrative": "narratives",
    },
}
SERVED = ("baseline", "pooled", "course-")
_NAME = re.compile(r'"?\b([a-z_]+)"?\."?([a-z_]+)"?')
#: A table that is only made like another, or of which no row is read.
_NOTHING = re.compile(r"with no data|where false", re.IGNORECASE)
_WRITES = re.compile(r"\b(?:insert\s+into|update|delete\s+from|copy)\s+$", re.IGNORECASE)


@dataclass
class Recorder:
    """Which assets read and wrote which tables, frames and models, by the step that ran."""

    tables: frozenset[str]
    step: str | None = None
    read: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    written: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    #: The days of the frames that were read.
    days: set[date] = field(default_factory=set)

    def statement(self, query: Any, values: Any = None) -> None:
        if self.step is None:
            return
        text = query if isinstance(query, str) else str(query)
        if _NOTHING.search(text):
            return
        sql = text + repr(values)
        for match in _NAME.finditer(text):
            table = f"{match[1]}.{match[2]}"
            if table in self.tables:
                is_write = _WRITES.search(text[: match.start()])
                parts = [part for part in PARTS.get(table, {}) if f"'{part}'" in sql]
                names = [f"{table} {part}" for part in parts] or [table]
                (self.written if is_write else self.read)[self.step].update(names)

    def model(self, name: str) -> None:
        self.read[str(self.step)].add(f"model {_kind(name)}")

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        def before(owner: type, name: str, notice: Any) -> None:
            original = getattr(owner, name)

            def called(this: Any, *args: Any, **keywords: Any) -> Any:
                if self.step is not None:
                    notice(this, *args, **keywords)
                return original(this, *args, **keywords)

            patch.setattr(owner, name, called)

        for name in ("execute", "executemany", "copy"):
            before(
                psycopg.Cursor,
                name,
                lambda _, query, values=None, **k: self.statement(query, values),
            )
        wanted = Frames._wanted

        def frames_read(this: Frames, courses: Any, kind: str) -> Any:
            frames = wanted(this, courses, kind)
            if self.step is not None:
                self.read[self.step].add(f"frames {kind}")
                self.days |= {date.fromisoformat(path.stem) for path in frames.values()}
            return frames

        patch.setattr(Frames, "_wanted", frames_read)
        before(
            Frames,
            "write",
            lambda this, course, rows, kind="grade_snapshots", *notes: self.written[
                str(self.step)
            ].add(f"frames {kind}"),
        )
        before(Registry, "fetch", lambda _, version: self.model(version.name))
        before(Registry, "get", lambda _, name, alias: self.model(name))
        # A query of every champion reads whichever serves.
        before(Registry, "holders", lambda _, alias: [self.model(name) for name in SERVED])
        before(
            Registry,
            "register",
            lambda _, name, *a, **k: self.written[str(self.step)].add(f"model {_kind(name)}"),
        )
        handle = DagsterInstance.handle_new_event

        def follow(this: DagsterInstance, entry: Any, **keywords: Any) -> Any:
            event = entry.dagster_event
            if event and event.event_type is DagsterEventType.STEP_START:
                self.step = event.step_key
            elif event and event.event_type in (
                DagsterEventType.STEP_SUCCESS,
                DagsterEventType.STEP_FAILURE,
            ):
                self.step = None
            return handle(this, entry, **keywords)

        patch.setattr(DagsterInstance, "handle_new_event", follow)


def _kind(model: str) -> str:
    return "course" if model.startswith("course-") else model


@dataclass(frozen=True)
class Made:
    """An installation whose whole graph was made for `TODAY`, and what was recorded."""

    settings: Settings
    engine: Engine
    instance: DagsterInstance
    courses: list[str]
    recorder: Recorder

    def run(self, as_of: date, *jobs: str, courses: list[str] | None = None) -> None:
        chosen = courses or self.courses
        for name in jobs:
            job = build_defs(self.settings).resolve_job_def(name)
            result = job.execute_in_process(
                run_config={**QUIET, "resources": {"platform": {"config": {"as_of": str(as_of)}}}},
                instance=self.instance,
                tags=range_tags(chosen[0], chosen[-1]) if job.partitions_def else {},
                raise_on_error=False,
            )
            problems = [
                f"{event.step_key}: {event.step_failure_data.error}"
                for event in result.get_step_failure_events()
            ]
            assert not problems, "\n".join(problems)


@pytest.fixture(scope="module")
def made(server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("lineage")
    with (
        new_database(server, "grade_ml_lineage", TABLES) as url,
        installation(server, url, folder) as fresh,
        DagsterInstance.local_temp(str(folder)) as instance,
        serve(CampusConfig(students=180, courses=3, terms=4, seed=4), TODAY) as providers,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in SLOW:
            patch.setitem(sys.modules, name, None)
        settings, engine = fresh.model_copy(update={"as_of": TODAY}), database.connect(url)
        campus = campuses.world()
        campuses.fill(settings, engine, campus)
        courses = synchronize(instance, campus.courses)
        tables = [
            f"{schema}.{table}"
            for schema in sa.inspect(engine).get_schema_names()
            for table in sa.inspect(engine).get_table_names(schema)
        ]
        recorder = Recorder(frozenset(tables))
        recorder.watch(patch)
        made = Made(settings, engine, instance, courses, recorder)
        external = ExternalSettings(_env_file=None, providers_url=providers.url)
        collect = build_defs(settings, external).resolve_job_def("collect_external_data")
        assert collect.execute_in_process(
            run_config=QUIET, instance=instance, partition_key=str(TODAY)
        ).success
        open_experiments(settings, engine, campus, courses)
        made.run(TODAY, *NIGHT, "manage_ab_tests")
        yield made
        engine.dispose()


def open_experiments(
    settings: Settings, engine: Engine, campus: campuses.World, courses: list[str]
) -> None:
    """Let a second version challenge the champion, and divide students between actions."""
    registry = Platform(settings, Clock()).registry
    challenger = campuses.register(engine, registry, campus.model, Stage.CHALLENGER)
    plans = (
        of_models(challenger.version - 1, challenger.version),
        of_actions(courses=(courses[0],), strata=("course", "gender")),
        of_actions(0.5, 0.5, kind=Kind.BANDIT, experiment_id="a-bandit", courses=(courses[1],)),
    )
    with engine.begin() as connection:
        for plan in plans:
            begun = replace(plan, starts_on=TODAY - timedelta(days=7))
            at = datetime.combine(begun.starts_on, time(4), UTC)
            store.create(connection, begun, at, plan.owner, "of a test")


#: Tables that no asset makes: what loads, transitions, alerts and requests of all kinds leave.
NO_ASSET = {
    *("gradebook.load", "gradebook.quarantine", "registry.transition", "training.request"),
    *("alerts.condition", "alerts.outbox", "maintenance.step_usage"),
    *("experiments.experiment", "experiments.event"),
    *("external.response", "external.rate_limit", "external.collection"),
}
#: Frames, models and tables beside the table that `dagster/table_name` names.
OWNERS = {
    "frames grade_snapshots": "grade_snapshots",
    "frames score_sequences": "score_sequences",
    "model baseline": "baseline_model",
    "model pooled": "pooled_ensemble",
    "model course": "course_ensemble",
    "model trajectory": "trajectory_model",
    "ensemble.course_training": "course_ensemble",
    "forecasts.trajectory_model": "trajectory_model",
    "forecasts.activity_forecast": "trajectory_forecasts",
    "forecasts.course_run": "trajectory_forecasts",
    "monitoring.matured_error": "concept_drift",
    "gradebook.earlier_result": "results",
    "explanations.importance": "feature_importance",
    "explanations.reference": "feature_importance",
    "explanations.fairness": "feature_importance",
    "ensemble.shadow_prediction": "grade_predictions",
    "experiments.exposure": "interventions",
}
#: The ways back: a training reads what monitoring reported of the former model, and new students
#: are divided by the shares that a bandit has learned. Declared, they would make circles, which a
#: graph of assets must not have; the assets describe it.
FEEDBACK = {
    *(("course_ensemble", name) for name in ("concept_drift", "drift_report", "model_health")),
    ("experiment_assignments", "bandit_allocations"),
    ("experiment_results", "bandit_allocations"),
}
#: What is read only by the models that want it, or where it serves.
AT_TIMES = {"external_features", "pooled_ensemble", "course_ensemble", "baseline_model"}

#: What is read once rewards are there, weeks after a bandit's first nightly run.
LATER = {"bandit_allocations": {"students"}}


def owners(made: Made) -> dict[str, set[str]]:
    """Return the assets that make each table, frame and model."""
    makers: dict[str, set[str]] = defaultdict(set)
    for name, asset in OWNERS.items():
        makers[name].add(asset)
    for spec in build_defs(made.settings).resolve_all_asset_specs():
        table = spec.metadata.get("dagster/table_name")
        if table is not None:
            makers[str(getattr(table, "value", table))].add(spec.key.to_user_string())
    for table, parts in PARTS.items():
        makers |= {f"{table} {part}": {asset} for part, asset in parts.items()}
    return makers


def declared(made: Made) -> dict[str, set[str]]:
    """Return the declared dependencies of each step; those of a step of several assets together."""
    reads: dict[str, set[str]] = defaultdict(set)
    for assets_def in build_defs(made.settings).resolve_asset_graph().assets_defs:
        for spec in assets_def.specs:  # of a check none
            reads[assets_def.op.name] |= {dep.asset_key.to_user_string() for dep in spec.deps}
    return reads


def own(made: Made, step: str) -> set[str]:
    """Return the assets that a step makes."""
    graph = build_defs(made.settings).resolve_asset_graph()
    (definition,) = [assets_def for assets_def in graph.assets_defs if assets_def.op.name == step]
    return {key.to_user_string() for key in definition.keys}


def test_each_asset_declares_what_it_reads(made: Made) -> None:
    owners_of, declared_reads = owners(made), declared(made)
    by_course = {asset.op.name for asset in COURSE_ASSETS}
    wrong = {}
    for step in sorted(made.recorder.read.keys() & declared_reads.keys()):
        mine, read = own(made, step), set()
        for name in made.recorder.read[step] - NO_ASSET:
            assert owners_of[name], f"{step} reads {name}, which no asset makes"
            # What several write, a step of theirs reads as its own.
            read |= set() if owners_of[name] & mine else owners_of[name]
        hidden = {
            read_name
            for read_name in read - declared_reads[step]
            if (step, read_name) not in FEEDBACK
        }
        if step in by_course:
            hidden.discard("courses")  # whether a partition's course exists is no input
        idle = declared_reads[step] - read - AT_TIMES - LATER.get(step, set())
        if step in GRADEBOOK:
            idle = set()  # a row waits for those that it refers to
        if hidden or idle:
            wrong[step] = {"reads undeclared": sorted(hidden), "does not read": sorted(idle)}
    assert not wrong, "\n".join(f"{step}: {assets}" for step, assets in wrong.items())
    assert {step for step, _ in FEEDBACK} <= made.recorder.read.keys()


GRADEBOOK = {
    *("students", "terms", "courses", "sections"),
    *("enrollments", "assignments", "results", "activity"),
}


def test_the_feedback_is_declared_and_taken(made: Made) -> None:
    owners_of = owners(made)
    read = {
        asset for name in made.recorder.read["course_ensemble"] for asset in owners_of.get(name, ())
    }
    assert "concept_drift" in read
    specs = {
        spec.key.to_user_string(): spec
        for spec in build_defs(made.settings).resolve_all_asset_specs()
    }
    for reader, asset in FEEDBACK:
        assert asset in str(specs[reader].metadata["feedback"])


def stored(made: Made, as_of: date) -> dict[str, object]:
    """Return what the stores hold of a day: the bytes of its frames, the rows of its tables."""
    frames = {
        str(path): path.read_bytes()
        for path in (Path(made.settings.storage_root) / "features").rglob(f"{as_of}.parquet")
    }
    inspector, rows = sa.inspect(made.engine), {}
    with made.engine.connect() as connection:
        for table in sorted(made.recorder.tables):
            schema, name = table.split(".")
            if "as_of" in {column["name"] for column in inspector.get_columns(name, schema)}:
                query = f"select t::text from {table} t where as_of = :day order by 1"
                rows[table] = tuple(connection.execute(sa.text(query), {"day": as_of}).scalars())
    assert len(frames) == 2 * len(made.courses) and sum(map(len, rows.values())) > 1000
    return {**frames, **rows}


def test_a_run_for_a_past_day_leaves_today_alone_and_reads_nothing_of_it(made: Made) -> None:
    before, past = stored(made, TODAY), TODAY - timedelta(days=7)
    made.recorder.days.clear()
    made.run(past, "refresh_gradebook", *NIGHT[2:], courses=made.courses[:1])
    assert max(made.recorder.days) == past
    after = stored(made, TODAY)
    assert [name for name in before if before[name] != after[name]] == []
    assert before.keys() == after.keys()
