"""Only known facts enter the score."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grade_ml.maintenance.facts import Course, Database, Disk, Facts, JobRuns, Queue, Records, Step
from grade_ml.maintenance.health import SETTINGS, health
from grade_ml_tests.maintenance.facts import GB, NOON, NOTHING, WELL, unwell

FAILING = {**WELL.jobs, "collect_external_data": JobRuns(failed=28, newest_failed=True)}
SLOW = {"train_advanced_ml_models": JobRuns(durations=(900.0,) * 6 + (3600.0,))}
WORSE = {
    "runs": unwell(jobs=FAILING),
    "durations": unwell(jobs=SLOW),
    "queue": unwell(queue=Queue(4, 2, 9 * 3600)),
    "freshness": unwell(stale=("grade_predictions", "shap_explanations", "weather")),
    "records": unwell(records=replace(WELL.records, loaded_at=NOON - timedelta(days=20))),
    "quality": unwell(records=replace(WELL.records, quarantined=1800)),
    "models": unwell(courses={"A": Course(41.0, True, False), "B": Course(100.0, False, False)}),
    "drift": unwell(courses={"A": Course(100.0, False, True), "B": Course(100.0, False, False)}),
    "completeness": unwell(completeness={"pooled_ensemble": ("no xgboost",), "drift_report": ()}),
    "disk": unwell(disks={"home": Disk(250 * GB, 90 * GB), "storage": Disk(100 * GB, 5 * GB)}),
    "memory": unwell(steps={"pooled_ensemble": Step(7 * GB, 1.0)}),
    "database": unwell(databases={"grade_ml": Database(GB, 90, 100)}),
}


def test_an_installation_that_is_well_has_all_points_and_nothing_to_do():
    state = health(WELL)
    assert state.score == 100 and not state.needs
    assert state.worst is None and state.unknown == {}
    assert set(state.parts) == set(WORSE)


@pytest.mark.parametrize(("part", "facts"), WORSE.items(), ids=WORSE)
def test_each_part_costs_points_and_has_a_remedy(part: str, facts: Facts):
    state = health(facts)
    assert state.score is not None and state.score < 100
    assert state.worst == part and state.parts[part].remedy
    others = [part_health.points for name, part_health in state.parts.items() if name != part]
    assert set(others) == {100}


def test_what_is_not_known_is_not_well():
    """Only the queue is known of an installation that never worked."""
    state = health(NOTHING)
    assert set(state.unknown) == set(state.parts) - {"queue"}
    assert all(state.unknown.values())


def test_an_installation_that_did_nothing_yet_is_not_called_perfect():
    places = {"disks": WELL.disks, "databases": WELL.databases}
    assert health(replace(NOTHING, **places)).score is None
    full = {**places, "disks": {"home": Disk(250 * GB, GB // 2)}}
    assert health(replace(NOTHING, **full)).needs


@pytest.mark.parametrize("field", ["jobs", "courses", "completeness", "disks", "steps"])
def test_what_is_not_known_counts_neither_way(field: str):
    state = health(unwell(**{field: {}}))
    assert state.unknown and state.score == 100


@pytest.mark.parametrize(
    "facts",
    [
        unwell(disks={"home": Disk(250 * GB, GB // 2)}),
        unwell(databases={**WELL.databases, "mlflow": None}),
        unwell(queue=Queue(9, 2, 24 * 3600)),
        unwell(jobs={"monitor_model_performance": JobRuns(failed=84, newest_failed=True)}),
    ],
    ids=["disk", "database", "queue", "runs"],
)
def test_what_stops_everything_is_not_averaged_away(facts: Facts):
    assert health(facts).needs


def test_a_job_that_always_fails_is_seen_among_many_that_work():
    working = {f"job {number}": JobRuns(durations=(9.0,) * 7) for number in range(12)}
    part = health(unwell(jobs={**working, "broken": FAILING["collect_external_data"]})).parts[
        "runs"
    ]
    assert part.points is not None and part.points < 50
    assert "broken failed the last time" in part.says and "broken" in part.remedy


def test_one_lost_nightly_run_in_a_week_costs_little():
    lost = {"train_advanced_ml_models": JobRuns(failed=1, durations=(900.0,) * 6)}
    assert 80 < (health(unwell(jobs=lost)).score or 0) < 100


def test_a_large_disk_that_is_nearly_full_and_a_small_disk_that_is_not_are_fine():
    disks = {"large": Disk(4000 * GB, 100 * GB), "small": Disk(10 * GB, 3 * GB)}
    assert health(unwell(disks=disks)).parts["disk"].points == 100


def test_a_short_run_is_not_slow_and_few_runs_have_no_usual_time():
    short = {"load_inbox": JobRuns(durations=(1.0,) * 9 + (40.0,))}
    assert health(unwell(jobs=short)).parts["durations"].points == 100
    few = {"load_inbox": JobRuns(durations=(100.0, 100.0, 900.0))}
    assert health(unwell(jobs=few)).parts["durations"].points is None


def test_records_are_not_awaited_while_no_section_runs():
    records = Records(NOON - timedelta(days=300), running_sections=0, rows=0, quarantined=0)
    state = health(unwell(records=records))
    assert {"records", "quality"} <= set(state.unknown) and state.score == 100


def test_a_refused_delivery_costs_though_nothing_was_loaded():
    empty = replace(WELL.records, rows=0)
    part = health(unwell(records=empty, refused=1)).parts["quality"]
    assert part.points == 50 and "refused/" in part.remedy


many = st.integers(0, 10**6)
runs = st.builds(
    JobRuns,
    failed=many,
    newest_failed=st.booleans(),
    durations=st.lists(st.floats(0, 1e6), max_size=9).map(tuple),
)
points = st.none() | st.floats(0, 100)
any_facts = st.builds(
    Facts,
    at=st.just(NOON),
    records=st.builds(
        Records, st.none() | st.just(NOON) | st.just(NOON + timedelta(days=1)), many, many, many
    ),
    queue=st.builds(Queue, many, many, st.floats(0, 1e7)),
    jobs=st.dictionaries(st.text(max_size=3), runs, max_size=3),
    made=st.just(7),
    stale=st.lists(st.text(max_size=3), max_size=7).map(tuple),
    refused=many,
    courses=st.dictionaries(
        st.text(max_size=3),
        st.builds(Course, points, st.booleans(), st.none() | st.booleans()),
        max_size=3,
    ),
    completeness=st.dictionaries(
        st.text(max_size=3), st.lists(st.text(max_size=3), max_size=2).map(tuple), max_size=3
    ),
    disks=st.dictionaries(st.text(max_size=3), st.builds(Disk, st.just(10**12), many), max_size=2),
    steps=st.dictionaries(
        st.text(max_size=3), st.builds(Step, st.floats(0, 1e12), st.floats(0, 1e6)), max_size=3
    ),
    memory_bytes=st.just(GB),
    databases=st.dictionaries(
        st.text(max_size=3), st.none() | st.builds(Database, many, many, st.just(100)), max_size=3
    ),
)


@given(any_facts)
def test_whatever_is_known_has_points_between_0_and_100(facts: Facts):
    state = health(facts)
    assert state.score is None or 0 <= state.score <= 100
    for name, part in state.parts.items():
        assert part.says, name
        assert part.points is None or 0 <= part.points <= 100, name
        assert part.remedy or part.points is None, name


def test_every_part_has_a_weight_and_what_is_vital_is_a_part():
    named = {field.name for field in fields(SETTINGS)}
    assert set(WORSE) <= named and set(SETTINGS.vital) <= set(WORSE)
