"""`grade-ml alert`: tests whether alerts reach their recipients."""

from __future__ import annotations

import click

from grade_ml.cli.help import Group, example
from grade_ml.core.errors import ConfigurationError, ServiceError
from grade_ml.core.settings import AlertSettings
from grade_ml.core.texts import line


@click.group("alert", cls=Group, epilog=example("grade-ml alert test"))
def command() -> None:
    """Test the channels by which alerts are sent (GRADE_ML_ALERT_…)."""


@command.command("test", epilog=example("grade-ml alert test"))
def test() -> None:
    """Send a notice by each channel that is set, and report whether it was accepted.

    Ends with status 1 if a channel did not accept the notice, or if no channel is set.
    """
    from grade_ml.alerts import channels

    settings = AlertSettings.from_environment()
    notice = channels.Notice("test", "Nothing is wrong: somebody called `grade-ml alert test`.")
    problems = {
        name: f"{variable} is not set" for name, variable in channels.lacking(settings).items()
    }
    configured = channels.configured(settings)
    if not configured and not problems:
        raise ConfigurationError(
            "No channel is set; alerts go to the log alone.",
            "Set GRADE_ML_ALERT_SMTP_HOST and GRADE_ML_ALERT_MAIL_TO, or "
            "GRADE_ML_ALERT_WEBHOOK_URL.",
        )
    for name, channel in configured.items():
        (outcome,) = channels.send(channel, [notice])
        if outcome.problem:
            problems[name] = outcome.problem
        else:
            click.echo(f"{name}: taken")
    for name, problem in problems.items():
        click.echo(f"{name}: {line(problem)}")
    if problems:
        raise ServiceError(
            f"The notice was not taken as it should be by: {', '.join(problems)}.",
            "Correct what the errors above name, and call `grade-ml alert test` again.",
        )
