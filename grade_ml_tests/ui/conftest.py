"""A demo installation, a browser on it, and what both leave under `ci-output/`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from grade_ml_tests import REPOSITORY
from grade_ml_tests.launch import Installation

OUTPUT = REPOSITORY / "ci-output"
SCREENSHOTS = OUTPUT / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: Without most of these, Chromium queries its maker's servers for news at every start.
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Names that a stranger owns lead to this machine, as after DNS rebinding.
    "--host-resolver-rules=MAP *.example 127.0.0.1",
)
#: A page of Dagster on a busy machine; what waits for a run states its own limit.
PAGE_SECONDS = 30


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail(
            f"The UI test drives a browser, and none of {', '.join(BROWSERS)} is there. "
            "Install one: apt-get install chromium."
        )
    expect.set_options(timeout=PAGE_SECONDS * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def demo(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """`grade-ml up --demo`; its logs are kept. Without a browser it would be started in vain."""
    installation = Installation(tmp_path_factory.mktemp("demo"))
    try:
        installation.up("--demo")
        yield installation
    finally:
        installation.stop()
        logs = OUTPUT / "logs"
        shutil.copytree(installation.home / "logs", logs, dirs_exist_ok=True)
        (logs / "up.log").write_text(installation.output)


Visit = Callable[[str], AbstractContextManager[Page]]


@pytest.fixture(scope="session")
def visit(browser: Browser, demo: Installation) -> Visit:
    """Open a page of a new visitor; how it looked at the end is kept under the name given."""

    @contextmanager
    def visit(name: str) -> Iterator[Page]:
        context = browser.new_context(
            base_url=demo.url,
            viewport={"width": 1500, "height": 950},
            locale="en-US",
            timezone_id="UTC",
        )
        context.set_default_timeout(PAGE_SECONDS * 1000)
        page = context.new_page()
        try:
            yield page
        finally:
            keep(page, name)
            context.close()

    return visit


@pytest.fixture
def page(visit: Visit, request: pytest.FixtureRequest) -> Iterator[Page]:
    with visit(request.node.name) as page:
        yield page


def keep(page: Page, name: str) -> None:
    """Keep a picture of what `page` shows now."""
    file = SCREENSHOTS / f"{name.removeprefix('test_')}.png"
    page.screenshot(path=file, animations="disabled")
