import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from grade_ml.core.errors import ArtifactError
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.core.settings import Settings
from grade_ml.ensemble.names import name_of
from grade_ml.gradebook.attributes import Declarations
from grade_ml.gradebook.institution import Use
from grade_ml.registry.registry import Alias, ModelVersion, Registry
from grade_ml_tests.conftest import installation
from grade_ml_tests.factories import PSEUDONYMS

USABLE = Declarations.of({"homeAddress": Use.USABLE})
TRAINED_AT = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)


@pytest.fixture
def registry(settings: Settings) -> Registry:
    assert settings.mlflow_tracking_uri is not None
    return Registry(settings.mlflow_tracking_uri, settings.storage_root, PSEUDONYMS)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    (folder / "inner").mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"\x00weights")
    (folder / "inner" / "features.json").write_text('["level"]')
    return folder


def register(
    registry: Registry,
    artifact: Path,
    name: str = "baseline",
    features: Sequence[str] = ("level", "trend"),
) -> ModelVersion:
    return registry.register(
        name,
        artifact,
        metrics={"rmse": 12.5},
        parameters={"seed": 7},
        features=features,
        data_version="data-1",
        code_version="0.1.0",
        trained_at=TRAINED_AT,
    )


def test_a_version_comes_back_as_registered(registry: Registry, artifact: Path) -> None:
    version = register(registry, artifact)
    assert version.version == 1
    assert version.metrics == {"rmse": 12.5}
    assert version.parameters == {"seed": "7"}
    assert version.features == ("level", "trend")
    assert (version.data_version, version.code_version) == ("data-1", "0.1.0")
    assert version.trained_at == TRAINED_AT
    folder = registry.fetch(version)
    assert (folder / "model.bin").read_bytes() == b"\x00weights"
    assert json.loads((folder / "inner" / "features.json").read_text()) == ["level"]


def test_an_alias_points_to_one_version_at_a_time(registry: Registry, artifact: Path) -> None:
    assert registry.get("baseline", Alias.CHAMPION) is None
    first, second = register(registry, artifact), register(registry, artifact)
    assert registry.get("baseline", Alias.CHAMPION) is None
    registry._point("baseline", Alias.CHAMPION, first.version)
    registry._point("baseline", Alias.CHALLENGER, second.version)
    assert registry.get("baseline", Alias.CHAMPION) == first
    assert registry.get("baseline", Alias.CHALLENGER) == second
    registry._point("baseline", Alias.CHAMPION, second.version)
    assert registry.get("baseline", Alias.CHAMPION) == second


def test_the_same_bytes_have_the_same_digest(registry: Registry, artifact: Path) -> None:
    first, second = register(registry, artifact), register(registry, artifact)
    assert (first.version, second.version) == (1, 2)
    assert first.manifest_sha256 == second.manifest_sha256


def test_a_tampered_artifact_is_refused(registry: Registry, artifact: Path) -> None:
    version = register(registry, artifact)
    (registry.fetch(version) / "model.bin").write_bytes(b"\x00wEights")
    with pytest.raises(ArtifactError, match=r"model\.bin of the model in .* was changed"):
        registry.fetch(version)


def test_an_object_store_is_downloaded_and_verified(settings: Settings, artifact: Path) -> None:
    assert settings.mlflow_tracking_uri is not None
    registry = Registry(settings.mlflow_tracking_uri, "memory://bucket/storage", PSEUDONYMS)
    version = register(registry, artifact)
    folder = registry.fetch(version)
    assert (folder / "inner" / "features.json").read_text() == '["level"]'
    from upath import UPath

    (UPath("memory://bucket/storage/models") / version.run_id / "model.bin").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"model\.bin"):
        registry.fetch(version)


def test_a_moved_storage_root_still_serves(registry, artifact, settings, tmp_path) -> None:
    version = register(registry, artifact)
    Path(settings.storage_root).rename(tmp_path / "moved")
    moved = Registry(settings.mlflow_tracking_uri, str(tmp_path / "moved"), PSEUDONYMS)
    assert (moved.fetch(version) / "model.bin").exists()


def test_holders_are_the_models_with_that_alias(registry, artifact) -> None:
    version = register(registry, artifact)
    assert registry.holders(Alias.CHAMPION) == []
    registry._point("baseline", Alias.CHAMPION, version.version)
    assert registry.holders(Alias.CHAMPION) == [version]


REGISTER = """
import sys
from pathlib import Path
from grade_ml_tests.conftest import installation
from grade_ml_tests.factories import PSEUDONYMS
from grade_ml_tests.registry.test_registry import Registry, register
print(register(Registry(sys.argv[1], sys.argv[2], PSEUDONYMS), Path(sys.argv[3])).version)
"""


@pytest.mark.slow
def test_two_processes_register_at_once(settings: Settings, artifact: Path, tmp_path) -> None:
    import shutil

    copies = [shutil.copytree(artifact, tmp_path / f"copy_{i}") for i in range(2)]
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                REGISTER,
                str(settings.mlflow_tracking_uri),
                settings.storage_root,
                str(copy),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for copy in copies
    ]
    versions = sorted(process.communicate()[0].strip() for process in processes)
    assert versions == ["1", "2"]


def test_tables_of_an_older_mlflow_are_brought_up_to_date(
    server, gradebook_url, tmp_path, artifact
) -> None:
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config

    with installation(server, gradebook_url, tmp_path) as settings:
        place = str(settings.mlflow_tracking_uri)
        version = register(Registry(place, settings.storage_root, PSEUDONYMS), artifact)
        command.downgrade(_get_alembic_config(place), "-1")
        upgraded = Registry(place, settings.storage_root, PSEUDONYMS)
        upgraded.prepare()
        upgraded._point("baseline", Alias.CHAMPION, version.version)
        assert upgraded.get("baseline", Alias.CHAMPION) == version


def test_no_holder_is_missing_where_there_are_many_models(registry, artifact) -> None:
    for number in range(105):
        registry._client.create_registered_model(f"course-{number:03d}")
    version = register(registry, artifact, "last of all")
    registry._point("last of all", Alias.CHAMPION, version.version)
    assert registry.holders(Alias.CHAMPION) == [version]


def test_an_alias_can_be_taken_away(registry, artifact) -> None:
    version = register(registry, artifact)
    registry._point("baseline", Alias.CHAMPION, version.version)
    for _ in range(2):
        registry._point("baseline", Alias.CHAMPION, None)
        assert registry.get("baseline", Alias.CHAMPION) is None
    assert registry.at("baseline", version.version) == version
    assert registry.newest("baseline") == version
    assert registry.newest("another") is None


@pytest.mark.parametrize(
    "course", ["я" * 255, "😀" * 255, "%" * 255, "a/b:c'd", "..", ".", "M" * 250]
)
def test_the_model_of_a_course_with_any_id(registry: Registry, artifact: Path, course: str) -> None:
    name = name_of(course)
    version = register(registry, artifact, name)
    registry._point(name, Alias.CHAMPION, version.version)
    assert registry.get(name, Alias.CHAMPION) == registry.newest(name) == version
    assert name_of(course[:-1]) != name


def test_a_storage_root_with_a_long_path(
    settings: Settings, artifact: Path, tmp_path: Path
) -> None:
    root = tmp_path.joinpath(*["y" * 200] * 4, "$HOME #x 100%")
    registry = Registry(str(settings.mlflow_tracking_uri), str(root), PSEUDONYMS)
    version = register(registry, artifact)
    assert (registry.fetch(version) / "model.bin").read_bytes() == b"\x00weights"


def without_secret(registry: Registry, version: ModelVersion) -> ModelVersion:
    """Make `version` as if registered before there were secrets."""
    registry._client.delete_model_version_tag(version.name, str(version.version), "secret")
    return registry.at(version.name, version.version)


@pytest.mark.security
@pytest.mark.parametrize(
    ("features", "files", "exposed"),
    [
        (["level"], [], False),
        (["level"], ["held_out.parquet"], True),
        (["level"], ["inner/rows.parquet"], True),
        (["level", "attribute_homeAddress"], [], True),
    ],
)
def test_what_keeps_values_of_students_is_given_out_under_its_own_secret_only(
    registry: Registry, artifact: Path, features, files, exposed
) -> None:
    for name in files:
        (artifact / name).write_bytes(b"rows")
    kept, root = register(registry, artifact, features=features), str(registry._models.parent)
    other = Registry(registry.tracking_uri, root, Pseudonyms(b"other"), USABLE)
    mine = Registry(registry.tracking_uri, root, PSEUDONYMS, USABLE)
    assert mine.fetch(kept)
    assert mine.exposed("baseline") == []
    if not exposed:
        assert other.fetch(kept) and mine.fetch(without_secret(registry, kept))
        assert other.exposed("baseline") == []
        return
    with pytest.raises(ArtifactError, match="keeps values of students"):
        other.fetch(kept)
    with pytest.raises(ArtifactError, match="the next training replaces it"):
        mine.fetch(without_secret(registry, kept))
    new = register(registry, artifact, features=features)
    (old,) = mine.exposed("baseline")
    assert (old.version, old.run_id) == (1, kept.run_id)
    mine._remove(old)
    assert mine.newest("baseline") == new and mine.fetch(new)
    with pytest.raises(ArtifactError, match="no version 1"):
        mine.at("baseline", 1)
    left = {path.name for path in registry._models.iterdir()}
    assert left == {new.run_id}
