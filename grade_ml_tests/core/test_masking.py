"""Secrets in the texts of libraries, however they write them."""

from __future__ import annotations

import json
from urllib.parse import quote, quote_plus

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, make_url

from grade_ml.core.errors import GradeMLError
from grade_ml.core.masking import is_ambiguous, masked, remember_url
from grade_ml_tests.conftest import MARK, passwords

pytestmark = pytest.mark.security


@given(passwords(), st.sampled_from([str, repr, json.dumps, quote, quote_plus, "<{}>".format]))
def test_a_password_is_hidden_however_it_is_written(password: str, written):
    remember_url(f"postgresql://user:{quote(password, safe='')}@host/db")
    assert MARK not in masked(f"no answer of {written(password)}: it is away")
    assert MARK not in str(GradeMLError(f"It is {written(password)}", written(password)))


@pytest.mark.parametrize("name", ["password", "sslpassword", "PASSWORD", "token", "client_secret"])
@given(passwords())
def test_a_password_among_the_parameters_is_hidden(name: str, password: str):
    url = f"postgresql://user@host/db?a=b&{name}={quote_plus(password)}&c=d"
    remember_url(url)
    for text in (url, repr(url), password, str(make_url(url)), repr(create_engine(url).url)):
        assert MARK not in masked(text)


@given(passwords())
def test_an_address_that_is_accepted_is_unambiguous(password: str):
    """SQLAlchemy reads the password that was meant, or the address is refused."""
    url = f"postgresql://user:{password}@host/db"
    if not is_ambiguous(url):
        read = make_url(url)
        assert (read.host, read.database) == ("host", "db")
        remember_url(url)
        assert MARK not in masked(f"{read.password} {url}")


@given(passwords())
def test_an_http_client_s_message_on_an_address_that_is_taken_is_hidden(password: str):
    for written in (password, quote(password, safe="")):
        url = f"http://user:{written}@127.0.0.1:1"
        if is_ambiguous(url):
            continue
        remember_url(url)
        with pytest.raises((requests.RequestException, ValueError)) as raised:
            requests.get(url, timeout=1)
        assert MARK not in masked(f"{raised.value} {raised.value!r}")


def test_a_short_password_is_hidden_in_addresses_only():
    remember_url("postgresql://user:a@host/db")
    assert (
        masked("a cat at postgresql://user:a@host/db") == "a cat at postgresql://user:***@host/db"
    )


def test_what_is_no_secret_stays():
    remember_url("postgresql://reader@host:5432/db?application_name=a")
    text = (
        "The database postgresql://reader@host:5432/db at 10:30 (page 2, http://127.0.0.1:3000/x)"
    )
    assert masked(text) == text
