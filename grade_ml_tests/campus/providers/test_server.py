"""What all providers share: determinism, labels, ETags, misbehaviour."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import date

import httpx
import pytest

from grade_ml.campus.providers.misbehaviour import HUGE_BYTES, Mode
from grade_ml.campus.providers.routes import ROUTES, Provider
from grade_ml.campus.providers.server import ProviderServer, Request, serve
from grade_ml.campus.simulated import CampusConfig
from grade_ml.core.errors import ServiceError
from grade_ml_tests.campus.providers.conftest import CONFIG, TODAY, Client

Call = Callable[[Client], httpx.Response]
CALLS: dict[Provider, Call] = {
    Provider.OPEN_METEO: lambda client: client.weather(
        start_date="2026-02-01", end_date="2026-02-28"
    ),
    Provider.WORLD_BANK: lambda client: client.indicator(date="2015:2024"),
    Provider.FRED: lambda client: client.get("/fred/graph/fredgraph.csv", id="UNRATE"),
    Provider.ACADEMIC_CALENDAR: lambda client: client.get("/calendar/academic.ics"),
    Provider.CAMPUS_EVENTS: lambda client: client.get("/calendar/events.ics"),
    Provider.HACKER_NEWS: lambda client: client.posts(numericFilters="created_at_i>1772000000"),
    Provider.GDELT: lambda client: client.tone(),
    Provider.BLS: lambda client: client.jobs("LNS14000036"),
    Provider.WIKIMEDIA: lambda client: client.views("Nursing", "20260201", "20260228"),
    Provider.ONEROSTER: lambda client: client.get("/oneroster/ims/oneroster/v1p1/lineItems"),
    Provider.ONEROSTER_TOKEN: lambda client: client.token(),
}
POSTED = (Provider.BLS, Provider.ONEROSTER_TOKEN)
each = pytest.mark.parametrize("provider", CALLS)


def test_every_route_is_tested():
    assert set(CALLS) == {route.provider for route in ROUTES} == set(Provider)


@each
def test_the_same_seed_and_day_give_the_same_bytes_in_another_process(
    provider: Provider, client: Client
):
    with serve(CONFIG, TODAY) as again, httpx.Client(trust_env=False) as http:
        assert CALLS[provider](Client(again, http)).content == CALLS[provider](client).content


def test_no_hash_of_the_process_enters():
    code = (
        "from datetime import date; from grade_ml.campus.simulated import CampusConfig;"
        "from grade_ml.campus.providers import world as w;"
        "print(w.World(CampusConfig(), date(2026, 3, 1)).slow('Nursing', [20.5]))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@each
def test_another_seed_gives_other_values(provider: Provider, client: Client):
    with serve(CampusConfig(seed=4), TODAY) as other, httpx.Client(trust_env=False) as http:
        assert CALLS[provider](Client(other, http)).content != CALLS[provider](client).content


@pytest.mark.parametrize("provider", [Provider.OPEN_METEO, Provider.WIKIMEDIA])
def test_what_was_observed_stays(provider: Provider, client: Client, server: ProviderServer):
    before = CALLS[provider](client).content
    server.today = date(2027, 1, 1)
    assert CALLS[provider](client).content == before


@each
def test_every_answer_states_that_it_is_simulated(provider: Provider, client: Client):
    answer = CALLS[provider](client)
    assert answer.status_code == 200
    assert answer.headers["X-Simulated"] == "grade_ml"
    no_text = (Provider.OPEN_METEO, Provider.FRED, Provider.WIKIMEDIA)
    assert ("simulated" in answer.text) == (provider not in no_text)


@each
def test_an_answer_that_is_known_is_not_sent_again(
    provider: Provider, client: Client, server: ProviderServer
):
    first = CALLS[provider](client)
    if provider in POSTED:
        assert "ETag" not in first.headers
        return
    again = client.get(
        server.requests[-1].path, headers={"If-None-Match": f'"other", {first.headers["ETag"]}'}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["X-Simulated"] == "grade_ml"
    other = client.get(server.requests[-1].path, headers={"If-None-Match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)


def test_requests_are_remembered(client: Client, server: ProviderServer):
    client.get("/calendar/academic.ics")
    client.views("X", "20260301", "20260302")
    assert server.requests[0] == Request(Provider.ACADEMIC_CALENDAR, "/calendar/academic.ics")
    assert server.requests[1].provider == "wikimedia"


def test_the_root_lists_what_there_is_and_all_else_is_not_found(client: Client):
    assert "Nothing here is real" in client.get("/").text
    assert client.get("/calendar/academic.icsx").status_code == 404
    assert client.get("/bls/publicAPI/v2/timeseries/data/").status_code == 405


@each
def test_429_requires_a_wait(provider: Provider, client: Client, server: ProviderServer):
    server.retry_after = 7
    server.misbehave(provider, "too_many_requests", times=2)
    answers = [CALLS[provider](client) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "7"


@each
def test_500_then_success(provider: Provider, client: Client, server: ProviderServer):
    server.misbehave(provider, Mode.SERVER_ERROR, times=1)
    assert [CALLS[provider](client).status_code for _ in range(2)] == [500, 200]


@each
def test_silence_in_the_middle_of_the_body(provider: Provider, server: ProviderServer):
    server.misbehave(provider, Mode.TIMEOUT)
    patience = httpx.Timeout(20, read=0.3)
    with httpx.Client(timeout=patience, trust_env=False) as http, pytest.raises(httpx.ReadTimeout):
        CALLS[provider](Client(server, http))


@each
def test_a_wrong_content_type_and_an_html_page(
    provider: Provider, client: Client, server: ProviderServer
):
    good = CALLS[provider](client)
    server.misbehave(provider, Mode.WRONG_CONTENT_TYPE)
    wrong = CALLS[provider](client)
    assert wrong.headers["Content-Type"].startswith("text/html")
    assert wrong.content == good.content
    server.misbehave(provider, Mode.HTML_PAGE)
    page = CALLS[provider](client)
    assert page.status_code == 200
    assert page.text.startswith("<!doctype html>")


@each
def test_half_of_the_body(provider: Provider, client: Client, server: ProviderServer):
    good = CALLS[provider](client)
    server.misbehave(provider, Mode.TRUNCATED)
    cut = CALLS[provider](client)
    assert cut.content == good.content[: len(good.content) // 2]
    if good.headers["Content-Type"] == "application/json":
        with pytest.raises(json.JSONDecodeError):
            cut.json()


def test_a_huge_body_has_no_declared_length(client: Client, server: ProviderServer):
    server.misbehave(Provider.OPEN_METEO, Mode.HUGE, times=1)
    huge = CALLS[Provider.OPEN_METEO](client)
    assert "Content-Length" not in huge.headers
    assert len(huge.content) > HUGE_BYTES
    assert huge.json() == CALLS[Provider.OPEN_METEO](client).json()


@each
def test_a_changed_field(provider: Provider, client: Client, server: ProviderServer):
    good = CALLS[provider](client)
    server.misbehave(provider, Mode.CHANGED_FIELD)
    changed = CALLS[provider](client)
    (field,) = {route.field for route in ROUTES if route.provider is provider}
    assert field in good.text
    assert changed.text.replace(f"{field}_v2", field) == good.text
    assert not re.search(rf"\b{field}\b", changed.text)


@each
def test_nothing_is_left_but_nulls(provider: Provider, client: Client, server: ProviderServer):
    good = CALLS[provider](client)
    server.misbehave(provider, Mode.NULLS)
    empty = CALLS[provider](client)
    assert empty.status_code == 200
    if good.headers["Content-Type"].startswith("text/calendar"):
        assert "VEVENT" not in empty.text
        assert empty.text.endswith("END:VCALENDAR\r\n")
    elif provider is Provider.FRED:
        lines = empty.text.splitlines()
        assert lines[0] == good.text.splitlines()[0]
        assert all(line.endswith(",.") for line in lines[1:])
        assert len(lines) == len(good.text.splitlines())
    else:
        assert empty.text.count("null") > good.text.count("null")


def test_nulls_keep_days_and_names(client: Client, server: ProviderServer):
    server.misbehave(Provider.OPEN_METEO, Mode.NULLS)
    daily = CALLS[Provider.OPEN_METEO](client).json()["daily"]
    assert len(daily["time"]) == len(daily["temperature_2m_mean"]) == 28
    assert set(daily["temperature_2m_mean"]) == {None}
    server.misbehave(Provider.WORLD_BANK, Mode.NULLS)
    rows = CALLS[Provider.WORLD_BANK](client).json()[1]
    assert {row["value"] for row in rows} == {None}
    assert all(row["indicator"]["value"] for row in rows)


@each
def test_a_provider_that_is_off_leaves_the_others_alone(
    provider: Provider, client: Client, server: ProviderServer
):
    server.misbehave(provider, Mode.OFF)
    for name, call in CALLS.items():
        if name is provider:
            with pytest.raises(httpx.TransportError):
                call(client)
        else:
            assert call(client).status_code == 200
    server.behave()
    assert CALLS[provider](client).status_code == 200


def test_unknown_names_are_errors(server: ProviderServer):
    with pytest.raises(ValueError, match="nobody"):
        server.misbehave("nobody", Mode.OFF)
    with pytest.raises(ValueError, match="sulk"):
        server.misbehave(Provider.BLS, "sulk")


def test_a_port_in_use_is_reported(server: ProviderServer):
    port = int(server.url.rsplit(":", 1)[1])
    with (
        pytest.raises(ServiceError, match=f"Port {port} cannot be used"),
        serve(CONFIG, TODAY, port),
    ):
        pass


def test_nothing_listens_beyond_this_machine_or_after_the_end():
    with serve(CONFIG, TODAY) as server:
        assert server.server_address[0] == "127.0.0.1"
        port = server.server_address[1]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()


FOREIGN = [
    {"Host": "rebound.example"},
    {"Host": "evil.localhost:3100"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
]


@pytest.mark.security
@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_page_of_another_origin_gets_and_spends_nothing(
    headers: dict[str, str], client: Client, server: ProviderServer
):
    server.misbehave(Provider.BLS, Mode.SERVER_ERROR, times=1)
    for path in ("/", "/calendar/academic.ics", "/fred/graph/fredgraph.csv?id=UNRATE"):
        assert client.get(path, headers).status_code in (403, 421)
    posted = httpx.post(
        f"{server.url}/bls/publicAPI/v2/timeseries/data/", json={}, headers=headers, trust_env=False
    )
    assert posted.status_code in (403, 421)
    assert server.requests == []
    assert CALLS[Provider.BLS](client).status_code == 500


@pytest.mark.security
@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", ""])
def test_a_body_that_any_form_can_send_is_refused(kind: str, server: ProviderServer):
    posted = httpx.post(
        f"{server.url}/bls/publicAPI/v2/timeseries/data/",
        content="{}",
        headers={"Content-Type": kind},
        trust_env=False,
    )
    assert posted.status_code == 415
    assert server.requests == []
