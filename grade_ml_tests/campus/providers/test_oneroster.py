"""The college's OneRoster server as a client without any of the product's code sees it."""

from __future__ import annotations

from datetime import date

import httpx
import pytest

from grade_ml.campus.providers import oneroster
from grade_ml.campus.providers.server import ProviderServer
from grade_ml_tests.campus.providers.conftest import Client

ROSTERING = "/oneroster/ims/oneroster/rostering/v1p2"
GRADEBOOK = "/oneroster/ims/oneroster/gradebook/v1p2"
V11 = "/oneroster/ims/oneroster/v1p1"


def test_only_who_has_the_token_of_the_day_is_let_in(client: Client, server: ProviderServer):
    token = client.token().json()
    assert token["token_type"] == "Bearer"
    let_in = {"Authorization": f"Bearer {token['access_token']}"}
    assert client.get(f"{V11}/orgs", headers=let_in).status_code == 200
    assert client.get(f"{V11}/orgs", headers={"Authorization": "Bearer x"}).status_code == 401
    server.today = date(2026, 3, 11)
    assert client.get(f"{V11}/orgs", headers=let_in).status_code == 401


@pytest.mark.parametrize("wrong", [("x", oneroster.CLIENT_SECRET), (oneroster.CLIENT_ID, "x")])
def test_wrong_credentials_get_no_token(wrong, server: ProviderServer):
    form = {"grant_type": "client_credentials"}
    with httpx.Client(trust_env=False) as http:
        assert http.post(f"{server.url}/oneroster/token", data=form, auth=wrong).status_code == 401


def test_pages_follow_each_other_and_make_the_whole(client: Client, server: ProviderServer):
    whole = client.get(f"{GRADEBOOK}/results", limit=10_000).json()["results"]
    rows, url = [], f"{GRADEBOOK}/results?limit=700"
    while url:
        page = client.get(url)
        assert page.headers["X-Total-Count"] == str(len(whole))
        rows += page.json()["results"]
        url = page.links.get("next", {}).get("url", "").removeprefix(server.url)
    assert rows == whole
    ids = [row["sourcedId"] for row in rows]
    assert ids == sorted(set(ids))
    assert len(client.get(f"{GRADEBOOK}/results").json()["results"]) == 100


def test_the_filter_gives_what_changed_later(client: Client, server: ProviderServer):
    before = {row["sourcedId"]: row for row in _all(client, "results")}
    server.today = date(2026, 3, 17)
    after = {row["sourcedId"]: row for row in _all(client, "results")}
    later_only = "dateLastModified>'2026-03-10T23:59:59.000Z'"
    changed = {row["sourcedId"]: row for row in _all(client, "results", filter=later_only)}
    assert changed == {name: row for name, row in after.items() if before.get(name) != row}
    assert changed


def _all(client: Client, name: str, **parameters: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = client.get(
        f"{GRADEBOOK}/{name}", limit=10_000, **parameters
    ).json()[name]
    return rows


@pytest.mark.parametrize(
    "parameters",
    [{"filter": "score>'1'"}, {"filter": "dateLastModified>'soon'"}, {"limit": "x"}, {"sort": "y"}],
)
def test_what_it_does_not_understand_it_refuses_in_the_standards_words(parameters, client: Client):
    refused = client.get(f"{V11}/results", **parameters)
    assert refused.status_code == 400
    assert refused.json()["imsx_codeMajor"] == "failure"
    assert client.get(f"{V11}/wishes").status_code == 404


def test_the_versions_differ_in_how_they_name_roles(client: Client):
    assert client.get(f"{V11}/users").json()["users"][0]["role"] == "student"
    assert client.get(f"{ROSTERING}/users").json()["users"][0]["roles"][0]["role"] == "student"


def test_it_is_another_school_than_the_campus(client: Client):
    ids = [row["sourcedId"] for row in client.get(f"{V11}/courses").json()["courses"]]
    assert ids and all(name.startswith("COLLEGE-") for name in ids)
