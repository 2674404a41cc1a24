"""Records what began to be wrong and what is over, then sends every notice that is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from grade_ml.alerts import channels, conditions, outbox
from grade_ml.alerts.channels import Notice
from grade_ml.alerts.outbox import Unsent
from grade_ml.core.settings import AlertSettings


@dataclass(frozen=True)
class Notified:
    """The new notices, and all that could not be sent so far, also those of other processes."""

    notices: list[Notice]
    unsent: list[Unsent]


def notify(
    transaction: Callable[[], AbstractContextManager[Connection]],
    settings: AlertSettings,
    wrong: Mapping[str, str],
    watched: Callable[[str], bool],
    at: datetime,
) -> Notified:
    """Send notices of what began to be wrong and of what is over, by the channels of `settings`.

    Parameters
    ----------
    wrong, watched, at
        See `conditions.record`.
    """
    configured = channels.configured(settings)
    with transaction() as connection:
        notices = conditions.record(connection, wrong, watched, configured, at)
    outbox.deliver(transaction, configured, at)
    with transaction() as connection:
        return Notified(notices, outbox.unsent(connection, at))
