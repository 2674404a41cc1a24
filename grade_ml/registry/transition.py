"""The one way in which a model's version changes its stage: recorded first, then shown in MLflow.

The table `registry.transition` is the truth, MLflow's aliases are its picture: `champion` and
`challenger` point to the versions whose last row says so. A change is committed as an intent, the
aliases are moved, and the rows are confirmed. A process that dies in between leaves rows that are
not confirmed, and `Stages.reconcile` or the next transition of the model finishes what they say.
Which version deserves which stage is decided elsewhere.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, distinct_on

from grade_ml.core import database
from grade_ml.core.errors import StageError
from grade_ml.core.locks import DatabaseLock
from grade_ml.core.policy import TablePolicy
from grade_ml.registry.registry import Alias, ModelVersion, Registry

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

logger = logging.getLogger(__name__)

metadata = sa.MetaData(schema="registry")

transition = sa.Table(
    "transition",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("from_stage", sa.Text, nullable=False),
    sa.Column("to_stage", sa.Text, nullable=False),
    sa.Column("replaced", sa.Integer, comment="the version that held `to_stage` before"),
    sa.Column("decided_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("figures", JSONB, nullable=False),
    sa.Column("confirmed_at", sa.TIMESTAMP(timezone=True), comment="null: aliases may be behind"),
    info=TablePolicy("registry", time="decided_at").info,
)


class Stage(StrEnum):
    """The stages of a version's life; one that was registered and nothing more is candidate."""

    CANDIDATE = "candidate"
    CHALLENGER = "challenger"
    CHAMPION = "champion"
    RETIRED = "retired"
    ROLLED_BACK = "rolled back"


_NEXT = {
    Stage.CANDIDATE: {Stage.CHALLENGER, Stage.RETIRED},
    Stage.CHALLENGER: {Stage.CHAMPION, Stage.RETIRED},
    Stage.CHAMPION: {Stage.RETIRED, Stage.ROLLED_BACK},
    Stage.RETIRED: set[Stage](),
    Stage.ROLLED_BACK: set[Stage](),
}
_SHOWN = {Stage(alias): alias for alias in Alias}


@dataclass(frozen=True)
class Evidence:
    """Why a version changes its stage: in words, and the figures by name that decided it."""

    reason: str
    figures: Mapping[str, float] = field(default_factory=dict)


_ELSEWHERE = Evidence("its alias in MLflow says so, and no record does")
_GONE = Evidence("the registry does not have this version any more")


@dataclass(frozen=True)
class _Move:
    """One row to be: a version, where it stood, where it goes, and the version it replaces."""

    version: int
    before: Stage
    to: Stage
    evidence: Evidence
    replaced: int | None = None


@dataclass(frozen=True)
class Stages:
    """The stages of all versions of one installation.

    Parameters
    ----------
    engine
        On the `grade_ml` database. Each step is a transaction of its own, whatever transaction
        the caller has open.
    now
        Timezone-aware; what is written is stamped with it.
    """

    engine: Engine
    registry: Registry
    now: datetime

    def transition(self, version: ModelVersion, to: Stage, evidence: Evidence) -> None:
        """Bring `version` to the stage `to`.

        Who held the stage is retired. Where a champion is rolled back, the version that it had
        replaced is champion again, if it was retired for it and is still registered.

        Raises
        ------
        StageError
            No version goes from where this one stands to `to`.
        """
        name = version.name
        with self._alone():
            self._repair(name)
            with database.reachable(self.engine) as connection:
                stages = _recorded(connection, name)[name]
                moves = _moves(version, to, evidence, stages)
                if to is Stage.ROLLED_BACK:
                    moves += self._restored(connection, version, stages)
                self._write(connection, name, moves)
            self._show(name, stages | {move.version: move.to for move in moves})

    def of(self, version: ModelVersion) -> Stage:
        """Return where `version` stands."""
        with database.reachable(self.engine) as connection:
            recorded = _recorded(connection, version.name)[version.name]
        return recorded.get(version.version, Stage.CANDIDATE)

    def remove(self, version: ModelVersion, reason: str) -> None:
        """Delete `version` and its files for good; it is retired first."""
        if Stage.RETIRED in _NEXT[self.of(version)]:
            self.transition(version, Stage.RETIRED, Evidence(reason))
        self.registry._remove(version)

    def reconcile(self) -> None:
        """Bring records and aliases of all models together.

        What a process that died had begun is finished. Where nothing was begun, the aliases are
        right: an installation of the time before these records has none, and somebody may have
        moved an alias in MLflow. What they say is written down.
        """
        with self._alone():
            self._repair(None)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for other processes' transitions; the death of one of them ends its own."""
        with database.reachable(self.engine) as connection:
            DatabaseLock.TRANSITION.wait(connection)
            yield

    def _repair(self, name: str | None) -> None:
        shown = self.registry.aliases(name)
        with database.reachable(self.engine) as connection:
            recorded, begun = _recorded(connection, name), _begun(connection, name)
            for model in sorted({*recorded, *shown} - begun):
                moves = _moved_elsewhere(recorded[model], shown.get(model, {}))
                self._write(connection, model, moves, confirmed_at=self.now)
            for model in sorted(begun):
                moves = self._lost(model, recorded[model])
                self._write(connection, model, moves)
                recorded[model] |= {move.version: move.to for move in moves}
        for model in sorted(begun):
            logger.warning("A transition of the model %s was interrupted; it is finished.", model)
            self._show(model, recorded[model])

    def _show(self, name: str, stages: Mapping[int, Stage]) -> None:
        """Let the aliases of a model say what is recorded, and confirm the records."""
        shown = self.registry.aliases(name).get(name, {})
        # Champion first: it serves, and is never missing in between.
        for alias in (Alias.CHAMPION, Alias.CHALLENGER):
            version = next(
                (one for one, stage in stages.items() if _SHOWN.get(stage) is alias), None
            )
            if version != shown.get(alias):
                self.registry._point(name, alias, version)
        with database.reachable(self.engine) as connection:
            connection.execute(
                sa.update(transition)
                .where(transition.c.model_name == name, transition.c.confirmed_at.is_(None))
                .values(confirmed_at=self.now)
            )

    def _restored(
        self, connection: Connection, version: ModelVersion, stages: Mapping[int, Stage]
    ) -> list[_Move]:
        table = transition.c
        before = connection.execute(
            sa.select(table.replaced)
            .where(table.model_name == version.name, table.version == version.version)
            .where(table.to_stage == Stage.CHAMPION)
            .order_by(table.id.desc())
            .limit(1)
        ).scalar()
        retired = before is not None and stages.get(before) is Stage.RETIRED
        if before is None or not retired or not self.registry.has(version.name, before):
            return []
        evidence = Evidence(f"version {version.version} was rolled back")
        return [_Move(before, Stage.RETIRED, Stage.CHAMPION, evidence, version.version)]

    def _lost(self, name: str, stages: Mapping[int, Stage]) -> list[_Move]:
        """Return that versions which the registry does not have any more hold no stage."""
        return [
            _Move(version, stage, Stage.RETIRED, _GONE)
            for version, stage in stages.items()
            if stage in _SHOWN and not self.registry.has(name, version)
        ]

    def _write(
        self,
        connection: Connection,
        name: str,
        moves: list[_Move],
        confirmed_at: datetime | None = None,
    ) -> None:
        rows = [
            {
                "model_name": name,
                "version": move.version,
                "from_stage": move.before,
                "to_stage": move.to,
                "replaced": move.replaced,
                "decided_at": self.now,
                "reason": move.evidence.reason,
                # JSON has no NaN: a figure that is unknown is left out.
                "figures": {
                    key: float(value)
                    for key, value in move.evidence.figures.items()
                    if math.isfinite(value)
                },
                "confirmed_at": confirmed_at,
            }
            for move in moves
        ]
        if rows:
            connection.execute(sa.insert(transition), rows)


def holders(connection: Connection, name: str) -> dict[Stage, int]:
    """Return the versions of a model that are champion and challenger, as the records say.

    MLflow is not asked, so that a schedule may ask this every few hours.
    """
    stages = _recorded(connection, name)[name]
    return {stage: version for version, stage in stages.items() if stage in _SHOWN}


def champions(connection: Connection) -> dict[str, int]:
    """Return the version that is champion of each model that has one, without asking MLflow."""
    return {
        name: version
        for name, stages in _recorded(connection, None).items()
        for version, stage in stages.items()
        if stage is Stage.CHAMPION
    }


def _recorded(connection: Connection, name: str | None) -> defaultdict[str, dict[int, Stage]]:
    """Return the stage of each version that ever left that of a candidate, by model."""
    table = transition.c
    query = (
        sa.select(table.model_name, table.version, table.to_stage)
        .ext(distinct_on(table.model_name, table.version))
        .order_by(table.model_name, table.version, table.id.desc())
    )
    found: defaultdict[str, dict[int, Stage]] = defaultdict(dict)
    for row in connection.execute(_of(query, name)):
        found[row.model_name][row.version] = Stage(row.to_stage)
    return found


def _begun(connection: Connection, name: str | None) -> set[str]:
    """Return the models with records that nobody confirmed."""
    query = sa.select(transition.c.model_name).where(transition.c.confirmed_at.is_(None))
    return set(connection.execute(_of(query, name).distinct()).scalars())


def _of(query: sa.Select[Any], name: str | None) -> sa.Select[Any]:
    return query if name is None else query.where(transition.c.model_name == name)


def _moves(
    version: ModelVersion, to: Stage, evidence: Evidence, stages: Mapping[int, Stage]
) -> list[_Move]:
    number = version.version
    before = stages.get(number, Stage.CANDIDATE)
    if to not in _NEXT[before]:
        raise StageError(
            f"Version {number} of the model {version.name} is {before} and cannot become {to}.",
            "Train the model again; another process may have moved it in the meantime.",
        )
    holder = next((one for one, stage in stages.items() if stage is to and to in _SHOWN), None)
    moves = [_Move(number, before, to, evidence, holder)]
    if holder is not None:
        why = Evidence(f"version {number} became {to} in its place")
        moves.append(_Move(holder, to, Stage.RETIRED, why))
    return moves


def _moved_elsewhere(stages: Mapping[int, Stage], shown: Mapping[Alias, int]) -> list[_Move]:
    """Return the moves that the aliases tell of and the records do not."""
    # A champion of the time before these records is challenger as well.
    order = (Alias.CHALLENGER, Alias.CHAMPION)
    seen = {shown[alias]: Stage(alias) for alias in order if alias in shown}
    recorded = {version for version, stage in stages.items() if stage in _SHOWN}
    told = [
        (version, stages.get(version, Stage.CANDIDATE), seen.get(version, Stage.RETIRED))
        for version in sorted(seen.keys() | recorded)
    ]
    return [_Move(*one, _ELSEWHERE) for one in told if one[1] is not one[2]]
