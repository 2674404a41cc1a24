from pathlib import Path

import pytest
from upath import UPath

from grade_ml.core.errors import ArtifactError
from grade_ml.registry import manifest


@pytest.fixture
def folder(tmp_path: Path) -> UPath:
    folder = UPath(tmp_path / "artifact")
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"\x00weights")
    (folder / "features.json").write_text('["level"]')
    return folder


def _change(folder: UPath) -> None:
    (folder / "model.bin").write_bytes(b"\x00wEights")


def _remove(folder: UPath) -> None:
    (folder / "model.bin").unlink()


def _add(folder: UPath) -> None:
    (folder / "model.bin.pickle").write_bytes(b"")


def _change_with_manifest(folder: UPath) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"model.bin": "', '"model.bin": "0'))


def _remove_manifest(folder: UPath) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (_change, "model.bin "),
        (_remove, "model.bin "),
        (_add, "model.bin.pickle "),
        (_change_with_manifest, "manifest.json "),
        (_remove_manifest, "manifest.json "),
    ],
)
def test_a_tampered_folder_is_refused(tamper, named, folder: UPath) -> None:
    digest = manifest.write(folder)
    manifest.verify(folder, digest)
    tamper(folder)
    with pytest.raises(ArtifactError, match=named) as caught:
        manifest.verify(folder, digest)
    assert "train the model again" in caught.value.remedy


def test_the_same_files_have_the_same_digest(folder: UPath) -> None:
    assert manifest.write(folder) == manifest.write(folder)
