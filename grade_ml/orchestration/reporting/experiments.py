"""Metadata of experiments: one table of all of them, and a report of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dagster import AssetCheckResult, AssetCheckSeverity, MetadataValue

from grade_ml.core import quantities, texts
from grade_ml.orchestration import plots

if TYPE_CHECKING:
    from grade_ml.experiments.nightly import Allocated, Assigned, LookResult, Promotions
    from grade_ml.experiments.report import Report

#: Reports and pictures cost a third of a second each: the newest experiments of a run get them.
SHOWN = 20


def of_students(assigned: Sequence[Assigned]) -> dict[str, Any]:
    """Return how many students each arm has, where students are divided between arms."""
    rows = [
        {
            "experiment": experiment.experiment_id,
            "arm": arm,
            "enrolled_students": students,
            "share_of_newcomers": experiment.shares[arm],
        }
        for experiment in assigned
        for arm, students in experiment.arms.items()
    ]
    return {
        "experiments": len(assigned),
        "new_students": sum(experiment.new for experiment in assigned),
        "arms": plots.table(rows),
    }


def arms_as_planned(wrong: Mapping[str, str]) -> AssetCheckResult:
    """Return the check of the sizes of arms; `wrong` has the deviation by id."""
    return _warning("arms_as_planned", wrong)


def looked_at(seen: Sequence[LookResult]) -> AssetCheckResult:
    """Return the check that each running experiment could be evaluated."""
    return _warning(
        "looked_at", {result.experiment_id: result.text for result in seen if not result.look}
    )


def _warning(check: str, wrong: Mapping[str, str]) -> AssetCheckResult:
    """Return the check that fails if something is wrong with an experiment, by its id."""
    reasons = texts.bullets(f"{name}: {why}" for name, why in wrong.items())
    return AssetCheckResult(
        check_name=check,
        passed=not wrong,
        severity=AssetCheckSeverity.WARN,
        metadata={"failed": len(wrong), "reasons": MetadataValue.md(reasons)},
    )


def of_looks(reports: Sequence[Report], seen: Sequence[LookResult]) -> dict[str, Any]:
    """Return the looks of this run, the newest look and the report of each experiment."""
    rows = [{"experiment": report.name, **_newest(report)} for report in reports]
    looks = [{"experiment": result.experiment_id, "says": result.text} for result in seen]
    return {
        "looked_at": len(seen),
        "in_this_run": plots.table(looks),
        "overview": plots.table(rows),
        **{f"experiment {report.name}": _page(report) for report in reports[-SHOWN:]},
    }


def of_shares(allocated: Sequence[Allocated]) -> dict[str, Any]:
    """Return the share, the rewards so far and the value of each arm of each bandit."""
    rows = [
        {"experiment": bandit.experiment_id, "arm": arm, **_known_of(bandit, arm)}
        for bandit in allocated
        for arm in bandit.shares
    ]
    return {
        "bandits": len(allocated),
        "changed": sum(bandit.new for bandit in allocated),
        "shares": plots.table(rows),
    }


def _known_of(bandit: Allocated, arm: str) -> dict[str, Any]:
    """Return columns for an arm; only the share is known if the bandit could not learn."""
    share = {"share_of_newcomers": bandit.shares[arm]}
    if bandit.reason:
        return {**share, "remark": bandit.reason}
    total = bandit.totals[arm]
    (worth,) = (value for value in bandit.values if value.arm == arm)
    figures = {
        "students": total.assigned,
        "rewards": total.labelled,
        "mean_reward": total.mean,
        "worth_for_all": _with_error(worth.doubly_robust, worth.doubly_robust_error),
    }
    return {**share, **figures, "remark": worth.reason}


def _with_error(value: float, error: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g} ± {error:.2g}"


def of_promotions(done: Promotions) -> dict[str, Any]:
    """Return the steps of this run, the newest events, and the paths of the pages."""
    from grade_ml.experiments import report

    steps = [
        {
            "experiment": step.experiment_id,
            "what": str(step.happened or "nothing"),
            "why": step.says,
        }
        for step in done.steps
    ]
    events = [
        {"experiment": experiment.name, **event}
        for experiment in done.reports
        for event in report.events(experiment)
    ]
    newest = sorted(events, key=lambda event: str(event["on"]), reverse=True)
    return {
        "happened": sum(step.happened is not None for step in done.steps),
        "in_this_run": plots.table(steps),
        "newest_events": plots.table(newest[: plots.ROWS]),
        **{f"page of {name}": MetadataValue.path(at) for name, at in done.places.items()},
    }


def _newest(report: Report) -> dict[str, Any]:
    plan, look = report.experiment.plan, report.newest
    about = {"kind": str(plan.kind), "state": report.state, "looks": len(report.looks)}
    if look is None:
        return about
    figures = {name: getattr(look, name) for name in ("labels", "fraction", "difference")}
    return {**about, **figures, "decision": str(look.decision)}


def _page(described: Report) -> MetadataValue:
    """Return the report as Markdown with its picture."""
    from grade_ml.experiments import pictures, report

    picture = plots.embed(
        pictures.effect(described.experiment.plan, described.looks), described.name
    )
    parts = [
        texts.bullets(report.words(described)),
        _table(report.arms(described)),
        picture.value,
        *(
            f"**{texts.markdown(title.replace('_', ' ').capitalize())}**\n\n{_table(rows)}"
            for title, rows in (report.tables(described.newest) if described.newest else {}).items()
        ),
        f"**What happened**\n\n{_table(report.events(described))}",
    ]
    return MetadataValue.md("\n\n".join(map(str, parts)))


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a table in Markdown, with the columns of all of them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [
        [texts.markdown(quantities.title(name)) for name in names],
        ["---"] * len(names),
        *([texts.markdown(quantities.text(name, row.get(name))) for name in names] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
