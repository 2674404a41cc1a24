"""The life of experiments: they open, end and have consequences, automatically or by hand.

Each step is written as an event; the registry moves versions. If a process dies between the two,
the experiment is decided and its version may have moved or not: the next tick reads both and
finishes. Only one process at a time does any of this.
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
from grade_ml.ensemble.names import POOLED
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
from grade_ml.registry.history import Stage
from grade_ml.registry.registry import Alias, ModelVersion
from grade_ml.registry.transition import Evidence
from grade_ml.registry.workspace import Opening, Workspace

#: The arms of a watch.
_WATCHED = ("replaced", "serving")
#: What is measured on scores as they arrive.
_OF_SCORES = (Metric.SCORE_ERROR, Metric.SCORE, Metric.SUBMITTED)


@dataclass(frozen=True)
class Step:
    """What happened to an experiment in a tick (`None` if nothing did), and why, as text."""

    experiment_id: str
    happened: Happened | None
    says: str


def tick(opened: Opening) -> list[Step]:
    """Bring all experiments to the state that follows from records and registry.

    Each of the three parts is a transaction: the decisions of one part are stored before the next
    part moves a version because of them.

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
    """End the running experiments that cannot continue or whose last day has passed.

    Raises
    ------
    ExperimentError
        Something happened to an experiment on a later day.
    """
    _alone(workspace)
    _require_forward(workspace)
    workspace.stages.reconcile()
    steps = []
    for experiment in store.running(workspace.connection):
        ending = _ending(workspace, experiment)
        if ending:
            steps.append(_record(workspace, experiment, *ending))
        elif (last := _last_look(workspace, experiment)) and last.decision is Decision.BLOCKED:
            steps.append(
                Step(experiment.plan.experiment_id, None, f"nothing changes: {last.reason}")
            )
    return steps


def act(workspace: Workspace, *only: str) -> list[Step]:
    """Carry out the decisions, made by looks or by hand.

    A version that another process moves at the same moment is left to the next tick.

    Parameters
    ----------
    only
        Ids of experiments; none: all.
    """
    _alone(workspace)
    steps: list[Step] = []
    conditions = [store.experiment.c.experiment_id.in_(only)] if only else []
    for experiment in store.read(workspace.connection, *conditions):
        if experiment.state is not State.DECIDED:
            continue
        try:
            steps += _consequences(workspace, experiment)
        except StageError as error:
            steps.append(
                Step(experiment.plan.experiment_id, None, f"waits for the next tick: {error}")
            )
    return steps


def open_due(workspace: Workspace) -> list[Step]:
    """Open the shadow of the pooled model's challenger, if there is one that has had none."""
    _alone(workspace)
    registry, connection = workspace.registry, workspace.connection
    champion, challenger = (
        registry.get(POOLED, alias) for alias in (Alias.CHAMPION, Alias.CHALLENGER)
    )
    if champion is None or challenger is None or champion == challenger:
        return []
    name = _free(connection, f"{POOLED}-{challenger.version}-against-{champion.version}")
    experiments = store.read(connection, store.experiment.c.subject == POOLED)
    if any(_compares(experiment, champion, challenger) for experiment in experiments):
        return []
    before = next(
        (experiment for experiment in experiments if experiment.state is not State.ENDED), None
    )
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
            Arm(arm, model=(version.name, version.version))
            for arm, version in zip(VERSIONS, (champion, challenger), strict=True)
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

    A person may have taken the name: the version would then never be compared, or serve unwatched.
    """
    experiment_id = store.experiment.c.experiment_id
    used = set(
        connection.scalars(
            sa.select(experiment_id).where(experiment_id.startswith(name, autoescape=True))
        )
    )
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(free for free in names if free not in used)


def with_horizon(workspace: Workspace, plan: Plan, days: int = LIFECYCLE.horizon) -> Plan:
    """Return the plan with the labels that are expected in its first days, and its last day.

    Labels that have not settled by the plan's last day are not expected.

    The plan stays as it is if no labels are known to come, or if its labels are no scores.
    """
    begins, ends = plan.starts_on, plan.stops_on
    forecast = expected(
        workspace.connection, plan.courses, workspace.as_of, days, first=begins, last=ends
    )
    if forecast is None or plan.metric not in _OF_SCORES:
        return plan
    return replace(plan, planned_labels=forecast.labels, stops_on=ends or forecast.until)


def create(workspace: Workspace, plan: Plan) -> None:
    """Open an experiment by hand.

    Raises
    ------
    ExperimentError
        The plan cannot be used, its id is taken, its versions do not have the required stages,
        another experiment changes the same subject for some of its courses, a stratum is
        unknown, or the clock went back.
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
            f"Set its first day to {workspace.as_of} or later: earlier labels must not count.",
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
    """What a person may decide about an experiment."""

    #: End it without a decision; versions keep their stages.
    STOP = "stop"
    #: Forbid its decision, made or still to come: the challenger of a shadow is retired, the
    #: version that a watch observes continues to serve.
    VETO = "veto"
    #: Make the challenger of a shadow champion now, with any evidence.
    PROMOTE = "promote"


_EVENTS = {
    ByHand.STOP: Happened.STOPPED,
    ByHand.VETO: Happened.VETOED,
    ByHand.PROMOTE: Happened.FORCED,
}


def decide(
    opened: Opening, experiment_id: str, decision: ByHand, *, by: str, reason: str
) -> list[Step]:
    """Carry out a person's decision on an experiment; return what happened to it.

    The decision is stored first, with its author and reason. The same again changes nothing.

    Raises
    ------
    ExperimentError
        It has ended, a veto forbids it, it has nothing to promote, no person or no reason is named,
        or the clock went back and a version would be promoted.
    NotFoundError
        There is no experiment of that id.
    """
    with opened() as workspace:
        _alone(workspace)
        if decision is ByHand.PROMOTE:  # help that is withheld can be given again on any clock
            _require_forward(workspace)
        experiment = store.get(workspace.connection, experiment_id)
        event = Event(_EVENTS[decision], workspace.now, by, reason)
        known = experiment.event(event.kind)
        steps = []
        if known is None or (known.by, known.reason) != (by, reason):
            _require_decidable(experiment, decision, by, reason)
            store.record(workspace.connection, experiment_id, event)
            steps = [Step(experiment_id, event.kind, f"by {by}: {reason}")]
    with opened() as workspace:
        done = act(workspace, experiment_id)
        return steps + [step for step in done if step.experiment_id == experiment_id]


def _require_decidable(experiment: Experiment, decision: ByHand, by: str, reason: str) -> None:
    name, vetoed = experiment.plan.experiment_id, experiment.event(Happened.VETOED)
    if not by.strip() or not reason.strip():
        raise ExperimentError(
            f"The decision on the experiment {name} lacks a person or a reason: nothing is stored.",
            "Name the person and the reason; both are stored.",
        )
    if experiment.state is State.ENDED:
        last = experiment.events[-1]
        raise ExperimentError(
            f"The experiment {name} has ended: {last.kind} by {last.by} on {last.at:%Y-%m-%d}, "
            f"{last.reason.rstrip('.')}.",
            "An experiment that has ended takes no decision; create another.",
        )
    if vetoed:
        raise ExperimentError(
            f"The experiment {name} is vetoed by {vetoed.by}: {vetoed.reason}.",
            "A veto is final; the next version that is trained gets an experiment of its own.",
        )
    if decision is ByHand.PROMOTE and experiment.plan.kind is not Kind.SHADOW:
        raise ExperimentError(
            f"The experiment {name} is a {experiment.plan.kind}, which promotes no version.",
            "Stop it, if it has shown enough; GRADE_ML_INTERVENTIONS names the table in force.",
        )
    if decision is ByHand.STOP and experiment.state is State.DECIDED:
        raise ExperimentError(
            f"The experiment {name} is decided already.", "Veto the decision, or leave it."
        )


def _alone(workspace: Workspace) -> None:
    """Wait for other processes' ticks, until this transaction ends."""
    DatabaseLock.EXPERIMENTS.wait(workspace.connection)


def _require_forward(workspace: Workspace) -> None:
    newest = store.newest_event(workspace.connection)
    # A day's leeway: `now` is taken before the lock, and is the end of a day that is replayed.
    if newest and workspace.now < newest - timedelta(days=1):
        raise ExperimentError(
            f"The decisions of experiments on {newest:%Y-%m-%d} cannot be undone, and the day "
            f"is {workspace.as_of} now.",
            "Correct the clock (GRADE_ML_AS_OF, as_of in the launchpad), or wait for that day.",
        )


def _record(
    workspace: Workspace,
    experiment: Experiment,
    kind: Happened,
    reason: str,
    decision: Decision | None = None,
) -> Step:
    event = Event(kind, workspace.now, PROGRAM, reason, decision)
    store.record(workspace.connection, experiment.plan.experiment_id, event)
    return Step(experiment.plan.experiment_id, kind, reason)


def _ending(
    workspace: Workspace, experiment: Experiment
) -> tuple[Happened, str] | tuple[Happened, str, Decision] | None:
    """Return why a running experiment ends, with the event of its end; `None` if it continues."""
    plan = experiment.plan
    if plan.kind.compares_models:
        if ending := _of_versions(workspace, plan):
            return ending
    elif harmed := safety.harm(workspace, plan):
        return Happened.STOPPED, harmed
    if plan.stops_on is None or workspace.as_of <= plan.stops_on:
        return None
    passed = f"its last day {plan.stops_on} has passed without a decision"
    if plan.kind is Kind.BANDIT:
        return Happened.STOPPED, passed
    return Happened.DECIDED, passed, Decision.NO_DIFFERENCE


def _of_versions(workspace: Workspace, plan: Plan) -> tuple[Happened, str] | None:
    """Return why versions cannot be compared any more; `None` if they can."""
    registry = workspace.registry
    if missing := _gone(workspace, plan):
        return Happened.FAILED, missing
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


def _consequences(workspace: Workspace, experiment: Experiment) -> list[Step]:
    if missing := _gone(workspace, experiment.plan):
        return [_record(workspace, experiment, Happened.FAILED, missing)]
    if experiment.plan.kind is Kind.WATCH:
        return _roll_back(workspace, experiment)
    vetoed, forced = experiment.event(Happened.VETOED), experiment.event(Happened.FORCED)
    if vetoed:
        return _retire(workspace, experiment, f"vetoed by {vetoed.by}: {vetoed.reason}")
    if forced:
        return _promote(workspace, experiment, f"forced by {forced.by}: {forced.reason}")
    decided = experiment.event(Happened.DECIDED)
    assert decided  # by hand or by looks: a shadow is decided in no other way
    if decided.decision is Decision.BETTER:
        return _promote(workspace, experiment, decided.reason)
    return _retire(workspace, experiment, decided.reason)


def _promote(workspace: Workspace, experiment: Experiment, reason: str) -> list[Step]:
    version, stages = _treatment(workspace, experiment), workspace.stages
    stage = stages.of(version)
    # Champion already: it was moved, and the process died before that was written here.
    if stage is not Stage.CHAMPION:
        if stage is not Stage.CHALLENGER:
            return [
                _record(workspace, experiment, Happened.SUPERSEDED, f"its treatment is {stage}")
            ]
        control = stages.of(workspace.registry.at(*_model(experiment.plan.control)))
        if control is not Stage.CHAMPION:
            return [
                _record(workspace, experiment, Happened.SUPERSEDED, f"its control is {control}")
            ]
        try:
            workspace.registry.fetch(version)
        except ArtifactError as error:
            return [_record(workspace, experiment, Happened.FAILED, str(error))]
        stages.transition(version, Stage.CHAMPION, _evidence(workspace, experiment, reason))
    return [
        _record(workspace, experiment, Happened.PROMOTED, reason),
        *_watch(workspace, experiment),
    ]


def _watch(workspace: Workspace, experiment: Experiment) -> list[Step]:
    """Open the watch of a version that was promoted."""
    before, now = (_model(arm)[1] for arm in experiment.plan.arms)
    watch = replace(
        experiment.plan,
        experiment_id=_free(
            workspace.connection, f"{experiment.plan.subject}-{now}-after-{before}"
        ),
        kind=Kind.WATCH,
        hypothesis=f"Version {now} errs no more than version {before}, which it replaced.",
        arms=tuple(
            replace(arm, name=name)
            for arm, name in zip(experiment.plan.arms, _WATCHED, strict=True)
        ),
        starts_on=workspace.as_of,
        owner=PROGRAM,
        planned_labels=None,
        stops_on=None,
    )
    watch = with_horizon(workspace, watch, LIFECYCLE.watch)
    if watch.stops_on is None:  # between terms: the next challenger does not wait without end
        watch = replace(watch, stops_on=workspace.as_of + timedelta(days=LIFECYCLE.horizon))
    reason = f"version {now} was promoted by {experiment.plan.experiment_id}"
    store.create(workspace.connection, watch, workspace.now, PROGRAM, reason)
    return [Step(watch.experiment_id, Happened.OPENED, reason)]


def _roll_back(workspace: Workspace, experiment: Experiment) -> list[Step]:
    version, stages = _treatment(workspace, experiment), workspace.stages
    decided = experiment.event(Happened.DECIDED)
    reason = decided.reason if decided else ""
    stage = stages.of(version)
    if stage is Stage.CHAMPION:
        stages.transition(version, Stage.ROLLED_BACK, _evidence(workspace, experiment, reason))
    elif stage is not Stage.ROLLED_BACK:
        return [_record(workspace, experiment, Happened.SUPERSEDED, f"its treatment is {stage}")]
    # A correction of this version would continue to serve, and this version beneath it; the next
    # training corrects the restored version.
    for other in workspace.registry.holders(Alias.CHAMPION):
        if other.parameters.get("pooled_version") == str(version.version):
            stages.transition(other, Stage.RETIRED, Evidence(f"corrects version {version.version}"))
    return [_record(workspace, experiment, Happened.ROLLED_BACK, reason)]


def _retire(workspace: Workspace, experiment: Experiment, reason: str) -> list[Step]:
    version, stages = _treatment(workspace, experiment), workspace.stages
    stage = stages.of(version)
    if stage is Stage.CHALLENGER:
        stages.transition(version, Stage.RETIRED, _evidence(workspace, experiment, reason))
    elif stage is not Stage.RETIRED:
        return [_record(workspace, experiment, Happened.SUPERSEDED, f"its treatment is {stage}")]
    return [_record(workspace, experiment, Happened.RETIRED, reason)]


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


def _treatment(workspace: Workspace, experiment: Experiment) -> ModelVersion:
    return workspace.registry.at(*_model(experiment.plan.treatments[0]))


def _compares(experiment: Experiment, champion: ModelVersion, challenger: ModelVersion) -> bool:
    models = {(version.name, version.version) for version in (champion, challenger)}
    return (
        experiment.plan.kind is Kind.SHADOW
        and {arm.model for arm in experiment.plan.arms} == models
    )


def _last_look(workspace: Workspace, experiment: Experiment) -> Look | None:
    looks = store.looks(workspace.connection, experiment.plan.experiment_id)
    return looks[-1] if looks else None


def _evidence(workspace: Workspace, experiment: Experiment, reason: str) -> Evidence:
    last = _last_look(workspace, experiment)
    names = ("units", "labels", "difference", "low", "high", "z", "bound")
    figures = {name: float(getattr(last, name)) for name in names} if last else {}
    return Evidence(f"{experiment.plan.experiment_id}: {reason}", figures)
