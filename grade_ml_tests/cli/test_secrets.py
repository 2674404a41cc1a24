"""No command shows a password when it fails, however the password and the address are written."""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory
from unittest.mock import patch
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grade_ml.core.settings import URLS
from grade_ml_tests.cli.in_process import output_of, signals
from grade_ml_tests.conftest import MARK, passwords

__all__ = ["signals"]

pytestmark = [pytest.mark.security, pytest.mark.slow]

PLACE = "127.0.0.1:1"
SPELLINGS = (
    f"postgresql://user:{{whole}}@{PLACE}/db",
    f"postgres://user:{{raw}}@{PLACE}/db",
    f"postgresql+psycopg://user:{{raw}}@{PLACE}/db?sslmode=disable",
    f"postgresql+psycopg2://{PLACE}/db?user=user&password={{plus}}",
    f"postgresql://user:{{whole}}@{PLACE}/db?sslpassword={{plus}}&connect_timeout=2",
    f"postgresql://user:{{whole}}@{PLACE}:x/db",
    f"postgresql://user:{{raw}}@{PLACE}",
    "postgresql://user:{whole}@/db?host=/nowhere",
)
SERVERS = (
    f"http://user:{{whole}}@{PLACE}",
    f"http://user:{{raw}}@{PLACE}/mlflow",
    f"https://{{whole}}@{PLACE}",
    f"https://user:{{whole}}@{PLACE}/?token={{plus}}",
    "http://user:{raw}@nowhere.invalid:x",
)
COMMANDS = (
    "load simulated --students 5",
    "run refresh_gradebook",
    "predict --student a --course b",
    "up --port {port}",
)


def spelled(address: str, password: str) -> str:
    return address.format(raw=password, whole=quote(password, safe=""), plus=quote_plus(password))


def see_no_password(command: str, password: str, database: str, registry: str) -> None:
    addresses = dict.fromkeys(URLS, database) | {"MLFLOW_TRACKING_URI": registry}
    variables = {name: spelled(address, password) for name, address in addresses.items()}
    with TemporaryDirectory() as home, patch.dict(os.environ, variables):
        os.environ |= {"GRADE_ML_HOME": home, "DAGSTER_HOME": home}
        status, words = output_of(command)
    assert words
    assert status == 1 or command.startswith("status")
    assert MARK not in words


drawn = given(passwords(), st.sampled_from(SPELLINGS), st.sampled_from(SPELLINGS + SERVERS))


@pytest.mark.parametrize("command", COMMANDS)
@drawn
@settings(max_examples=25)
def test_a_command_that_fails_shows_no_password(
    command: str, password: str, database: str, registry: str
):
    see_no_password(command, password, database, registry)


@pytest.mark.parametrize("command", ["status", "status --json"])
@drawn
@settings(max_examples=4)  # it starts three processes each time
def test_status_shows_no_password(command: str, password: str, database: str, registry: str):
    see_no_password(command, password, database, registry)
