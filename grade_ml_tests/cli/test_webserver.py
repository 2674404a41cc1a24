"""Who may use the UI: requests as browsers send them for pages of other origins, and as we do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from socket import create_connection
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from dagster_graphql import DagsterGraphQLClient
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from grade_ml.core import database
from grade_ml.core.errors import ConfigurationError
from grade_ml.core.settings import UiSettings
from grade_ml.tasks.errors import WebserverRefused
from grade_ml.tasks.webserver import Webserver
from grade_ml_tests.conftest import as_environment, installation
from grade_ml_tests.launch import webserver

pytestmark = [pytest.mark.security, pytest.mark.slow]

PROXY = "grades.example.edu"
TOKEN = "correct horse battery staple"
CHANGE = 'mutation Forge { setConcurrencyLimit(concurrencyKey: "%s", limit: 3) }'
FORGED = CHANGE % "forged"
STATE = (
    "query State { instance { concurrencyLimits { concurrencyKey } } runsOrError { ... on Runs "
    "{ count } } assetsOrError { ... on AssetConnection { nodes { key { path } } } } }"
)
JSON = {"Content-Type": "application/json"}
FOREIGN = {"Origin": "http://evil.example"}
#: What Chromium adds to a request that another page makes, of another port or of another site.
FROM_PORT = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
FROM_SITE = {**FROM_PORT, "Sec-Fetch-Site": "cross-site"}
LINK = {
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
    "Accept": "text/html",
}


@pytest.fixture(scope="module")
def environment(
    server: database.DatabaseUrls, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    with installation(server, server.grade_ml, tmp_path_factory.mktemp("ui")) as settings:
        yield {**as_environment(settings), "GRADE_ML_UI_HOSTS": json.dumps([PROXY])}


@pytest.fixture(scope="module")
def ui(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with webserver(environment, tmp_path_factory.mktemp("log") / "ui.log") as url:
        yield url


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def state(ui: str, http: httpx.Client) -> Iterator[None]:
    """Nothing that the test does changes the instance."""

    def read() -> Any:
        answer = http.post(f"{ui}/graphql", json={"query": STATE})
        assert "data" in answer.json(), answer.text
        return answer.json()

    before = read()
    yield
    assert read() == before


def body(query: str = FORGED, **more: Any) -> str:
    return json.dumps({"query": query, **more})


def request_url(query: str = FORGED, **more: Any) -> str:
    return "/graphql?" + urlencode({"query": query, **more})


Hostile = tuple[str, str, dict[str, str], str]
#: Method, path, headers and body of requests that must change nothing and show nothing.
HOSTILE: dict[str, Hostile] = {
    "mutation by GET": ("GET", request_url(), {}, ""),
    "mutation by GET of an image": ("GET", request_url(), FROM_SITE, ""),
    "mutation by GET of another port's page": ("GET", request_url(), FROM_PORT, ""),
    "mutation by GET with a foreign origin": ("GET", request_url(), FOREIGN, ""),
    "mutation by GET in a link": ("GET", request_url(), {**LINK, "Accept": "*/*"}, ""),
    "mutation by GET with JSON asked for": (
        "GET",
        request_url(),
        {"Accept": "application/json"},
        "",
    ),
    "mutation by GET with a body": ("GET", "/graphql?op=Forge", JSON, body()),
    "named mutation by GET": (
        "GET",
        request_url(f"query A {{ version }} {FORGED}", operationName="Forge"),
        {},
        "",
    ),
    "persisted query by GET": (
        "GET",
        request_url(extensions='{"persistedQuery":{"version":1,"sha256Hash":"0"}}'),
        {},
        "",
    ),
    "batch by GET": ("GET", "/graphql?" + urlencode({"query": f"[{body()}]"}), {}, ""),
    "repeated query by GET": ("GET", f"{request_url('{version}')}&{request_url()[9:]}", {}, ""),
    "subscription by GET": (
        "GET",
        request_url('subscription { capturedLogs(logKey: ["a"]) {x} }'),
        {},
        "",
    ),
    "query by GET": ("GET", request_url("{version}"), {}, ""),
    "mutation by HEAD": ("HEAD", request_url(), {}, ""),
    "mutation by GET at an encoded path": (
        "GET",
        request_url().replace("graphql", "%67raphql"),
        {},
        "",
    ),
    "mutation by GET at a path with a line end": (
        "GET",
        request_url().replace("?", "%0a?"),
        {},
        "",
    ),
    "mutation by GET at a path with a return": ("GET", request_url().replace("?", "%0d?"), {}, ""),
    "mutation by GET at a path in capitals": (
        "GET",
        request_url().replace("graphql", "GraphQL"),
        {},
        "",
    ),
    "mutation by GET at a doubled slash": ("GET", "/" + request_url(), {}, ""),
    "mutation by GET at a path with a slash": ("GET", request_url().replace("?", "/?"), {}, ""),
    "mutation by PUT": ("PUT", request_url(), JSON, body()),
    "form": (
        "POST",
        "/graphql",
        {"Content-Type": "application/x-www-form-urlencoded"},
        request_url()[9:],
    ),
    "form with the mutation in the address": (
        "POST",
        request_url(),
        {"Content-Type": "application/x-www-form-urlencoded"},
        "",
    ),
    "form in parts": (
        "POST",
        request_url(),
        {"Content-Type": "multipart/form-data; boundary=x"},
        "",
    ),
    "POST without a content type": ("POST", request_url(), {}, ""),
    "text/plain": ("POST", request_url(), {"Content-Type": "text/plain"}, body()),
    "text/plain that names JSON": (
        "POST",
        "/graphql",
        {"Content-Type": "text/plain; application/json"},
        body(),
    ),
    "text/plain in the charset of JSON": (
        "POST",
        "/graphql",
        {"Content-Type": "text/plain;charset=application/graphql"},
        FORGED,
    ),
    "JSON of a foreign origin": ("POST", "/graphql", JSON | FOREIGN, body()),
    "JSON of no origin": ("POST", "/graphql", JSON | {"Origin": "null"}, body()),
    "JSON of an empty origin": ("POST", "/graphql", JSON | {"Origin": ""}, body()),
    "JSON of another port": ("POST", "/graphql", JSON | {"Origin": "http://127.0.0.1:1"}, body()),
    "JSON of another name of this machine": (
        "POST",
        "/graphql",
        JSON | {"Origin": "http://localhost:{port}"},
        body(),
    ),
    "JSON of a longer name": (
        "POST",
        "/graphql",
        JSON | {"Origin": "http://127.0.0.1:{port}.evil.example"},
        body(),
    ),
    "JSON of a name with a user": (
        "POST",
        "/graphql",
        JSON | {"Origin": "http://127.0.0.1:{port}@evil.example"},
        body(),
    ),
    "JSON of another scheme": (
        "POST",
        "/graphql",
        JSON | {"Origin": "chrome-extension://127.0.0.1:{port}"},
        body(),
    ),
    "JSON of a page of the same site": (
        "POST",
        "/graphql",
        JSON | {"Sec-Fetch-Site": "same-site"},
        body(),
    ),
    "JSON of a form that opens a tab": ("POST", "/graphql", JSON | LINK, body()),
    "foreign origin behind the proxy": (
        "POST",
        "/graphql",
        JSON | FOREIGN | {"Host": PROXY},
        body(),
    ),
    "this origin behind the proxy": (
        "POST",
        "/graphql",
        JSON | {"Host": PROXY, "Origin": "http://127.0.0.1:{port}"},
        body(),
    ),
    "leave to send": (
        "OPTIONS",
        "/graphql",
        FOREIGN
        | {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        },
        "",
    ),
    "reported materialization": ("POST", "/report_asset_materialization/forged", FOREIGN, ""),
    "reported check": (
        "POST",
        "/report_asset_check/forged?check_name=c&passed=true",
        JSON | FOREIGN,
        "{}",
    ),
    "reported check without a body": (
        "POST",
        "/report_asset_check/forged?check_name=c&passed=true",
        {},
        "",
    ),
    "reported observation": ("POST", "/report_asset_observation/forged", FROM_SITE, ""),
    "reported materialization by text": (
        "POST",
        "/report_asset_materialization/forged",
        {"Content-Type": "text/plain"},
        "{}",
    ),
    "read by a foreign page": ("GET", "/", FOREIGN, ""),
    "read by a script tag": ("GET", "/server_info", FROM_SITE | {"Sec-Fetch-Dest": "script"}, ""),
    "read in a frame": ("GET", "/", LINK | {"Sec-Fetch-Dest": "iframe"}, ""),
    "read of logs": ("GET", "/logs/run/compute_logs/step.err", FROM_PORT, ""),
    "prefetched by a foreign page": ("GET", "/runs", LINK | {"Sec-Fetch-Dest": "empty"}, ""),
    **{
        f"read as {host}": ("GET", "/server_info", {"Host": host}, "")
        for host in (
            "evil.example",
            "evil.example:{port}",
            "evil.localhost:{port}",
            "localhost.:{port}",
            "localhost.evil.example",
            "127.0.0.1.evil.example:{port}",
            "127.0.0.1@evil.example",
            "127.1",
            "2130706433",
            "0.0.0.0:{port}",
            "[::]:{port}",
            "[::ffff:127.0.0.1]",
            "127.0.0.1:x",
            "127.0.0.1 evil.example",
            f"www.{PROXY}",
            "",
        )
    },
    "change as a rebound name": (
        "POST",
        "/graphql",
        JSON | {"Host": "evil.example:{port}", "Origin": "http://evil.example:{port}"},
        body(),
    ),
    "a host forwarded by nobody": (
        "GET",
        "/server_info",
        {"Host": "evil.example", "X-Forwarded-Host": "127.0.0.1"},
        "",
    ),
}


def sent(http: httpx.Client, url: str, request: Hostile) -> httpx.Response:
    method, path, headers, content = request
    port = url.rpartition(":")[2]
    filled = {name: value.replace("{port}", port) for name, value in headers.items()}
    return http.request(method, url + path, headers=filled, content=content or None)


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize("request_", HOSTILE.values(), ids=HOSTILE)
def test_what_a_foreign_page_can_send_is_refused(request_: Hostile, ui: str, http: httpx.Client):
    answer = sent(http, ui, request_)
    assert 400 <= answer.status_code < 500
    assert "dagster" not in answer.text.lower()
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers.get("X-Frame-Options", "DENY") == "DENY"


@pytest.mark.usefixtures("state")
def test_no_mutation_at_all_goes_by_get(ui: str, http: httpx.Client):
    schema = "{ __schema { mutationType { fields { name } } } }"
    fields = http.post(f"{ui}/graphql", json={"query": schema}).json()["data"]["__schema"]
    names = [field["name"] for field in fields["mutationType"]["fields"]]
    assert {"launchRun", "deleteRun", "wipeAssets", "setSensorCursor"} <= set(names)
    for name in names:
        answer = http.get(ui + request_url(f"mutation {{ {name} {{ __typename }} }}"))
        assert answer.status_code == 405, name


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize("name", ["Host", "Origin", "Sec-Fetch-Site", "Content-Type"])
def test_a_header_that_decides_occurs_once(name: str, ui: str):
    own = {
        "Host": ui.partition("//")[2],
        "Origin": ui,
        "Sec-Fetch-Site": "same-origin",
        "Content-Type": "application/json",
    }
    connection = HTTPConnection(own["Host"])
    connection.putrequest("POST", "/graphql", skip_host=True)
    for header, value in [*own.items(), (name, own[name])]:
        connection.putheader(header, value)
    connection.putheader("Content-Length", str(len(body())))
    connection.endheaders(body().encode())
    assert connection.getresponse().status == 400
    connection.close()


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize(
    "headers",
    [
        FOREIGN,
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example:{port}", "Origin": "http://evil.example:{port}"},
    ],
)
def test_a_foreign_page_opens_no_websocket(headers: dict[str, str], ui: str):
    place = ui.partition("//")[2]
    filled = {n: v.replace("{port}", place.rpartition(":")[2]) for n, v in headers.items()}
    with pytest.raises(InvalidStatus) as refused:
        open_websocket(ui, filled)
    assert refused.value.response.status_code in (403, 421)


def open_websocket(ui: str, headers: dict[str, str]) -> Any:
    """Open the socket of live logs, say hello, and return the answer."""
    sent = dict(headers)
    origin = sent.pop("Origin", None)
    place = ui.partition("//")[2]
    host, _, port = place.rpartition(":")
    with connect(
        f"ws://{sent.pop('Host', place)}/graphql",
        sock=create_connection((host, int(port))),
        origin=origin,
        subprotocols=["graphql-ws"],
        additional_headers=sent,
    ) as socket:
        socket.send('{"type": "connection_init"}')
        return json.loads(socket.recv(30))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://{place}", "Sec-Fetch-Site": "same-origin"},
        {"Host": "localhost:9999", "Origin": "http://localhost:9999"},
        {"Host": "[::1]:3000", "Origin": "http://[::1]:3000"},
        {"Host": PROXY, "Origin": f"https://{PROXY}"},
        {"Host": f"{PROXY}:443", "Origin": f"https://{PROXY}"},
        {"Host": f"{PROXY.upper()}:8443", "Origin": f"https://{PROXY}:8443"},
    ],
    ids=str,
)
def test_its_own_pages_and_scripts_change_and_read(
    headers: dict[str, str], ui: str, http: httpx.Client, request: pytest.FixtureRequest
):
    own = {n: v.replace("{place}", ui.partition("//")[2]) for n, v in headers.items()}
    key = f"own_{request.node.callspec.indices['headers']}"
    answer = http.post(f"{ui}/graphql?op=Forge", headers=own | JSON, content=body(CHANGE % key))
    assert answer.json()["data"]["setConcurrencyLimit"] is True
    now = http.post(f"{ui}/graphql", headers=own, json={"query": STATE}).json()
    limits = now["data"]["instance"]["concurrencyLimits"]
    assert key in [limit["concurrencyKey"] for limit in limits]
    assert open_websocket(ui, own)["type"] == "connection_ack"


def test_a_report_of_a_script_counts(ui: str, http: httpx.Client):
    assert http.post(f"{ui}/report_asset_materialization/reported", json={}).status_code == 200
    now = http.post(f"{ui}/graphql", json={"query": STATE}).json()["data"]
    assert {"key": {"path": ["reported"]}} in now["assetsOrError"]["nodes"]


def test_the_client_of_dagster_and_the_probe_of_its_health_get_answers(ui: str, http: httpx.Client):
    host, _, port = ui.partition("//")[2].rpartition(":")
    client = DagsterGraphQLClient(host, port_number=int(port))
    assert client._execute("{ version }")["version"]
    assert "dagster_version" in http.get(f"{ui}/server_info").json()


@pytest.mark.parametrize("path", ["/", "/runs", "/asset-groups", "/graphql"])
def test_a_link_of_another_page_opens_a_page_that_nobody_can_frame(
    path: str, ui: str, http: httpx.Client
):
    answer = http.get(ui + path, headers=LINK)
    assert answer.status_code == 200
    assert "<!doctype html>" in answer.text.lower()
    assert "frame-ancestors 'none'" in answer.headers.get_list("Content-Security-Policy")
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "locked.log"


@pytest.fixture(scope="module")
def locked(environment: dict[str, str], log: Path) -> Iterator[str]:
    """A UI that requires a token and refuses every change."""
    with webserver({**environment, "GRADE_ML_UI_TOKEN": TOKEN}, log, "--read-only") as url:
        yield url


BEARER = {"Authorization": f"Bearer {TOKEN}"}


def test_a_task_is_refused_where_nothing_may_be_changed(locked: str):
    with pytest.raises(WebserverRefused, match="read-only"):
        Webserver(locked, TOKEN).launch("manage_ab_tests", {})
    with pytest.raises(WebserverRefused, match="requires another token"):
        Webserver(locked, TOKEN[:-1]).launch("manage_ab_tests", {})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer " + TOKEN[:-1]},
        {"Authorization": "Bearer ü".encode().decode("latin-1")},
        {"Cookie": f"grade_ml_={TOKEN}"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/", "/graphql", "/?token=wrong", "/?token=", "/logs/a.err"])
def test_without_the_token_nothing_is_shown(
    path: str, headers: dict[str, str], locked: str, http: httpx.Client
):
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = http.get(locked + path, headers=raw)
    assert answer.status_code == 401
    assert "dagster" not in answer.text.lower() and TOKEN not in answer.text
    assert http.post(f"{locked}/graphql", headers=raw, json={"query": STATE}).status_code == 401


def test_without_the_token_no_websocket_opens(locked: str):
    with pytest.raises(InvalidStatus) as refused:
        open_websocket(locked, {})
    assert refused.value.response.status_code == 401
    assert open_websocket(locked, BEARER)["type"] == "connection_ack"


def test_a_link_with_the_token_lets_a_browser_in_once_and_for_all(locked: str):
    with httpx.Client(timeout=60, trust_env=False) as browser:
        first = browser.get(f"{locked}//runs?a=1", params={"token": TOKEN, "a": "1"})
        assert first.status_code == 303
        assert first.headers["Location"] == "/runs?a=1"
        cookie = first.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=lax" in cookie and TOKEN not in cookie
        assert browser.get(f"{locked}/runs").status_code == 200
        answer = browser.post(f"{locked}/graphql", json={"query": STATE})
        assert "data" in answer.json()
    with httpx.Client(timeout=60, trust_env=False) as other:
        assert other.get(f"{locked}/runs").status_code == 401
        behind = other.get(f"{locked}/?token={TOKEN}", headers={"Host": PROXY})
        assert "Secure" in behind.headers["Set-Cookie"]


def test_a_script_shows_the_token_and_the_probe_of_health_needs_none(
    locked: str, http: httpx.Client
):
    host, _, port = locked.partition("//")[2].rpartition(":")
    client = DagsterGraphQLClient(host, port_number=int(port), headers=BEARER)
    assert client._execute("{ version }")["version"]
    assert http.get(f"{locked}/server_info").status_code == 200


def test_the_token_opens_nothing_to_a_foreign_page(locked: str, http: httpx.Client):
    for headers in (FOREIGN, {"Host": "evil.example"}):
        answer = http.post(f"{locked}/graphql", headers=BEARER | headers, json={"query": STATE})
        assert answer.status_code in (403, 421)


def test_a_ui_that_is_for_reading_refuses_changes(locked: str, http: httpx.Client):
    mutation = {"query": "mutation { wipeAssets(assetPartitionRanges: []) { __typename } }"}
    answer = http.post(f"{locked}/graphql", headers=BEARER, json=mutation).json()
    assert answer["data"]["wipeAssets"]["__typename"] == "UnauthorizedError"


def test_the_token_is_in_no_log(locked: str, log: Path, http: httpx.Client):
    http.get(f"{locked}/?token={TOKEN}")
    http.get(f"{locked}/runs/%00?token={TOKEN}&token={TOKEN}")
    assert TOKEN.split(maxsplit=1)[0] not in log.read_text()


@pytest.mark.parametrize(
    "hosts", ["*", "https://grades.example.edu", "grades.example.edu:8443", "", "a/b", "[::1]"]
)
def test_a_host_that_is_no_name_is_refused(hosts: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRADE_ML_UI_HOSTS", json.dumps([hosts]))
    with pytest.raises(ConfigurationError, match="GRADE_ML_UI_HOSTS"):
        UiSettings.from_environment()


def test_a_token_that_can_be_guessed_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRADE_ML_UI_TOKEN", "hunter2")
    with pytest.raises(ConfigurationError, match="GRADE_ML_UI_TOKEN") as refused:
        UiSettings.from_environment()
    assert "hunter2" not in str(refused.value)
