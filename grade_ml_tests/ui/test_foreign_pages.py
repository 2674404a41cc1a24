"""What pages of other origins, open in the same browser, can do to a running UI: nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from grade_ml_tests.launch import Installation
from grade_ml_tests.ui.conftest import PAGE_SECONDS

pytestmark = [pytest.mark.ui, pytest.mark.security, pytest.mark.slow]

REPOSITORY = 'repositoryName: "__repository__", repositoryLocationName: "grade_ml"'
FORGE = f"""mutation {{
  limit: setConcurrencyLimit(concurrencyKey: "NAME", limit: 1)
  partition: addDynamicPartition(repositorySelector: {{{REPOSITORY}}},
    partitionsDefName: "course", partitionKey: "NAME") {{ __typename }}
  cursor: setSensorCursor(sensorSelector: {{{REPOSITORY}, sensorName: "inbox"}},
    cursor: "NAME") {{ __typename }}
  run: launchPipelineExecution(executionParams: {{
    selector: {{{REPOSITORY}, pipelineName: "load_inbox"}}, runConfigData: {{}}, mode: "default",
    executionMetadata: {{tags: [{{key: "forger", value: "NAME"}}]}} }}) {{ __typename }}
}}"""
LOOK = f"""query {{
  instance {{ concurrencyLimits {{ concurrencyKey }} }}
  runsOrError(filter: {{tags: [{{key: "forger", value: "NAME"}}]}}) {{ ... on Runs {{ count }} }}
  sensorOrError(sensorSelector: {{{REPOSITORY}, sensorName: "inbox"}}) {{ ... on Sensor {{
    sensorState {{ typeSpecificData {{ ... on SensorData {{ lastCursor }} }} }} }} }}
  assetsOrError {{ ... on AssetConnection {{ nodes {{ key {{ path }} }} }} }}
  partitionSets: assetNodeOrError(assetKey: {{path: ["grade_snapshots"]}}) {{
    ... on AssetNode {{ partitionKeys }} }}
}}"""
#: Everything that a page can send by itself to `ui`; returns what it could read.
ATTACK = """async ({ui, get, forge}) => {
  const read = {};
  const seconds = (n) => new Promise((done) => setTimeout(() => done(null), n * 1000));
  const attempt = async (name, what) => {
    try { read[name] = await Promise.race([what(), seconds(20)]); } catch (error) { }
  };
  const text = async (url, how) => (await fetch(url, how)).text();
  const post = (type, body) => ({method: "POST", headers: {"Content-Type": type}, body});
  const report = `${ui}/report_asset_materialization/NAME`;
  await attempt("get", () => text(get));
  await attempt("get with cookies", () => text(get, {credentials: "include"}));
  await attempt("get unseen", () => text(get, {mode: "no-cors"}));
  await attempt("text", () => text(`${ui}/graphql`, post("text/plain", forge)));
  await attempt("text unseen", () =>
    text(`${ui}/graphql`, {mode: "no-cors", ...post("text/plain;application/json", forge)}));
  await attempt("address unseen", () => text(get, {method: "POST", mode: "no-cors"}));
  await attempt("json", () => text(`${ui}/graphql`, post("application/json", forge)));
  await attempt("put", () => text(get, {method: "PUT"}));
  await attempt("report", () => text(report, {method: "POST", mode: "no-cors"}));
  await attempt("report json", () => text(report, post("application/json", "{}")));
  await attempt("beacon", async () => {
    navigator.sendBeacon(get); navigator.sendBeacon(report);
    navigator.sendBeacon(`${ui}/graphql`, new Blob([forge], {type: "text/plain"})); });
  await attempt("versions", () => text(`${ui}/server_info`));
  await attempt("page", () => text(`${ui}/`));
  await attempt("logs", () => text(`${ui}/logs/a/compute_logs/b.err`));
  const load = (tag, attribute, url) => new Promise((done) => {
    const element = document.createElement(tag);
    if (tag === "link") element.rel = "stylesheet";
    element.onload = () => done("loaded");
    element.onerror = () => done(null);
    element[attribute] = url;
    document.body.append(element);
  });
  await attempt("image", () => load("img", "src", get));
  await attempt("icon", () => load("img", "src", `${ui}/favicon.png`));
  await attempt("script", () => load("script", "src", get));
  await attempt("style", () => load("link", "href", get));
  await attempt("events", () => new Promise((done) => {
    const events = new EventSource(get);
    events.onopen = () => done("opened");
    events.onerror = () => done(null);
  }));
  await attempt("socket", () => new Promise((done) => {
    const socket = new WebSocket(ui.replace("http", "ws") + "/graphql", "graphql-ws");
    socket.onopen = () => socket.send(JSON.stringify({type: "connection_init"}));
    socket.onmessage = (message) => done(message.data);
    socket.onclose = () => done(null);
  }));
  for (const [method, type] of [["GET", ""], ["POST", "text/plain"],
       ["POST", "application/x-www-form-urlencoded"], ["POST", "multipart/form-data"]]) {
    const frame = document.createElement("iframe");
    frame.name = `${method} ${type}`;
    const form = document.createElement("form");
    Object.assign(form, {method, enctype: type, target: frame.name, action: get});
    for (const [name, value] of [["query", JSON.parse(forge).query], ['{"query":"', '"}']]) {
      const field = document.createElement("input");
      Object.assign(field, {name, value});
      form.append(field);
    }
    document.body.append(frame, form);
    await attempt(`form ${frame.name}`, () => new Promise((done) => {
      frame.onload = () => done(null);
      form.submit();
    }));
  }
  await attempt("frame", () => load("iframe", "src", `${ui}/runs`));
  return read;
}"""


def name(origin: str) -> str:
    return "forged-" + "".join(letter if letter.isalnum() else "-" for letter in origin)


def traces(ui: str, forger: str) -> list[str]:
    """Return what `forger` has changed."""
    answer = httpx.post(
        f"{ui}/graphql", json={"query": LOOK.replace("NAME", forger)}, timeout=60, trust_env=False
    ).json()
    assert "errors" not in answer, answer
    data = answer["data"]
    sensor = data["sensorOrError"]["sensorState"]["typeSpecificData"] or {}
    changes = {
        "limit": forger in [x["concurrencyKey"] for x in data["instance"]["concurrencyLimits"]],
        "run": data["runsOrError"]["count"] > 0,
        "cursor": sensor.get("lastCursor") == forger,
        "partition": forger in data["partitionSets"]["partitionKeys"],
        "report": [forger] in [node["key"]["path"] for node in data["assetsOrError"]["nodes"]],
    }
    return [trace for trace, changed in changes.items() if changed]


LURE = b"<!doctype html><title>Win!</title><body>Win!"


class _Lure(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(LURE)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def stranger() -> Iterator[int]:
    """The port of a stranger's site, which is really served: browsers send the origin of a page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Lure) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    context.set_default_timeout(PAGE_SECONDS * 1000)
    yield context.new_page()
    context.close()


def arguments(ui: str, forger: str) -> dict[str, str]:
    query = FORGE.replace("NAME", forger)
    return {
        "ui": ui,
        "get": f"{ui}/graphql?query={quote(query)}",
        "forge": json.dumps({"query": query}),
    }


FOREIGN = {
    "another port": "http://127.0.0.1",
    "another name": "http://localhost",
    "a name below localhost": "http://evil.localhost",
    "a stranger's site": "http://evil.example",
}


@pytest.mark.parametrize("origin", FOREIGN.values(), ids=FOREIGN)
def test_a_page_of_another_origin_changes_and_reads_nothing(
    origin: str, tab: Page, stranger: int, demo: Installation
):
    forger = name(origin)
    sent = arguments(demo.url, forger)
    tab.goto(f"{origin}:{stranger}/")
    read = tab.evaluate(ATTACK.replace("NAME", forger), sent)
    assert traces(demo.url, forger) == []
    readable = {attempt: answer for attempt, answer in read.items() if answer}
    # The error page of the browser counts as loaded; it is not the UI's.
    assert readable.pop("frame") == "loaded"
    assert readable == {}
    urls = [frame.url for frame in tab.frames[1:]]
    assert urls and not [url for url in urls if url.startswith(demo.url)], urls
    with tab.expect_popup() as opened:
        tab.evaluate("({get}) => { window.popup = window.open(get); }", sent)
    expect(opened.value.locator("body")).to_contain_text("Refused")
    assert traces(demo.url, forger) == []


def test_a_name_that_was_bound_again_to_this_machine_reads_nothing(tab: Page, demo: Installation):
    ui = f"http://rebound.example:{demo.port}"
    forger = name(ui)
    # Whatever answers, the page has the origin that the stranger's would have.
    tab.goto(f"{ui}/runs")
    expect(tab.locator("body")).to_contain_text("Refused: The Host")
    answers = tab.evaluate(ATTACK.replace("NAME", forger), arguments(ui, forger))
    assert traces(demo.url, forger) == []
    loaded = {attempt: answer for attempt, answer in answers.items() if answer}
    assert loaded.pop("frame") == "loaded"
    assert {"get", "json", "page"} <= set(loaded)
    assert all(answer.startswith("Refused: ") for answer in loaded.values()), loaded


def test_the_page_of_the_ui_itself_can_do_all_of_it(tab: Page, demo: Installation):
    refused: list[str] = []
    tab.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
    for path in ("/", "/runs", "/asset-groups", "/deployment/health", "/graphql"):
        tab.goto(demo.url + path, wait_until="networkidle")
    assert refused == []
    forger = name("own")
    read = tab.evaluate(ATTACK.replace("NAME", forger), arguments(demo.url, forger))
    assert json.loads(read["json"])["data"]["limit"] is True
    assert json.loads(read["socket"])["type"] == "connection_ack"
    assert "dagster_version" in read["versions"]
    # The sensor continues meanwhile, so its cursor may be its own again.
    assert {"limit", "run", "partition", "report"} <= set(traces(demo.url, forger))
