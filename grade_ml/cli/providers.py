"""`grade-ml providers`: serves the external data of the simulated campus to this machine only."""

from __future__ import annotations

import logging
from threading import Event

import click

from grade_ml.cli.help import example
from grade_ml.cli.parameters import pass_clock, settings_at
from grade_ml.core.clock import Clock

#: How often to check whether a new day has begun.
DAY_SECONDS = 60


@click.command("providers", epilog=example("grade-ml providers --port 3100"))
@click.option(
    "--port",
    default=3100,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Where to serve; 0: any free port.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Seed of the campus.",
)
@click.option(
    "--courses",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="Courses of the campus.",
)
@click.option(
    "--terms",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="Terms of the campus.",
)
@click.option(
    "--college-students",
    default=120,
    show_default=True,
    type=click.IntRange(1),
    help="Students of the college that the OneRoster server serves.",
)
@click.option(
    "--college-courses",
    default=3,
    show_default=True,
    type=click.IntRange(1),
    help="Courses of that college.",
)
@pass_clock
def command(  # noqa: PLR0913, PLR0917 - one for each option
    clock: Clock,
    port: int,
    seed: int,
    courses: int,
    terms: int,
    college_students: int,
    college_courses: int,
) -> None:
    """Serve made-up weather, economy, calendars, posts, jobs, events and page views until Ctrl-C.

    It also serves the records of a small college, which is not part of the campus, by OneRoster.

    The data have the providers' own formats, belong to the simulated campus of the same seed,
    courses and terms (see `grade-ml load simulated`), and are reachable from this machine only.
    """
    from grade_ml.campus.providers.oneroster import settings as variables
    from grade_ml.campus.providers.server import serve
    from grade_ml.campus.simulated import CampusConfig
    from grade_ml.external.settings import PREFIX

    settings = settings_at(clock)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = CampusConfig(courses=courses, terms=terms, seed=seed)
    college = CampusConfig(
        students=college_students, courses=college_courses, terms=3, seed=seed + 1
    )
    with serve(config, settings.date_at(clock.now()), port, college) as server:
        lets_in = "\n".join(f"  {name}={value}" for name, value in variables(server.url).items())
        click.echo(
            f"Simulated providers at {server.url}; none of their data are real.\n"
            "To make grade_ml use them, set this in its environment or in .env:\n"
            f"  {PREFIX}PROVIDERS_URL={server.url}\n"
            f"and these to let it read the college's gradebook:\n{lets_in}\n"
            "Ctrl-C stops them."
        )
        try:
            while not Event().wait(DAY_SECONDS):
                server.today = settings.date_at(clock.now())
        except KeyboardInterrupt:
            click.echo("Stopped.")
