"""Model versions in MLflow, their artifacts under the storage root, and the two stage aliases.

MLflow keeps names, versions, aliases, parameters and metrics; the files lie under
`<storage root>/models/<run id>` with a SHA-256 manifest. Aliases are moved by `transition` alone.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from upath import UPath

from grade_ml.core import database
from grade_ml.core.errors import ArtifactError, ServiceError
from grade_ml.core.locks import DatabaseLock
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.features.attributes import ATTRIBUTE, barred
from grade_ml.gradebook.attributes import SOURCES, Declarations
from grade_ml.registry import manifest

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion
    from mlflow.entities.model_registry import RegisteredModel
    from mlflow.tracking import MlflowClient

    from grade_ml.core.settings import Settings


_REPLACES = (
    "the next training replaces it (grade-ml run train_traditional_models, then "
    "train_advanced_ml_models)"
)
#: The files of models that have a row for each student.
_ROWS = ".parquet"
#: MLflow keeps 200 characters of a run's place, `/<run id>/artifacts` among them.
_LONGEST_LOCATION = 150


class Alias(StrEnum):
    """The stages of a model; each is held by at most one version."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"


@dataclass(frozen=True)
class ModelVersion:
    """One registered version.

    `secret` is the fingerprint of the secret under which it was registered, None for those of a
    time without one. `metrics` are numbers by name; `parameters` are texts; `trained_at` is
    timezone-aware; `manifest_sha256` identifies the artifact's content.
    """

    name: str
    version: int
    run_id: str
    manifest_sha256: str
    metrics: Mapping[str, float]
    parameters: Mapping[str, str]
    features: Sequence[str]
    data_version: str
    code_version: str
    trained_at: datetime
    secret: str | None


def _shown(place: UPath) -> str:
    """Return where MLflow shows files to be; they are found without it."""
    return str(place) if len(str(place)) <= _LONGEST_LOCATION else f"mlflow-artifacts:/{place.name}"


def _require_answer(uri: str) -> None:
    """Ask an MLflow server once; MLflow itself would try for minutes."""
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=database.CONNECT_SECONDS)
    except requests.exceptions.SSLError:
        return  # MLflow has variables of its own for certificates
    except requests.RequestException as error:
        raise ServiceError(
            f"The MLflow server {uri} does not answer: {error}.",
            "Start it, or correct MLFLOW_TRACKING_URI.",
        ) from error


class Registry:
    """The registry of one installation.

    Parameters
    ----------
    tracking_uri
        MLflow's tracking and registry URI: the `mlflow` database, or a server's address.
    storage_root
        A path or URL for `universal_pathlib`.
    pseudonyms
        Stand in the place of students' ids in what models keep.
    declared
        Which attributes models may read; one that reads another is not given out.
    """

    def __init__(
        self,
        tracking_uri: str,
        storage_root: str,
        pseudonyms: Pseudonyms,
        declared: Declarations = SOURCES,
    ) -> None:
        self.tracking_uri, self.pseudonyms, self.declared = tracking_uri, pseudonyms, declared
        self._models = UPath(storage_root) / "models"

    @classmethod
    def of_installation(
        cls, settings: Settings, tracking_uri: str, declared: Declarations = SOURCES
    ) -> Registry:
        """Return that of an installation; nothing is connected to."""
        pseudonyms = Pseudonyms.of_installation(settings)
        return cls(tracking_uri, settings.storage_root, pseudonyms, declared)

    @cached_property
    def _client(self) -> MlflowClient:
        from mlflow.tracking import MlflowClient

        # Creating its tables, MLflow reports 30 lines that mean nothing to a user.
        logging.getLogger("mlflow").setLevel(logging.WARNING)

        def connect() -> MlflowClient:
            client = MlflowClient(self.tracking_uri, self.tracking_uri)
            client.search_registered_models(max_results=1)
            return client

        if self.tracking_uri.startswith("http"):
            _require_answer(self.tracking_uri)
        if not self.tracking_uri.startswith("postgresql"):
            return connect()
        engine = database.connect(self.tracking_uri)
        with database.reachable(engine) as connection:
            # The first connection creates MLflow's tables; two at once break each other.
            DatabaseLock.REGISTRY.wait(connection)
            client = connect()
        engine.dispose()
        return client

    @cached_property
    def _downloads(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="grade_ml_models_")

    def prepare(self) -> None:
        """Create MLflow's tables or bring those of an older MLflow up to date; not on a server."""
        from mlflow.exceptions import MlflowException
        from mlflow.store.db.utils import _upgrade_db

        try:
            assert self._client
        except MlflowException:
            if not self.tracking_uri.startswith("postgresql"):
                raise
            engine = database.connect(self.tracking_uri)
            _upgrade_db(engine)  # type: ignore[no-untyped-call]
            engine.dispose()
            assert self._client

    def register(  # noqa: PLR0913 - what a version must be traceable to
        self,
        name: str,
        directory: Path,
        *,
        metrics: Mapping[str, float],
        parameters: Mapping[str, object],
        features: Sequence[str],
        data_version: str,
        code_version: str,
        trained_at: datetime,
    ) -> ModelVersion:
        """Store the files of `directory` as the next version of `name`, without any alias.

        The version appears in the registry after its artifact is complete, so a process that
        dies halfway leaves no version behind. Two processes may register at the same time.
        """
        from mlflow.entities import Metric, Param

        run = self._client.create_run(self._group(name, self._models))
        run_id = run.info.run_id
        digest = self._store(directory, run_id)
        moment = int(trained_at.timestamp() * 1000)
        self._client.log_batch(
            run_id,
            [Metric(key, value, moment, 0) for key, value in metrics.items()],
            [Param(key, str(value)) for key, value in parameters.items()],
        )
        self._client.set_terminated(run_id)
        self._ensure_model(name)
        created = self._client.create_model_version(
            name,
            f"{_shown(self._models)}/{run_id}",
            run_id=run_id,
            tags={
                "manifest_sha256": digest,
                "features": json.dumps(list(features)),
                "data_version": data_version,
                "code_version": code_version,
                "trained_at": trained_at.astimezone(UTC).isoformat(),
                "secret": self.pseudonyms.fingerprint,
            },
        )
        return self._read(created)

    def _point(self, name: str, alias: Alias, version: int | None) -> None:
        """Let `alias` of `name` point to `version` or to nothing, in one atomic call.

        For `transition` alone: an alias that moves without a record is moved behind its back.
        """
        if version is None:
            self._client.delete_registered_model_alias(name, alias)
        else:
            self._client.set_registered_model_alias(name, alias, str(version))

    def aliases(self, name: str | None = None) -> dict[str, dict[Alias, int]]:
        """Return the versions behind the aliases of every model that has one, or of one model."""
        return {
            model.name: {
                alias: int(model.aliases[alias]) for alias in Alias if alias in model.aliases
            }
            for model in self._registered(None if name is None else f"name = '{name}'")
            if model.aliases
        }

    def _registered(self, condition: str | None = None) -> Iterator[RegisteredModel]:
        token = None
        while True:
            page = self._client.search_registered_models(
                condition, order_by=["name"], page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def newest(self, name: str) -> ModelVersion | None:
        """Return the version of `name` that was registered last, or None where there is none."""
        found = self._client.search_model_versions(
            f"name = '{name}'", max_results=1, order_by=["version_number DESC"]
        )
        return self._read(found[0]) if found else None

    def at(self, name: str, version: int) -> ModelVersion:
        """Return a version by its number.

        Raises
        ------
        ArtifactError
            There is no such version.
        """
        found = self._find(name, version)
        if found is None:
            raise ArtifactError(
                f"The registry has no version {version} of the model {name}.", "Train it again."
            )
        return self._read(found)

    def has(self, name: str, version: int) -> bool:
        """Return whether there is such a version."""
        return self._find(name, version) is not None

    def _find(self, name: str, version: int) -> MlflowVersion | None:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_model_version(name, str(version))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def get(self, name: str, alias: Alias) -> ModelVersion | None:
        """Return the version of `name` that holds `alias`, or None where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            # The first: the model has no such alias; the second: there is no such model.
            if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                return None
            raise
        return self._read(found)

    def holders(self, alias: Alias) -> list[ModelVersion]:
        """Return the version that holds `alias` of each model that has one, by name."""
        return [
            self._read(self._client.get_model_version(model.name, model.aliases[alias]))
            for model in self._registered()
            if alias in model.aliases
        ]

    def fetch(self, version: ModelVersion) -> Path:
        """Return a local folder with the verified files of `version`.

        A local storage root is read in place; a remote one is downloaded for the lifetime of this
        object.

        Raises
        ------
        ArtifactError
            A file is missing, was changed, or was added, the model reads an attribute that none
            may read (the error names it), or it keeps values of students that another secret, or
            none, hides.
        """
        if unfit := barred(version.features, self.declared):
            named = ", ".join(f"{name} ({why})" for name, why in unfit.items())
            raise ArtifactError(
                f"The model {version.name} {version.version} reads attributes that no model may "
                f"read: {named}.",
                f"Otherwise {_REPLACES}; docs/institution.md tells how to declare attributes.",
            )
        if self._is_exposed(version):
            raise ArtifactError(
                f"The model {version.name} {version.version} keeps values of students, and was not "
                "registered under this installation's secret.",
                f"Restore the secret it was registered under, if there was one; else {_REPLACES}.",
            )
        source = self._models / version.run_id
        if source.protocol not in ("", "file"):
            source = self._download(source, version.run_id)
        manifest.verify(source, version.manifest_sha256)
        return Path(source.path)

    def exposed(self, name: str) -> list[ModelVersion]:
        """Return the versions of `name` that `fetch` refuses for want of the secret."""
        found = self._client.search_model_versions(f"name = '{name}'")
        return [version for one in found if self._is_exposed(version := self._read(one))]

    def _remove(self, version: ModelVersion) -> None:
        """Remove a version, files first. For `transition`: MLflow drops its aliases in silence."""
        folder = self._models / version.run_id
        if folder.exists():
            folder.fs.rm(folder.path, recursive=True)
        self._client.delete_model_version(version.name, str(version.version))

    def _is_exposed(self, version: ModelVersion) -> bool:
        """Whether it keeps values of students (rows, texts of attributes) under another secret."""
        if version.secret == self.pseudonyms.fingerprint:
            return False
        folder = self._models / version.run_id
        return any(name.startswith(ATTRIBUTE) for name in version.features) or any(
            name.endswith(_ROWS) for name in manifest.file_names(folder)
        )

    def _store(self, directory: Path, run_id: str) -> str:
        source, target = UPath(directory), self._models / run_id
        digest = manifest.write(source)
        for name in (*manifest.file_names(source), manifest.MANIFEST):
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((source / name).read_bytes())
        return digest

    def _download(self, source: UPath, run_id: str) -> UPath:
        target = UPath(self._downloads.name) / run_id
        try:
            for name in (*manifest.file_names(source), manifest.MANIFEST):
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes((source / name).read_bytes())
        except FileNotFoundError as error:
            raise ArtifactError(
                f"The model in {source} is incomplete: {error}.", "Train the model again."
            ) from error
        return target

    def _group(self, name: str, place: UPath) -> str:
        """Return the id of what MLflow calls an experiment: runs whose files lie at `place`."""
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return self._client.create_experiment(name, artifact_location=_shown(place))
        except MlflowException as error:
            # Another process created it in between.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self._group(name, place)

    def _ensure_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _read(self, found: MlflowVersion) -> ModelVersion:
        run = self._client.get_run(str(found.run_id))
        return ModelVersion(
            name=found.name,
            version=int(found.version),
            run_id=str(found.run_id),
            manifest_sha256=found.tags["manifest_sha256"],
            metrics=dict(run.data.metrics),
            parameters=dict(run.data.params),
            features=tuple(json.loads(found.tags["features"])),
            data_version=found.tags["data_version"],
            code_version=found.tags["code_version"],
            trained_at=datetime.fromisoformat(found.tags["trained_at"]),
            secret=found.tags.get("secret"),
        )
