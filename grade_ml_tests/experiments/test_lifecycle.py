"""The life of experiments: opened, decided, promoted, rolled back, and by hand."""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from grade_ml.core.errors import ExperimentError, GradeMLError, NotFoundError, SourceError
from grade_ml.core.settings import Settings
from grade_ml.experiments import lifecycle, store
from grade_ml.experiments.lifecycle import ByHand, Step, tick
from grade_ml.experiments.plan import Decision, Kind, Plan
from grade_ml.experiments.store import Event, Happened
from grade_ml.registry.history import Stage
from grade_ml.registry.registry import Alias
from grade_ml_tests.experiments.lab import Lab
from grade_ml_tests.experiments.plans import STARTS_ON, of_actions, of_models
from grade_ml_tests.experiments.test_store import LOOK
from grade_ml_tests.killing import dying_at
from grade_ml_tests.registry.versions import stages_of

NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)


def decided(decision: Decision) -> Event:
    return Event(Happened.DECIDED, NOW, "grade-ml", "the bound was crossed", decision)


def shadow(lab: Lab) -> str:
    """Open the shadow of a new pair; return its id."""
    champion, challenger = lab.pair()
    assert [step.happened for step in tick(lab.opened)] == [Happened.OPENED]
    return f"pooled-{challenger.version}-against-{champion.version}"


def watch(lab: Lab) -> str:
    """Promote the challenger of a new pair; return the id of its watch."""
    name = shadow(lab)
    lab.record(name, decided(Decision.BETTER))
    assert [step.happened for step in tick(lab.opened)] == [Happened.PROMOTED, Happened.OPENED]
    after = lab.get(name).plan
    return f"pooled-{after.arms[1].model[1]}-after-{after.arms[0].model[1]}"


def test_a_challenger_gets_one_experiment_and_a_newer_one_takes_its_place(lab: Lab) -> None:
    assert tick(lab.opened) == []
    champion = lab.version(Stage.CHALLENGER, Stage.CHAMPION)
    assert tick(lab.opened) == []
    first = lab.version(Stage.CHALLENGER)
    name = f"pooled-{first.version}-against-{champion.version}"
    (step,) = tick(lab.opened)
    assert (step.experiment_id, step.happened) == (name, Happened.OPENED)
    assert "6 scores are expected" in step.says
    assert tick(lab.opened) == []
    plan = lab.get(name).plan
    assert (plan.kind, plan.planned_labels, plan.starts_on) == (Kind.SHADOW, 6, STARTS_ON)
    assert plan.stops_on == STARTS_ON + timedelta(days=34)
    assert [arm.model for arm in plan.arms] == [
        ("pooled", champion.version),
        ("pooled", first.version),
    ]
    second = lab.version(Stage.CHALLENGER)
    assert [step.happened for step in tick(lab.opened)] == [Happened.SUPERSEDED, Happened.OPENED]
    assert lab.events() == {
        name: ["opened", "superseded"],
        f"pooled-{second.version}-against-{champion.version}": ["opened"],
    }
    assert lab.serving() == champion


def test_where_the_clock_went_back_nothing_happens(lab: Lab) -> None:
    name, champion = shadow(lab), lab.serving()
    lab.record(name, decided(Decision.BETTER))
    lab.as_of -= timedelta(days=3)
    with pytest.raises(ExperimentError, match="decisions of experiments on 2026-03-02 cannot be"):
        tick(lab.opened)
    assert lab.serving() == champion and lab.events() == {name: ["opened", "decided"]}
    lab.as_of += timedelta(days=3)
    assert [step.happened for step in tick(lab.opened)] == [Happened.PROMOTED, Happened.OPENED]


def test_where_the_clock_went_back_a_person_may_stop_but_nothing_is_promoted(lab: Lab) -> None:
    name, champion = shadow(lab), lab.serving()
    with lab.opened() as workspace:
        lifecycle.create(workspace, SPLIT)
    lab.record(name, decided(Decision.BETTER))
    lab.as_of -= timedelta(days=30)
    with pytest.raises(ExperimentError, match="and the day is 2026-01-31 now"):
        by_hand(lab, name, ByHand.PROMOTE)
    early = replace(SPLIT, experiment_id="early", starts_on=lab.as_of, courses=("c-2",))
    with lab.opened() as workspace, pytest.raises(ExperimentError, match="the day is 2026-01-31"):
        lifecycle.create(workspace, early)
    assert by_hand(lab, SPLIT.experiment_id, ByHand.STOP) == ["stopped"]
    assert lab.serving() == champion, "what another experiment came to waits for a tick"
    assert by_hand(lab, name, ByHand.VETO) == ["vetoed", "retired"]


def test_a_taken_id_keeps_neither_a_shadow_nor_a_watch_from_opening(lab: Lab) -> None:
    champion, challenger = lab.pair()
    shadow, watch = (
        f"pooled-{challenger.version}-{word}-{champion.version}" for word in ("against", "after")
    )
    with lab.opened() as workspace:
        for name, course in ((shadow, "c-1"), (watch, "c-2")):
            mine = replace(SPLIT, experiment_id=name, courses=(course,))
            lifecycle.create(workspace, mine)
    (opened,) = tick(lab.opened)
    assert (opened.experiment_id, opened.happened) == (f"{shadow}-2", Happened.OPENED)
    assert tick(lab.opened) == [], "it has been opened"
    lab.record(f"{shadow}-2", decided(Decision.BETTER))
    assert [step.happened for step in tick(lab.opened)] == [Happened.PROMOTED, Happened.OPENED]
    assert lab.get(f"{watch}-2").plan.kind is Kind.WATCH
    assert lab.events()[watch] == ["opened"]


def test_between_terms_a_challenger_waits_for_scores(lab: Lab) -> None:
    lab.pair()
    lab.as_of = STARTS_ON + timedelta(days=200)
    (step,) = tick(lab.opened)
    assert step.happened is None and "until scores are due" in step.says
    assert lab.events() == {}


def test_the_better_challenger_is_promoted_and_rolled_back_where_it_disappoints(lab: Lab) -> None:
    champion, challenger = lab.pair()
    tick(lab.opened)
    name = f"pooled-{challenger.version}-against-{champion.version}"
    with lab.engine.begin() as connection:
        store.keep_look(connection, name, replace(LOOK, decision=Decision.BETTER))
    lab.record(name, decided(Decision.BETTER))
    promoted, opened = tick(lab.opened)
    assert (promoted.happened, opened.happened) == (Happened.PROMOTED, Happened.OPENED)
    assert lab.serving() == challenger and tick(lab.opened) == []
    watched = lab.get(f"pooled-{challenger.version}-after-{champion.version}")
    assert watched.plan.kind is Kind.WATCH and watched.plan.stops_on is not None
    with lab.engine.connect() as connection:
        assert store.compared(connection) == [
            ("pooled", champion.version),
            ("pooled", challenger.version),
        ]
    # While it is watched, the next challenger waits.
    later = lab.version(Stage.CHALLENGER)
    (step,) = tick(lab.opened)
    assert step.happened is None and watched.plan.experiment_id in step.says
    correction = lab.version(Stage.CHALLENGER, Stage.CHAMPION, name="course-c-1")
    lab.stages.registry._client.log_param(
        correction.run_id, "pooled_version", str(challenger.version)
    )
    lab.record(watched.plan.experiment_id, decided(Decision.WORSE))
    back, opened = tick(lab.opened)
    assert back.happened is Happened.ROLLED_BACK and lab.serving() == champion
    assert lab.stages.of(challenger) is Stage.ROLLED_BACK
    assert lab.stages.of(correction) is Stage.RETIRED
    assert opened.experiment_id == f"pooled-{later.version}-against-{champion.version}"
    assert tick(lab.opened) == []


@pytest.mark.parametrize("decision", [Decision.WORSE, Decision.NO_DIFFERENCE])
def test_a_challenger_that_is_not_better_is_retired(lab: Lab, decision: Decision) -> None:
    name, champion = shadow(lab), lab.serving()
    lab.record(name, decided(decision))
    assert [step.happened for step in tick(lab.opened)] == [Happened.RETIRED]
    assert lab.serving() == champion
    assert lab.stages.registry.get("pooled", Alias.CHALLENGER) is None
    assert tick(lab.opened) == []


@pytest.mark.parametrize("decision", [Decision.BETTER, Decision.NO_DIFFERENCE])
def test_a_watch_without_a_worse_version_ends_without_consequence(lab: Lab, decision) -> None:
    name, champion = watch(lab), lab.serving()
    lab.record(name, decided(decision))
    assert tick(lab.opened) == [] and lab.serving() == champion


def test_what_is_blocked_is_not_promoted_and_the_reason_given(lab: Lab) -> None:
    name, champion = shadow(lab), lab.serving()
    blocked = replace(LOOK, decision=Decision.BLOCKED, reason="a group errs more")
    with lab.engine.begin() as connection:
        store.keep_look(connection, name, blocked)
    assert tick(lab.opened) == [Step(name, None, "nothing changes: a group errs more")]
    lab.as_of += timedelta(days=100)
    steps = tick(lab.opened)
    assert [step.happened for step in steps] == [Happened.DECIDED, Happened.RETIRED]
    assert "has passed without a decision" in steps[0].says
    assert lab.serving() == champion


def test_a_version_that_is_gone_or_unreadable_ends_its_experiment(lab: Lab) -> None:
    name, champion = shadow(lab), lab.serving()
    challenger = lab.stages.registry.get("pooled", Alias.CHALLENGER)
    lab.stages.remove(challenger, "by hand")
    (step,) = tick(lab.opened)
    assert step.happened is Happened.FAILED
    assert f"version {challenger.version} of pooled was deleted" in step.says
    # Decided, and gone before it is promoted.
    gone = lab.version(Stage.CHALLENGER)
    tick(lab.opened)
    name = f"pooled-{gone.version}-against-{champion.version}"
    lab.record(name, decided(Decision.BETTER))
    lab.stages.registry._remove(gone)
    assert [step.happened for step in tick(lab.opened)] == [Happened.FAILED]
    # A changed file must not serve, with any evidence.
    changed = lab.version(Stage.CHALLENGER)
    tick(lab.opened)
    name = f"pooled-{changed.version}-against-{champion.version}"
    lab.record(name, decided(Decision.BETTER))
    (lab.stages.registry.fetch(changed) / "weights").write_bytes(b"other")
    assert [step.happened for step in tick(lab.opened)] == [Happened.FAILED]
    assert lab.serving() == champion
    unreadable = lab.version(Stage.CHALLENGER)
    (lab.stages.registry.fetch(unreadable) / "weights").unlink()
    (step,) = tick(lab.opened)
    assert step.happened is None and "weights" in step.says


def test_evidence_against_another_champion_promotes_nothing(lab: Lab) -> None:
    name = shadow(lab)
    lab.record(name, decided(Decision.BETTER))
    another = lab.version(Stage.CHALLENGER, Stage.CHAMPION)
    assert [step.happened for step in tick(lab.opened)] == [Happened.SUPERSEDED]
    assert lab.serving() == another
    name = watch(lab)
    lab.record(name, decided(Decision.WORSE))
    another = lab.version(Stage.CHALLENGER, Stage.CHAMPION)
    assert [step.happened for step in tick(lab.opened)] == [Happened.SUPERSEDED]
    assert lab.serving() == another


def by_hand(lab: Lab, name: str, action: ByHand, **changes: str) -> list[str]:
    request = {"by": "dean", "reason": "I know it"} | changes
    return [str(step.happened) for step in lifecycle.decide(lab.opened, name, action, **request)]


def test_a_person_stops_vetoes_or_forces_once_with_a_reason_that_is_kept(lab: Lab) -> None:
    name, champion = shadow(lab), lab.serving()
    for blank in ({"by": " "}, {"reason": ""}):
        with pytest.raises(ExperimentError, match="lacks a person or a reason"):
            by_hand(lab, name, ByHand.STOP, **blank)
    assert by_hand(lab, name, ByHand.STOP) == ["stopped"]
    assert tick(lab.opened) == [], "its pair had its experiment"
    kept = lab.get(name).events[-1]
    assert (kept.by, kept.reason) == ("dean", "I know it")
    for action in (ByHand.VETO, ByHand.PROMOTE):
        with pytest.raises(ExperimentError, match="has ended: stopped by dean"):
            by_hand(lab, name, action)
    lab.reset()
    name, champion = shadow(lab), lab.serving()
    lab.record(name, decided(Decision.BETTER))
    with pytest.raises(ExperimentError, match="is decided already"):
        by_hand(lab, name, ByHand.STOP)
    assert by_hand(lab, name, ByHand.VETO) == ["vetoed", "retired"], "a veto wins"
    assert lab.serving() == champion
    lab.reset()
    name = shadow(lab)
    challenger = lab.stages.registry.get("pooled", Alias.CHALLENGER)
    assert by_hand(lab, name, ByHand.PROMOTE) == ["forced", "promoted"]
    assert by_hand(lab, name, ByHand.PROMOTE) == [], "the same again changes nothing"
    assert lab.serving() == challenger
    (watched,) = (event for event in lab.events() if "after" in event)
    with pytest.raises(ExperimentError, match="is a watch, which promotes no version"):
        by_hand(lab, watched, ByHand.PROMOTE)
    lab.record(watched, decided(Decision.WORSE))
    assert by_hand(lab, watched, ByHand.VETO) == ["vetoed"]
    assert tick(lab.opened) == [] and lab.serving() == challenger
    with pytest.raises(NotFoundError, match="no experiment nowhere"):
        by_hand(lab, "nowhere", ByHand.STOP)


def test_a_veto_that_waits_for_its_consequence_forbids_a_force(lab: Lab) -> None:
    name = shadow(lab)
    lab.record(name, Event(Happened.VETOED, NOW, "dean", "no"))
    with pytest.raises(ExperimentError, match="is vetoed by dean: no"):
        by_hand(lab, name, ByHand.PROMOTE)
    assert [step.happened for step in tick(lab.opened)] == [Happened.RETIRED]


SPLIT = of_actions(courses=("c-1",))


@pytest.mark.parametrize(
    ("plan", "error", "reason"),
    [
        (replace(SPLIT, courses=("c-9",)), NotFoundError, "no course c-9. Known courses: c-1, c-2"),
        (replace(SPLIT, subject="pooled"), ExperimentError, "changes interventions, and not"),
        (of_models(kind=Kind.WATCH), ExperimentError, "cannot be created by hand"),
        (of_models(subject="baseline"), ExperimentError, "cannot be created by hand"),
        (of_actions(0.3, 0.3, 0.4, courses=("c-1",)), SourceError, "table-2.csv cannot be read"),
        (replace(SPLIT, strata=("star sign",)), ExperimentError, "no strata by star sign"),
        (replace(SPLIT, alpha=7), ExperimentError, "alpha is 7"),
    ],
)
def test_an_experiment_that_cannot_run_is_not_created(
    lab: Lab, plan: Plan, error: type[GradeMLError], reason: str
) -> None:
    with lab.opened() as workspace, pytest.raises(error, match=reason):
        lifecycle.create(workspace, plan)
    assert lab.events() == {}


def test_two_experiments_change_one_thing_for_other_students_only(lab: Lab) -> None:
    def create(**changes: object) -> None:
        with lab.opened() as workspace:
            lifecycle.create(workspace, replace(SPLIT, **changes))

    create(group="advice")
    with pytest.raises(ExperimentError, match="changes interventions for some of the same"):
        create(experiment_id="second")
    with pytest.raises(ExperimentError, match="for some of the same"):
        create(experiment_id="second", courses=(), group="another")
    create(experiment_id="second", group="advice")
    create(experiment_id="third", courses=("c-2",))
    with pytest.raises(ExperimentError, match="is an experiment third already"):
        create(experiment_id="third", group="advice", courses=("c-1",))
    lab.as_of = STARTS_ON + timedelta(days=10)
    assert by_hand(lab, "second", ByHand.STOP) == ["stopped"]
    assert lab.events()["third"] == ["opened"]


def test_a_shadow_by_hand_compares_champion_and_challenger(lab: Lab) -> None:
    champion, challenger = lab.pair()
    old = lab.version(Stage.RETIRED)
    with lab.opened() as workspace:
        with pytest.raises(ExperimentError, match="is retired and cannot be the arm challenger"):
            lifecycle.create(workspace, of_models(champion.version, old.version))
        with pytest.raises(GradeMLError, match="no version 9999"):
            lifecycle.create(workspace, of_models(champion.version, 9999))
        mine = of_models(champion.version, challenger.version, experiment_id="by-hand")
        lifecycle.create(workspace, mine)
    assert tick(lab.opened) == []
    assert lab.events() == {"by-hand": ["opened"]}


def ticking(settings: Settings, lab: Lab, number: int) -> None:
    """Tick in a process of its own, which dies at the write of that number."""
    mine = Lab(stages_of(settings), lab.folder, lab.as_of, settings=settings)
    with dying_at(number):
        tick(mine.opened)


def _processes() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlflow.tracking", "mlflow.store.tracking", __name__])
    return context


@pytest.mark.slow
@pytest.mark.security
@pytest.mark.parametrize(
    ("first", "begin", "decision", "ends"),
    [
        (0, shadow, Decision.BETTER, ["promoted"]),
        (1, shadow, Decision.WORSE, ["retired"]),
        (2, watch, Decision.WORSE, ["rolled back"]),
    ],
)
def test_a_kill_at_a_write_is_finished_by_the_next_tick(
    lab: Lab, first: int, begin, decision: Decision, ends: list[str]
) -> None:
    """At every third, in each case from another step on: all of all cases take three minutes."""
    context = _processes()
    for number in range(first, 1000, 3):
        lab.reset()
        name = begin(lab)
        lab.record(name, decided(decision))
        plan = lab.get(name).plan
        versions = [lab.stages.registry.at(*arm.model) for arm in plan.arms]
        plain = replace(lab, settings=None, stages=None)
        child = context.Process(target=ticking, args=(lab.settings, plain, number))
        child.start()
        child.join()
        assert lab.serving() in versions, "a model must always serve"
        tick(lab.opened)
        assert lab.events()[name] == ["opened", "decided", *ends]
        assert lab.serving() == versions[ends == ["promoted"]]
        watched = [event for event in lab.events() if "after" in event and event != name]
        assert len(watched) == (ends == ["promoted"])
        assert tick(lab.opened) == []
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
    assert number > 4


@pytest.mark.slow
def test_two_processes_at_once_do_it_once(lab: Lab) -> None:
    name = shadow(lab)
    lab.record(name, decided(Decision.BETTER))
    plain = replace(lab, settings=None, stages=None)
    children = [
        _processes().Process(target=ticking, args=(lab.settings, plain, 10**6)) for _ in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert lab.events()[name] == ["opened", "decided", "promoted"]
    assert len(lab.events()) == 2 and tick(lab.opened) == []
