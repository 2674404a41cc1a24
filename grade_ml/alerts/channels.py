"""Alerts: to the log, by mail and to a webhook; once when something begins, once when it is over.

What is worth an alert is decided by who calls `notify`. Which alerts are open is kept in
`monitoring.alert`, so that neither a restart nor a second process repeats one.
"""

from __future__ import annotations

import ipaddress
import logging
import smtplib
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from typing import TYPE_CHECKING

from grade_ml.alerts import store
from grade_ml.core import texts
from grade_ml.core.errors import ConfigurationError, GradeMLError, ServiceError
from grade_ml.core.settings import AlertSettings

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = logging.getLogger(__name__)

_TIMEOUT = 10.0
#: Characters of a mail's subject, of one alert in it, and of the whole.
_SUBJECT, _PARAGRAPH, _MAIL = 200, 10_000, 200_000
#: Slack takes so many blocks and characters in one message.
_BLOCKS, _MESSAGE = 50, 40_000
#: What a webhook answers to a message that it does not take as it is; others may do.
_BAD_CONTENT = (400, 413, 422)


class _RefusedError(Exception):
    """A channel works but does not take this message."""


@dataclass(frozen=True)
class Notice:
    """What is told: an alert, or that what it was about is over."""

    subject: str
    message: str
    recovered: bool = False

    @property
    def title(self) -> str:
        """One line."""
        return texts.line(f"{'Recovered' if self.recovered else 'Alert'}: {self.subject}", _SUBJECT)


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
    wrong = {texts.readable(one): texts.readable(text) for one, text in wrong.items()}
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
    """Send all notices by every channel that is set; return what was not sent and why.

    One message holds as many as the channel takes. Neither a channel that fails nor a notice that
    is refused keeps others from being sent.
    """
    for notice in notices:
        logger.log(
            logging.INFO if notice.recovered else logging.WARNING,
            "%s. %s",
            notice.title,
            texts.line(notice.message, _PARAGRAPH),
        )
    problems = []
    channels: list[tuple[str, bool, _Channel]] = [
        ("mail", bool(settings.smtp_host and settings.mail_to), _mail),
        ("webhook", bool(settings.webhook_url), _post),
    ]
    for name, wanted, channel in channels:
        for problem in _sent(channel, notices, settings) if wanted else ():
            problems.append(f"{name}: {problem}")
            logger.error("An alert could not be sent by %s: %s", name, problem)
    return problems


_Channel = Callable[[Sequence[Notice], AlertSettings], None]


def _sent(channel: _Channel, notices: Sequence[Notice], settings: AlertSettings) -> Iterator[str]:
    """Send by one channel, the halves of what is refused by themselves; yield what was not sent."""
    try:
        channel(notices, settings)
    except _RefusedError as error:
        if len(notices) == 1:
            yield f"{notices[0].title}: {error}"
            return
        middle = len(notices) // 2
        for half in (notices[:middle], notices[middle:]):
            yield from _sent(channel, half, settings)
    except (OSError, smtplib.SMTPException, ValueError, GradeMLError) as error:
        yield texts.line(error)


def _title(notices: Sequence[Notice]) -> str:
    more = f" and {len(notices) - 1} more" if len(notices) > 1 else ""
    return f"grade_ml: {notices[0].title}{more}"


def _mail(notices: Sequence[Notice], settings: AlertSettings) -> None:
    message = EmailMessage()
    message["Subject"] = _title(notices)
    message["From"] = settings.mail_from
    message["To"] = ", ".join(settings.mail_to)
    told = (f"{one.title}\n{texts.readable(one.message, _PARAGRAPH)}" for one in notices)
    message.set_content(texts.readable("\n\n".join(told), _MAIL))
    with _connected(settings) as server:
        if settings.smtp_user and settings.smtp_password:
            _require_privacy(server, settings)
            server.login(settings.smtp_user, settings.smtp_password.get_secret_value())
        try:
            refused = server.send_message(message)
        except smtplib.SMTPDataError as error:
            raise _RefusedError(f"the mail server answered {error.smtp_code}") from error
    if refused:
        raise ServiceError(f"The mail server takes no mail for {', '.join(refused)}.")


def _connected(settings: AlertSettings) -> smtplib.SMTP:
    """Return a connection, encrypted and its server verified where that is asked for."""
    host, port = str(settings.smtp_host), settings.smtp_port
    context = ssl.create_default_context()
    try:
        if settings.smtp_tls:
            return smtplib.SMTP_SSL(host, port, timeout=_TIMEOUT, context=context)
        server = smtplib.SMTP(host, port, timeout=_TIMEOUT)
        if settings.smtp_starttls:
            try:
                server.starttls(context=context)
            except BaseException:
                server.close()
                raise
    except ssl.SSLCertVerificationError as error:
        raise ServiceError(
            f"The mail server {host} could not prove who it is ({error.verify_message}); nothing "
            "was sent.",
            "Correct GRADE_ML_ALERT_SMTP_HOST, or name the file of your own certificate authority "
            "in SSL_CERT_FILE.",
        ) from error
    except (ssl.SSLError, smtplib.SMTPNotSupportedError) as error:
        raise ServiceError(
            f"The mail server {host} does not offer the encryption that was asked for on port "
            f"{port}; nothing was sent.",
            "Set GRADE_ML_ALERT_SMTP_STARTTLS on port 25 or 587, GRADE_ML_ALERT_SMTP_TLS on 465.",
        ) from error
    return server


def _require_privacy(server: smtplib.SMTP, settings: AlertSettings) -> None:
    """Refuse to give a password to a connection that others can read."""
    assert server.sock is not None
    peer = ipaddress.ip_address(server.sock.getpeername()[0])
    if not (peer.is_loopback or isinstance(server.sock, ssl.SSLSocket)):
        raise ConfigurationError(
            f"The password for the mail server {settings.smtp_host} would go there in clear; "
            "nothing was sent.",
            "Set GRADE_ML_ALERT_SMTP_STARTTLS or GRADE_ML_ALERT_SMTP_TLS, or unset "
            "GRADE_ML_ALERT_SMTP_USER.",
        )


def _post(notices: Sequence[Notice], settings: AlertSettings) -> None:
    import httpx

    assert settings.webhook_url
    sections = [
        {"type": "mrkdwn", "verbatim": True, "text": _section(one)} for one in notices[:_BLOCKS]
    ]
    if len(notices) > _BLOCKS or sum(len(str(one["text"])) for one in sections) > _MESSAGE:
        raise _RefusedError("it is too long for one message")
    content = {
        "text": texts.slack(_title(notices)),
        "blocks": [{"type": "section", "text": one} for one in sections],
    }
    try:
        url = settings.webhook_url.get_secret_value()
        status = httpx.post(url, json=content, timeout=_TIMEOUT).status_code
    except httpx.HTTPError as error:
        # The URL is the secret of a webhook; the error's own text would show it.
        raise ServiceError(f"the webhook did not answer ({type(error).__name__})") from None
    if status in _BAD_CONTENT:
        raise _RefusedError(f"the webhook answered {status}")
    if not 200 <= status < 300:  # a redirect is not followed: it would take the message along
        raise ServiceError(f"the webhook answered {status}")


def _section(notice: Notice) -> str:
    title = texts.slack(notice.title)
    return f"*{title}*\n{texts.slack(notice.message, texts.SLACK_SECTION - len(title) - 3)}"
