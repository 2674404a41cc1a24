"""`grade-ml experiment`: plans experiments, shows their state, and decides them by hand."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from grade_ml.cli.help import Group, example
from grade_ml.cli.parameters import DAY, IDENTIFIER, Number, pass_clock, settings_at
from grade_ml.core.clock import Clock
from grade_ml.core.plain import plain
from grade_ml.core.texts import readable, terminal
from grade_ml.experiments.plan import (
    INTERVENTIONS,
    NOTHING,
    STANDARD,
    VERSIONS,
    Arm,
    Kind,
    Metric,
    Plan,
    Policy,
    checked,
)

if TYPE_CHECKING:
    from rich.console import Console

    from grade_ml.experiments.report import Report
    from grade_ml.orchestration.resources import Platform

#: The kinds without the watch, which opens by itself.
_KINDS = [str(kind) for kind in Kind if kind is not Kind.WATCH]
_json = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
_experiment = click.argument("experiment_id", metavar="EXPERIMENT", type=IDENTIFIER)


@click.group("experiment", cls=Group, epilog=example("grade-ml experiment list"))
def command() -> None:
    """Compare models or actions: plan an experiment, see its state, decide it by hand.

    Experiments on models open by themselves when a version passes its checks.
    """


@contextmanager
def _platform(clock: Clock) -> Iterator[Platform]:
    from grade_ml.orchestration.resources import Platform

    platform = Platform(settings_at(clock), clock=clock)
    try:
        yield platform
    finally:
        platform.close()


@command.command(
    epilog=example(
        "grade-ml experiment create pilot --kind shadow --arms 5,7 \\\n"
        '    --metric risk_error --hypothesis "Version 7 has a smaller error"',
    )
)
@_experiment
@click.option(
    "--kind",
    type=click.Choice(_KINDS),
    required=True,
    help="shadow: two versions of a model predict for all students; split: students are divided "
    "between actions; bandit: a split whose shares follow the results.",
)
@click.option(
    "--arms",
    required=True,
    metavar="CONTROL,TREATMENT",
    help=f"For a shadow the champion's and the challenger's version, as in 5,7; else actions: "
    f"{STANDARD} (the table of interventions in force), {NOTHING} (nothing is done) or the path of "
    "another table. The first is the control.",
)
@click.option(
    "--metric",
    type=click.Choice([str(metric) for metric in Metric]),
    required=True,
    help="What is compared. Of models: score_error or grade_error (squared, points²) or risk_error "
    "(Brier score); of actions: score (0-100), submitted or passed (shares).",
)
@click.option(
    "--hypothesis",
    type=IDENTIFIER,
    required=True,
    metavar="TEXT",
    help="What you expect, in a sentence for the report.",
)
@click.option(
    "--course",
    "courses",
    type=IDENTIFIER,
    multiple=True,
    metavar="ID",
    help="Only this course; repeat for several. Without it: all courses.",
)
@click.option(
    "--shares",
    metavar="X,Y",
    help="Of the students, 0-1, in the order of the arms. Default: equal.",
)
@click.option("--starts-on", type=DAY, help="Default: today.")
@click.option("--stops-on", type=DAY, help="The last day. Default: when the last label is marked.")
@click.option(
    "--labels",
    type=click.IntRange(0),
    metavar="N",
    help="The number of labels at the last look; 0: unknown, and the test stays open. Default: the "
    "scores that are due in the next 120 days and graded by the last day.",
)
@click.option(
    "--effect",
    type=Number(0),
    metavar="X",
    help="The smallest difference that matters, in units of the metric.",
)
@click.option(
    "--alpha", type=Number(0, 1), default=0.05, show_default=True, help="Two-sided error rate."
)
@click.option(
    "--power",
    type=Number(0, 1),
    default=0.8,
    show_default=True,
    help="Probability of detecting a difference of --effect, if there is one.",
)
@click.option(
    "--least-share",
    type=Number(0, 1),
    default=0.05,
    show_default=True,
    help="The smallest share of the students that each arm keeps, 0-1.",
)
@click.option(
    "--policy",
    type=click.Choice([str(policy) for policy in Policy]),
    default=str(Policy.THOMPSON),
    show_default=True,
    help="How a bandit sets its shares: by the probability that an arm is the best, or in favour "
    "of the arm that could be the best.",
)
@click.option(
    "--group", type=IDENTIFIER, metavar="NAME", help="Experiments of a group share no student."
)
@click.option(
    "--stratum",
    "strata",
    type=IDENTIFIER,
    multiple=True,
    metavar="COLUMN",
    help="Keep the arms at equal size within its values; repeat for several.",
)
@click.option(
    "--owner", type=IDENTIFIER, metavar="NAME", help="Default: the user who runs this command."
)
@_json
@pass_clock
def create(clock: Clock, /, as_json: bool, **given: Any) -> None:
    """Plan the experiment EXPERIMENT, show what it can detect and when, and begin it."""
    plan = _plan(settings_at(clock).date_at(clock.now()), **given)
    # All but the last day, which the gradebook gives where none is named.
    checked(replace(plan, stops_on=plan.stops_on or plan.starts_on + timedelta(days=1)))
    from grade_ml.experiments import lifecycle
    from grade_ml.experiments.expected import outlook

    with _platform(clock) as platform, platform.workspace() as workspace:
        if given["labels"] != 0:
            horizon = lifecycle.with_horizon(workspace, plan)
            plan = replace(horizon, planned_labels=plan.planned_labels or horizon.planned_labels)
        expected = outlook(workspace.connection, checked(plan), workspace.as_of)
        lifecycle.create(workspace, plan)
    if as_json:
        click.echo(json.dumps({"plan": plan.to_dict(), "outlook": expected}))
        return
    click.echo(expected)
    last = f" Its last day is {plan.stops_on}." if plan.stops_on else ""
    labels = f" {plan.planned_labels:,} labels are expected." if plan.planned_labels else ""
    click.echo(f"The experiment {plan.experiment_id} begins on {plan.starts_on}.{labels}{last}")


def _plan(as_of: date, **given: Any) -> Plan:
    from grade_ml.ensemble.names import POOLED

    kind = Kind(given["kind"])
    words = [word.strip() for word in given["arms"].split(",")]
    return Plan(
        experiment_id=given["experiment_id"],
        kind=kind,
        subject=POOLED if kind.compares_models else INTERVENTIONS,
        hypothesis=given["hypothesis"],
        arms=_versions(POOLED, words) if kind.compares_models else _actions(words, given["shares"]),
        metric=Metric(given["metric"]),
        starts_on=given["starts_on"] or as_of,
        owner=given["owner"] or _caller("--owner"),
        planned_labels=given["labels"] or None,
        stops_on=given["stops_on"],
        courses=given["courses"],
        group=given["group"],
        strata=given["strata"],
        alpha=given["alpha"],
        power=given["power"],
        minimum_effect=given["effect"],
        least_share=given["least_share"],
        policy=Policy(given["policy"]),
    )


def _caller(option: str) -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # a container's user has no name
        raise click.UsageError(f"This user has no name: name {option}.") from error


def _versions(model: str, words: list[str]) -> tuple[Arm, ...]:
    if len(words) != len(VERSIONS) or not all(word.isdecimal() for word in words):
        raise click.BadParameter("A shadow compares two versions, as in --arms 5,7.")
    numbers = map(int, words)
    return tuple(Arm(name, (model, number)) for name, number in zip(VERSIONS, numbers, strict=True))


def _actions(words: list[str], shares: str | None) -> tuple[Arm, ...]:
    try:
        given = (
            [float(share) for share in shares.split(",")]
            if shares
            else [1 / len(words)] * len(words)
        )
    except ValueError as error:
        raise click.BadParameter(f"--shares {shares}: {error}.") from error
    if len(given) != len(words):
        raise click.BadParameter(f"There are {len(words)} arms and {len(given)} shares.")
    return tuple(_action(*arm) for arm in zip(words, given, strict=True))


def _action(word: str, share: float) -> Arm:
    if word in (STANDARD, NOTHING):
        return Arm(word, action=word, share=share)
    # The nightly run reads the table from another folder.
    return Arm(Path(word).stem, action=str(Path(word).resolve()), share=share)


@command.command("list", epilog=example("grade-ml experiment list"))
@_json
@pass_clock
def listed(clock: Clock, as_json: bool) -> None:
    """List all experiments with their states, oldest first."""
    from rich.console import Console

    from grade_ml.experiments import overview

    with _platform(clock) as platform, platform.connection() as connection:
        rows = [asdict(summary) for summary in overview.everything(connection, platform.as_of)]
    if as_json:
        click.echo(json.dumps(rows, default=str))
    elif rows:
        names = ("experiment", "kind", "subject", "state", "since", "labels", "decision")
        _print_table(Console(), [{name: row[name] for name in names} for row in rows])
    else:
        click.echo(
            "No experiment yet; an experiment opens by itself when a version of the ensemble "
            "becomes challenger."
        )


@command.command(epilog=example("grade-ml experiment show pilot"))
@_experiment
@_json
@pass_clock
def show(clock: Clock, experiment_id: str, as_json: bool) -> None:
    """Show the question of EXPERIMENT, its results so far, and what was decided."""
    from rich.console import Console

    from grade_ml.experiments import report, store

    with _platform(clock) as platform, platform.connection() as connection:
        shown = report.read(connection, store.get(connection, experiment_id), platform.as_of)
    if as_json:
        click.echo(json.dumps(_values(shown), default=str))
        return
    console = Console(highlight=False)
    for sentence in report.words(shown):
        console.print(terminal(sentence), soft_wrap=True)
    tables = {"Arms": report.arms(shown), "What happened": report.events(shown)}
    if shown.newest:
        tables |= report.tables(shown.newest)
    for title, rows in tables.items():
        console.print(f"\n[bold]{title.replace('_', ' ').capitalize()}[/bold]")
        _print_table(console, rows)


def _values(shown: Report) -> dict[str, Any]:
    experiment = shown.experiment
    return {
        "state": shown.state,
        "plan": experiment.plan.to_dict(),
        "events": plain(experiment.events),
        "looks": plain(shown.looks),
        "students": dict(shown.students),
        "shares": dict(shown.shares),
    }


def _print_table(console: Console, rows: list[dict[str, Any]]) -> None:
    """Print rows with a column for each name that occurs in any row, in order."""
    from rich.table import Table

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*(name.replace("_", " ") for name in names), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(terminal(_cell(row.get(name))) for name in names))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _by_hand(what: str, help_: str) -> None:
    """Add the command with which a person decides `what` (a `lifecycle.ByHand`)."""

    @click.option(
        "--reason", type=IDENTIFIER, required=True, metavar="TEXT", help="Why; the report shows it."
    )
    @click.option(
        "--by", type=IDENTIFIER, metavar="NAME", help="Default: the user who runs this command."
    )
    @_json
    @pass_clock
    def decide(
        clock: Clock, experiment_id: str, reason: str, by: str | None, as_json: bool
    ) -> None:
        from grade_ml.experiments import lifecycle

        with _platform(clock) as platform:
            steps = lifecycle.decide(
                platform.workspace,
                experiment_id,
                lifecycle.ByHand(what),
                by=by or _caller("--by"),
                reason=reason,
            )
        if as_json:
            click.echo(json.dumps([asdict(step) for step in steps]))
        for step in () if as_json else steps:
            click.echo(readable(f"{step.experiment_id}: {step.happened or 'nothing'}, {step.says}"))
        if not steps and not as_json:
            click.echo("The experiment had been decided already; nothing changed.")

    call = f'grade-ml experiment {what} pilot --reason "Agreed with the tutors"'
    command.command(what, help=help_, epilog=example(call))(_experiment(decide))


_by_hand("stop", "End EXPERIMENT without a decision; versions keep their stages.")
_by_hand(
    "veto",
    "Forbid the decision of EXPERIMENT, future or past: a challenger is retired, a version that is "
    "watched continues to serve.",
)
_by_hand("promote", "Let the challenger of EXPERIMENT serve now, whatever the evidence.")
