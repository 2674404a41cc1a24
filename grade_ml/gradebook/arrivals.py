"""What is in an inbox: deliveries in order, what each is, and whether it has arrived whole.

This module reads only names, sizes and times, and the end of zip files; `inbox` loads and moves. A
place is a local folder or a folder that `universal_pathlib` reaches.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from grade_ml.core.errors import ConfigurationError
from grade_ml.core.hashing import checksum
from grade_ml.core.storage import open_file
from grade_ml.core.texts import UNSEEN, line

if TYPE_CHECKING:
    from upath import UPath

DONE, REFUSED = "done", "refused"
#: How long a delivery must be unchanged before it is taken: an upload that stalls may continue.
QUIET = timedelta(seconds=30)
#: A zip file without its end or a OneRoster folder without its manifest is waited for so long,
#: and those behind it with it; then it is tried, and refused with the reason.
PATIENCE = timedelta(minutes=15)
#: More files than this are no delivery: a user put a disk into the inbox.
MOST_FILES = 10_000

#: How names of unfinished files end, as the common programs write them.
_UNFINISHED = (".part", ".partial", ".filepart", ".tmp", ".temp", ".crdownload", ".swp", "~")
_MANIFEST = "manifest.csv"
_ONEROSTER = {
    f"{name}.csv"
    for name in (
        *("academicSessions", "categories", "classes", "demographics", "lineItems"),
        *("orgs", "roles", "scoreScales", "users"),
    )
}
_OULAD = {f"{name}.csv" for name in ("assessments", "studentAssessment", "studentInfo")}


class Kind(StrEnum):
    """The forms of a delivery; the values are the sources of loads."""

    ONEROSTER = "oneroster"
    OULAD = "oulad"
    CSV = "csv"


@dataclass(frozen=True)
class File:
    """A file of a delivery.

    Parameters
    ----------
    path
        Within the delivery's folder; empty if the delivery is this file.
    modified_at
        When its content was made, seconds since 1970, according to the file itself.
    changed_at
        When it last changed here, which no program that copies can set.
    """

    path: str
    size: int
    modified_at: float
    changed_at: float


@dataclass(frozen=True)
class Delivery:
    """A file or folder in the inbox.

    `fault` is the reason why it cannot be loaded with any content; empty if it may be tried.
    """

    name: str
    place: UPath
    files: tuple[File, ...]
    changed_at: float
    is_folder: bool = False
    fault: str = ""

    @property
    def stamp(self) -> str:
        """A text that differs after any change."""
        facts = (self.name, self.changed_at, self.files)
        return checksum(repr(facts).encode())

    @property
    def kind(self) -> Kind | None:
        """The format of its files, `None` if it is unknown."""
        if not self.is_folder:
            return Kind.ONEROSTER
        names = {file.path.removesuffix(".gz") for file in self.files}
        if names & (_ONEROSTER | {_MANIFEST}):
            return Kind.ONEROSTER
        if names & _OULAD:
            return Kind.OULAD
        return Kind.CSV if any(name.endswith(".csv") for name in names) else None

    def has_arrived(self, now: datetime) -> bool:
        """Return whether it is whole, or was left unfinished long ago."""
        age = timedelta(seconds=now.timestamp() - self.changed_at)
        return age >= QUIET and (bool(self.fault) or age >= PATIENCE or self._looks_whole())

    def _looks_whole(self) -> bool:
        if not self.is_folder:
            if not self.name.lower().endswith(".zip"):
                return True
            local = is_local(self.place)
            with open_file(Path(self.place.path)) if local else self.place.open("rb") as file:
                return zipfile.is_zipfile(file)
        if self.kind is None or any(_is_unfinished(file.path) for file in self.files):
            return False
        return self.kind is not Kind.ONEROSTER or any(f.path == _MANIFEST for f in self.files)


@dataclass(frozen=True)
class Inbox:
    """What is in the inbox, in the order in which it is to be loaded, and what does not count.

    The order is that of the names, numbers in them by their value, as `night-9` before `night-10`;
    names that differ only in case follow each other by their time.
    """

    deliveries: tuple[Delivery, ...]
    notes: tuple[str, ...]

    def arrived(self, now: datetime) -> list[Delivery]:
        """Return the deliveries that may be loaded: those before the first unfinished one."""
        arrived = []
        for delivery in self.deliveries:
            if not delivery.has_arrived(now):
                break
            arrived.append(delivery)
        return arrived


def look(root: UPath) -> Inbox:
    """Return what is in the inbox.

    Raises
    ------
    ConfigurationError
        There is no such folder.
    """
    if not root.is_dir():
        raise ConfigurationError(
            f"The inbox {root} is no folder.", "Make it, or correct GRADE_ML_INBOX."
        )
    deliveries: list[Delivery] = []
    notes: list[str] = []
    for entry in _local(Path(root.path), root) if is_local(root) else _remote(root):
        if isinstance(entry, str):
            notes.append(entry)
        else:
            deliveries.append(entry)
    deliveries.sort(
        key=lambda delivery: (_natural(delivery.name), delivery.changed_at, delivery.name)
    )
    return Inbox(tuple(deliveries), tuple(sorted(notes)))


def is_local(place: UPath) -> bool:
    """Return whether `place` is on this machine's file system."""
    return place.protocol in ("", "file", "local")


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what a name is sorted by.

    >>> sorted(["b", "a-10", "a-9"], key=_natural)
    ['a-9', 'a-10', 'b']
    """
    parts = re.split(r"(\d+)", name.casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _is_unfinished(path: str) -> bool:
    return PurePosixPath(path).name.lower().endswith(_UNFINISHED)


def _counts(name: str) -> bool:
    return not (name.startswith(".") or name in (DONE, REFUSED) or _is_unfinished(name))


def _local(folder: Path, root: UPath) -> Iterator[Delivery | str]:
    for name in sorted(os.listdir(folder)):
        if not _counts(name):
            continue
        path = folder / name
        if re.search(f"{UNSEEN}|[\ud800-\udfff]", name):
            yield f"{line(name)} has a name that is no UTF-8 or steers terminals; rename it."
            continue
        try:
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                fault = "It is a symbolic link, and what it leads to may be anywhere."
                yield Delivery(name, root / name, (), status.st_ctime, fault=fault)
            elif not os.access(path, os.R_OK):
                yield f"{name} must not be read by the user who runs grade_ml; it is left alone."
            elif stat.S_ISREG(status.st_mode):
                yield Delivery(name, root / name, (_file("", status),), status.st_ctime)
            elif stat.S_ISDIR(status.st_mode):
                yield _folder(path, root / name)
            else:
                yield f"{name} is a pipe, socket or device and is left alone."
        except FileNotFoundError:
            # It vanished during the scan: the process that writes it has not finished.
            yield f"{name} is changing."
        except OSError as error:
            yield f"{name} cannot be read ({error.strerror}) and is left alone."


def _folder(path: Path, place: UPath) -> Delivery:
    files: list[File] = []
    fault = ""
    changed = path.lstat().st_ctime
    seen = 0
    for at, folders, names in os.walk(path, onerror=_raise):
        seen += len(folders) + len(names)
        for name in (*folders, *names):
            status = Path(at, name).lstat()
            changed = max(changed, status.st_ctime)
            within = Path(at, name).relative_to(path).as_posix()
            if re.search("[\ud800-\udfff]", name):
                fault = "The name of a file in it is not UTF-8."
                continue
            if stat.S_ISREG(status.st_mode):
                files.append(_file(within, status))
            elif not stat.S_ISDIR(status.st_mode):
                fault = f"{within} in it is a link, pipe, socket or device, not a file."
        if seen > MOST_FILES:
            fault = f"It holds more than {MOST_FILES:,} files and folders."
            break
    return Delivery(path.name, place, tuple(sorted(files, key=_path)), changed, True, fault)


def _raise(error: OSError) -> None:
    raise error


def _path(file: File) -> str:
    return file.path


def _file(path: str, status: os.stat_result) -> File:
    return File(path, status.st_size, status.st_mtime, status.st_ctime)


def _remote(root: UPath) -> Iterator[Delivery]:
    """Yield the deliveries of an object store, where every object is whole once it is listed."""
    for entry in root.fs.ls(root.path, detail=True):
        name = PurePosixPath(entry["name"].rstrip("/")).name
        if not _counts(name) or not name or entry["name"].rstrip("/") == root.path.rstrip("/"):
            continue
        if entry["type"] != "directory":
            file = _object("", entry)
            yield Delivery(name, root / name, (file,), file.changed_at)
            continue
        inside = root.fs.find(entry["name"], detail=True)
        files = tuple(sorted(_objects(entry["name"], inside.values()), key=_path))
        if files:
            changed = max(file.changed_at for file in files)
            outside = [f.path for f in files if ".." in PurePosixPath(f.path).parts]
            fault = "A name in it leads out of it." if outside else ""
            yield Delivery(name, root / name, files, changed, True, fault)


def _objects(folder: str, entries: Iterable[dict[str, Any]]) -> Iterator[File]:
    for entry in entries:
        if not entry["name"].endswith("/"):
            yield _object(entry["name"][len(folder.rstrip("/")) + 1 :], entry)


def _object(path: str, entry: dict[str, Any]) -> File:
    times = ("LastModified", "last_modified", "updated", "mtime", "created")
    moment = next((entry[name] for name in times if entry.get(name)), 0.0)
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    seconds = moment.timestamp() if isinstance(moment, datetime) else float(moment)
    return File(path, int(entry["size"] or 0), seconds, seconds)
