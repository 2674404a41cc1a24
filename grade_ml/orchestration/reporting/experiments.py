"""What the UI shows of experiments: one table of all of them, and a report of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dagster import AssetCheckResult, AssetCheckSeverity, MetadataValue, TableRecord

from grade_ml.core import texts
from grade_ml.orchestration import plots

if TYPE_CHECKING:
    from grade_ml.experiments.nightly import Allocated, Assigned, Looked, Promotions
    from grade_ml.experiments.report import Report

#: Reports and pictures cost a third of a second each: the newest experiments of a run get them.
SHOWN = 20


def of_students(assigned: Sequence[Assigned]) -> dict[str, Any]:
    """Return how many students each arm has, where students are divided between arms."""
    rows = [
        TableRecord(
            {
                "experiment": one.experiment_id,
                "arm": arm,
                "enrolled_students": students,
                "share_of_newcomers": one.shares[arm],
            }
        )
        for one in assigned
        for arm, students in one.arms.items()
    ]
    return {
        "experiments": len(assigned),
        "new_students": sum(one.new for one in assigned),
        "arms": plots.table(rows),
    }


def arms_as_planned(wrong: Mapping[str, str]) -> AssetCheckResult:
    """Return the check of the sizes of arms; `wrong` says by id what is not as planned."""
    return _warning("arms_as_planned", wrong)


def looked_at(seen: Sequence[Looked]) -> AssetCheckResult:
    """Return the check that each running experiment could be looked at."""
    return _warning("looked_at", {one.experiment_id: one.says for one in seen if not one.look})


def _warning(check: str, wrong: Mapping[str, str]) -> AssetCheckResult:
    """Return the check that fails where something is wrong with an experiment, by its id."""
    reasons = texts.bullets(f"{name}: {why}" for name, why in wrong.items())
    return AssetCheckResult(
        check_name=check,
        passed=not wrong,
        severity=AssetCheckSeverity.WARN,
        metadata={"failed": len(wrong), "reasons": MetadataValue.md(reasons)},
    )


def of_looks(reports: Sequence[Report], seen: Sequence[Looked]) -> dict[str, Any]:
    """Return what this run saw, the newest look of each experiment, and each one's report."""
    rows = [TableRecord({"experiment": one.name, **_newest(one)}) for one in reports]
    said = [TableRecord({"experiment": one.experiment_id, "says": one.says}) for one in seen]
    all_of_them = {
        "looked_at": len(seen),
        "in_this_run": plots.table(said),
        "overview": plots.table(rows),
    }
    # An id may be any word, also one of these.
    pages = {
        f"experiment_{one.name}" if one.name in all_of_them else one.name: _page(one)
        for one in reports[-SHOWN:]
    }
    return all_of_them | pages


def of_shares(allocated: Sequence[Allocated]) -> dict[str, Any]:
    """Return what each arm of each bandit gets, what is known of it, and what it is worth."""
    rows = [
        TableRecord(
            {"experiment": one.experiment_id, "arm": arm, "share_of_newcomers": share, **known}
        )
        for one in allocated
        for arm, share in one.shares.items()
        for known in [_known_of(one, arm)]
    ]
    return {
        "bandits": len(allocated),
        "changed": sum(one.new for one in allocated),
        "shares": plots.table(rows),
    }


def _known_of(one: Allocated, arm: str) -> dict[str, Any]:
    """Return columns for an arm; nothing is known of those of a bandit that could not learn."""
    share = {"share_of_newcomers": one.shares[arm]}
    if one.reason:
        return {**share, "remark": one.reason}
    total = one.totals[arm]
    (worth,) = (value for value in one.values if value.arm == arm)
    figures = {
        "students": total.assigned,
        "rewards": total.labelled,
        "pending": total.pending,
        "mean_reward": total.mean,
        "worth_for_all": worth.doubly_robust,
        "standard_error": worth.doubly_robust_error,
    }
    known = {name: None if math.isnan(one) else round(one, 4) for name, one in figures.items()}
    return {**share, **known, "remark": worth.reason}


def of_promotions(done: Promotions) -> dict[str, Any]:
    """Return what this run did, all that happened lately, and where the pages are."""
    from grade_ml.experiments import report

    steps = [
        {"experiment": one.experiment_id, "what": str(one.happened or "nothing"), "why": one.says}
        for one in done.steps
    ]
    events = [
        {"experiment": one.name, **event} for one in done.reports for event in report.events(one)
    ]
    newest = sorted(events, key=lambda one: str(one["on"]), reverse=True)
    return {
        "happened": sum(one.happened is not None for one in done.steps),
        "in_this_run": plots.table([TableRecord(one) for one in steps]),
        "events": plots.table([TableRecord(one) for one in newest]),
        **{f"page_{name}": MetadataValue.path(at) for name, at in done.places.items()},
    }


def _newest(one: Report) -> dict[str, Any]:
    plan, look = one.experiment.plan, one.newest
    about = {"kind": str(plan.kind), "state": one.state, "looks": len(one.looks)}
    if look is None:
        return about
    figures = {name: getattr(look, name) for name in ("units", "labels")}
    measured = ("fraction", "difference", "low", "high", "z", "bound")
    known = {name: _digits(getattr(look, name)) for name in measured}
    return {**about, "as_of": str(look.as_of), **figures, **known, "decision": str(look.decision)}


def _digits(value: float) -> float | None:
    """Return four digits of the number, for a table; None: unknown."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _page(one: Report) -> MetadataValue:
    """Return the report as Markdown with its picture."""
    from grade_ml.experiments import pictures, report

    picture = plots.embed(pictures.effect(one.experiment.plan, one.looks), one.name)
    parts = [
        texts.bullets(report.words(one)),
        _table(report.arms(one)),
        picture.value,
        *(
            f"**{texts.markdown(title.replace('_', ' ').capitalize())}**\n\n{_table(rows)}"
            for title, rows in (report.tables(one.newest) if one.newest else {}).items()
        ),
        f"**What happened**\n\n{_table(report.events(one))}",
    ]
    return MetadataValue.md("\n\n".join(map(str, parts)))


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a table in Markdown; its columns are those of any of them."""
    names = list(dict.fromkeys(name for one in rows for name in one))
    lines = [
        [texts.markdown(name) for name in names],
        ["---"] * len(names),
        *([_cell(one.get(name)) for name in names] for one in rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: object) -> str:
    from grade_ml.experiments.report import number

    return "" if value is None else texts.markdown(number(value))
