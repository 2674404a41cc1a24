"""The channels by which notices are sent: mail, and a webhook that takes Slack's format.

A password is never sent over a connection that others can read or impersonate, a redirect is not
followed, no error shows a secret, and the text of a notice is shown as text.
"""

from __future__ import annotations

import ipaddress
import smtplib
import ssl
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from functools import partial

from pydantic import SecretStr

from grade_ml.core import texts
from grade_ml.core.errors import ConfigurationError, ServiceError
from grade_ml.core.masking import masked
from grade_ml.core.settings import AlertSettings

#: The channels' names.
MAIL, WEBHOOK = "mail", "webhook"
#: Characters of a mail's subject, of one alert in it, and of the whole.
_SUBJECT, PARAGRAPH, _MAIL = 200, 10_000, 200_000
#: Slack takes so many blocks and characters in one message.
_BLOCKS, _MESSAGE = 50, 40_000
#: The status by which a webhook refuses this message; it may take others.
_BAD_CONTENT = (400, 413, 422)


class _RefusedError(Exception):
    """A channel works but does not take this message."""


@dataclass(frozen=True)
class Notice:
    """An alert, or the message that its cause is over."""

    subject: str
    message: str
    recovered: bool = False

    @property
    def title(self) -> str:
        """The title, one line."""
        return texts.line(f"{'Recovered' if self.recovered else 'Alert'}: {self.subject}", _SUBJECT)


@dataclass(frozen=True)
class Outcome:
    """Whether a channel took a notice, and what went wrong; empty if nothing did."""

    taken: bool
    problem: str = ""


#: Sends notices in one message and returns a text that names the recipients who were refused;
#: raises if all were refused.
Channel = Callable[[Sequence[Notice]], str]


def configured(settings: AlertSettings) -> dict[str, Channel]:
    """Return the channels that are set, by name."""
    channels: dict[str, Channel] = {}
    if settings.smtp_host and settings.mail_to:
        channels[MAIL] = partial(_mail, settings)
    if settings.webhook_url:
        channels[WEBHOOK] = partial(_post, settings)
    return {
        name: partial(_in_time, channel, settings.seconds) for name, channel in channels.items()
    }


def lacking(settings: AlertSettings) -> dict[str, str]:
    """Return the channels that are set only in part, each with the setting that is missing."""
    if bool(settings.smtp_host) == bool(settings.mail_to):
        return {}
    return {MAIL: "GRADE_ML_ALERT_MAIL_TO" if settings.smtp_host else "GRADE_ML_ALERT_SMTP_HOST"}


def send(channel: Channel, notices: Sequence[Notice]) -> list[Outcome]:
    """Send the notices by the channel; return the outcome of each.

    One message holds as many as the channel takes. A message that it refuses is sent in halves,
    until the notice that it refuses is alone.
    """
    try:
        outcome = Outcome(True, channel(notices))
    except _RefusedError as error:
        if len(notices) > 1:
            middle = len(notices) // 2
            return send(channel, notices[:middle]) + send(channel, notices[middle:])
        outcome = Outcome(False, texts.line(error))
    except Exception as error:  # an error of one channel does not stop the others
        outcome = Outcome(False, masked(texts.line(error)))
    return [outcome] * len(notices)


def _in_time(channel: Channel, seconds: float, notices: Sequence[Notice]) -> str:
    """Send by the channel, but wait at most this many seconds.

    The timeout of a library bounds each silence only: a server that sends a byte now and then would
    block the tick of a sensor for ever. A message that is sent after all is sent twice.
    """
    sent: Future[str] = Future()

    def work() -> None:
        try:
            sent.set_result(channel(notices))
        except BaseException as error:  # the waiting thread raises it
            sent.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return sent.result(seconds)
    except TimeoutError as error:
        raise ServiceError(
            f"It was not sent within {seconds:g} seconds.",
            "Check whether the server hangs; GRADE_ML_ALERT_SECONDS sets a longer limit.",
        ) from error


def title(notices: Sequence[Notice]) -> str:
    """Return one line for all notices of a message."""
    more = f" and {len(notices) - 1} more" if len(notices) > 1 else ""
    return f"grade_ml: {notices[0].title}{more}"


def _mail(settings: AlertSettings, notices: Sequence[Notice]) -> str:
    message = EmailMessage()
    message["Subject"] = title(notices)
    message["From"] = settings.mail_from
    message["To"] = ", ".join(settings.mail_to)
    paragraphs = (
        f"{notice.title}\n{texts.readable(notice.message, PARAGRAPH)}" for notice in notices
    )
    message.set_content(texts.readable("\n\n".join(paragraphs), _MAIL))
    server = _connected(settings)
    try:
        if settings.smtp_user and settings.smtp_password:
            _require_privacy(server, settings)
            _log_in(server, settings.smtp_user, settings.smtp_password)
        try:
            refused = server.send_message(message)
        except smtplib.SMTPDataError as error:
            raise _RefusedError(f"the mail server answered {error.smtp_code}") from error
        # The server has taken the mail, however it closes the connection.
        with suppress(OSError, smtplib.SMTPException):
            server.quit()
    finally:
        server.close()
    return f"the mail server takes no mail for {', '.join(refused)}" if refused else ""


def _connected(settings: AlertSettings) -> smtplib.SMTP:
    """Return a connection; it is encrypted, and the server verified, if the settings require it."""
    host, port = str(settings.smtp_host), settings.smtp_port
    context = ssl.create_default_context()
    try:
        if settings.smtp_tls:
            return smtplib.SMTP_SSL(host, port, timeout=settings.seconds, context=context)
        server = smtplib.SMTP(host, port, timeout=settings.seconds)
        if settings.smtp_starttls:
            try:
                server.starttls(context=context)
            except BaseException:
                server.close()
                raise
    except ssl.SSLCertVerificationError as error:
        raise ServiceError(
            f"The mail server {host} could not prove its identity ({error.verify_message}); "
            "nothing was sent.",
            "Correct GRADE_ML_ALERT_SMTP_HOST, or name the file of your own certificate authority "
            "in SSL_CERT_FILE.",
        ) from error
    except (ssl.SSLError, smtplib.SMTPNotSupportedError) as error:
        raise ServiceError(
            f"The mail server {host} does not offer the required encryption on port "
            f"{port}; nothing was sent.",
            "Set GRADE_ML_ALERT_SMTP_STARTTLS on port 25 or 587, GRADE_ML_ALERT_SMTP_TLS on 465.",
        ) from error
    except TimeoutError:
        raise
    except OSError as error:
        raise ServiceError(
            f"The mail server {host} does not answer on port {port}: {error}.",
            "Correct GRADE_ML_ALERT_SMTP_HOST and GRADE_ML_ALERT_SMTP_PORT.",
        ) from error
    return server


def _log_in(server: smtplib.SMTP, user: str, password: SecretStr) -> None:
    try:
        server.login(user, password.get_secret_value())
    except smtplib.SMTPNotSupportedError as error:
        raise ConfigurationError(
            f"The mail server allows no login: {error}",
            "Unset GRADE_ML_ALERT_SMTP_USER, or turn on encryption, which some servers require.",
        ) from error
    except smtplib.SMTPAuthenticationError as error:
        raise ConfigurationError(
            f"The mail server refuses the user or the password ({error.smtp_code}).",
            "Correct GRADE_ML_ALERT_SMTP_USER and GRADE_ML_ALERT_SMTP_PASSWORD.",
        ) from error


def _require_privacy(server: smtplib.SMTP, settings: AlertSettings) -> None:
    """Refuse to give a password to a connection that others can read."""
    assert server.sock is not None
    peer = ipaddress.ip_address(server.sock.getpeername()[0])
    if not (peer.is_loopback or isinstance(server.sock, ssl.SSLSocket)):
        raise ConfigurationError(
            f"The password for the mail server {settings.smtp_host} would be sent unencrypted; "
            "nothing was sent.",
            "Set GRADE_ML_ALERT_SMTP_STARTTLS or GRADE_ML_ALERT_SMTP_TLS, or unset "
            "GRADE_ML_ALERT_SMTP_USER.",
        )


def _post(settings: AlertSettings, notices: Sequence[Notice]) -> str:
    import httpx

    assert settings.webhook_url
    sections = [
        {"type": "mrkdwn", "verbatim": True, "text": _section(notice)}
        for notice in notices[:_BLOCKS]
    ]
    if len(notices) > _BLOCKS or sum(len(str(section["text"])) for section in sections) > _MESSAGE:
        raise _RefusedError("it is too long for one message")
    content = {
        "text": texts.slack(title(notices)),
        "blocks": [{"type": "section", "text": section} for section in sections],
    }
    try:
        url = settings.webhook_url.get_secret_value()
        status = httpx.post(url, json=content, timeout=settings.seconds).status_code
    except httpx.TimeoutException as error:
        raise TimeoutError from error
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
