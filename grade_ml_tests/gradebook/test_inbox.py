"""The inbox: what is a delivery, when it has arrived, and that each is loaded once and in order."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine
from upath import UPath

from grade_ml.core import database
from grade_ml.core.errors import ConfigurationError, ServiceError
from grade_ml.core.locks import DatabaseLock
from grade_ml.core.settings import Settings
from grade_ml.gradebook import schema
from grade_ml.gradebook.arrivals import PATIENCE, QUIET, Delivery, Inbox, look
from grade_ml.gradebook.inbox import Emptied, empty
from grade_ml_tests.gradebook.deliveries import CSV, school, write_folder, write_zip

pytestmark = pytest.mark.slow


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def take(engine: Engine, settings: Settings, inbox: Path) -> Callable[..., Emptied]:
    """Empty the inbox as it is some time after everything in it has stopped changing."""

    def take(after: timedelta = QUIET * 2, place: str = str(inbox)) -> Emptied:
        chosen = settings.model_copy(update={"inbox": place})
        return empty(engine, chosen, now=datetime.now(UTC) + after)

    return take


def scores(engine: Engine) -> list[float]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(schema.result.c.score)).scalars())


def loads(engine: Engine) -> int:
    with engine.connect() as connection:
        query = sa.select(sa.func.count()).select_from(schema.load)
        return int(connection.execute(query).scalar_one())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.mark.parametrize("form", ["zip", "oneroster", "csv"])
def test_each_form_is_loaded_moved_and_reported(form, inbox, take, engine):
    if form == "zip":
        write_zip(inbox / "night.zip", school())
    elif form == "oneroster":
        write_folder(inbox / "night.zip", school(), "bulk")
    else:
        write_folder(inbox / "night.zip", CSV)
    (outcome,) = take().outcomes
    assert scores(engine) == [80]
    assert outcome.moved_to == "done/night.zip"
    assert names(inbox) == {"done"}
    assert names(inbox / "done") == {"night.zip", "night.zip.report.json", "night.zip.report.txt"}
    report = json.loads((inbox / "done" / "night.zip.report.json").read_text())
    assert report["state"] == "done"
    assert report["report"]["loaded"]["result"] == 1
    assert "result: 1 new or changed" in (inbox / "done" / "night.zip.report.txt").read_text()
    assert take().outcomes == ()
    assert loads(engine) == 1


def test_oulad_is_recognised(inbox):
    for name in ("courses", "assessments", "studentInfo", "studentAssessment"):
        write_folder(inbox / "x", {name: "a\n"})
    (delivery,) = look(UPath(inbox)).deliveries
    assert delivery.kind == "oulad"


def test_what_cannot_be_read_is_refused_with_message_and_remedy_and_the_next_is_loaded(
    inbox, take, engine
):
    broken = school()
    del broken["results"]
    write_folder(inbox / "1", broken, "bulk")
    with (inbox / "1" / "manifest.csv").open("a") as manifest:
        manifest.write("file.results,bulk\n")
    (inbox / "2.csv").write_text(CSV["results"])
    write_folder(inbox / "3", CSV | {"grades": "a\n"})
    write_zip(inbox / "4.zip", school())
    outcomes = take().outcomes
    assert [outcome.moved_to.split("/")[0] for outcome in outcomes] == [*["refused"] * 3, "done"]
    report = json.loads((inbox / "refused" / "1.report.json").read_text())
    assert "results.csv" in report["message"] and report["remedy"]
    assert "neither a folder nor" in outcomes[1].message
    assert "grades.csv" in (inbox / "refused" / "3.report.txt").read_text()
    assert scores(engine) == [80]


def test_deliveries_are_loaded_in_the_order_of_their_names(inbox, take, engine):
    for number in (10, 9, 11):
        write_folder(
            inbox / f"night-{number}", CSV | {"results": CSV["results"].replace("80", str(number))}
        )
    assert [outcome.name for outcome in take().outcomes] == ["night-9", "night-10", "night-11"]
    assert scores(engine) == [11]


def test_what_is_still_being_written_waits_and_so_does_what_follows(inbox, take, engine):
    whole = write_zip(inbox.parent / "whole.zip", school()).read_bytes()
    (inbox / "1.zip").write_bytes(whole[: len(whole) // 2])
    write_folder(inbox / "2", school(score=9), "bulk")
    assert take(timedelta()).outcomes == ()
    waiting = take()
    assert waiting.outcomes == ()
    assert "1.zip has not arrived whole yet." in waiting.notes
    (inbox / "1.zip").write_bytes(whole)
    assert [outcome.moved_to for outcome in take().outcomes] == ["done/1.zip", "done/2"]
    assert scores(engine) == [90]


def test_a_file_that_keeps_its_old_time_while_it_is_copied_is_not_taken_for_finished(inbox, take):
    write_folder(inbox / "night", CSV)
    for path in [*(inbox / "night").iterdir(), inbox / "night"]:
        os.utime(path, (0, 0))
    assert take(timedelta(seconds=5)).outcomes == ()
    assert len(take().outcomes) == 1


def test_a_folder_without_its_manifest_waits_but_not_for_ever(inbox, take):
    write_folder(inbox / "night", school(), "bulk")
    (inbox / "night" / "manifest.csv").rename(inbox.parent / "manifest.csv")
    assert take().outcomes == ()
    (outcome,) = take(PATIENCE * 2).outcomes
    assert outcome.moved_to == "refused/night"
    assert "manifest.csv" in outcome.message


@pytest.mark.parametrize("name", [".hidden", "x.zip.part", "x.zip.tmp", "x.zip.filepart"])
def test_names_of_unfinished_files_are_left_alone(name, inbox, take):
    write_zip(inbox / name, school())
    assert take(PATIENCE * 2).outcomes == ()
    assert names(inbox) == {name}


def test_a_delivery_that_changes_while_it_is_loaded_is_not_loaded(inbox, engine, settings, take):
    write_folder(inbox / "night", CSV)

    def write_more(step: str, rows: int) -> None:
        if step.startswith("Reading results"):
            with (inbox / "night" / "results.csv").open("a") as file:
                file.write("l1,s2,70,2024-09-30,2024-10-05\n")

    chosen = settings.model_copy(update={"inbox": str(inbox)})
    later = datetime.now(UTC) + QUIET * 2
    with pytest.raises(ServiceError, match="night was written to"):
        empty(engine, chosen, now=later, on_progress=write_more)
    assert scores(engine) == []
    assert len(take().outcomes) == 1
    assert len(scores(engine)) == 2


def test_yesterdays_bundle_after_todays_is_refused(inbox, take, engine):
    write_zip(inbox / "today.zip", school(score=9, modified="2024-10-06T08:00:00Z"))
    take()
    write_zip(inbox / "yesterday.zip", school(score=8, modified="2024-10-05T08:00:00Z"))
    (outcome,) = take().outcomes
    assert outcome.moved_to == "refused/yesterday.zip"
    assert "older" in outcome.message and "grade-ml load" in outcome.remedy
    assert scores(engine) == [90]


def test_a_delta_older_than_the_last_is_refused_and_another_systems_is_not(inbox, take, engine):
    write_zip(inbox / "1.zip", school(score=9, modified="2024-10-06T08:00:00Z"))
    take()
    results = {"results": school(score=8, modified="2024-10-05T08:00:00Z")["results"]}
    write_folder(inbox / "2", results, "delta")
    (outcome,) = take().outcomes
    assert outcome.moved_to == "refused/2"
    # Another system has rows of its own, here of the other student.
    results = {"results": results["results"].replace("r1,", "lms-1,").replace("l1,s1", "l1,s2")}
    write_folder(inbox / "3", results, "delta")
    manifest = inbox / "3" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("systemName,sis", "systemName,lms"))
    (outcome,) = take().outcomes
    assert outcome.moved_to == "done/3"
    assert sorted(scores(engine)) == [80, 90]


def test_a_bundle_of_which_only_one_file_is_newer_is_no_older_one(inbox, take, engine):
    """The newest result was deleted since; something else was changed."""
    write_zip(inbox / "1.zip", school(score=9, modified="2024-10-06T08:00:00Z"))
    take()
    files = school(score=8, modified="2024-10-05T08:00:00Z")
    files["users"] = school(modified="2024-10-07T08:00:00Z")["users"]
    write_zip(inbox / "2.zip", files)
    assert take().outcomes[0].moved_to == "done/2.zip"
    assert scores(engine) == [80]


def test_files_without_dates_of_change_are_compared_by_when_they_were_written(inbox, take, engine):
    for name, score, written in (("b", 90, 2_000_000), ("c", 80, 1_000_000)):
        folder = write_folder(
            inbox / name, CSV | {"results": CSV["results"].replace("80", str(score))}
        )
        for path in folder.iterdir():
            os.utime(path, (written, written))
        (outcome,) = take().outcomes
    assert outcome.moved_to == "refused/c"
    assert scores(engine) == [90]


def test_the_same_delivery_again_changes_nothing_and_gets_a_name_of_its_own(inbox, take, engine):
    for _ in range(3):
        write_zip(inbox / "night.zip", school())
        (outcome,) = take().outcomes
    assert outcome.moved_to == "done/night-3.zip"
    assert "Nothing changed" in (inbox / "done" / "night-3.zip.report.txt").read_text()
    assert loads(engine) == 1


def test_links_that_lead_anywhere_are_refused_and_pipes_left_alone(inbox, take, engine):
    outside = write_folder(inbox.parent / "outside", CSV)
    (inbox / "link").symlink_to(outside)
    write_folder(inbox / "inside", {"students": CSV["students"]})
    (inbox / "inside" / "results.csv").symlink_to(outside / "results.csv")
    os.mkfifo(inbox / "pipe")
    write_folder(inbox / "piped", CSV)
    (inbox / "piped" / "results.csv").unlink()
    os.mkfifo(inbox / "piped" / "results.csv")
    done = take()
    assert {outcome.moved_to for outcome in done.outcomes} == {
        "refused/inside",
        "refused/link",
        "refused/piped",
    }
    assert done.notes == ("pipe is a pipe, socket or device and is left alone.",)
    assert outside.exists() and (inbox / "pipe").exists()
    assert scores(engine) == []


def test_where_reports_cannot_be_written_nothing_is_lost_and_nothing_loaded_twice(
    inbox, take, engine
):
    """A full disk, as far as files may not grow here."""
    write_zip(inbox / "1.zip", school())
    write_zip(inbox / "2.zip", school(score=9, modified="2024-10-07T08:00:00Z"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        done = take()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [
        outcome.name for outcome in done.outcomes if "could not be moved" in outcome.problem
    ] == [
        "1.zip",
        "2.zip",
    ]
    assert {"1.zip", "2.zip"} <= names(inbox)
    assert scores(engine) == [90]
    again = take().outcomes
    assert [outcome.moved_to for outcome in again] == ["done/1.zip", "done/2.zip"]
    assert "not again" in again[0].message
    assert again[0].report is not None and again[0].report.loaded["result"] == 1
    assert (scores(engine), loads(engine)) == ([90], 2)


_KILLED = """
import os, signal, sys
from datetime import UTC, datetime, timedelta
from grade_ml.core import database
from grade_ml.core.settings import Settings
from grade_ml.gradebook import inbox, loading
settings = Settings.from_environment()
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
at = sys.argv[1]
if at == "before commit":
    inbox._Work._has_changed = die
elif at == "after commit":
    inbox._Work._move = die
elif at == "after report":
    inbox._move = die
engine = database.connect(settings.database_url)
inbox.empty(engine, settings, now=datetime.now(UTC) + timedelta(minutes=1))
"""


@pytest.mark.parametrize("at", ["before commit", "after commit", "after report"])
def test_a_kill_neither_loses_a_delivery_nor_loads_it_twice(at, inbox, take, engine, environment):
    write_zip(inbox / "night.zip", school())
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, at],
        env={**os.environ, **environment, "GRADE_ML_INBOX": str(inbox)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert scores(engine) == ([] if at == "before commit" else [80])
    # What was loaded since is not undone by a second load of what was killed.
    (outcome,) = take().outcomes
    assert outcome.moved_to == "done/night.zip"
    assert ("not again" in outcome.message) == (at != "before commit")
    assert (scores(engine), loads(engine)) == ([80], 1)
    assert names(inbox) == {"done"}


def test_what_was_moved_before_the_kill_can_be_delivered_again(inbox, take, engine):
    write_zip(inbox / "night.zip", school())
    take()
    with engine.begin() as connection:
        connection.execute(sa.update(schema.delivery).values(moved_at=None))
    take()
    with engine.begin() as connection:
        connection.execute(sa.delete(schema.result))
    write_zip(inbox / "night.zip", school())
    (outcome,) = take().outcomes
    assert "not again" not in outcome.message
    assert scores(engine) == [80]


def test_two_at_once_load_once(inbox, take, engine):
    write_zip(inbox / "night.zip", school())
    with database.only_one(engine, DatabaseLock.INBOX) as alone:
        assert alone
        second = take()
    assert second.outcomes == () and "Another process" in second.notes[0]
    assert len(take().outcomes) == 1


def test_a_database_that_is_away_leaves_everything_in_place(inbox, settings):
    write_zip(inbox / "night.zip", school())
    gone = sa.make_url(str(settings.database_url)).set(database="gone")
    away = database.connect(gone.render_as_string(hide_password=False))
    chosen = settings.model_copy(update={"inbox": str(inbox)})
    with pytest.raises(ServiceError):
        empty(away, chosen, now=datetime.now(UTC) + QUIET * 2)
    assert names(inbox) == {"night.zip"}


def test_an_inbox_that_does_not_exist_is_reported(take, tmp_path):
    with pytest.raises(ConfigurationError, match="no folder"):
        take(place=str(tmp_path / "typo"))


def test_an_object_store_is_an_inbox_too(take, engine, tmp_path):
    root = UPath("memory://grades")
    root.mkdir(exist_ok=True)
    for path in write_folder(tmp_path / "night", school(), "bulk").iterdir():
        (root / "1" / path.name).parent.mkdir(parents=True, exist_ok=True)
        (root / "1" / path.name).write_bytes(path.read_bytes())
    whole = write_zip(tmp_path / "2.zip", school(score=9, modified="2024-10-07T08:00:00Z"))
    (root / "2.zip").write_bytes(whole.read_bytes())
    assert [outcome.moved_to for outcome in take(place=str(root)).outcomes] == [
        "done/1",
        "done/2.zip",
    ]
    assert scores(engine) == [90]
    assert (root / "done" / "1" / "results.csv").exists()
    assert (root / "done" / "2.zip.report.txt").exists()
    assert take(place=str(root)).outcomes == ()


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["a", "B", "-x"])), unique=True))
def test_numbers_in_names_count_by_their_value(parts):
    from grade_ml.gradebook.arrivals import _natural

    names = [f"night{word}{number}" for number, word in parts]
    expected = [f"night{w}{n}" for n, w in sorted(parts, key=lambda p: (p[1].casefold(), p[0]))]
    assert sorted(names, key=_natural) == expected


@given(st.lists(st.booleans()))
def test_nothing_overtakes_what_has_not_arrived(arrived):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    ages = [PATIENCE if is_whole else timedelta() for is_whole in arrived]
    contents = Inbox(
        tuple(
            Delivery(str(n), UPath("x"), (), (now - age).timestamp(), True)
            for n, age in enumerate(ages)
        ),
        (),
    )
    assert len(contents.arrived(now)) == [*arrived, False].index(False)


@pytest.mark.security
@pytest.mark.parametrize("name", [b"\xff.csv", b"deep/\xff/a.csv", b"Z\xfcrich.txt"])
def test_a_name_that_is_not_utf_8_refuses_its_delivery_and_no_other(inbox, take, engine, name):
    write_folder(inbox / "a", school(), "bulk")
    odd = inbox / "a" / os.fsdecode(name)
    odd.parent.mkdir(parents=True, exist_ok=True)
    odd.write_text("x")
    write_folder(inbox / "b", school(), "bulk")
    assert [outcome.moved_to for outcome in take().outcomes] == ["refused/a", "done/b"]
    assert "is not UTF-8" in (inbox / "refused" / "a.report.txt").read_text()


@pytest.mark.security
def test_a_member_of_a_day_that_never_was_stops_nothing(inbox, take):
    packed = write_zip(inbox.parent / "night.zip", school()).read_bytes()
    # The day in DOS's form, before the CRC: month 0 of 2024, in the directory and at each member.
    for signature, place in ((b"PK\x03\x04", 12), (b"PK\x01\x02", 14)):
        parts = packed.split(signature)
        packed = signature.join(
            [parts[0], *(part[: place - 4] + b"\x00\x58" + part[place - 2 :] for part in parts[1:])]
        )
    (inbox / "night.zip").write_bytes(packed)
    assert [outcome.moved_to for outcome in take().outcomes] == ["done/night.zip"]


@pytest.mark.security
@pytest.mark.parametrize("folder", ["done", "refused"])
def test_what_is_moved_follows_no_link(folder, inbox, take, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (inbox / folder).symlink_to(victim)
    write_zip(inbox / "1.zip", school())
    write_folder(inbox / "2", CSV | {"grades": "a\n"})
    reasons = [outcome.problem for outcome in take().outcomes]
    assert list(victim.iterdir()) == []
    assert any("is a link, which is not followed" in words for words in reasons)
