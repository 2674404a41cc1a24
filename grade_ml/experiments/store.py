"""The package's tables: plans, events, assignments, exposures, looks and allocations.

A plan is written once. The events of an experiment are its history. There is at most one event of
each kind, so that a step that is repeated after an interruption is written once. No foreign key
ties students to the gradebook, whose loader may replace them at any time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import JSONB, insert

from grade_ml.core.database import insert_frame, read_frame
from grade_ml.core.errors import NotFoundError
from grade_ml.core.plain import plain
from grade_ml.core.policy import TablePolicy
from grade_ml.experiments.plan import Decision, Kind, Look, Plan, checked

if TYPE_CHECKING:
    import pandas as pd

metadata = sa.MetaData(schema="experiments")

experiment = sa.Table(
    "experiment",
    metadata,
    sa.Column("experiment_id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False, comment="shadow, watch, split or bandit"),
    sa.Column("subject", sa.Text, nullable=False, comment="name of the model, or interventions"),
    sa.Column(
        "plan",
        JSONB,
        nullable=False,
        comment="plan of the experiment, which never changes; it names the owner",
    ),
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
    info=TablePolicy("experiments", personal=("plan",), time="created_at").info,
)
event = sa.Table(
    "event",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("experiment_id", sa.Text, nullable=False),
    sa.Column(
        "kind",
        sa.Text,
        nullable=False,
        comment="what happened: opened, decided, promoted and so on, each at most once",
    ),
    sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("by", sa.Text, nullable=False, comment="grade-ml, or the person who decided by hand"),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("decision", sa.Text, comment="of a decision: better, worse or no difference"),
    sa.Column("figures", JSONB, nullable=False),
    info=TablePolicy("experiments", personal=("by",), time="at").info,
)
assignment = sa.Table(
    "assignment",
    metadata,
    sa.Column("experiment_id", sa.Text, primary_key=True),
    sa.Column("student_id", sa.Text, primary_key=True),
    sa.Column("arm", sa.Text, nullable=False),
    sa.Column(
        "stratum", sa.Text, nullable=False, comment="values of the strata; empty: not stratified"
    ),
    sa.Column(
        "probability",
        sa.Double,
        nullable=False,
        comment="probability of this variant when it was assigned, 0-1",
    ),
    sa.Column(
        "assigned_on", sa.Date, nullable=False, comment="day on which the student was assigned"
    ),
    info=TablePolicy(
        "experiments", personal=("student_id", "arm", "stratum"), time="assigned_on"
    ).info,
)
exposure = sa.Table(
    "exposure",
    metadata,
    sa.Column("experiment_id", sa.Text, primary_key=True),
    sa.Column("student_id", sa.Text, primary_key=True),
    sa.Column("on_day", sa.Date, primary_key=True, comment="day on which the variant took effect"),
    sa.Column(
        "arm",
        sa.Text,
        primary_key=True,
        comment="variant of the experiment; the same for a student on all days",
    ),
    info=TablePolicy("experiments", personal=("student_id", "arm"), time="on_day").info,
)
look = sa.Table(
    "look",
    metadata,
    sa.Column("experiment_id", sa.Text, primary_key=True),
    sa.Column(
        "data_version",
        sa.Text,
        primary_key=True,
        comment="identifies the labels that the look used",
    ),
    sa.Column("as_of", sa.Date, nullable=False),
    sa.Column(
        "looked_at",
        sa.TIMESTAMP(timezone=True),
        nullable=False,
        comment="moment of the look",
    ),
    sa.Column("units", sa.BigInteger, nullable=False, comment="students with a value"),
    sa.Column(
        "labels", sa.BigInteger, nullable=False, comment="labels that had arrived by the look"
    ),
    sa.Column("fraction", sa.Double, comment="share of the planned labels that have arrived, 0-1"),
    sa.Column("difference", sa.Double, comment="treatment minus control, in units of the metric"),
    sa.Column("low", sa.Double, comment="lower end of the interval of the difference"),
    sa.Column("high", sa.Double, comment="upper end of the interval of the difference"),
    sa.Column("z", sa.Double, comment="difference in standard errors"),
    sa.Column("bound", sa.Double, comment="size of z from which on the look decides"),
    sa.Column(
        "decision",
        sa.Text,
        nullable=False,
        comment="what the look decided, or that the experiment goes on",
    ),
    sa.Column("reason", sa.Text, nullable=False, comment="why it decided so"),
    sa.Column("figures", JSONB, nullable=False, comment="figures of the report, by name"),
    sa.Column("segments", JSONB, nullable=False, comment="differences within groups of students"),
    info=TablePolicy("experiments", time="as_of").info,
)
allocation = sa.Table(
    "allocation",
    metadata,
    sa.Column("experiment_id", sa.Text, primary_key=True),
    sa.Column("as_of", sa.Date, primary_key=True),
    sa.Column("arm", sa.Text, primary_key=True),
    sa.Column(
        "probability",
        sa.Double,
        nullable=False,
        comment="probability with which the next students get the variant, 0-1",
    ),
    sa.Column("state", JSONB, nullable=False, comment="figures from which the probability follows"),
    info=TablePolicy("experiments", time="as_of").info,
)

#: The author of events that no person decided.
PROGRAM = "grade-ml"


class Happened(StrEnum):
    """What may happen to an experiment, each at most once."""

    OPENED = "opened"
    #: A look came to a final decision.
    DECIDED = "decided"
    #: The treatment became champion.
    PROMOTED = "promoted"
    #: The control serves again instead of the treatment.
    ROLLED_BACK = "rolled back"
    #: The treatment will not become champion.
    RETIRED = "retired"
    #: A person ended it without a decision.
    STOPPED = "stopped"
    #: A person forbade its decision.
    VETOED = "vetoed"
    #: A person requests the treatment as champion, with any evidence.
    FORCED = "forced"
    #: Another version replaced one of its arms.
    SUPERSEDED = "superseded"
    #: It cannot continue.
    FAILED = "failed"


_ENDS = frozenset(
    (
        *(Happened.PROMOTED, Happened.ROLLED_BACK, Happened.RETIRED),
        *(Happened.STOPPED, Happened.SUPERSEDED, Happened.FAILED),
    )
)


class State(StrEnum):
    """The state of an experiment."""

    RUNNING = "running"
    #: The consequences of the decision are still to be carried out.
    DECIDED = "decided"
    ENDED = "ended"


@dataclass(frozen=True)
class Event:
    """Something that happened to an experiment, by whom and why."""

    kind: Happened
    at: datetime
    by: str
    reason: str
    decision: Decision | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A plan and what has happened to it so far, in order."""

    plan: Plan
    created_at: datetime
    events: tuple[Event, ...]

    def event(self, kind: Happened) -> Event | None:
        """Return the event of that kind, if it happened."""
        return next((recorded for recorded in self.events if recorded.kind is kind), None)

    @property
    def decision(self) -> Decision | None:
        """The final decision of its looks, if there is one; a veto or force is none."""
        decided = self.event(Happened.DECIDED)
        return decided.decision if decided else None

    @property
    def state(self) -> State:
        """The state, by the events alone."""
        kinds = {recorded.kind for recorded in self.events}
        if kinds & _ENDS:
            return State.ENDED
        if not kinds & {Happened.DECIDED, Happened.VETOED, Happened.FORCED}:
            return State.RUNNING
        if self.plan.kind is Kind.SHADOW:
            return State.DECIDED
        # A watch has consequences only if the version that serves is worse; actions have none.
        worse = self.plan.kind is Kind.WATCH and self.decision is Decision.WORSE
        return State.DECIDED if worse and Happened.VETOED not in kinds else State.ENDED


def create(connection: Connection, plan: Plan, at: datetime, by: str, reason: str) -> bool:
    """Store a plan and that its experiment was opened; return whether it was new.

    Raises
    ------
    ExperimentError
        The plan cannot be used.
    """
    row = {"experiment_id": plan.experiment_id, "kind": plan.kind, "subject": plan.subject}
    is_new = _insert(
        connection, experiment, row | {"plan": checked(plan).to_dict(), "created_at": at}
    )
    if is_new:
        record(connection, plan.experiment_id, Event(Happened.OPENED, at, by, reason))
    return is_new


def record(connection: Connection, experiment_id: str, happened: Event) -> bool:
    """Write an event; return whether it was the first of its kind: others are left out."""
    row = {column.name: getattr(happened, column.name) for column in fields(happened)}
    row |= {"experiment_id": experiment_id, "figures": plain(happened.figures)}
    return _insert(connection, event, row)


def _insert(connection: Connection, table: sa.Table, row: Mapping[str, Any]) -> bool:
    """Insert a row, unless its key is there already; return whether it was not."""
    new = insert(table).values(row).on_conflict_do_nothing().returning(table.c.experiment_id)
    return connection.execute(new).first() is not None


def newest_event(connection: Connection) -> datetime | None:
    """Return the time of the newest event of any experiment; `None` if there is none."""
    at: datetime | None = connection.execute(sa.select(sa.func.max(event.c.at))).scalar()
    return at


def read(connection: Connection, *conditions: sa.ColumnElement[bool]) -> list[Experiment]:
    """Return the experiments that meet the conditions on `experiment`, the oldest first."""
    table = experiment.c
    plans = connection.execute(
        sa.select(table.experiment_id, table.plan, table.created_at)
        .where(*conditions)
        .order_by(table.created_at, table.experiment_id)
    ).all()
    happened: dict[str, list[Event]] = {row.experiment_id: [] for row in plans}
    for row in connection.execute(
        sa.select(event).where(event.c.experiment_id.in_(happened)).order_by(event.c.id)
    ):
        decision = Decision(row.decision) if row.decision else None
        happened[row.experiment_id].append(
            Event(Happened(row.kind), row.at, row.by, row.reason, decision, row.figures)
        )
    return [
        Experiment(Plan.from_dict(row.plan), row.created_at, tuple(happened[row.experiment_id]))
        for row in plans
    ]


def running(connection: Connection, *kinds: Kind) -> list[Experiment]:
    """Return the experiments of these kinds (none: all) that no event has ended or decided."""
    conditions = [experiment.c.kind.in_(kinds)] if kinds else []
    return [stored for stored in read(connection, *conditions) if stored.state is State.RUNNING]


def get(connection: Connection, experiment_id: str) -> Experiment:
    """Return one experiment.

    Raises
    ------
    NotFoundError
        There is none of that id.
    """
    experiments = read(connection, experiment.c.experiment_id == experiment_id)
    if not experiments:
        raise NotFoundError(
            f"There is no experiment {experiment_id}.",
            "grade-ml experiment list shows all experiments.",
        )
    return experiments[0]


def compared(connection: Connection) -> list[tuple[str, int]]:
    """Return name and version of every model that an experiment compares now, each once."""
    models = (
        arm.model
        for open_experiment in running(connection, Kind.SHADOW, Kind.WATCH)
        for arm in open_experiment.plan.arms
        if arm.model
    )
    return sorted(set(models))


def assign(connection: Connection, rows: pd.DataFrame) -> None:
    """Store assignments (columns of the table); students who have an arm keep it."""
    insert_frame(connection, assignment, rows)


def assignments(connection: Connection, experiment_id: str) -> pd.DataFrame:
    """Return the experiment's assignments, in order of the students' ids."""
    table = assignment.c
    query = sa.select(assignment).where(table.experiment_id == experiment_id)
    return read_frame(connection, query.order_by(table.student_id))


def sizes(connection: Connection, experiment_id: str) -> dict[str, int]:
    """Return how many students were assigned to each arm."""
    table = assignment.c
    query = sa.select(table.arm, sa.func.count()).where(table.experiment_id == experiment_id)
    return {arm: count for arm, count in connection.execute(query.group_by(table.arm))}


def expose(connection: Connection, rows: pd.DataFrame) -> None:
    """Store on which days arms took effect on students (columns of the table)."""
    insert_frame(connection, exposure, rows)


def exposures(connection: Connection, experiment_id: str, as_of: date) -> pd.DataFrame:
    """Return the experiment's exposures up to `as_of`, by student and day."""
    table = exposure.c
    query = sa.select(exposure).where(table.experiment_id == experiment_id, table.on_day <= as_of)
    return read_frame(connection, query.order_by(table.student_id, table.on_day, table.arm))


_NUMBERS = ("fraction", "difference", "low", "high", "z", "bound")


def keep_look(connection: Connection, experiment_id: str, seen: Look) -> bool:
    """Store a look; return whether its data were new: the same data are stored once."""
    values = {column.name: getattr(seen, column.name) for column in fields(seen)}
    values |= {name: plain(float(values[name])) for name in _NUMBERS}
    values |= {"figures": plain(seen.figures), "segments": plain(seen.segments)}
    return _insert(connection, look, {"experiment_id": experiment_id, **values})


def looks(connection: Connection, experiment_id: str) -> list[Look]:
    """Return the experiment's looks, the oldest first."""
    table = look.c
    rows = connection.execute(
        sa.select(*(table[column.name] for column in fields(Look)))
        .where(table.experiment_id == experiment_id)
        .order_by(table.as_of, table.looked_at, table.labels)
    ).mappings()
    return [
        Look(
            **dict(row)
            | {name: math.nan if row[name] is None else row[name] for name in _NUMBERS}
            | {"decision": Decision(row["decision"]), "segments": tuple(row["segments"])}
        )
        for row in rows
    ]


@dataclass(frozen=True)
class Allocation:
    """Which share of future students an arm of a bandit gets from a day on, and why."""

    as_of: date
    arm: str
    probability: float
    state: Mapping[str, Any]


def allocate(connection: Connection, experiment_id: str, shares: Iterable[Allocation]) -> None:
    """Store shares; they replace those of the same day and arm."""
    rows = [
        {
            "experiment_id": experiment_id,
            "as_of": share.as_of,
            "arm": share.arm,
            "probability": share.probability,
            "state": plain(share.state),
        }
        for share in shares
    ]
    if rows:
        new = insert(allocation)
        connection.execute(
            new.on_conflict_do_update(
                index_elements=["experiment_id", "as_of", "arm"],
                set_={name: new.excluded[name] for name in ("probability", "state")},
            ),
            rows,
        )


def allocations(connection: Connection, experiment_id: str, as_of: date) -> list[Allocation]:
    """Return the shares of each arm up to `as_of`, by day and arm."""
    table = allocation.c
    rows = connection.execute(
        sa.select(allocation)
        .where(table.experiment_id == experiment_id, table.as_of <= as_of)
        .order_by(table.as_of, table.arm)
    )
    return [Allocation(row.as_of, row.arm, row.probability, row.state) for row in rows]
