"""Versions as MLflow's own tables have them, where these lie in a PostgreSQL database of ours.

MLflow's import takes 1.6 s of processor time, in which `grade-ml status` has answered. What is
written, and what a server has, goes by MLflow.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text


@dataclass(frozen=True)
class Recorded:
    """A version as MLflow records it."""

    name: str
    version: int
    run_id: str
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)


def holders(connection: Connection, alias: str) -> list[Recorded]:
    """Return the version with `alias` of each model that has such a version, by name."""
    if connection.execute(text("select to_regclass('registered_model_aliases')")).scalar() is None:
        return []
    rows = connection.execute(text(_HOLDERS), {"alias": alias}).all()
    runs = {"runs": [row.run_id for row in rows]}
    tags = _by_key(connection, _TAGS, {"alias": alias})
    metrics = _by_key(connection, _METRICS, runs)
    parameters = _by_key(connection, _PARAMETERS, runs)
    return [
        Recorded(
            row.name,
            row.version,
            row.run_id,
            tags[row.name],
            metrics[row.run_id],
            parameters[row.run_id],
        )
        for row in rows
    ]


def _by_key(
    connection: Connection, query: str, given: dict[str, Any]
) -> defaultdict[str, dict[str, Any]]:
    values: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for of, key, value in connection.execute(text(query), given):
        values[of][key] = value
    return values


_HOLDERS = """
select name, version, run_id from registered_model_aliases join model_versions using (name, version)
where alias = :alias order by name
"""
_TAGS = """
select name, key, value from registered_model_aliases join model_version_tags using (name, version)
where alias = :alias
"""
_METRICS = """
select run_uuid, key, case when is_nan then 'NaN' else value end from latest_metrics
where run_uuid = any(:runs)
"""
_PARAMETERS = "select run_uuid, key, value from params where run_uuid = any(:runs)"
