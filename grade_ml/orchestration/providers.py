"""The providers of external data and records for a process that `up` did not start."""

from __future__ import annotations

from grade_ml.core.settings import Settings
from grade_ml.core.up_record import providers_url
from grade_ml.external.settings import ExternalSettings
from grade_ml.gradebook.rest.settings import PREFIX, OneRosterSettings


def providers_of(settings: Settings) -> tuple[ExternalSettings, OneRosterSettings]:
    """Return the providers that are set, else the simulated providers of a running `up --demo`."""
    from grade_ml.campus.providers import oneroster

    external, server = ExternalSettings.from_environment(), OneRosterSettings.from_environment()
    url = providers_url(settings.home)
    if url and not external.model_fields_set:
        external = ExternalSettings(providers_url=url)
    if url and not server.model_fields_set:
        variables = oneroster.settings(url).items()
        server = OneRosterSettings.model_validate(
            {name.removeprefix(PREFIX).lower(): value for name, value in variables}
        )
    return external, server
