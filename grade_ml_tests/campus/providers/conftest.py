"""One server for the tests of this folder, and a small client without the product's code."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import httpx
import pytest

from grade_ml.campus.providers import oneroster
from grade_ml.campus.providers.server import ProviderServer, serve
from grade_ml.campus.simulated import CampusConfig

CONFIG = CampusConfig(students=600, seed=3)
TODAY = date(2026, 3, 10)


@pytest.fixture(scope="module")
def served() -> Iterator[ProviderServer]:
    with serve(CONFIG, TODAY) as server:
        yield server


@pytest.fixture
def server(served: ProviderServer) -> Iterator[ProviderServer]:
    yield served
    served.behave()
    served.today = TODAY
    served.requests.clear()


class Client:
    def __init__(self, server: ProviderServer, http: httpx.Client) -> None:
        self._server = server
        self._http = http

    def get(
        self, path: str, headers: dict[str, str] | None = None, **parameters: Any
    ) -> httpx.Response:
        let_in = {"Authorization": f"Bearer {oneroster.bearer(self._server.world)}"}
        return self._http.get(
            self._server.url + path, params=parameters or None, headers=let_in | (headers or {})
        )

    def token(self) -> httpx.Response:
        return self._http.post(
            f"{self._server.url}{oneroster.ROOT}/token",
            data={"grant_type": "client_credentials"},
            auth=(oneroster.CLIENT_ID, oneroster.CLIENT_SECRET),
        )

    def weather(self, kind: str = "archive", **parameters: Any) -> httpx.Response:
        place = {"latitude": 51.5, "longitude": -0.1, "timezone": "Europe/London"}
        place["daily"] = "temperature_2m_mean,precipitation_sum,sunshine_duration"
        return self.get(f"/open-meteo/v1/{kind}", **{**place, **parameters})

    def indicator(self, name: str = "SL.UEM.TOTL.ZS", **parameters: Any) -> httpx.Response:
        path = f"/world-bank/v2/country/GBR/indicator/{name}"
        return self.get(path, **{"format": "json", **parameters})

    def posts(self, **parameters: Any) -> httpx.Response:
        query = {"query": "university", "tags": "story", "hitsPerPage": 1000}
        return self.get("/hn/api/v1/search_by_date", **{**query, **parameters})

    def jobs(self, *series: str, **parameters: Any) -> httpx.Response:
        years = {"startyear": "2024", "endyear": "2026"}
        return self._http.post(
            f"{self._server.url}/bls/publicAPI/v2/timeseries/data/",
            json={"seriesid": list(series), **years, **parameters},
        )

    def views(self, title: str, first: str, last: str) -> httpx.Response:
        return self.get(
            "/wikimedia/api/rest_v1/metrics/pageviews/per-article"
            f"/en.wikipedia/all-access/user/{title}/daily/{first}/{last}"
        )

    def tone(self) -> httpx.Response:
        return self.get(
            "/gdelt/api/v2/doc/doc", query="university", mode="timelinetone", format="json"
        )


@pytest.fixture
def client(server: ProviderServer) -> Iterator[Client]:
    with httpx.Client(timeout=20, trust_env=False) as http:
        yield Client(server, http)
