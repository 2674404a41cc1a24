"""`grade-ml alert test`: what it prints of each channel, and how it ends."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from grade_ml.cli.alert import command
from grade_ml.core.errors import ConfigurationError, ServiceError


@pytest.fixture
def environment(monkeypatch, smtp, webhook):
    for name, value in {
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(smtp.server_address[1]),
        "MAIL_TO": '["dean@example.org"]',
        "WEBHOOK_URL": f"http://127.0.0.1:{webhook.server_address[1]}/secret",
    }.items():
        monkeypatch.setenv(f"GRADE_ML_ALERT_{name}", value)
    return monkeypatch


def test_each_channel_is_tried_and_reported_to_have_taken_it(environment, smtp, webhook):
    ran = CliRunner().invoke(command, ["test"])
    assert ran.exit_code == 0 and ran.output == "mail: taken\nwebhook: taken\n"
    assert "Subject: grade_ml: Alert: test" in smtp.received[0]
    assert webhook.received[0]["text"] == "grade_ml: Alert: test"


def test_one_that_does_not_take_it_is_named_and_the_other_is_used(
    environment,
    smtp,
    webhook,
):
    webhook.status = 500
    ran = CliRunner().invoke(command, ["test"])
    assert isinstance(ran.exception, ServiceError) and "by: webhook" in ran.exception.message
    assert ran.output == "mail: taken\nwebhook: the webhook answered 500\n"
    environment.delenv("GRADE_ML_ALERT_MAIL_TO")
    ran = CliRunner().invoke(command, ["test"])
    assert "mail: GRADE_ML_ALERT_MAIL_TO is not set" in ran.output


def test_without_a_channel_the_variables_are_named():
    error = CliRunner().invoke(command, ["test"]).exception
    assert isinstance(error, ConfigurationError)
    for name in ("SMTP_HOST", "MAIL_TO", "WEBHOOK_URL"):
        assert f"GRADE_ML_ALERT_{name}" in error.remedy
