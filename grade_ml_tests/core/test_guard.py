"""What the guard decides by headers alone; both servers use it (see their own tests)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grade_ml.core.guard import LOOPBACK, Guard

pytestmark = pytest.mark.security

OWN = "127.0.0.1:3000"
letters = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=40)
methods = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
names = st.from_regex(r"[a-z0-9.:\[\]@%-]{0,30}", fullmatch=True)


@given(methods, letters | names)
def test_only_the_names_of_this_machine_are_its_host(method: str, host: str):
    name = host.strip().lower().removesuffix(":3000").removeprefix("[").removesuffix("]")
    if name not in LOOPBACK:
        assert Guard().refusal(method, [("Host", host)])


@given(methods, letters | names | names.map("http://{}".format))
def test_only_a_page_of_its_own_is_its_origin(method: str, origin: str):
    if origin.strip().lower() not in (f"http://{OWN}", f"https://{OWN}"):
        headers = [("Host", OWN), ("Origin", origin), ("Content-Type", "application/json")]
        assert Guard().refusal(method, headers)


@given(methods, letters, letters, letters)
def test_of_what_other_sites_ask_only_whole_tabs_open(method: str, site: str, mode: str, dest: str):
    headers = [("Host", OWN), ("Content-Type", "application/json")]
    fetch = [("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", mode), ("Sec-Fetch-Dest", dest)]
    if site.strip().lower() not in ("", "none", "same-origin"):
        assert Guard().refusal(method, headers + fetch)
    whole = [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]
    follows = Guard().refusal(method, [*headers, ("Sec-Fetch-Site", "cross-site"), *whole])
    assert (follows is None) == (method in ("GET", "HEAD"))


@given(letters)
def test_a_body_is_what_no_form_can_send(kind: str):
    if kind.partition(";")[0].strip().lower() != "application/json":
        assert Guard().refusal("POST", [("Host", OWN), ("Content-Type", kind)])


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "LocalHost:65535", "[::1]:3000"])
def test_scripts_and_own_pages_get_through(method: str, host: str):
    headers = [("host", host), ("content-type", "Application/JSON; charset=utf-8")]
    assert Guard().refusal(method, headers) is None
    own = [("origin", f"http://{host}"), ("sec-fetch-site", "same-origin")]
    assert Guard().refusal(method, headers + own) is None
