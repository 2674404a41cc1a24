from __future__ import annotations

import socketserver
from http.server import HTTPServer

import pytest

from grade_ml.core.settings import AlertSettings
from grade_ml_tests.alerts.servers import Smtp, Webhook, serving


@pytest.fixture
def smtp():
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Smtp)) as server:
        yield server


@pytest.fixture
def webhook():
    with serving(HTTPServer(("127.0.0.1", 0), Webhook)) as server:
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
