"""The only way to change the stage of a model's version: recorded first, then shown in MLflow.

The table `registry.transition` is the truth, MLflow's aliases are its picture: `champion` and
`challenger` point to the versions with that last row. A change is committed as an intent, the
aliases are moved, and the rows are confirmed. A process that dies in between leaves rows that are
not confirmed, and `Stages.reconcile` or the next transition of the model completes them.
Which version deserves which stage is decided elsewhere.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from grade_ml.core import database
from grade_ml.core.errors import StageError
from grade_ml.core.locks import DatabaseLock
from grade_ml.registry.history import Stage, recorded_stages, transition
from grade_ml.registry.registry import Alias, ModelVersion, Registered, Registry

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

logger = logging.getLogger(__name__)

_NEXT = {
    Stage.CANDIDATE: {Stage.CHALLENGER, Stage.RETIRED},
    Stage.CHALLENGER: {Stage.CHAMPION, Stage.RETIRED},
    Stage.CHAMPION: {Stage.RETIRED, Stage.ROLLED_BACK},
    Stage.RETIRED: set[Stage](),
    Stage.ROLLED_BACK: set[Stage](),
}
_SHOWN = {Stage(alias): alias for alias in Alias}
_NAME = attrgetter("name")


@dataclass(frozen=True)
class Evidence:
    """Why a version changes its stage: the reason as text, and the figures that decided it."""

    reason: str
    figures: Mapping[str, float] = field(default_factory=dict)


_ELSEWHERE = Evidence("its alias in MLflow says so, and no record does")
_GONE = Evidence("the registry does not have this version any more")


@dataclass(frozen=True)
class _Move:
    """A row to be stored: a version, its old and new stage, and the version that it replaces."""

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
        On the `grade_ml` database. Each step is a transaction of its own, independent of the
        caller's.
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
            No version may change from the stage of this version to `to`.
        """
        name = version.name
        with self._alone():
            self._repair(name)
            with database.reachable(self.engine) as connection:
                stages = recorded_stages(connection, name)[name]
                moves = _moves(version, to, evidence, stages)
                if to is Stage.ROLLED_BACK:
                    moves += self._restored(connection, version, stages)
                self._write(connection, name, moves)
            self._show(name, stages | {move.version: move.to for move in moves})

    def of(self, version: ModelVersion) -> Stage:
        """Return the stage of `version`."""
        with database.reachable(self.engine) as connection:
            recorded = recorded_stages(connection, version.name)[version.name]
        return recorded.get(version.version, Stage.CANDIDATE)

    def remove(self, version: ModelVersion, reason: str) -> None:
        """Delete `version` and its files permanently; it is retired first."""
        if Stage.RETIRED in _NEXT[self.of(version)]:
            self.transition(version, Stage.RETIRED, Evidence(reason))
        self.registry._remove(version)

    def discard(
        self,
        choose: Callable[[], Collection[Registered]],
        reason: str,
    ) -> list[Registered]:
        """Delete versions and their files permanently; return the deleted versions.

        A chosen version that holds a stage or may hold one again (see `held`) stays.

        Parameters
        ----------
        choose
            Returns the versions; called while none can change its stage.
        """
        with self._alone():
            self._repair(None)
            with database.reachable(self.engine) as connection:
                recorded = recorded_stages(connection, None)
                spared = held(connection, self.registry)
                outdated = [
                    version for version in choose() if (version.name, version.version) not in spared
                ]
                for name, of_model in groupby(sorted(outdated, key=_NAME), key=_NAME):
                    moves = [
                        _Move(version.version, Stage.CANDIDATE, Stage.RETIRED, Evidence(reason))
                        for version in of_model
                        if version.version not in recorded[name]
                    ]
                    self._write(connection, name, moves, confirmed_at=self.now)
            for removed in outdated:
                self.registry._remove(removed)
        return outdated

    def reconcile(self) -> None:
        """Bring records and aliases of all models together.

        The transition of a process that died is completed. If no transition was begun, the aliases
        are right: an installation older than these records has none, and a user may have moved
        an alias in MLflow. The aliases are then recorded.
        """
        with self._alone():
            self._repair(None)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for other processes' transitions; the death of a process ends its transition."""
        with database.reachable(self.engine) as connection:
            DatabaseLock.TRANSITION.wait(connection)
            yield

    def _repair(self, name: str | None) -> None:
        shown = self.registry.aliases(name)
        with database.reachable(self.engine) as connection:
            recorded, begun = recorded_stages(connection, name), _begun(connection, name)
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
        """Move the aliases of a model to the recorded versions, and confirm the records."""
        shown = self.registry.aliases(name).get(name, {})
        # Champion first: it serves, and is never missing in between.
        for alias in (Alias.CHAMPION, Alias.CHALLENGER):
            version = next(
                (number for number, stage in stages.items() if _SHOWN.get(stage) is alias), None
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


def held(connection: Connection, registry: Registry) -> set[tuple[str, int]]:
    """Return name and version of what holds a stage, or an alias, or may hold one again.

    These are champions and challengers according to the records or MLflow, the targets of other
    aliases and of the rollback of a champion, and the newest version of each model.
    """
    table = transition.c
    replaced = connection.execute(
        sa.select(table.model_name, table.version, table.replaced)
        .where(table.to_stage == Stage.CHAMPION)
        .ext(distinct_on(table.model_name, table.version))
        .order_by(table.model_name, table.version, table.id.desc())
    )
    recorded = recorded_stages(connection, None)
    shown = {
        (name, version)
        for name, stages in recorded.items()
        for version, stage in stages.items()
        if stage in _SHOWN
    }
    champions = shown | registry.pointed_to()
    before = {
        (row.model_name, row.replaced)
        for row in replaced
        if (row.model_name, row.version) in champions and row.replaced is not None
    }
    newest: dict[str, int] = {}
    for registered in registry.registered():
        newest[registered.name] = max(registered.version, newest.get(registered.name, 0))
    return champions | before | set(newest.items())


def _begun(connection: Connection, name: str | None) -> set[str]:
    """Return the models with unconfirmed records."""
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
    holder = next((other for other, stage in stages.items() if stage is to and to in _SHOWN), None)
    moves = [_Move(number, before, to, evidence, holder)]
    if holder is not None:
        why = Evidence(f"version {number} became {to} in its place")
        moves.append(_Move(holder, to, Stage.RETIRED, why))
    return moves


def _moved_elsewhere(stages: Mapping[int, Stage], shown: Mapping[Alias, int]) -> list[_Move]:
    """Return the moves that the aliases show and the records do not."""
    # A champion that is older than these records is challenger as well.
    order = (Alias.CHALLENGER, Alias.CHAMPION)
    seen = {shown[alias]: Stage(alias) for alias in order if alias in shown}
    recorded = {version for version, stage in stages.items() if stage in _SHOWN}
    moved = [
        (version, stages.get(version, Stage.CANDIDATE), seen.get(version, Stage.RETIRED))
        for version in sorted(seen.keys() | recorded)
    ]
    return [_Move(*move, _ELSEWHERE) for move in moved if move[1] is not move[2]]
