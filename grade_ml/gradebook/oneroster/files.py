"""The files of a OneRoster delivery, in a folder or a zip file, and its manifest.

A zip file is read member by member under the member's own name and never unpacked, so that no path
in it leads anywhere. What the files hold is read in `delivery`.
"""

from __future__ import annotations

import re
import stat
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from grade_ml.core.errors import SourceError
from grade_ml.core.storage import open_file
from grade_ml.gradebook import csv_files
from grade_ml.gradebook.csv_files import Opener
from grade_ml.gradebook.limits import LIMITS, Limits

VERSIONS = ("1.1", "1.2")
MANIFEST = "manifest"
#: The files that are read; names are compared without regard to case.
READ = (
    "academicSessions",
    "courses",
    "classes",
    "users",
    "roles",
    "demographics",
    "enrollments",
    "categories",
    "lineItems",
    "scoreScales",
    "lineItemScoreScales",
    "resultScoreScales",
    "results",
)


class Mode(StrEnum):
    """What a file of a delivery holds."""

    BULK = "bulk"
    """All rows that the source has."""
    DELTA = "delta"
    """The rows that changed, and those to be deleted."""
    ABSENT = "absent"
    """The delivery has no such file."""


_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@dataclass(frozen=True)
class Files:
    """The CSV files of a delivery.

    Attributes
    ----------
    place
        The folder or zip file, for messages.
    members
        By name in lower case without `.csv`: the path as the delivery has it, and an opener.
    """

    place: Path
    members: Mapping[str, tuple[str, Opener]]

    def opener(self, name: str) -> Opener | None:
        """Return an opener for the file of a name, None if the delivery has no such file."""
        member = self.members.get(name.lower())
        return None if member is None else member[1]


@dataclass(frozen=True)
class Manifest:
    """The manifest of a delivery.

    Attributes
    ----------
    modes
        That of every file in `READ`.
    notes
        Sentences on the other files.
    system
        The system that the source names itself; empty if it names none.
    """

    modes: Mapping[str, Mode]
    notes: tuple[str, ...]
    system: str


def find(path: Path, limits: Limits = LIMITS) -> Files:
    """Return the CSV files in a folder or zip file.

    Raises
    ------
    SourceError
        `path` is neither, two files have one name, or the zip file cannot be trusted.
    """
    if path.is_dir():
        return Files(path, _by_name(path, _in_folder(path)))
    if not path.exists():
        raise SourceError(f"{path} does not exist.", "Name a OneRoster folder or zip file.")
    try:
        archive = zipfile.ZipFile(open_file(path))
    except zipfile.BadZipFile as error:
        raise SourceError(
            f"{path} ({path.stat().st_size:,} bytes) is neither a folder nor a whole zip file; "
            "it was not read.",
            "Name a OneRoster folder or zip file.",
        ) from error
    return Files(path, _by_name(path, _in_archive(path, archive, limits)))


def _in_folder(folder: Path) -> Iterable[tuple[str, Opener]]:
    inside = folder.resolve()
    for path in sorted(folder.iterdir()):
        if not _is_csv(path.name.removesuffix(".gz")):
            continue
        if re.search("[\ud800-\udfff]", path.name):
            raise SourceError(
                f"{folder} holds a file whose name is not UTF-8.", "Rename or remove it."
            )
        if path.is_dir():
            raise SourceError(f"{path} is a folder.", f"Put the file {path.name} in its place.")
        if not path.resolve().is_relative_to(inside):
            raise SourceError(
                f"{path} is a link that leads out of the folder; it was not followed.",
                "Copy the file itself into the folder.",
            )
        yield path.name, csv_files.opener(path)


def _in_archive(
    path: Path, archive: zipfile.ZipFile, limits: Limits
) -> Iterable[tuple[str, Opener]]:
    unpacked = 0
    for info in archive.infolist():
        # Some programs separate folders by backslashes.
        parts = PurePosixPath(info.filename.replace("\\", "/")).parts
        if info.is_dir() or "__MACOSX" in parts or not parts or not _is_csv(parts[-1]):
            continue
        if ".." in parts or parts[0] == "/" or stat.S_ISLNK(info.external_attr >> 16):
            raise SourceError(
                f"{path} has the member {info.filename}, which leads out of it; nothing was read.",
                "Pack the files again, without links and without paths above the archive.",
            )
        if info.flag_bits & 1:
            raise SourceError(f"{path} is encrypted.", "Unpack it and name the folder.")
        if info.compress_type not in _PACKINGS:
            raise SourceError(
                f"{path} packs {info.filename} in a way that is not supported "
                f"(number {info.compress_type}).",
                "Pack it with deflate, or unpack it and name the folder.",
            )
        unpacked += info.file_size
        trap = info.file_size > max(limits.checked_from_bytes, limits.ratio * info.compress_size)
        if trap or unpacked > limits.unpacked_bytes:
            raise SourceError(
                f"{path} would unpack to {unpacked:,} bytes or more ({info.filename} from "
                f"{info.compress_size:,} to {info.file_size:,}); it was not read. At most "
                f"{limits.unpacked_bytes:,} bytes are read from a zip file, and "
                f"{limits.ratio} times its size from a member.",
                "If it is what it should be, unpack it and name the folder.",
            )
        yield info.filename, lambda info=info: archive.open(info)  # type: ignore[misc]


def _is_csv(name: str) -> bool:
    # A name that begins with ._ is metadata that macOS stores beside a file, not the file.
    return name.lower().endswith(".csv") and not name.startswith("._")


def _by_name(place: Path, entries: Iterable[tuple[str, Opener]]) -> dict[str, tuple[str, Opener]]:
    members: dict[str, tuple[str, Opener]] = {}
    for path, opener in entries:
        name = re.sub(r"\.csv(\.gz)?$", "", re.split(r"[/\\]", path)[-1].lower())
        if name in members:
            raise SourceError(
                f"{place} has two files with the same name, {members[name][0]} and {path}; "
                "nothing was read.",
                "Remove the wrong file.",
            )
        members[name] = path, opener
    return members


def read_manifest(files: Files) -> Manifest:
    """Return the content of `manifest.csv`.

    Raises
    ------
    SourceError
        It is missing or of another version, contradicts itself, or does not go with the files.
    """
    properties = _properties(files)
    version = properties.get("oneroster.version", "none")
    parts = re.fullmatch(r"v?(\d+\.\d+)(\.\d+)*", version, re.IGNORECASE)
    if parts is None or parts[1] not in VERSIONS:
        raise SourceError(
            f"manifest.csv states oneroster.version {version}.",
            f"Export the data as OneRoster {' or '.join(VERSIONS)}.",
        )
    modes: dict[str, Mode] = {}
    for name, word in properties.items():
        if name.startswith("file."):
            try:
                modes[name.removeprefix("file.").removesuffix(".csv")] = Mode(word.lower())
            except ValueError as error:
                raise SourceError(
                    f"manifest.csv states {name} is {word}.", "Write bulk, delta or absent."
                ) from error
    listed = {name for name, mode in modes.items() if mode is not Mode.ABSENT}
    for name in READ:
        if name.lower() in listed and files.opener(name) is None:
            raise SourceError(
                f"{files.place} has no {name}.csv, which its manifest.csv announces.",
                f"Add the file, or write file.{name},absent into the manifest.",
            )
    extra = {n: path for n, (path, _) in files.members.items() if n not in {*listed, MANIFEST}}
    if "results" in extra:
        raise SourceError(
            f"{files.place} has the file {extra['results']}, which its manifest.csv does not list.",
            "Write file.results,bulk (or delta) into the manifest, or remove the file.",
        )
    notes = (
        [
            f"{', '.join(sorted(extra.values()))}: present, but not listed in manifest.csv, "
            "so not read."
        ]
        if extra
        else []
    )
    system = properties.get("source.systemcode") or properties.get("source.systemname") or ""
    known = {name: modes.get(name.lower(), Mode.ABSENT) for name in READ}
    return Manifest(known, tuple(notes), "" if system == Mode.ABSENT else system)


def _properties(files: Files) -> dict[str, str]:
    """Return the manifest's values; names in lower case, empty values as absent."""
    opener = files.opener(MANIFEST)
    if opener is None:
        raise SourceError(
            f"There is no manifest.csv in {files.place}.",
            "A OneRoster delivery has a manifest; export it again.",
        )
    properties: dict[str, str] = {}
    for rows in csv_files.read(opener, "manifest.csv", ["propertyName", "value"]):
        if rows.lines.max(initial=0) > LIMITS.manifest_rows:
            raise SourceError(
                f"manifest.csv has more than {LIMITS.manifest_rows:,} lines.",
                "A manifest has a line for each file and each property; export it again.",
            )
        names = rows.text("propertyName").str.lower().fillna("")
        for name, value in zip(names, rows.text("value").fillna(Mode.ABSENT), strict=True):
            if properties.setdefault(name, value) != value:
                raise SourceError(
                    f"manifest.csv states {name} is {properties[name]}, and {value}.",
                    "Remove one of the two lines.",
                )
    return properties
