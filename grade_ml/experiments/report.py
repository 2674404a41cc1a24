"""One experiment's report: its state as text, its tables, and an HTML page of both.

It is made from stored looks and events; no student is named. People write titles and hypotheses
freely, so both are escaped in HTML (`core.pages`) and Markdown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection
from upath import UPath

from grade_ml.core import pages, quantities
from grade_ml.core.errors import ServiceError
from grade_ml.core.figures import Picture
from grade_ml.core.storage import file_name, write_whole
from grade_ml.core.texts import html as escape
from grade_ml.experiments import pictures, store
from grade_ml.experiments.plan import Arm, Decision, Kind, Look
from grade_ml.experiments.store import Experiment, State
from grade_ml.registry import tracking
from grade_ml.registry.tracking import Step, Tracked

if TYPE_CHECKING:
    from grade_ml.registry.workspace import Workspace

#: What each decision means, for readers of the report.
MEANING = {
    Decision.CONTINUE: "the evidence does not decide yet; the experiment waits for more labels",
    Decision.BETTER: "the treatment is better than the control",
    Decision.WORSE: "the treatment is worse than the control",
    Decision.NO_DIFFERENCE: "all planned labels have arrived, and no difference was detected",
    Decision.BLOCKED: "the evidence suffices, but a problem or a guardrail blocks the decision",
    Decision.SKIPPED: "no label is new since the last look",
}


#: From here on, whole numbers are precise enough.
_MANY = 1000


@dataclass(frozen=True)
class Report:
    """What is known of one experiment.

    Attributes
    ----------
    looks
        Oldest first.
    students
        How many were assigned to each arm; empty if every arm scores all students.
    shares
        Of future students, 0-1, by arm, if the shares of a bandit follow its rewards.
    """

    experiment: Experiment
    looks: tuple[Look, ...]
    students: Mapping[str, int]
    shares: Mapping[str, float]

    @property
    def name(self) -> str:
        """The experiment's id."""
        return self.experiment.plan.experiment_id

    @property
    def newest(self) -> Look | None:
        """The last look, if there was one."""
        return self.looks[-1] if self.looks else None

    @property
    def state(self) -> str:
        """The state in one word: running, or the kind of event that ended it."""
        if self.experiment.state is State.RUNNING:
            return str(State.RUNNING)
        return str(self.experiment.events[-1].kind)


def read(connection: Connection, experiment: Experiment, as_of: date) -> Report:
    """Return what is known of an experiment on a day."""
    plan = experiment.plan
    seen = [look for look in store.looks(connection, plan.experiment_id) if look.as_of <= as_of]
    allocations = store.allocations(connection, plan.experiment_id, as_of)
    return Report(
        experiment,
        tuple(seen),
        store.sizes(connection, plan.experiment_id),
        {
            allocation.arm: allocation.probability for allocation in allocations
        },  # of each arm the newest comes last
    )


def words(report: Report) -> list[str]:
    """Return state, newest look and decision as sentences."""
    plan, look = report.experiment.plan, report.newest
    sentences = [f"{plan.kind.capitalize()} of {plan.subject}, by {plan.owner}: {plan.hypothesis}"]
    if report.experiment.state is State.RUNNING:
        sentences.append(f"It has run since {plan.starts_on}.")
    else:
        last = report.experiment.events[-1]
        sentences.append(f"It was {last.kind} on {last.at:%Y-%m-%d} by {last.by}: {last.reason}")
    if plan.kind is Kind.BANDIT:
        shares = (f"{arm.name} {report.shares.get(arm.name, arm.share):.0%}" for arm in plan.arms)
        return [*sentences, f"No look tests a bandit. Shares of newcomers: {', '.join(shares)}."]
    if look is None:
        return [
            *sentences,
            "There was no look yet: no label has arrived since the experiment began.",
        ]
    share = f", {look.fraction:.0%} of those planned" if math.isfinite(look.fraction) else ""
    sentences.append(
        f"Look {len(report.looks)}, as of {look.as_of}: {look.labels:,} labels of "
        f"{look.units:,} students{share}."
    )
    if math.isfinite(look.difference):
        sentences.append(
            f"{plan.treatments[0].name} minus {plan.control.name}: {_signed(look.difference)} "
            f"{pictures.unit(plan.metric)}{_interval(look)}; "
            f"{'less' if plan.metric.better < 0 else 'more'} is better."
        )
    if math.isfinite(look.z) and math.isfinite(look.bound):
        verb = "reaches" if abs(look.z) > look.bound else "does not reach"
        sentences.append(f"|z| is {abs(look.z):.2f} and {verb} the bound of {look.bound:.2f}.")
    sentences.append(f"Decision: {look.decision}, that is, {MEANING[look.decision]}. {look.reason}")
    return sentences


def arms(report: Report) -> list[dict[str, Any]]:
    """Return one row for each arm: what it is, and how many students it has."""
    plan = report.experiment.plan
    return [
        {
            "arm": arm.name,
            "role": "control" if arm is plan.control else "treatment",
            "is": _is(arm),
            "share": report.shares.get(arm.name, arm.share),
            "students": report.students.get(arm.name, 0)
            if not plan.kind.compares_models
            else (report.newest.units if report.newest else 0),
        }
        for arm in plan.arms
    ]


def events(report: Report) -> list[dict[str, Any]]:
    """Return one row for each event."""
    return [
        {
            "on": f"{event.at:%Y-%m-%d %H:%M}",
            "what": str(event.kind),
            "by": event.by,
            "why": event.reason,
        }
        for event in report.experiment.events
    ]


def tables(look: Look) -> dict[str, list[dict[str, Any]]]:
    """Return the figures of a look as tables by title: plain values first, then the rest."""
    plain = {
        name: figure for name, figure in look.figures.items() if not isinstance(figure, dict | list)
    }
    by_title = {
        "figures": [
            {"figure": quantities.title(name), "value": quantities.text(name, value)}
            for name, value in plain.items()
        ]
    }
    for name, value in look.figures.items():
        if name not in plain:
            by_title[name] = list(_rows(value))
    by_title["segments"] = [dict(segment) for segment in look.segments]
    return {name: rows for name, rows in by_title.items() if rows}


def _rows(value: Mapping[str, Any] | Sequence[Any]) -> Iterator[dict[str, Any]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield {"name": name, **(item if isinstance(item, Mapping) else {"value": item})}
    else:
        for item in value:
            yield dict(item) if isinstance(item, Mapping) else {"value": item}


def html(report: Report, figure: Picture) -> str:
    """Return the page of one experiment; `figure` shows its effect (see `pictures.effect`)."""
    look = report.newest
    body = [
        f"<h1>{escape(report.name)}</h1>",
        f'<p class="score">{escape(report.state)}</p>',
        *(f"<p>{escape(sentence)}</p>" for sentence in words(report)),
        "<h2>Arms</h2>",
        pages.table(arms(report)),
        "<h2>Effect at each look</h2>",
        pages.image(figure, "effect at each look"),
        "<p>Only the bounds decide. The page also shows tests that are valid for a single look: "
        "read at every look, they report differences that do not exist.</p>",
    ]
    for title, rows in (tables(look) if look else {}).items():
        body += [f"<h2>{escape(title.replace('_', ' ').capitalize())}</h2>", pages.table(rows)]
    body += ["<h2>What happened</h2>", pages.table(events(report))]
    return pages.page(report.name, body)


@dataclass(frozen=True)
class Published:
    """The places of the experiments' pages, by id, and sentences on what could not be done."""

    places: Mapping[str, str]
    degraded: tuple[str, ...]


def publish(workspace: Workspace, reports: Iterable[Report]) -> Published:
    """Store each experiment's page, replacing the previous page, and update MLflow.

    If MLflow does not answer, the pages are stored all the same, and the next call updates MLflow.
    """
    places, degraded = dict[str, str](), []
    for report in reports:
        page = html(report, pictures.effect(report.experiment.plan, report.looks))
        place = UPath(workspace.root) / "experiments" / f"{file_name(report.name)}.html"
        write_whole(place, page.encode())
        places[report.name] = str(place)
        try:
            tracking.track(workspace.registry, workspace.root, _tracked(report, page))
        except ServiceError as error:
            degraded.append(f"The experiment {report.name} is not in MLflow: {error}")
    return Published(places, tuple(degraded))


def _tracked(report: Report, page: str) -> Tracked:
    plan = report.experiment.plan
    planned = {name: value for name, value in plan.to_dict().items() if name != "arms"}
    of_arms = {f"arm_{number}": f"{arm.name}: {_is(arm)}" for number, arm in enumerate(plan.arms)}
    steps = [
        Step(
            look.looked_at,
            {
                name: float(getattr(look, name))
                for name in (
                    *("units", "labels", "fraction", "difference"),
                    *("low", "high", "z", "bound"),
                )
            },
        )
        for look in report.looks
    ]
    has_ended = report.experiment.state is State.ENDED
    return Tracked(report.name, planned | of_arms, steps, report.state, has_ended, page)


def _is(arm: Arm) -> str:
    return f"{arm.model[0]} version {arm.model[1]}" if arm.model else f"action {arm.action}"


def _interval(look: Look) -> str:
    if not (math.isfinite(look.low) and math.isfinite(look.high)):
        return ""
    return f" (interval {_signed(look.low)} to {_signed(look.high)})"


def _signed(value: float) -> str:
    return f"{value:+,.0f}" if abs(value) >= _MANY else f"{value:+.3g}"
