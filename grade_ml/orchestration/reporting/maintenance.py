"""Metadata of the assets of the group `maintenance`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grade_ml.orchestration import plots

if TYPE_CHECKING:
    from grade_ml.maintenance.cleaning import Part, Report


def of_cleanup(report: Report) -> dict[str, Any]:
    """Return what was outdated and what a clean-up removed, in all and by kind."""
    freed = [part.freed for part in report.parts if part.freed]
    outdated = [part.found for part in report.parts if part.found]
    return {
        "dry_run": report.dry_run,
        "outdated": sum(kind.count for kind in outdated),
        "outdated_bytes": sum(kind.bytes for kind in outdated),
        "removed": sum(kind.count for kind in freed),
        "freed_bytes": sum(kind.freed for kind in freed),
        "reusable_bytes": sum(kind.reusable for kind in freed),
        "kinds": len(report.parts),
        # Most of some thirty kinds have nothing outdated.
        "outdated_kinds": plots.table([_row(part) for part in report.parts if _is_notable(part)]),
    }


def _is_notable(part: Part) -> bool:
    return bool(part.problem or part.found is None or part.found.count or part.freed)


def _row(part: Part) -> dict[str, Any]:
    outdated, freed = part.found, part.freed
    return {
        "kind": part.kind,
        "outdated": outdated.count if outdated else None,
        "outdated_bytes": outdated.bytes if outdated else None,
        "kept": outdated.kept if outdated else None,
        "removed": freed.count if freed else 0,
        "freed_bytes": freed.freed if freed else 0,
        "reusable_bytes": freed.reusable if freed else 0,
        "problem": part.problem,
    }
