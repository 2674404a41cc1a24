"""`grade-ml providers`: the simulated campus's surroundings, served to this machine only."""

from __future__ import annotations

import logging
from threading import Event

import click

from grade_ml.cli.parameters import pass_clock
from grade_ml.core.clock import Clock
from grade_ml.core.settings import Settings

#: How often to see whether a new day has come.
DAY_SECONDS = 60


@click.command("providers")
@click.option("--port", default=3100, show_default=True, type=click.IntRange(0, 65535))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--courses", default=8, show_default=True, type=click.IntRange(1))
@click.option("--terms", default=5, show_default=True, type=click.IntRange(1))
@click.option(
    "--college-students",
    default=120,
    show_default=True,
    type=click.IntRange(1),
    help="Students of the college that the OneRoster server serves.",
)
@click.option("--college-courses", default=3, show_default=True, type=click.IntRange(1))
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

    Besides, a OneRoster server with the records of a small college, another school than the campus.

    They come in the providers' own formats, belong to the simulated campus of the same seed,
    courses and terms (see `grade-ml load simulated`), and are reachable from this machine only.
    Port 0 takes a free one.
    """
    from grade_ml.campus.providers.oneroster import settings as variables
    from grade_ml.campus.providers.server import serve
    from grade_ml.campus.simulated import CampusConfig
    from grade_ml.external.settings import PREFIX

    settings = Settings.from_environment()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = CampusConfig(courses=courses, terms=terms, seed=seed)
    college = CampusConfig(
        students=college_students, courses=college_courses, terms=3, seed=seed + 1
    )
    with serve(config, settings.date_at(clock.now()), port, college) as server:
        lets_in = "\n".join(f"  {name}={value}" for name, value in variables(server.url).items())
        click.echo(
            f"Simulated providers at {server.url}; nothing they say is real.\n"
            "To let grade_ml ask them, set this in its environment or in .env:\n"
            f"  {PREFIX}PROVIDERS_URL={server.url}\n"
            f"and these to let it read the college's gradebook:\n{lets_in}\n"
            "Ctrl-C ends them."
        )
        try:
            while not Event().wait(DAY_SECONDS):
                server.today = settings.date_at(clock.now())
        except KeyboardInterrupt:
            click.echo("Stopped.")
