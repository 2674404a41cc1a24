"""Alerts over a real SMTP conversation and a real HTTP request, both on this machine."""

from __future__ import annotations

import itertools
import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email import message_from_bytes, message_from_string
from http.server import BaseHTTPRequestHandler, HTTPServer

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grade_ml.alerts import store
from grade_ml.alerts.channels import Notice, Told, notify, send
from grade_ml.core.errors import ConfigurationError
from grade_ml.core.settings import AlertSettings
from grade_ml_tests.certificates import Authority
from grade_ml_tests.core.test_texts import anything
from grade_ml_tests.sites import site

MOMENTS = (datetime(2025, 10, 20, hour, tzinfo=UTC) for hour in itertools.cycle(range(24)))


class Smtp(socketserver.StreamRequestHandler):
    """Speaks as much of SMTP as a client needs, and keeps what it is given.

    With `server.context` it offers STARTTLS; `server.spam` in a mail has it refused.
    """

    def handle(self) -> None:
        self._say("220 here")
        self._talk()

    def _talk(self) -> None:
        body: list[str] | None = None
        for raw in self.rfile:
            line = raw.decode().rstrip("\r\n")
            if body is not None:
                if line == ".":
                    self._take("\n".join(body))
                    body = None
                else:
                    body.append(line)
                continue
            self.server.commands.append(line)
            if line.upper().startswith("EHLO"):
                offers = ["AUTH PLAIN LOGIN", *(["STARTTLS"] if self.server.context else [])]
                self._say("\r\n".join(["250-here", *(f"250-{one}" for one in offers), "250 HELP"]))
            elif line.upper() == "STARTTLS":
                self._say("220 go on")
                try:
                    tls = self.server.context.wrap_socket(self.connection, server_side=True)
                except OSError:
                    return
                self.connection = tls
                self.rfile, self.wfile = tls.makefile("rb"), tls.makefile("wb", buffering=0)
                return self._talk()
            elif line.upper().startswith("AUTH"):
                self._say("235 welcome")
            elif line.upper().startswith("DATA"):
                body = []
                self._say("354 go on")
            elif line.upper().startswith("QUIT"):
                return self._say("221 bye")
            else:
                self._say("250 yes")
        return None

    def _take(self, mail: str) -> None:
        text = message_from_bytes(mail.encode()).get_payload(decode=True).decode()
        if self.server.spam and self.server.spam in text:
            return self._say("554 looks like spam")
        self.server.received.append(mail)
        return self._say("250 kept")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class Webhook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        bad = self.server.spam and self.server.spam.encode() in content
        if not bad:
            self.server.received.append(json.loads(content))
        self.send_response(400 if bad else self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.end_headers()

    def log_message(self, *parts) -> None:
        pass


@contextmanager
def _serving(server) -> Iterator:
    server.received, server.commands, server.status = [], [], 200
    server.context, server.spam, server.location = None, "", ""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def smtp():
    with _serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Smtp)) as server:
        yield server


@pytest.fixture
def webhook():
    with _serving(HTTPServer(("127.0.0.1", 0), Webhook)) as server:
        yield server


@pytest.fixture
def alert_settings(smtp, webhook) -> AlertSettings:
    return AlertSettings(
        _env_file=None,
        smtp_host="127.0.0.1",
        smtp_port=smtp.server_address[1],
        mail_to=["dean@example.org", "it@example.org"],
        webhook_url=f"http://127.0.0.1:{webhook.server_address[1]}/services/secret",
    )


def tell(engine, wrong: dict[str, str], settings: AlertSettings, watched=lambda one: True) -> Told:
    with engine.begin() as connection:
        return notify(connection, wrong, watched, settings, next(MOMENTS))


def test_an_alert_is_told_once_and_so_is_its_end(engine, alert_settings, smtp, webhook, caplog):
    wrong = {"health of maths": "41 of 100; drift: 9 of 70 features drifted"}
    told = tell(engine, wrong, alert_settings)
    assert [one.title for one in told.notices] == ["Alert: health of maths"]
    assert told.problems == []
    assert tell(engine, wrong, alert_settings).notices == ()
    (mail,), (post,) = smtp.received, webhook.received
    message = message_from_string(mail)
    assert message["To"] == "dean@example.org, it@example.org"
    assert "health of maths" in message["Subject"] and "41 of 100" in message.get_payload()
    assert post["text"] == "grade_ml: Alert: health of maths"
    assert "41 of 100" in post["blocks"][0]["text"]["text"]
    assert "Alert: health of maths" in caplog.text

    told = tell(engine, {}, alert_settings)
    assert [one.title for one in told.notices] == ["Recovered: health of maths"]
    assert tell(engine, {}, alert_settings).notices == ()
    assert "Recovered" in smtp.received[-1] and len(smtp.received) == 2
    # What begins again is told again.
    assert len(tell(engine, wrong, alert_settings).notices) == 1


def test_what_is_not_watched_does_not_recover(engine):
    nowhere = AlertSettings(_env_file=None)
    tell(engine, {"job night": "failed", "health of maths": "low"}, nowhere)
    told = tell(engine, {}, nowhere, lambda one: one.startswith("job "))
    assert [one.subject for one in told.notices] == ["job night"]
    with engine.connect() as connection:
        assert list(store.open_alerts(connection)) == ["health of maths"]


def test_a_channel_that_fails_is_named_without_its_secret_and_keeps_no_other(
    engine, alert_settings, smtp, webhook, caplog
):
    webhook.status = 500
    told = tell(engine, {"job night": "failed"}, alert_settings)
    assert told.problems == ["webhook: the webhook answered 500"]
    assert len(smtp.received) == 1
    assert "secret" not in caplog.text + repr(alert_settings)


def test_a_wrong_setting_is_named(monkeypatch):
    monkeypatch.setenv("GRADE_ML_ALERT_SMTP_PORT", "mail")
    with pytest.raises(ConfigurationError, match="GRADE_ML_ALERT_SMTP_PORT"):
        AlertSettings.from_environment()


@pytest.fixture
def authority(tmp_path, monkeypatch) -> Authority:
    """An authority that SSL_CERT_FILE names."""
    one = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(one.file))
    return one


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
    """A mail server that speaks TLS from the first byte."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Smtp)
    server.daemon_threads = True
    server.handle_error = lambda *parts: None
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with _serving(server):
        yield server


@pytest.mark.security
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "mail.example.org"])
def test_starttls_gives_nothing_to_a_server_that_cannot_prove_who_it_is(
    smtp, tmp_path, name, monkeypatch
):
    """An authority that nobody trusts, whatever the certificate says."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    smtp.context = Authority(tmp_path).context(name)
    (problem,) = send([Notice("a", "b")], mailing(smtp, smtp_starttls=True, **HUSH))
    assert "could not prove who it is" in problem and "SSL_CERT_FILE" in problem
    assert smtp.received == [] and not any("AUTH" in one for one in smtp.commands)


@pytest.mark.security
@pytest.mark.parametrize(("own", "works"), [("127.0.0.1", True), ("mail.example.org", False)])
@pytest.mark.parametrize("way", ["smtp_starttls", "smtp_tls"])
def test_an_own_authority_is_trusted_for_its_own_names(smtp, authority, own, works, way):
    smtp.context = authority.context(own)
    with speaking_tls(smtp.context) as implicit:
        server = smtp if way == "smtp_starttls" else implicit
        problems = send([Notice("a", "b")], mailing(server, **{way: True}, **HUSH))
        assert (problems == []) is works, problems
        assert len(server.received) == works
        assert any("AUTH" in one for one in server.commands) is works


@pytest.mark.security
@pytest.mark.parametrize("way", ["smtp_starttls", "smtp_tls"])
def test_a_server_without_the_encryption_asked_for_is_given_nothing(smtp, way):
    (problem,) = send([Notice("a", "b")], mailing(smtp, **{way: True}, **HUSH))
    assert "does not offer the encryption" in problem and "nothing was sent" in problem
    assert smtp.received == [] and not any("AUTH" in one for one in smtp.commands)


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
    with _serving(socketserver.ThreadingTCPServer((address, 0), Smtp)) as smtp:
        (problem,) = send([Notice("a", "b")], mailing(smtp, address, **HUSH))
        assert "in clear" in problem and "GRADE_ML_ALERT_SMTP_STARTTLS" in problem
        assert smtp.received == [] and not any("AUTH" in one for one in smtp.commands)
        # Without a password there is nothing to be overheard but the alert.
        assert send([Notice("a", "b")], mailing(smtp, address)) == []


@pytest.mark.security
def test_on_this_machine_a_password_needs_no_encryption(smtp):
    assert send([Notice("a", "b")], mailing(smtp, **HUSH)) == []
    assert any("AUTH" in one for one in smtp.commands)


@pytest.mark.security
@given(st.lists(st.tuples(anything, anything), min_size=1, max_size=5))
@hypothesis.settings(
    max_examples=25, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_whatever_a_subject_says_all_are_sent_as_text(alert_settings, smtp, webhook, told):
    for server in (smtp, webhook):
        server.received.clear()
    assert send([Notice(*one) for one in told], alert_settings) == []
    (mail,) = smtp.received
    message = message_from_string(mail)
    assert message.keys().count("Bcc") == 0 and message["To"].count("@") == 2
    blocks = [one["text"]["text"] for post in webhook.received for one in post["blocks"]]
    assert len(blocks) == len(told)
    for text in blocks + [post["text"] for post in webhook.received]:
        assert len(text) <= 3000 and not set("<>") & set(text)


@pytest.mark.security
def test_what_is_long_or_many_is_cut_or_split_and_nothing_is_lost(alert_settings, smtp, webhook):
    many = [Notice(f"course {n}", "&" * 5000) for n in range(130)]
    assert send(many, alert_settings) == []
    blocks = [one["text"]["text"] for post in webhook.received for one in post["blocks"]]
    assert [text.split("*")[1] for text in blocks] == [f"Alert: course {n}" for n in range(130)]
    for post in webhook.received:
        assert len(post["blocks"]) <= 50 and max(map(len, blocks)) <= 3000
        assert sum(len(one["text"]["text"]) for one in post["blocks"]) <= 40_000
    (mail,) = smtp.received
    assert len(message_from_string(mail).get_payload(decode=True)) <= 200_010


@pytest.mark.security
def test_one_that_is_refused_keeps_no_other_and_is_named(alert_settings, smtp, webhook):
    smtp.spam = webhook.spam = "lottery"
    many = [Notice(f"course {n}", "lottery" if n == 3 else "fine") for n in range(7)]
    problems = send(many, alert_settings)
    assert problems == [
        "mail: Alert: course 3: the mail server answered 554",
        "webhook: Alert: course 3: the webhook answered 400",
    ]
    told = [message_from_string(one).get_payload(decode=True).decode() for one in smtp.received]
    assert all(f"course {n}\n" in "".join(told) for n in (0, 1, 2, 4, 5, 6))
    blocks = [one["text"]["text"] for post in webhook.received for one in post["blocks"]]
    assert len(blocks) == 6


@pytest.mark.security
def test_a_webhook_leads_nowhere(alert_settings, webhook):
    with site("127.0.0.2") as neighbour:
        webhook.status, webhook.location = 307, neighbour.url()
        problems = send([Notice("a", "b")], alert_settings)
        assert problems == ["webhook: the webhook answered 307"] and neighbour.asked == []


@pytest.mark.security
def test_what_no_database_holds_is_told_and_recorded_all_the_same(engine, alert_settings, smtp):
    wrong = {"health of \0\ud800": "\0 is low", "health of maths": "low"}
    told = tell(engine, wrong, alert_settings)
    assert told.problems == [] and len(told.notices) == 2
    assert tell(engine, wrong, alert_settings).notices == ()
