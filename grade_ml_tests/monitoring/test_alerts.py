"""Alerts over a real SMTP conversation and a real HTTP request, both on this machine."""

from __future__ import annotations

import itertools
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email import message_from_string
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from grade_ml.core.errors import ConfigurationError
from grade_ml.core.settings import AlertSettings
from grade_ml.monitoring import store
from grade_ml.monitoring.alerts import Told, notify

MOMENTS = (datetime(2025, 10, 20, hour, tzinfo=UTC) for hour in itertools.cycle(range(24)))


class Smtp(socketserver.StreamRequestHandler):
    """Speaks as much of SMTP as a client needs, and keeps what it is given."""

    def handle(self) -> None:
        self._say("220 here")
        body: list[str] | None = None
        for raw in self.rfile:
            line = raw.decode().rstrip("\r\n")
            if body is not None:
                if line == ".":
                    self.server.received.append("\n".join(body))
                    body = None
                    self._say("250 kept")
                else:
                    body.append(line)
            elif line.upper().startswith("DATA"):
                body = []
                self._say("354 go on")
            elif line.upper().startswith("QUIT"):
                return self._say("221 bye")
            else:
                self._say("250 yes")
        return None

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class Webhook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append(json.loads(content))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *parts) -> None:
        pass


@contextmanager
def _serving(server) -> Iterator:
    server.received, server.status = [], 200
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
    with _serving(socketserver.TCPServer(("127.0.0.1", 0), Smtp)) as server:
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
