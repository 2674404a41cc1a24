"""What a newcomer does in the browser after `make up`, on a real server."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Locator, Page, expect

from grade_ml.campus.simulated import CampusConfig
from grade_ml.core.settings import Settings
from grade_ml.external.catalog import NAMES
from grade_ml.orchestration.build import build_defs
from grade_ml_tests.ui.conftest import Visit, keep

pytestmark = pytest.mark.ui

COURSES = CampusConfig().courses
COURSE = "SIM-MATH101"
#: Sensors look every 30 s; the daemon takes a run from the queue every few seconds.
SENSOR_SECONDS = 180
#: The first training: a minute or two, several on a machine that is busy otherwise.
TRAINING_SECONDS = 600
RUN_ENDED = re.compile("^(Success|Failure|Canceled)$")
BACKFILL_ENDED = re.compile("Succeeded|Failed|Canceled")


def within(seconds: float) -> float:
    return seconds * 1000


def see_end(page: Page, seconds: float) -> str:
    """Wait for the end of the run of `page` and return the word for it."""
    word = page.get_by_text(RUN_ENDED).first
    word.wait_for(timeout=within(seconds))
    return word.inner_text()


def button(page: Page, name: str) -> Locator:
    """Return the button; its accessible name begins with that of its icon."""
    return page.get_by_role("button", name=re.compile(f"(^| ){name}$"))


def view_launched(page: Page, what: str) -> None:
    """Follow the message that something was launched to its page."""
    expect(page.get_by_text(what)).to_be_visible()
    page.get_by_text("View", exact=True).click()


def open_launch_dialog(page: Page) -> None:
    """Open the dialog of `grade_snapshots` once it knows the partitions."""
    page.goto("/assets/grade_snapshots?view=partitions")
    expect(page.get_by_title(COURSE)).to_be_visible(timeout=within(SENSOR_SECONDS))
    button(page, "Materialize…").click()
    expect(page.get_by_text("Launch runs to materialize grade_snapshots")).to_be_visible()


def test_the_graph_shows_every_group_and_leads_to_an_asset(page: Page):
    definitions = build_defs(Settings(_env_file=None))
    groups = {str(spec.group_name) for spec in definitions.resolve_all_asset_specs()}
    page.goto("/asset-groups")
    for group in groups:
        expect(page.get_by_text(group, exact=True).first).to_be_visible()
    keep(page, "asset_groups")
    expanded = ",".join(f"global@global:{group}" for group in groups)
    page.goto(f"/asset-groups?{urlencode({'expanded': expanded})}")
    # The graph is larger than the page, and what lies outside is not drawn.
    page.get_by_placeholder(re.compile("^Jump to")).fill("enrollments")
    page.get_by_text("enrollments", exact=True).last.click()
    expect(page.get_by_text("View in Asset Catalog")).to_be_visible()
    keep(page, "asset_graph")
    page.get_by_text("View in Asset Catalog").click()
    expect(page).to_have_url(re.compile("/assets/enrollments"))
    expect(page.get_by_text("A student in a section")).to_be_visible()


def test_the_schedule_is_on_and_shows_its_next_tick(page: Page):
    def next_tick() -> str:
        now = datetime.now(UTC)
        day = now.date() + timedelta(days=now.hour >= 2)
        return f"{day:%b} {day.day}, 2:00:00 AM UTC"

    before = next_tick()
    page.goto("/locations/grade_ml/schedules/traditional_training")
    expect(page.get_by_text("At 02:00 AM UTC")).to_be_visible()
    expect(page.get_by_text("Running", exact=True)).to_be_visible()
    shown = page.get_by_text(re.compile(r"^\w+ \d+, 2:00:00 AM UTC$"))
    assert shown.inner_text() in {before, next_tick()}


def test_the_sensor_makes_a_partition_of_each_course(page: Page):
    page.goto("/locations/grade_ml/sensors/course_catalog")
    expect(page.get_by_text("Running", exact=True).first).to_be_visible()
    keep(page, "course_catalog")
    page.goto("/assets/grade_snapshots?view=partitions")
    expect(page.get_by_title(re.compile("^SIM-"))).to_have_count(
        COURSES, timeout=within(SENSOR_SECONDS)
    )
    expect(page.get_by_title(COURSE)).to_be_visible()


@pytest.fixture(scope="module")
def first_training(visit: Visit) -> str:
    """Wait for the training that a new gradebook starts; return how it ended."""
    with visit("first_training") as page:
        page.goto("/runs")
        run = page.locator("[data-index]").filter(has_text="train_traditional_models")
        run.get_by_role("link").first.click(timeout=within(SENSOR_SECONDS))
        return see_end(page, TRAINING_SECONDS)


def test_the_first_training_starts_by_itself_and_shows_its_plots(first_training: str, page: Page):
    assert first_training == "Success"
    page.goto("/assets/baseline_model")
    look_at_plot(page, "calibration")


@pytest.mark.usefixtures("first_training")
def test_an_asset_is_materialized_and_shows_its_plot(page: Page):
    page.goto("/assets/results")
    button(page, "Materialize").click()
    view_launched(page, "Launched run")
    assert see_end(page, SENSOR_SECONDS) == "Success"
    keep(page, "materialized")
    page.goto("/assets/results")
    look_at_plot(page, "score distribution")


def look_at_plot(page: Page, key: str) -> None:
    """Open the picture of the metadata `key` on an asset's page and see that it was drawn."""
    row = page.get_by_role("row").filter(has_text=key)
    row.get_by_text("[Show Markdown]").click()
    picture = page.locator("img[src^='data:image/png']")
    expect(picture).to_be_visible()
    assert picture.evaluate("picture => picture.decode().then(() => picture.naturalWidth)") > 0


@pytest.mark.usefixtures("first_training")
def test_one_course_is_materialized(page: Page):
    open_launch_dialog(page)
    page.get_by_text("Select a partition or create one").click()
    page.get_by_role("menuitem").filter(has_text=COURSE).click()
    page.keyboard.press("Escape")
    keep(page, "launch_one_course")
    button(page, "Launch 1 run").click()
    view_launched(page, "Launched run")
    assert see_end(page, SENSOR_SECONDS) == "Success"
    expect(page.get_by_text(COURSE).first).to_be_visible()


@pytest.mark.usefixtures("first_training")
def test_all_courses_are_backfilled(page: Page):
    open_launch_dialog(page)
    page.get_by_text("All", exact=True).click()
    selected = page.get_by_text(re.compile(r"^\d+ partitions selected$"))
    expect(selected).to_be_visible()
    # The first day also reads the courses of the OneRoster server.
    courses = int(selected.inner_text().split()[0])
    assert courses >= COURSES
    keep(page, "launch_all_courses")
    button(page, "Launch backfill").click()
    view_launched(page, "Created backfill")
    status = page.get_by_text("Status", exact=True).locator("..")
    expect(status).to_contain_text(BACKFILL_ENDED, timeout=within(SENSOR_SECONDS))
    expect(status).to_contain_text("Succeeded")
    keep(page, "backfill")
    page.goto("/assets/grade_snapshots?view=partitions")
    expect(page.get_by_text(f"Materialized ({courses})")).to_be_visible()


def test_a_tick_of_the_schedule_collects_all_eight_sources(page: Page):
    def todays_first() -> str:
        now = datetime.now(UTC)
        return f"{now:%b} {now.day}, 12:00 AM UTC"

    page.goto("/locations/grade_ml/schedules/external_data")
    button(page, "Preview tick result").click()
    page.get_by_role("button", name=re.compile("[AP]M UTC")).click()
    page.get_by_role("menuitem").filter(has_text=todays_first()).click()
    button(page, "Continue").click()
    button(page, "Launch all & commit tick result").click()
    page.get_by_role("link").filter(has_text=re.compile("^[0-9a-f]{8}$")).first.click()
    assert see_end(page, SENSOR_SECONDS) == "Success"
    keep(page, "external_run")
    for source in NAMES:
        page.goto(f"/assets/{source}?view=checks")
        expect(page.get_by_text("Passed", exact=True).first).to_be_visible()
    page.goto("/assets/weather")
    # Of one day alone there is no picture: a sentence replaces it.
    expect(page.get_by_role("row").filter(has_text="last 90 days").first).to_be_visible()
    page.goto("/assets/external_features")
    coverage = page.get_by_role("row").filter(has_text="coverage").first
    for source in NAMES:
        expect(coverage).to_contain_text(source)
