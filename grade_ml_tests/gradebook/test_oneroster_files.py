"""Folders, zip files and manifests of OneRoster deliveries."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from sqlalchemy import Engine

from grade_ml.core.errors import SourceError
from grade_ml.gradebook import oneroster
from grade_ml.gradebook.institution import Institution
from grade_ml.gradebook.limits import Limits
from grade_ml.gradebook.oneroster import files
from grade_ml_tests.gradebook.roster import DURING, as_text, load_path, manifest, source, write

FILES = {f"{name}.csv": as_text(rows, name) for name, rows in source().items()}
MANIFEST = {"manifest.csv": manifest(dict.fromkeys(source(), "bulk"))}
WHOLE = FILES | MANIFEST


def _zip(path: Path, members: dict[str, str], **options: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content, **options)
    return path


def _refused(path: Path) -> str:
    with pytest.raises(SourceError) as refused:
        oneroster.bundle(path, DURING, Institution())
    assert refused.value.remedy
    return refused.value.message


@pytest.mark.slow
@pytest.mark.parametrize(
    "members",
    [
        {f"export/{name}": text for name, text in WHOLE.items()},
        {f"export\\{name}": text for name, text in WHOLE.items()},
        {name.upper(): text for name, text in WHOLE.items()},
        WHOLE
        | {f"__MACOSX/._{name}": "\0\5\26\7" for name in WHOLE}
        | {f"._{name}": "\0\5\26\7" for name in WHOLE}
        | {".DS_Store": "\0", "readme.txt": "Exported on Monday."},
    ],
    ids=["folder", "backslashes", "upper case", "macOS"],
)
def test_zip_files_as_programs_make_them(
    engine: Engine, tmp_path: Path, members: dict[str, str]
) -> None:
    load_path(engine, write(tmp_path / "folder", source()))
    report = load_path(engine, _zip(tmp_path / "a.zip", members))

    assert not report.changed
    assert report.unchanged["result"] == 8
    assert report.notes == ()


def test_two_files_of_one_name_are_refused_naming_both(tmp_path: Path) -> None:
    twice = _zip(tmp_path / "a.zip", WHOLE | {"archive/Results.csv": FILES["results.csv"]})
    assert "results.csv and archive/Results.csv" in _refused(twice)

    folder = write(tmp_path / "folder", source())
    (folder / "results.csv.gz").write_bytes(b"")
    assert "results.csv and results.csv.gz" in _refused(folder)


@pytest.mark.security
def test_a_zip_file_that_cannot_be_trusted_is_not_read(tmp_path: Path) -> None:
    outside = _zip(tmp_path / "out.zip", MANIFEST | {"../../results.csv": FILES["results.csv"]})
    assert "leads out of it" in _refused(outside)
    absolute = _zip(tmp_path / "root.zip", MANIFEST | {"/etc/results.csv": FILES["results.csv"]})
    assert "leads out of it" in _refused(absolute)
    link = zipfile.ZipInfo("results.csv")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "leads out of it" in _refused(tmp_path / "link.zip")
    bomb = _zip(tmp_path / "bomb.zip", WHOLE | {"users.csv": "0" * (65 << 20)})
    assert "would unpack to" in _refused(bomb)
    with pytest.raises(SourceError, match="At most 1,000 bytes"):
        files.find(_zip(tmp_path / "a.zip", WHOLE), Limits(unpacked_bytes=1000))
    cut = tmp_path / "cut.zip"
    cut.write_bytes((tmp_path / "a.zip").read_bytes()[:-30])
    assert "nor a whole zip file" in _refused(cut)
    locked = tmp_path / "locked.zip"
    content = bytearray((tmp_path / "a.zip").read_bytes())
    at = content.index(b"PK\1\2")
    content[at + 8] |= 1
    locked.write_bytes(content)
    assert "is encrypted" in _refused(locked)


def test_a_link_out_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    folder = write(tmp_path / "folder", source())
    (folder / "results.csv").rename(tmp_path / "elsewhere.csv")
    (folder / "results.csv").symlink_to(tmp_path / "elsewhere.csv")

    assert "leads out of the folder" in _refused(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\n".join(
            ",".join(f'"{v}"' for v in line.split(",")) for line in text.splitlines()
        ),
        lambda text: text.replace("bulk", "Bulk"),
        str.upper,
        str.lower,
        lambda text: text.replace("1.2", "1.2.1"),
        lambda text: text.replace("1.2", " v1.1.0 "),
        lambda text: text.replace(",bulk", " , BULK "),
        lambda text: "\ufeff" + text.replace("\n", "\r\n") + "source.systemName,SIS\n",
        lambda text: text.replace("results,", "results.csv,") + "file.resources,absent\nfile.x,\n",
    ],
)
def test_manifests_as_programs_write_them(engine: Engine, tmp_path: Path, change: object) -> None:
    load_path(engine, write(tmp_path / "first", source()))
    path = write(tmp_path / "second", source())
    (path / "manifest.csv").write_text(change(WHOLE["manifest.csv"]), encoding="utf-8")  # type: ignore[operator]
    report = load_path(engine, path)

    assert not report.changed
    assert report.unchanged["result"] == 8


def test_files_that_the_manifest_does_not_list_are_reported(engine: Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "delivery", source())
    modes = dict.fromkeys(source(), "bulk") | {"categories": "absent"}
    (path / "manifest.csv").write_text(manifest(modes))
    (path / "grades of Monday.csv").write_text("a,b\n")
    report = load_path(engine, path)

    assert report.notes == (
        "categories.csv, grades of Monday.csv: present, but not listed in manifest.csv, "
        "so not read.",
    )
    modes |= {"results": "absent"}
    (path / "manifest.csv").write_text(manifest(modes))
    assert "has the file results.csv, which its manifest.csv does not list" in _refused(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("propertyName,value\nfile.users,bulk\n", "oneroster.version none"),
        (manifest({}, "1.0"), "oneroster.version 1.0"),
        (manifest({}, "1.20"), "oneroster.version 1.20"),
        (manifest({"users": "some"}), "file.users is some"),
        (manifest({"users": "bulk"}) + "file.users,delta\n", "file.users is bulk, and delta"),
        ("propertyName;value\n", "separates its values by semicolons"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "delivery", source())
    (path / "manifest.csv").write_text(text)

    assert message in _refused(path)
