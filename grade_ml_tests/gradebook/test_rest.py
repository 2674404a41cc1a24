"""OneRoster over real HTTP: the simulated college, well-behaved and not, ends in the gradebook."""

from __future__ import annotations

import base64
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from grade_ml.campus import simulated
from grade_ml.campus.providers import oneroster
from grade_ml.campus.providers.server import ProviderServer, serve
from grade_ml.campus.simulated import CampusConfig
from grade_ml.core import database
from grade_ml.core.clock import Clock
from grade_ml.core.errors import AlreadyRunningError, ConfigurationError, ServiceError
from grade_ml.core.locks import DatabaseLock
from grade_ml.core.settings import Settings
from grade_ml.gradebook import frames, schema
from grade_ml.gradebook.rest import client as http_client
from grade_ml.gradebook.rest.client import Client, Counts
from grade_ml.gradebook.rest.export import _Reading, download, endpoints
from grade_ml.gradebook.rest.settings import PREFIX, OneRosterSettings
from grade_ml.gradebook.rest.sync import Synced, sync
from grade_ml_tests.sites import site

pytestmark = pytest.mark.slow

COLLEGE = CampusConfig(students=24, courses=3, terms=2, seed=5)
TODAY = date(2026, 3, 20)


class Patience(Clock):
    """Waiting takes no time, and is remembered."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture(scope="module")
def served() -> Iterator[ProviderServer]:
    with serve(CampusConfig(), TODAY, college=COLLEGE) as sis:
        yield sis


@pytest.fixture
def sis(served: ProviderServer) -> Iterator[ProviderServer]:
    yield served
    served.behave()
    served.today = TODAY
    served.retry_after = 1
    served.requests.clear()


def settings_of(sis: ProviderServer, version: str = "1.2", **others: Any) -> OneRosterSettings:
    variables = oneroster.settings(sis.url, version)
    named = {name.removeprefix(PREFIX).lower(): value for name, value in variables.items()}
    return OneRosterSettings(_env_file=None, **{"page_size": 100, **named, **others})


@pytest.fixture
def run(engine: Engine, settings: Settings, sis: ProviderServer) -> Callable[..., Synced]:
    """Sync at the end of a day, as the sis is on it."""

    def run(day: date = TODAY, version: str = "1.2", full: bool = False, **others: Any) -> Synced:
        sis.today = day
        chosen = settings_of(sis, version, **others)
        now = datetime.combine(day, time(23, 30), UTC)
        return sync(engine, settings, chosen, now=now, full=full, clock=Patience())

    return run


def rows_of(*columns: pd.Series) -> set[tuple[Any, ...]]:
    return set(zip(*columns, strict=True))


def stored(engine: Engine) -> dict[str, pd.DataFrame]:
    with engine.connect() as connection:
        return {
            table.name: frames.read_table(connection, table)
            for table in schema.TABLES
            if table is not schema.activity
        }


def college(day: date) -> dict[str, set[tuple[Any, ...]]]:
    """Return what the gradebook has to hold of the college, without any of HTTP."""
    book = simulated.gradebook(COLLEGE, day)

    def renamed(ids: pd.Series) -> pd.Series:
        return ids.str.replace("sim-", "college-").str.replace("SIM-", "COLLEGE-")

    joined = book.enrollments[book.enrollments["enrolled_on"].notna()]
    results = book.results
    return {
        "enrollment": rows_of(renamed(joined["section_id"]), renamed(joined["student_id"])),
        "assignment": rows_of(
            renamed(book.assignments["assignment_id"]), book.assignments["weight"]
        ),
        "result": rows_of(
            renamed(results["assignment_id"]),
            renamed(results["student_id"]),
            results["score"].fillna(-1),
        ),
    }


def held(engine: Engine) -> dict[str, set[tuple[Any, ...]]]:
    gradebook = stored(engine)
    enrollments, items, results = (gradebook[n] for n in ("enrollment", "assignment", "result"))
    return {
        "enrollment": rows_of(enrollments["section_id"], enrollments["student_id"]),
        "assignment": rows_of(items["assignment_id"], items["weight"]),
        "result": rows_of(
            results["assignment_id"], results["student_id"], results["score"].fillna(-1)
        ),
    }


def is_empty(engine: Engine) -> bool:
    return all(frame.empty for frame in stored(engine).values())


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_both_versions_bring_the_whole_college(version, run, engine):
    done = run(version=version)
    assert held(engine) == college(TODAY)
    assert done.report is not None and done.report.quarantined == 0
    assert done.notes == ()
    assert set(stored(engine)["student"]["student_id"]) >= {
        s for _, s in held(engine)["enrollment"]
    }


def test_a_nightly_sync_brings_what_changed_and_equals_a_bulk_of_that_day(run, engine):
    run()
    for days in (1, 9, 10, 40):
        day = TODAY + timedelta(days=days)
        done = run(day)
        bulk = days in (9, 40)
        # A week after the last bulk everything is read again.
        assert (done.modes["users"] == "bulk") == bulk
        assert held(engine) == college(day)
        again = run(day, full=True)
        assert again.report is not None
        assert sum(again.report.loaded.values()) == 0


def test_the_same_day_again_changes_nothing(run, engine):
    run()
    done = run()
    assert done.report is None or not done.report.changed
    assert done.rows["users"] == done.rows["lineItems"] == 0


def test_a_term_that_appears_comes_whole_by_a_delta(run, engine):
    """Its first records are older than the last sync."""
    before, after = date(2026, 9, 13), date(2026, 9, 19)
    run(before)
    done = run(after)
    assert (done.modes["classes"], done.modes["results"]) == ("delta", "delta")
    # The oldest term is no longer served, and stays.
    rows, expected = held(engine), college(after)
    assert all(expected[name] <= rows[name] for name in expected)
    assert not all(college(before)[name] == rows[name] for name in rows)


RECOVERED = [
    ("too_many_requests", 3),
    ("server_error", 3),
    ("truncated", 2),
    ("html_page", 2),
    ("unauthorized", 1),
    ("off", 2),
    ("repeated_rows", None),
    ("without_total", None),
    ("vanishing_rows", 1),
    ("wrong_content_type", None),
]


@pytest.mark.parametrize(("mode", "times"), RECOVERED)
def test_what_goes_wrong_for_a_while_changes_nothing(mode, times, run, sis, engine):
    sis.misbehave("oneroster", mode, times)
    run()
    assert held(engine) == college(TODAY)


@pytest.mark.parametrize(
    "mode",
    [
        "too_many_requests",
        "server_error",
        "truncated",
        "html_page",
        "unauthorized",
        "off",
        "vanishing_rows",
        "wrong_total",
        "endless_pages",
        "changed_field",
        "nulls",
    ],
)
def test_what_keeps_failing_is_a_typed_error_and_nothing_is_loaded(mode, run, sis, engine):
    sis.misbehave("oneroster", mode)
    with pytest.raises(ServiceError) as raised:
        run(parallel=1)
    assert raised.value.remedy
    assert is_empty(engine)
    sis.behave()
    run()
    assert held(engine) == college(TODAY)


@pytest.mark.parametrize("mode", ["timeout", "huge"])
def test_silence_and_floods_are_bounded(mode, run, sis, engine, monkeypatch):
    monkeypatch.setattr(http_client, "SILENCE_S", 0.05)
    monkeypatch.setattr(http_client, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(http_client, "ATTEMPTS", 2)
    sis.misbehave("oneroster", mode)
    with pytest.raises(ServiceError):
        run(parallel=1)
    assert is_empty(engine)


def test_retry_after_is_obeyed_and_a_long_wait_left_to_the_next_sync(engine, settings, sis):
    clock = Patience()
    sis.retry_after = 7
    sis.misbehave("oneroster", "too_many_requests", 1)
    chosen = settings_of(sis)
    sync(engine, settings, chosen, now=datetime.now(UTC), clock=clock)
    assert max(clock.slept) > 5
    sis.retry_after = 86_400
    sis.misbehave("oneroster", "too_many_requests", 1)
    with pytest.raises(ServiceError, match="1 day"):
        sync(engine, settings, chosen, now=datetime.now(UTC), full=True, clock=clock)


def test_a_token_that_ends_while_records_change_is_renewed_once(engine, settings, sis):
    """Midnight: the token ends, and what was read is of yesterday."""

    def midnight(step: str, rows: int) -> None:
        if step == "Asking for lineItems":
            sis.today = TODAY + timedelta(days=1)

    chosen = settings_of(sis)
    now = datetime.combine(TODAY, time(23, 59), UTC)
    sync(engine, settings, chosen, now=now, on_progress=midnight, clock=Patience())
    tokens = [request for request in sis.requests if request.provider == "oneroster-token"]
    assert len(tokens) == 2
    sync(engine, settings, chosen, now=now + timedelta(hours=1), clock=Patience())
    assert held(engine) == college(TODAY + timedelta(days=1))


def test_words_that_no_standard_knows_keep_their_rows_out_with_a_reason(run, sis, engine):
    run()
    sis.misbehave("oneroster", "unknown_words")
    done = run(TODAY + timedelta(days=5))
    assert done.report is not None
    assert done.report.quarantined >= 1
    assert any("dormant" in str(problem.value) for problem in done.report.problems)
    assert any(rows for rows in done.report.loaded.values())


def test_credentials_that_are_refused_are_a_setting_and_never_shown(run, engine, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ConfigurationError) as raised:
        run(client_secret="do-not-tell")
    assert "CLIENT_SECRET" in raised.value.remedy
    run()
    output = str(raised.value) + caplog.text
    coded = base64.b64encode(f"{oneroster.CLIENT_ID}:do-not-tell".encode()).decode()
    assert "do-not-tell" not in output and coded not in output


def test_what_is_not_set_is_named(engine, settings):
    for values, named in (
        ({}, "GRADE_ML_ONEROSTER_URL"),
        ({"url": "http://127.0.0.1:1", "client_id": "x"}, "GRADE_ML_ONEROSTER_CLIENT_SECRET"),
    ):
        with pytest.raises(ConfigurationError, match="is set") as raised:
            sync(
                engine,
                settings,
                OneRosterSettings(_env_file=None, **values),
                now=datetime.now(UTC),
                clock=Patience(),
            )
        assert named in str(raised.value)


def test_a_link_does_not_take_the_token_to_another_server(sis):
    with Client(settings_of(sis), Patience()) as client:
        assert client._same_server("/x?offset=1").startswith(sis.url)
        with pytest.raises(ServiceError, match=r"example\.org"):
            client._same_server("https://example.org/x?offset=1")


@pytest.mark.security
@pytest.mark.parametrize("path", ["/token", "/ims/oneroster/rostering/v1p2/users"])
def test_no_redirect_takes_a_request_to_another_server_of_this_network(path):
    with site() as server, site("127.0.0.2") as neighbour:
        server.body = b'{"access_token": "hush", "expires_in": 3600}'
        for query in ("", "?sort=sourcedId&orderBy=asc&limit=1000&offset=0"):
            server.leads[path + query] = (307, neighbour.url("/admin"))
        settings = OneRosterSettings(
            _env_file=None,
            url=server.url().rstrip("/"),
            token_url=server.url("/token"),
            client_id="us",
            client_secret="hush",
        )
        with (
            Client(settings, Patience()) as client,
            pytest.raises(ServiceError, match="leads") as raised,
        ):
            client.read("users", None, len)
        assert neighbour.received == [] and "hush" not in str(raised.value)


@pytest.mark.security
def test_a_page_of_half_characters_or_of_endless_depth_is_no_defect_of_ours(tmp_path: Path):
    user = '{"sourcedId": "a\\ud800", "metadata": {"k\\udc00": "\\ud83d"}}'
    with site() as server:
        server.body = b'{"access_token": "t", "users": [%s]}' % user.encode()
        settings = OneRosterSettings(
            _env_file=None,
            url=server.url().rstrip("/"),
            token_url=server.url("/token"),
            client_id="us",
            client_secret="hush",
        )
        with Client(settings, Patience()) as client:
            reading = _Reading("users", "1.2")
            reading.take(http_client._read(server.body, {}, "users").rows)
            reading.write(tmp_path)
            assert b"a?" in (tmp_path / "users.csv").read_bytes()
            server.body = b'{"access_token": "t", "users": ' + b"[" * 1_000_000
            with pytest.raises(ServiceError, match="no good page of users"):
                client.read("users", None, len)


def test_names_of_people_are_not_written_down(sis, tmp_path: Path):
    with Client(settings_of(sis), Patience()) as client:
        for name in endpoints("1.2"):
            download(client, "1.2", name, None, tmp_path)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {"users.csv", "roles.csv"} <= set(written)
    assert not [
        name for name, text in written.items() if "(simulated)" in text and name == "users.csv"
    ]
    assert "familyName" not in written["users.csv"]


_KILLED = """
import os, signal
from datetime import datetime
from grade_ml.core import database
from grade_ml.core.clock import Clock
from grade_ml.core.settings import Settings
from grade_ml.gradebook.rest import settings, sync
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
at = os.environ["KILL"]
if at == "before load":
    sync._load = die
elif at == "before commit":
    sync._remember = die
elif at == "after commit":
    sync.Synced = die
installation = Settings.from_environment()
sync.sync(
    database.connect(installation.database_url),
    installation,
    settings.OneRosterSettings.from_environment(),
    now=datetime.fromisoformat(os.environ["NOW"]),
    clock=Clock(),
)
"""


@pytest.mark.parametrize("at", ["before load", "before commit", "after commit"])
def test_a_kill_at_any_moment_is_made_good_by_the_next_sync(at, run, sis, engine, environment):
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED],
        env={
            **os.environ,
            **environment,
            **oneroster.settings(sis.url),
            "KILL": at,
            "NOW": datetime.combine(TODAY, time(23, 0), UTC).isoformat(),
        },
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert is_empty(engine) == (at != "after commit")
    sis.requests.clear()
    run()
    assert held(engine) == college(TODAY)
    requests = [request for request in sis.requests if request.provider == "oneroster"]
    # What had been read whole is not requested again.
    assert bool(requests) == (at == "after commit")
    with engine.connect() as connection:
        loads = connection.execute(sa.select(schema.load.c.id)).all()
    assert len(loads) == 1


def test_two_at_once_do_not_mix(run, engine):
    with database.only_one(engine, DatabaseLock.ONEROSTER), pytest.raises(AlreadyRunningError):
        run()
    run()


@given(st.integers(0, 50), st.integers(0, 5), st.integers(0, 5))
def test_rows_that_come_are_allowed_and_rows_that_were_missed_are_not(rows, more, missed):
    counts = Counts(rows, rows + more)
    assert all(counts.fit(rows + rest) for rest in range(more + 1))
    assert not counts.fit(rows + more + 1)
    assert counts.fit(rows - missed) == (missed == 0)
    assert Counts(None, None).fit(rows)
