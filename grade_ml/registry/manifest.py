"""The SHA-256 manifest that makes a folder of files one artifact, and its verification.

Other modules decide where the folder lies and what its files mean.
"""

from __future__ import annotations

import json
from typing import Any

from upath import UPath

from grade_ml.core.errors import ArtifactError
from grade_ml.core.hashing import checksum

MANIFEST = "manifest.json"
_REMEDY = "Restore the folder from a backup, or train the model again and use the new version."


def file_names(folder: UPath) -> list[str]:
    """Return the paths of all files under `folder`, relative to it, sorted, without the manifest.

    The same names come back for a local folder and for an object store.
    """
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path).replace("\\", "/") for path in paths if str(path) != MANIFEST)


def write(folder: UPath) -> str:
    """Write the manifest of `folder` into it; return the manifest's own SHA-256."""
    files = {name: checksum((folder / name).read_bytes()) for name in file_names(folder)}
    content = json.dumps({"files": files}, indent=1, sort_keys=True).encode()
    (folder / MANIFEST).write_bytes(content)
    return checksum(content)


def verify(folder: UPath, manifest_sha256: str) -> None:
    """Check that `folder` holds exactly the files that were registered.

    Parameters
    ----------
    manifest_sha256
        The manifest's SHA-256 as the registry remembers it, so that a file cannot be exchanged
        together with its line in the manifest.

    Raises
    ------
    ArtifactError
        The manifest or a file is missing, was changed, or was added; the error names it.
    """
    files = _registered_files(folder, manifest_sha256)
    present = set(file_names(folder))
    for name, expected in sorted(files.items()):
        if name not in present:
            raise ArtifactError(f"The file {name} of the model in {folder} is missing.", _REMEDY)
        if checksum((folder / name).read_bytes()) != expected:
            raise ArtifactError(f"The file {name} of the model in {folder} was changed.", _REMEDY)
    for name in sorted(present - files.keys()):
        raise ArtifactError(
            f"The file {name} in {folder} does not belong to the model stored there.", _REMEDY
        )


def _registered_files(folder: UPath, manifest_sha256: str) -> dict[str, str]:
    try:
        content = (folder / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(
            f"The file {MANIFEST} of the model in {folder} is missing.", _REMEDY
        ) from error
    if checksum(content) != manifest_sha256:
        raise ArtifactError(f"The file {MANIFEST} in {folder} was changed.", _REMEDY)
    files: dict[str, Any] = json.loads(content)["files"]
    return files
