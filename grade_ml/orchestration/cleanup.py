"""The two clean-ups, of data and of models; jobs and the command run one of them.

`grade_ml.maintenance` decides what is outdated, `pruning` decides it for Dagster's own records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagster import DagsterInstance

from grade_ml.core.settings import RetentionSettings
from grade_ml.orchestration.resources import Platform

if TYPE_CHECKING:
    from grade_ml.maintenance.cleaning import Report


def clean_data(
    platform: Platform,
    instance: DagsterInstance,
    retention: RetentionSettings,
    *,
    dry_run: bool,
    force: bool,
) -> Report:
    """Remove outdated rows of tables, files, and Dagster's records of runs."""
    from grade_ml.maintenance import files
    from grade_ml.maintenance.cleaning import alone, clean
    from grade_ml.maintenance.rows import outdated_rows
    from grade_ml.orchestration import pruning

    now = platform.clock.now()
    with alone(platform.engine):
        kinds = [
            *outdated_rows(platform.engine, platform.as_of, now.date()),
            files.Frames(platform.settings.storage_root, platform.as_of),
            files.Drafts(platform.settings.storage_root, now),
            *pruning.outdated(
                instance, platform.engine, now, retention.runs_days, retention.logs_days
            ),
        ]
        return clean(kinds, dry_run=dry_run, force=force)


def clean_models(
    platform: Platform, retention: RetentionSettings, *, dry_run: bool, force: bool
) -> Report:
    """Remove outdated versions of models, with their files and everything made of them."""
    from grade_ml.maintenance.cleaning import alone, clean
    from grade_ml.maintenance.versions import outdated_versions

    at = min(platform.now, platform.clock.now())
    with alone(platform.engine):
        kinds = outdated_versions(platform.stages, at, retention.versions_days)
        return clean(kinds, dry_run=dry_run, force=force)
