"""Deliveries that are made to stop, to fill or to fool the program that loads them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.core import texts
from grade_ml.core.errors import ConfigurationError, SourceError
from grade_ml.core.settings import Settings
from grade_ml.early_warning import interventions
from grade_ml.gradebook import csv_folder, inbox, institution, loading, oneroster, oulad
from grade_ml.gradebook.arrivals import QUIET
from grade_ml.gradebook.bundle import SHOWN
from grade_ml.gradebook.limits import Limits
from grade_ml.gradebook.loading import LoadReport, load
from grade_ml_tests.gradebook.deliveries import CSV, school, write_folder, write_zip

pytestmark = pytest.mark.security
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture(params=["pipe", "socket", "device", "link to a device"])
def special(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], None]]:
    """Puts what is no file in the place of a file."""
    with ExitStack() as opened:

        def put(path: Path) -> None:
            path.unlink(missing_ok=True)
            if request.param == "pipe":
                os.mkfifo(path)
            elif request.param == "socket":
                listening = opened.enter_context(socket.socket(socket.AF_UNIX))
                here = os.open(path.parent, os.O_RDONLY)
                # Names of sockets are short; that of the test's folder may not be.
                listening.bind(f"/proc/self/fd/{here}/{path.name}")
                os.close(here)
            elif request.param == "device":
                try:
                    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # as /dev/zero
                except PermissionError:
                    pytest.skip("only the superuser makes devices")
            else:
                path.symlink_to("/dev/zero")

        yield put


def _oulad(folder: Path) -> Path:
    folder.mkdir()
    for name in oulad._FILES:
        (folder / f"{name}.csv").write_text(",".join(oulad._FILES[name]) + "\n")
    return folder


def load_csv(engine: Engine, folder: Path) -> LoadReport:
    return load(engine, csv_folder.bundle(folder), loaded_at=NOW)


def load_oneroster(engine: Engine, path: Path) -> LoadReport:
    bundle = oneroster.bundle(path, date(2024, 10, 6), institution.DEFAULTS)
    return load(engine, bundle, loaded_at=NOW)


def is_empty(engine: Engine) -> bool:
    with engine.connect() as connection:
        counts = "select (select count(*) from gradebook.student) + "
        counts += "(select count(*) from gradebook.quarantine)"
        return connection.execute(sa.text(counts)).scalar_one() == 0


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_no_loader_waits_for_what_is_no_file(engine, tmp_path, special, ending):
    folder = write_folder(tmp_path / "csv", CSV)
    (folder / "results.csv").unlink()
    special(folder / f"results.csv{ending}")
    with pytest.raises(SourceError, match=r"results\.csv.* is a pipe, socket, device"):
        load_csv(engine, folder)

    folder = write_folder(tmp_path / "oneroster", school(), "bulk")
    (folder / "results.csv").unlink()
    special(folder / f"results.csv{ending}")
    with pytest.raises(SourceError, match=r"results\.csv.* is a (pipe, socket, device|link)"):
        load_oneroster(engine, folder)

    special(tmp_path / "delivery.zip")
    with pytest.raises(SourceError, match=r"delivery\.zip is a pipe, socket, device"):
        load_oneroster(engine, tmp_path / "delivery.zip")

    folder = _oulad(tmp_path / "oulad")
    (folder / "courses.csv").unlink()
    special(folder / f"courses.csv{ending}")
    with pytest.raises(SourceError, match=r"courses\.csv.* is a pipe, socket, device"):
        load(engine, oulad.bundle(folder), loaded_at=NOW)
    assert is_empty(engine)


def test_no_setting_waits_for_what_is_no_file(tmp_path, special):
    special(tmp_path / "institution.toml")
    with pytest.raises(ConfigurationError, match=r"institution\.toml .*is a pipe, socket"):
        institution.read(tmp_path / "institution.toml")
    special(tmp_path / "interventions.csv")
    with pytest.raises(SourceError, match=r"interventions\.csv is a pipe, socket"):
        interventions.read_table(tmp_path / "interventions.csv")


def test_an_institutions_file_is_read_as_far_as_it_is_valid(tmp_path):
    path = tmp_path / "institution.toml"
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigurationError, match="more than 1,048,576 bytes"):
        institution.read(path)


@pytest.fixture
def take(engine: Engine, settings: Settings, tmp_path: Path) -> Callable[[], inbox.Emptied]:
    place = tmp_path / "inbox"
    place.mkdir()

    def take() -> inbox.Emptied:
        chosen = settings.model_copy(update={"inbox": str(place)})
        return inbox.empty(engine, chosen, now=datetime.now(UTC) + 2 * QUIET)

    return take


def test_the_inbox_refuses_what_is_no_file_and_takes_the_next(take, tmp_path, special):
    place = tmp_path / "inbox"
    special(write_folder(place / "1-night", school(), "bulk") / "results.csv")
    special(place / "2-night.zip")
    write_zip(place / "3-night.zip", school(), "bulk")
    done = take()
    assert [
        (outcome.name, bool(outcome.report))
        for outcome in done.outcomes
        if "2-" not in outcome.name
    ] == [
        ("1-night", False),
        ("3-night.zip", True),
    ]


def test_a_folder_that_cannot_be_walked_keeps_no_other_from_being_loaded(take, tmp_path):
    place = tmp_path / "inbox"
    write_zip(place / "2-night.zip", school(), "bulk")
    start = os.open(place, os.O_RDONLY)
    os.mkdir("1-deep", dir_fd=start)
    opened = [start, os.open("1-deep", os.O_RDONLY, dir_fd=start)]
    for _ in range(60):
        os.mkdir("d" * 200, dir_fd=opened[-1])
        opened.append(os.open("d" * 200, os.O_RDONLY, dir_fd=opened[-1]))
    done = take()
    for descriptor in opened:
        os.close(descriptor)
    subprocess.run(["rm", "-r", str(place / "1-deep")], check=False)
    assert [outcome.name for outcome in done.outcomes if outcome.report] == ["2-night.zip"]


@pytest.mark.parametrize("name", [b"a\xff.zip", b"a\x1b[2J.zip", "a\u202egnp".encode(), b"a\nb"])
def test_a_name_with_control_characters_is_left_alone_and_reported_in_plain_characters(
    take, tmp_path, name
):
    place = tmp_path / "inbox"
    write_zip(place / "b.zip", school(), "bulk")
    with open(os.path.join(os.fsencode(place), name), "wb"):
        pass
    done = take()
    assert [outcome.name for outcome in done.outcomes if outcome.report] == ["b.zip"]
    (note,) = done.notes
    note.encode()
    assert "rename it" in note and not re.search(texts.STEERING + "|\n", note)


def strangers(folder: Path, bad: int, good: int) -> Path:
    """Write a CSV folder in which `bad` results are of unknown students, `good` are equal."""
    rows = "".join(f"l1,x{n},80,2024-09-30,2024-10-05\n" for n in range(bad))
    rows += "l1,s1,80,2024-09-30,2024-10-05\n" * good
    return write_folder(folder, CSV | {"results": CSV["results"] + rows})


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Limits(refused_rows=1000, refused_from_rows=100)
    monkeypatch.setattr(loading, "LIMITS", small)


@pytest.mark.usefixtures("bounds")
@pytest.mark.parametrize(
    ("bad", "good", "reason"),
    [
        (1001, 9000, "more than 1,000"),
        (300, 100, r"300 \(7\d%\)"),
        (300, 2000, ""),
        (90, 0, ""),
    ],
    ids=["number", "share", "few of many", "few"],
)
def test_a_delivery_of_which_too_much_is_refused_is_refused_whole(
    engine, tmp_path, bad, good, reason
):
    folder = strangers(tmp_path / "csv", bad, good)
    if not reason:
        assert load_csv(engine, folder).quarantined == bad
        return
    with pytest.raises(SourceError, match=reason) as caught:
        load_csv(engine, folder)
    assert "results.csv, row 3, student_id: [hidden] is no known student" in str(caught.value)
    assert is_empty(engine)


def test_a_delivery_has_so_many_rows_and_no_more(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "LIMITS", Limits(rows=1000))
    with pytest.raises(SourceError, match="more than 1,000 rows"):
        load_csv(engine, strangers(tmp_path / "csv", 0, 1000))
    assert is_empty(engine)


def test_a_manifest_has_so_many_lines_and_no_more(engine, tmp_path):
    folder = write_folder(tmp_path / "one", school(), "bulk")
    with (folder / "manifest.csv").open("a") as file:
        file.writelines(f"x.{n},1\n" for n in range(11_000))
    with pytest.raises(SourceError, match=r"manifest\.csv has more than 10,000 lines"):
        load_oneroster(engine, folder)


def test_a_refused_value_is_stored_shortened(engine, tmp_path):
    folder = write_folder(tmp_path / "csv", CSV)
    with (folder / "results.csv").open("a") as file:
        file.write("l1,s1,80" + "," * (1 << 20) + "\n" + "l1,s2," + "9" * (1 << 20) + "x,,\n")
    assert load_csv(engine, folder).quarantined == 2
    with engine.connect() as connection:
        kept = connection.execute(sa.text("select max(length(value)) from gradebook.quarantine"))
        assert kept.scalar_one() <= SHOWN + 1


TITLES = {"ESC": "\x1b[2J", "NUL": "\0", "CSI": "\x9b2J", "RLO": "\u202egnp.exe", "BEL": "\a"}


@pytest.mark.parametrize("title", TITLES.values(), ids=TITLES)
def test_titles_that_steer_go_into_quarantine_with_their_reason(engine, tmp_path, title):
    files = CSV | {
        "courses": f"course_id,title\nc,Logic\nd,{title}\n",
        "students": f"student_id,region\ns1,\ns2,\ns3,{title}\n",
    }
    report = load_csv(engine, write_folder(tmp_path / "csv", files))
    assert report.rejected == {"course": 1, "student": 1}
    assert not re.search(texts.STEERING, "".join(map(str, report.problems)))

    files = school()
    files["courses"] += f"d,active,2024-10-05T08:00:00Z,{title},L,o,Logic\n"
    report = load_oneroster(engine, write_folder(tmp_path / "one", files, "bulk"))
    assert report.rejected == {"course": 1}


def test_titles_in_any_script_with_line_ends_and_tabs_are_kept(engine, tmp_path):
    titles = [
        "Лошика",
        "論理",
        "منطق\u200f",
        "\u2068x\u2069 y",
        '"two\nlines"',
        "a\tb",
        "naïve \u2013 q",
    ]
    rows = "".join(f"d{n},{title}\n" for n, title in enumerate(titles))
    files = CSV | {"courses": f"course_id,title\nc,Logic\n{rows}"}
    assert load_csv(engine, write_folder(tmp_path / "csv", files)).quarantined == 0


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [signal.SIGINT, signal.SIGTERM])
def test_a_load_that_continues_ends_on_a_signal(engine, environment, tmp_path, signalled):
    folder = strangers(tmp_path / "csv", 0, 3_000_000)
    command = [sys.executable, "-m", "grade_ml.cli", "load", "csv", str(folder)]
    process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.DEVNULL)
    working = sa.text(
        "select count(*) from pg_stat_activity where datname = current_database() "
        "and pid <> pg_backend_pid() and state = 'active' and query ilike 'copy%'"
    )
    with engine.connect() as connection:
        while process.poll() is None and not connection.execute(working).scalar_one():
            connection.rollback()
    process.send_signal(signalled)
    assert process.wait(60) != 0
    assert is_empty(engine)
