"""Channels: a real SMTP conversation and a real HTTP request, both on this machine."""

from __future__ import annotations

import socket
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_string

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from grade_ml.alerts.channels import Notice, configured, send
from grade_ml.core.errors import ConfigurationError
from grade_ml.core.settings import AlertSettings
from grade_ml_tests.alerts.servers import Smtp, serving
from grade_ml_tests.certificates import Authority
from grade_ml_tests.core.test_texts import anything
from grade_ml_tests.sites import site


def test_a_wrong_setting_is_named(monkeypatch):
    monkeypatch.setenv("GRADE_ML_ALERT_SMTP_PORT", "mail")
    with pytest.raises(ConfigurationError, match="GRADE_ML_ALERT_SMTP_PORT"):
        AlertSettings.from_environment()


def problems_of(notices: list[Notice], settings: AlertSettings) -> list[str]:
    """Send by each channel; return what went wrong."""
    outcomes = [outcome for by in configured(settings).values() for outcome in send(by, notices)]
    assert len(outcomes) == len(notices) * len(configured(settings))
    return [outcome.problem for outcome in outcomes if outcome.problem]


@pytest.fixture
def authority(tmp_path, monkeypatch) -> Authority:
    """An authority that SSL_CERT_FILE names."""
    certificates = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.file))
    return certificates


HUSH = {"smtp_user": "us", "smtp_password": "hush"}


def mailing(smtp, host: str = "127.0.0.1", **settings) -> AlertSettings:
    return AlertSettings(
        _env_file=None,
        smtp_host=host,
        smtp_port=smtp.server_address[1],
        mail_to=["dean@example.org"],
        **settings,
    )


@contextmanager
def speaking_tls(context) -> Iterator:
    """A mail server that uses TLS from the first byte."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Smtp)
    server.daemon_threads = True
    server.handle_error = lambda *parts: None
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server):
        yield server


@pytest.mark.security
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "mail.example.org"])
def test_starttls_gives_nothing_to_a_server_that_cannot_prove_who_it_is(
    smtp, tmp_path, name, monkeypatch
):
    """An authority that no system trusts, for any name in the certificate."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    smtp.context = Authority(tmp_path).context(name)
    (problem,) = problems_of([Notice("a", "b")], mailing(smtp, smtp_starttls=True, **HUSH))
    assert "could not prove its identity" in problem and "SSL_CERT_FILE" in problem
    assert smtp.received == [] and not any("AUTH" in command for command in smtp.commands)


@pytest.mark.security
@pytest.mark.parametrize(("own", "works"), [("127.0.0.1", True), ("mail.example.org", False)])
@pytest.mark.parametrize("way", ["smtp_starttls", "smtp_tls"])
def test_an_own_authority_is_trusted_for_its_own_names(smtp, authority, own, works, way):
    smtp.context = authority.context(own)
    with speaking_tls(smtp.context) as implicit:
        server = smtp if way == "smtp_starttls" else implicit
        problems = problems_of([Notice("a", "b")], mailing(server, **{way: True}, **HUSH))
        assert (problems == []) is works, problems
        assert len(server.received) == works
        assert any("AUTH" in command for command in server.commands) is works


@pytest.mark.security
@pytest.mark.parametrize("way", ["smtp_starttls", "smtp_tls"])
def test_a_server_without_the_required_encryption_is_given_nothing(smtp, way):
    (problem,) = problems_of([Notice("a", "b")], mailing(smtp, **{way: True}, **HUSH))
    assert "does not offer the required encryption" in problem and "nothing was sent" in problem
    assert smtp.received == [] and not any("AUTH" in command for command in smtp.commands)


def own_address() -> str:
    """An address of this machine that is not loopback; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("192.0.2.1", 9))
        return asking.getsockname()[0]


@pytest.mark.security
def test_no_password_goes_over_the_network_in_clear():
    try:
        address = own_address()
    except OSError:
        pytest.skip("this machine has no address but loopback")
    with serving(socketserver.ThreadingTCPServer((address, 0), Smtp)) as smtp:
        (problem,) = problems_of([Notice("a", "b")], mailing(smtp, address, **HUSH))
        assert "unencrypted" in problem and "GRADE_ML_ALERT_SMTP_STARTTLS" in problem
        assert smtp.received == [] and not any("AUTH" in command for command in smtp.commands)
        # Without a password there is nothing to be overheard but the alert.
        assert problems_of([Notice("a", "b")], mailing(smtp, address)) == []


@pytest.mark.security
def test_on_this_machine_a_password_needs_no_encryption(smtp):
    assert problems_of([Notice("a", "b")], mailing(smtp, **HUSH)) == []
    assert any("AUTH" in command for command in smtp.commands)


@pytest.mark.security
@given(st.lists(st.tuples(anything, anything), min_size=1, max_size=5))
@hypothesis.settings(
    max_examples=25, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_any_subject_is_sent_as_text(alert_settings, smtp, webhook, notices):
    for server in (smtp, webhook):
        server.received.clear()
    assert problems_of([Notice(*notice) for notice in notices], alert_settings) == []
    (mail,) = smtp.received
    message = message_from_string(mail)
    assert message.keys().count("Bcc") == 0 and message["To"].count("@") == 2
    blocks = [block["text"]["text"] for post in webhook.received for block in post["blocks"]]
    assert len(blocks) == len(notices)
    for text in blocks + [post["text"] for post in webhook.received]:
        assert len(text) <= 3000 and not set("<>") & set(text)


@pytest.mark.security
def test_what_is_long_or_many_is_cut_or_split_and_nothing_is_lost(alert_settings, smtp, webhook):
    many = [Notice(f"course {n}", "&" * 5000) for n in range(130)]
    assert problems_of(many, alert_settings) == []
    blocks = [block["text"]["text"] for post in webhook.received for block in post["blocks"]]
    assert [text.split("*")[1] for text in blocks] == [f"Alert: course {n}" for n in range(130)]
    for post in webhook.received:
        assert len(post["blocks"]) <= 50 and max(map(len, blocks)) <= 3000
        assert sum(len(block["text"]["text"]) for block in post["blocks"]) <= 40_000
    (mail,) = smtp.received
    assert len(message_from_string(mail).get_payload(decode=True)) <= 200_010


@pytest.mark.security
def test_a_refused_notice_keeps_no_other_from_being_sent_and_is_named(
    alert_settings, smtp, webhook
):
    smtp.spam = webhook.spam = "lottery"
    many = [Notice(f"course {n}", "lottery" if n == 3 else "fine") for n in range(7)]
    problems = problems_of(many, alert_settings)
    assert problems == ["the mail server answered 554", "the webhook answered 400"]
    for channel in configured(alert_settings).values():
        assert [outcome.taken for outcome in send(channel, many)] == [n != 3 for n in range(7)]
    texts = [
        message_from_string(message).get_payload(decode=True).decode() for message in smtp.received
    ]
    assert all(f"course {n}\n" in "".join(texts) for n in (0, 1, 2, 4, 5, 6))
    blocks = [block["text"]["text"] for post in webhook.received for block in post["blocks"]]
    assert len(blocks) == 12


@pytest.mark.security
def test_a_webhook_leads_nowhere(alert_settings, webhook):
    with site("127.0.0.2") as neighbour:
        webhook.status, webhook.location = 307, neighbour.url()
        problems = problems_of([Notice("a", "b")], alert_settings)
        assert problems == ["the webhook answered 307"] and neighbour.received == []


@pytest.mark.parametrize("leave", ["221 bye", "421 too busy", "500 what?", ""])
def test_a_mail_that_was_taken_is_sent_however_the_server_takes_leave(smtp, leave):
    smtp.leave = leave
    assert problems_of([Notice("a", "b")], mailing(smtp)) == []
    assert len(smtp.received) == 1


def test_a_receiver_whom_the_server_does_not_know_is_named_and_the_others_have_the_mail(
    alert_settings, smtp
):
    """It counts as sent: sent again, it would reach the others again and again."""
    smtp.unknown = "dean@"
    (outcome,) = send(configured(alert_settings)["mail"], [Notice("a", "b")])
    assert outcome.taken and "dean@example.org" in outcome.problem
    assert "it@" not in outcome.problem and len(smtp.received) == 1


@pytest.mark.parametrize("url", ["http://[::1/secret", "http://no host/secret", "http://:1/secret"])
def test_no_odd_address_of_a_webhook_keeps_others_from_being_used(alert_settings, smtp, url):
    odd = alert_settings.model_copy(update={"webhook_url": SecretStr(url)})
    (problem,) = problems_of([Notice("a", "b")], odd)
    assert "secret" not in problem and len(smtp.received) == 1


@pytest.mark.security
@pytest.mark.parametrize("fault", ["hangs", "drips"])
def test_a_mail_server_that_does_not_get_on_is_not_waited_for(alert_settings, smtp, webhook, fault):
    """A timeout of the library bounds each silence alone: a byte now and then is no end."""
    setattr(smtp, fault, True)
    impatient = alert_settings.model_copy(update={"seconds": 0.3})
    (problem,) = problems_of([Notice("a", "b")], impatient)
    assert "within 0.3 seconds" in problem and "GRADE_ML_ALERT_SECONDS" in problem
    assert len(webhook.received) == 1
    smtp.ended.set()


@pytest.mark.security
def test_a_webhook_that_hangs_is_not_waited_for(alert_settings, smtp):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/secret"
        update = {"seconds": 0.3, "webhook_url": SecretStr(url)}
        (problem,) = problems_of([Notice("a", "b")], alert_settings.model_copy(update=update))
    assert "within 0.3 seconds" in problem and "secret" not in problem
    assert len(smtp.received) == 1


def test_a_wrong_password_and_a_closed_port_name_the_variables(smtp):
    smtp.locked = True
    (problem,) = problems_of([Notice("a", "b")], mailing(smtp, **HUSH))
    assert "GRADE_ML_ALERT_SMTP_PASSWORD" in problem and "535" in problem
    assert HUSH["smtp_password"] not in problem and smtp.received == []
    closed = mailing(smtp).model_copy(update={"smtp_port": 1})
    (problem,) = problems_of([Notice("a", "b")], closed)
    assert "GRADE_ML_ALERT_SMTP_PORT" in problem and "does not answer" in problem


@pytest.mark.security
@pytest.mark.parametrize("field", ["mail_from", "mail_to"])
def test_no_line_end_in_an_address_becomes_a_header(alert_settings, smtp, field):
    odd = "a@example.org\r\nBcc: everybody@example.org"
    update = {field: odd if field == "mail_from" else (odd,)}
    (problem,) = problems_of([Notice("a", "b")], alert_settings.model_copy(update=update))
    assert problem and smtp.received == []
