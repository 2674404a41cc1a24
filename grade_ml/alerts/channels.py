"""The channels by which notices are sent: mail, and a webhook that takes Slack's format.

A password goes to no server that others can overhear or play, a redirect is not followed, no error
shows a secret, and what is told is shown as text.
"""

from __future__ import annotations

import ipaddress
import smtplib
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from functools import partial

from grade_ml.core import texts
from grade_ml.core.errors import ConfigurationError, ServiceError
from grade_ml.core.masking import masked
from grade_ml.core.settings import AlertSettings

_TIMEOUT = 10.0
#: Characters of a mail's subject, of one alert in it, and of the whole.
_SUBJECT, PARAGRAPH, _MAIL = 200, 10_000, 200_000
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
class Outcome:
    """Whether a channel took a notice, and what went wrong, in words; empty: nothing."""

    taken: bool
    problem: str = ""


#: Sends notices in one message and returns for whom it was not taken, in words; raises where it
#: was taken for nobody.
Channel = Callable[[Sequence[Notice]], str]


def configured(settings: AlertSettings) -> dict[str, Channel]:
    """Return the channels that are set, by name."""
    channels: dict[str, Channel] = {}
    if settings.smtp_host and settings.mail_to:
        channels["mail"] = partial(_mail, settings)
    if settings.webhook_url:
        channels["webhook"] = partial(_post, settings)
    return channels


def send(channel: Channel, notices: Sequence[Notice]) -> list[Outcome]:
    """Send the notices by the channel; return what became of each.

    One message holds as many as the channel takes. What it refuses is sent in halves, until the
    notice that it refuses stands alone.
    """
    try:
        outcome = Outcome(True, channel(notices))
    except _RefusedError as error:
        if len(notices) > 1:
            middle = len(notices) // 2
            return send(channel, notices[:middle]) + send(channel, notices[middle:])
        outcome = Outcome(False, texts.line(error))
    except Exception as error:  # whatever one channel raises keeps no other from being used
        outcome = Outcome(False, masked(texts.line(error)))
    return [outcome] * len(notices)


def title(notices: Sequence[Notice]) -> str:
    """Return one line for all notices of a message."""
    more = f" and {len(notices) - 1} more" if len(notices) > 1 else ""
    return f"grade_ml: {notices[0].title}{more}"


def _mail(settings: AlertSettings, notices: Sequence[Notice]) -> str:
    message = EmailMessage()
    message["Subject"] = title(notices)
    message["From"] = settings.mail_from
    message["To"] = ", ".join(settings.mail_to)
    told = (f"{one.title}\n{texts.readable(one.message, PARAGRAPH)}" for one in notices)
    message.set_content(texts.readable("\n\n".join(told), _MAIL))
    server = _connected(settings)
    try:
        if settings.smtp_user and settings.smtp_password:
            _require_privacy(server, settings)
            server.login(settings.smtp_user, settings.smtp_password.get_secret_value())
        try:
            refused = server.send_message(message)
        except smtplib.SMTPDataError as error:
            raise _RefusedError(f"the mail server answered {error.smtp_code}") from error
        # The mail is taken, however the server takes leave.
        with suppress(OSError, smtplib.SMTPException):
            server.quit()
    finally:
        server.close()
    return f"the mail server takes no mail for {', '.join(refused)}" if refused else ""


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


def _post(settings: AlertSettings, notices: Sequence[Notice]) -> str:
    import httpx

    assert settings.webhook_url
    sections = [
        {"type": "mrkdwn", "verbatim": True, "text": _section(one)} for one in notices[:_BLOCKS]
    ]
    if len(notices) > _BLOCKS or sum(len(str(one["text"])) for one in sections) > _MESSAGE:
        raise _RefusedError("it is too long for one message")
    content = {
        "text": texts.slack(title(notices)),
        "blocks": [{"type": "section", "text": one} for one in sections],
    }
    try:
        url = settings.webhook_url.get_secret_value()
        status = httpx.post(url, json=content, timeout=_TIMEOUT).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # The URL is the secret of a webhook; the error's own text would show it.
        raise ServiceError(f"the webhook did not answer ({type(error).__name__})") from None
    if status in _BAD_CONTENT:
        raise _RefusedError(f"the webhook answered {status}")
    if not 200 <= status < 300:  # a redirect is not followed: it would take the message along
        raise ServiceError(f"the webhook answered {status}")
    return ""


def _section(notice: Notice) -> str:
    first = texts.slack(notice.title)
    return f"*{first}*\n{texts.slack(notice.message, texts.SLACK_SECTION - len(first) - 3)}"
