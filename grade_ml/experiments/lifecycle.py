"""What becomes of experiments: they open, end and have consequences, by themselves or by hand.

Each step is written as an event; the registry moves versions. A process that dies between the two
leaves an experiment that is decided and a version that has moved, or not: the next tick sees both
and finishes. One process at a time does any of this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from itertools import count
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.core.errors import (
    ArtifactError,
    ExperimentError,
    StageError,
)
from grade_ml.core.locks import DatabaseLock
from grade_ml.early_warning.interventions import read_table
from grade_ml.ensemble.pooled import NAME as POOLED
from grade_ml.experiments import safety, store
from grade_ml.experiments.expected import expected
from grade_ml.experiments.plan import (
    INTERVENTIONS,
    NOTHING,
    STANDARD,
    VERSIONS,
    Arm,
    Decision,
    Kind,
    Look,
    Metric,
    Plan,
)
from grade_ml.experiments.population import require_known
from grade_ml.experiments.settings import LIFECYCLE
from grade_ml.experiments.store import PROGRAM, Event, Experiment, Happened, State
from grade_ml.gradebook.catalog import course_ids, require_courses
from grade_ml.registry.registry import Alias, ModelVersion
from grade_ml.registry.transition import Evidence, Stage
from grade_ml.registry.workspace import Opening, Workspace

#: The arms of a watch.
_WATCHED = ("replaced", "serving")
#: What is measured on scores as they arrive.
_OF_SCORES = (Metric.SCORE_ERROR, Metric.SCORE, Metric.SUBMITTED)


@dataclass(frozen=True)
class Step:
    """What happened to an experiment in a tick (None: nothing did), and why, in words."""

    experiment_id: str
    happened: Happened | None
    says: str


def tick(opened: Opening) -> list[Step]:
    """Bring all experiments to where records and registry say that they stand.

    Each of the three parts is a transaction: what one decided is stored before the next moves a
    version because of it.

    Raises
    ------
    ExperimentError
        The clock went back.
    """
    steps: list[Step] = []
    for part in (settle, act, open_due):
        with opened() as workspace:
            steps += part(workspace)
    return steps


def settle(workspace: Workspace) -> list[Step]:
    """End the running experiments that cannot go on or whose last day has passed.

    Raises
    ------
    ExperimentError
        Something happened to an experiment on a later day.
    """
    _alone(workspace)
    _require_forward(workspace)
    workspace.stages.reconcile()
    steps = []
    for one in store.running(workspace.connection):
        found = _ending(workspace, one)
        if found:
            steps.append(_record(workspace, one, *found))
        elif (last := _last_look(workspace, one)) and last.decision is Decision.BLOCKED:
            steps.append(Step(one.plan.experiment_id, None, f"nothing changes: {last.reason}"))
    return steps


def act(workspace: Workspace, *only: str) -> list[Step]:
    """Draw the consequences of what was decided, by looks or by hand.

    A version that another process moves at the same moment is left to the next tick.

    Parameters
    ----------
    only
        Ids of experiments; none: all.
    """
    _alone(workspace)
    steps: list[Step] = []
    wanted = [store.experiment.c.experiment_id.in_(only)] if only else []
    for one in store.read(workspace.connection, *wanted):
        if one.state is not State.DECIDED:
            continue
        try:
            steps += _consequences(workspace, one)
        except StageError as error:
            steps.append(Step(one.plan.experiment_id, None, f"waits for the next tick: {error}"))
    return steps


def open_due(workspace: Workspace) -> list[Step]:
    """Open the shadow of the pooled model's challenger, if there is one that has had none."""
    _alone(workspace)
    registry, connection = workspace.registry, workspace.connection
    champion, challenger = (registry.get(POOLED, one) for one in (Alias.CHAMPION, Alias.CHALLENGER))
    if champion is None or challenger is None or champion == challenger:
        return []
    name = _free(connection, f"{POOLED}-{challenger.version}-against-{champion.version}")
    everything = store.read(connection, store.experiment.c.subject == POOLED)
    if any(_compares(one, champion, challenger) for one in everything):
        return []
    before = next((one for one in everything if one.state is not State.ENDED), None)
    if before:
        return [Step(name, None, f"waits until {before.plan.experiment_id} has ended")]
    try:
        registry.fetch(challenger)
    except ArtifactError as error:
        return [Step(name, None, f"does not open: {error}")]
    plan = Plan(
        experiment_id=name,
        kind=Kind.SHADOW,
        subject=POOLED,
        hypothesis=f"Version {challenger.version} of the pooled model errs less than version "
        f"{champion.version}.",
        arms=tuple(
            Arm(arm, model=(one.name, one.version))
            for arm, one in zip(VERSIONS, (champion, challenger), strict=True)
        ),
        metric=Metric.SCORE_ERROR,
        starts_on=workspace.as_of,
        owner=PROGRAM,
    )
    plan = with_horizon(workspace, plan)
    if plan.planned_labels is None:
        return [Step(name, None, "waits until scores are due, or arrive")]
    reason = f"version {challenger.version} is challenger"
    store.create(connection, plan, workspace.now, PROGRAM, reason)
    return [Step(name, Happened.OPENED, f"{reason}; {plan.planned_labels} scores are expected")]


def _free(connection: Connection, name: str) -> str:
    """Return the name if no experiment has it, else the first with a number that none has.

    A person may have taken it: the version would never be compared, or would serve unwatched.
    """
    mine = store.experiment.c.experiment_id
    taken = set(connection.scalars(sa.select(mine).where(mine.startswith(name, autoescape=True))))
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(one for one in names if one not in taken)


def with_horizon(workspace: Workspace, plan: Plan, days: int = LIFECYCLE.horizon) -> Plan:
    """Return the plan with the labels that are expected in its first days, and its last day.

    What has not settled by a last day that is set is not expected.

    It stays as it is where none are known to come, or where its labels are no scores.
    """
    begins, ends = plan.starts_on, plan.stops_on
    found = expected(
        workspace.connection, plan.courses, workspace.as_of, days, first=begins, last=ends
    )
    if found is None or plan.metric not in _OF_SCORES:
        return plan
    return replace(plan, planned_labels=found.labels, stops_on=ends or found.until)


def create(workspace: Workspace, plan: Plan) -> None:
    """Open an experiment by hand.

    Raises
    ------
    ExperimentError
        The plan cannot be used, its id is taken, its versions do not stand where they must, or
        another experiment changes the same subject for some of its courses, or nothing is known
        of a stratum, or the clock went back.
    NotFoundError
        A course of it does not exist.
    SourceError
        A table of interventions of it cannot be used.
    """
    _alone(workspace)
    _require_forward(workspace)
    connection = workspace.connection
    require_courses(plan.courses, course_ids(connection))
    if plan.starts_on < workspace.as_of:
        raise ExperimentError(
            f"The experiment {plan.experiment_id} would begin on {plan.starts_on}, which is past.",
            f"Let it begin on {workspace.as_of} or later: what was seen before must not count.",
        )
    if plan.kind.compares_models:
        _require_stages(workspace, plan)
    elif plan.subject != INTERVENTIONS:
        raise ExperimentError(
            f"A {plan.kind} changes {INTERVENTIONS}, and not {plan.subject}.",
            f"Name {INTERVENTIONS} as its subject.",
        )
    require_known(plan.strata, workspace.registry.declared)
    for arm in plan.arms:
        if arm.action not in (None, STANDARD, NOTHING):
            read_table(Path(str(arm.action)))
    for other in store.running(connection):
        _require_apart(plan, other.plan)
    if not store.create(connection, plan, workspace.now, plan.owner, "created by hand"):
        raise ExperimentError(
            f"There is an experiment {plan.experiment_id} already.", "Give it another id."
        )


class ByHand(StrEnum):
    """What a person may decide of an experiment."""

    #: End it without a decision; versions stay where they stand.
    STOP = "stop"
    #: Forbid what it may come to, or has come to: the challenger of a shadow is retired, the
    #: version that a watch observes serves on.
    VETO = "veto"
    #: Make the challenger of a shadow champion now, whatever the evidence.
    PROMOTE = "promote"


_EVENTS = {
    ByHand.STOP: Happened.STOPPED,
    ByHand.VETO: Happened.VETOED,
    ByHand.PROMOTE: Happened.FORCED,
}


def decide(
    opened: Opening, experiment_id: str, what: ByHand, *, by: str, reason: str
) -> list[Step]:
    """Do with an experiment what a person decided; return what happened to it.

    What was decided is stored first, with who and why. The same again changes nothing.

    Raises
    ------
    ExperimentError
        It has ended, a veto forbids it, it has nothing to promote, nobody or no reason is named, or
        the clock went back and a version would be promoted.
    NotFoundError
        There is no experiment of that id.
    """
    with opened() as workspace:
        _alone(workspace)
        if what is ByHand.PROMOTE:  # help that is withheld can be given again on any clock
            _require_forward(workspace)
        one = store.get(workspace.connection, experiment_id)
        event = Event(_EVENTS[what], workspace.now, by, reason)
        known = one.event(event.kind)
        steps = []
        if known is None or (known.by, known.reason) != (by, reason):
            _require_decidable(one, what, by, reason)
            store.record(workspace.connection, experiment_id, event)
            steps = [Step(experiment_id, event.kind, f"by {by}: {reason}")]
    with opened() as workspace:
        done = act(workspace, experiment_id)
        return steps + [one for one in done if one.experiment_id == experiment_id]


def _require_decidable(one: Experiment, what: ByHand, by: str, reason: str) -> None:
    name, vetoed = one.plan.experiment_id, one.event(Happened.VETOED)
    if not by.strip() or not reason.strip():
        raise ExperimentError(
            f"Nothing was decided of the experiment {name}: it is not said who decides, or why.",
            "Name the person and the reason; both are kept.",
        )
    if one.state is State.ENDED:
        last = one.events[-1]
        raise ExperimentError(
            f"The experiment {name} has ended: {last.kind} by {last.by} on {last.at:%Y-%m-%d}, "
            f"{last.reason.rstrip('.')}.",
            "Nothing can be decided of it any more.",
        )
    if vetoed:
        raise ExperimentError(
            f"The experiment {name} is vetoed by {vetoed.by}: {vetoed.reason}.",
            "A veto is final; the next version that is trained gets an experiment of its own.",
        )
    if what is ByHand.PROMOTE and one.plan.kind is not Kind.SHADOW:
        raise ExperimentError(
            f"The experiment {name} is a {one.plan.kind}, which promotes no version.",
            "Stop it, if it has shown enough; GRADE_ML_INTERVENTIONS names the table in force.",
        )
    if what is ByHand.STOP and one.state is State.DECIDED:
        raise ExperimentError(
            f"The experiment {name} is decided already.", "Veto what it has come to, or let it be."
        )


def _alone(workspace: Workspace) -> None:
    """Wait for other processes' ticks, until this transaction ends."""
    DatabaseLock.EXPERIMENTS.wait(workspace.connection)


def _require_forward(workspace: Workspace) -> None:
    newest = store.newest_event(workspace.connection)
    # A day's leeway: `now` is taken before the lock, and is the end of a day that is replayed.
    if newest and workspace.now < newest - timedelta(days=1):
        raise ExperimentError(
            f"What was decided of experiments on {newest:%Y-%m-%d} cannot be undone, and the day "
            f"is {workspace.as_of} now.",
            "Correct the clock (GRADE_ML_AS_OF, as_of in the launchpad), or wait for that day.",
        )


def _record(
    workspace: Workspace,
    one: Experiment,
    kind: Happened,
    reason: str,
    decision: Decision | None = None,
) -> Step:
    event = Event(kind, workspace.now, PROGRAM, reason, decision)
    store.record(workspace.connection, one.plan.experiment_id, event)
    return Step(one.plan.experiment_id, kind, reason)


def _ending(
    workspace: Workspace, one: Experiment
) -> tuple[Happened, str] | tuple[Happened, str, Decision] | None:
    """Return why a running experiment ends, with what its end is; None: it goes on."""
    plan = one.plan
    if plan.kind.compares_models:
        if found := _of_versions(workspace, plan):
            return found
    elif harmed := safety.harm(workspace, plan):
        return Happened.STOPPED, harmed
    if plan.stops_on is None or workspace.as_of <= plan.stops_on:
        return None
    passed = f"its last day {plan.stops_on} has passed without a decision"
    if plan.kind is Kind.BANDIT:
        return Happened.STOPPED, passed
    return Happened.DECIDED, passed, Decision.NO_DIFFERENCE


def _of_versions(workspace: Workspace, plan: Plan) -> tuple[Happened, str] | None:
    """Return why versions cannot be compared any more; None: they can."""
    registry = workspace.registry
    if gone := _gone(workspace, plan):
        return Happened.FAILED, gone
    control, treatment = (workspace.stages.of(registry.at(*_model(arm))) for arm in plan.arms)
    shadow = plan.kind is Kind.SHADOW
    if treatment is not (Stage.CHALLENGER if shadow else Stage.CHAMPION):
        return Happened.SUPERSEDED, f"its treatment is {treatment}"
    if shadow and control is not Stage.CHAMPION:
        return Happened.SUPERSEDED, f"its control is {control}"
    return None


def _gone(workspace: Workspace, plan: Plan) -> str:
    """Return which version of the plan the registry does not have any more; empty: none."""
    lost = [_model(arm) for arm in plan.arms if not workspace.registry.has(*_model(arm))]
    return " and ".join(f"version {number} of {name} was deleted" for name, number in lost)


def _consequences(workspace: Workspace, one: Experiment) -> list[Step]:
    if gone := _gone(workspace, one.plan):
        return [_record(workspace, one, Happened.FAILED, gone)]
    if one.plan.kind is Kind.WATCH:
        return _roll_back(workspace, one)
    vetoed, forced = one.event(Happened.VETOED), one.event(Happened.FORCED)
    if vetoed:
        return _retire(workspace, one, f"vetoed by {vetoed.by}: {vetoed.reason}")
    if forced:
        return _promote(workspace, one, f"forced by {forced.by}: {forced.reason}")
    decided = one.event(Happened.DECIDED)
    assert decided  # by hand or by looks: a shadow is decided in no other way
    if decided.decision is Decision.BETTER:
        return _promote(workspace, one, decided.reason)
    return _retire(workspace, one, decided.reason)


def _promote(workspace: Workspace, one: Experiment, reason: str) -> list[Step]:
    version, stages = _treatment(workspace, one), workspace.stages
    stage = stages.of(version)
    # Champion already: it was moved, and the process died before that was written here.
    if stage is not Stage.CHAMPION:
        if stage is not Stage.CHALLENGER:
            return [_record(workspace, one, Happened.SUPERSEDED, f"its treatment is {stage}")]
        control = stages.of(workspace.registry.at(*_model(one.plan.control)))
        if control is not Stage.CHAMPION:
            return [_record(workspace, one, Happened.SUPERSEDED, f"its control is {control}")]
        try:
            workspace.registry.fetch(version)
        except ArtifactError as error:
            return [_record(workspace, one, Happened.FAILED, str(error))]
        stages.transition(version, Stage.CHAMPION, _evidence(workspace, one, reason))
    return [_record(workspace, one, Happened.PROMOTED, reason), *_watch(workspace, one)]


def _watch(workspace: Workspace, one: Experiment) -> list[Step]:
    """Open the watch of a version that was promoted."""
    before, now = (_model(arm)[1] for arm in one.plan.arms)
    watch = replace(
        one.plan,
        experiment_id=_free(workspace.connection, f"{one.plan.subject}-{now}-after-{before}"),
        kind=Kind.WATCH,
        hypothesis=f"Version {now} errs no more than version {before}, which it replaced.",
        arms=tuple(
            replace(arm, name=name) for arm, name in zip(one.plan.arms, _WATCHED, strict=True)
        ),
        starts_on=workspace.as_of,
        owner=PROGRAM,
        planned_labels=None,
        stops_on=None,
    )
    watch = with_horizon(workspace, watch, LIFECYCLE.watch)
    if watch.stops_on is None:  # between terms: the next challenger does not wait without end
        watch = replace(watch, stops_on=workspace.as_of + timedelta(days=LIFECYCLE.horizon))
    reason = f"version {now} was promoted by {one.plan.experiment_id}"
    store.create(workspace.connection, watch, workspace.now, PROGRAM, reason)
    return [Step(watch.experiment_id, Happened.OPENED, reason)]


def _roll_back(workspace: Workspace, one: Experiment) -> list[Step]:
    version, stages = _treatment(workspace, one), workspace.stages
    decided = one.event(Happened.DECIDED)
    reason = decided.reason if decided else ""
    stage = stages.of(version)
    if stage is Stage.CHAMPION:
        stages.transition(version, Stage.ROLLED_BACK, _evidence(workspace, one, reason))
    elif stage is not Stage.ROLLED_BACK:
        return [_record(workspace, one, Happened.SUPERSEDED, f"its treatment is {stage}")]
    # What corrects it would go on serving, and it beneath; the next training corrects the other.
    for other in workspace.registry.holders(Alias.CHAMPION):
        if other.parameters.get("pooled_version") == str(version.version):
            stages.transition(other, Stage.RETIRED, Evidence(f"corrects version {version.version}"))
    return [_record(workspace, one, Happened.ROLLED_BACK, reason)]


def _retire(workspace: Workspace, one: Experiment, reason: str) -> list[Step]:
    version, stages = _treatment(workspace, one), workspace.stages
    stage = stages.of(version)
    if stage is Stage.CHALLENGER:
        stages.transition(version, Stage.RETIRED, _evidence(workspace, one, reason))
    elif stage is not Stage.RETIRED:
        return [_record(workspace, one, Happened.SUPERSEDED, f"its treatment is {stage}")]
    return [_record(workspace, one, Happened.RETIRED, reason)]


def _require_stages(workspace: Workspace, plan: Plan) -> None:
    """Refuse versions that no experiment by hand can compare."""
    if plan.kind is Kind.WATCH or plan.subject != POOLED:
        raise ExperimentError(
            f"A {plan.kind} of {plan.subject} cannot be created by hand.",
            f"Create a shadow of {POOLED}; its watch opens by itself after a promotion.",
        )
    for arm, needed in zip(plan.arms, (Stage.CHAMPION, Stage.CHALLENGER), strict=True):
        stage = workspace.stages.of(workspace.registry.at(*_model(arm)))
        if stage is not needed:
            raise ExperimentError(
                f"Version {_model(arm)[1]} of {_model(arm)[0]} is {stage} and cannot be the arm "
                f"{arm.name}.",
                "The first arm is the champion, the second the challenger.",
            )


def _require_apart(plan: Plan, other: Plan) -> None:
    """Refuse two experiments that change one thing for the same students."""
    together = not plan.courses or not other.courses or set(plan.courses) & set(other.courses)
    exclusive = plan.group is not None and plan.group == other.group
    if plan.subject == other.subject and together and not exclusive:
        raise ExperimentError(
            f"The experiment {other.experiment_id} changes {other.subject} for some of the same "
            "courses.",
            "Wait until it has ended, stop it, name other courses, or give both the same group, "
            "whose experiments share no student.",
        )


def _model(arm: Arm) -> tuple[str, int]:
    if arm.model is None:
        raise TypeError(f"the arm {arm.name} is an action")  # `checked` lets none of these pass
    return arm.model


def _treatment(workspace: Workspace, one: Experiment) -> ModelVersion:
    return workspace.registry.at(*_model(one.plan.treatments[0]))


def _compares(one: Experiment, champion: ModelVersion, challenger: ModelVersion) -> bool:
    models = {(version.name, version.version) for version in (champion, challenger)}
    return one.plan.kind is Kind.SHADOW and {arm.model for arm in one.plan.arms} == models


def _last_look(workspace: Workspace, one: Experiment) -> Look | None:
    looks = store.looks(workspace.connection, one.plan.experiment_id)
    return looks[-1] if looks else None


def _evidence(workspace: Workspace, one: Experiment, reason: str) -> Evidence:
    last = _last_look(workspace, one)
    names = ("units", "labels", "difference", "low", "high", "z", "bound")
    figures = {name: float(getattr(last, name)) for name in names} if last else {}
    return Evidence(f"{one.plan.experiment_id}: {reason}", figures)
