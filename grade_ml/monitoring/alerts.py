"""Alerts: to the log, by mail and to a webhook; once when something begins, once when it is over.

What is worth an alert is decided by who calls `notify`. Which alerts are open is kept in
`monitoring.alert`, so that neither a restart nor a second process repeats one.
"""

from __future__ import annotations

import logging
import smtplib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from typing import TYPE_CHECKING

from grade_ml.core.settings import AlertSettings
from grade_ml.monitoring import store

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = logging.getLogger(__name__)

_TIMEOUT = 10.0


@dataclass(frozen=True)
class Notice:
    """What is told: an alert, or that what it was about is over."""

    subject: str
    message: str
    recovered: bool = False

    @property
    def title(self) -> str:
        """One line."""
        return f"{'Recovered' if self.recovered else 'Alert'}: {self.subject}"


@dataclass(frozen=True)
class Told:
    """What was told, and by which channels that failed, with the reason."""

    notices: Sequence[Notice]
    problems: Sequence[str]


def notify(
    connection: Connection,
    wrong: Mapping[str, str],
    watched: Callable[[str], bool],
    settings: AlertSettings,
    at: datetime,
) -> Told:
    """Tell what has begun to be wrong and what no longer is; an open alert is not repeated.

    Parameters
    ----------
    wrong
        What is wrong now: message by subject.
    watched
        Whether a subject is among those that `wrong` would name: only these can recover.
    at
        Timezone-aware.
    """
    known = store.open_alerts(connection)
    notices = [Notice(one, text) for one, text in sorted(wrong.items()) if one not in known]
    notices += [
        Notice(one, f"It was: {text}", recovered=True)
        for one, text in sorted(known.items())
        if watched(one) and one not in wrong
    ]
    for notice in notices:
        if notice.recovered:
            store.close_alert(connection, notice.subject, at)
        else:
            store.open_alert(connection, notice.subject, notice.message, at)
    return Told(notices, send(notices, settings)) if notices else Told((), ())


def send(notices: Sequence[Notice], settings: AlertSettings) -> list[str]:
    """Send all notices by every channel that is set; return why a channel failed.

    One message holds all of them. A channel that fails keeps no other from being used.
    """
    for notice in notices:
        logger.log(
            logging.INFO if notice.recovered else logging.WARNING,
            "%s. %s",
            notice.title,
            notice.message,
        )
    problems = []
    channels: list[tuple[str, bool, Callable[[Sequence[Notice], AlertSettings], None]]] = [
        ("mail", bool(settings.smtp_host and settings.mail_to), _mail),
        ("webhook", bool(settings.webhook_url), _post),
    ]
    for name, wanted, channel in channels:
        if not wanted:
            continue
        try:
            channel(notices, settings)
        except (OSError, smtplib.SMTPException, ValueError) as error:
            problems.append(f"{name}: {error}")
            logger.error("An alert could not be sent by %s: %s", name, error)
    return problems


def _title(notices: Sequence[Notice]) -> str:
    more = f" and {len(notices) - 1} more" if len(notices) > 1 else ""
    return f"grade_ml: {notices[0].title}{more}"


def _mail(notices: Sequence[Notice], settings: AlertSettings) -> None:
    message = EmailMessage()
    message["Subject"] = _title(notices)
    message["From"] = settings.mail_from
    message["To"] = ", ".join(settings.mail_to)
    message.set_content("\n\n".join(f"{one.title}\n{one.message}" for one in notices))
    assert settings.smtp_host
    with smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=_TIMEOUT) as server:
        if settings.smtp_starttls:
            server.starttls()
        if settings.smtp_user and settings.smtp_password:
            server.login(settings.smtp_user, settings.smtp_password.get_secret_value())
        server.send_message(message)


def _post(notices: Sequence[Notice], settings: AlertSettings) -> None:
    import httpx

    assert settings.webhook_url
    blocks = [
        {
            "type": "section",
            "text": {"type": "mrkdwn", "text": f"*{one.title}*\n{one.message}"},
        }
        for one in notices[:50]  # Slack takes no more
    ]
    content = {"text": _title(notices), "blocks": blocks}
    try:
        url = settings.webhook_url.get_secret_value()
        httpx.post(url, json=content, timeout=_TIMEOUT).raise_for_status()
    except httpx.HTTPStatusError as error:
        # The URL is the secret of a webhook; the error's own text would show it.
        raise ValueError(f"the webhook answered {error.response.status_code}") from None
    except httpx.HTTPError as error:
        raise ValueError(f"the webhook did not answer ({type(error).__name__})") from None
