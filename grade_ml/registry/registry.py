"""Model versions in MLflow, their artifacts under the storage root, and the two stage aliases.

MLflow stores names, versions, aliases, parameters and metrics; the files lie under
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
from grade_ml.core.errors import ArtifactError, UnavailableError
from grade_ml.core.locks import DatabaseLock
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.core.storage import remove_tree, size_of
from grade_ml.features.attributes import ATTRIBUTE, barred
from grade_ml.gradebook.attributes import SOURCES, Declarations
from grade_ml.registry import manifest, tables

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
#: MLflow stores 200 characters of a run's place, `/<run id>/artifacts` among them.
_LONGEST_LOCATION = 150


class Alias(StrEnum):
    """The stages of a model; each is held by at most one version."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"


@dataclass(frozen=True)
class ModelVersion:
    """One registered version.

    `secret` is the fingerprint of the secret under which it was registered, `None` if there was
    no secret. `metrics` are numbers by name; `parameters` are texts; `trained_at` is
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


@dataclass(frozen=True)
class Registered:
    """That a version is in the registry: its run, whose name its files bear, and since when."""

    name: str
    version: int
    run_id: str
    at: datetime


def _shown(place: UPath) -> str:
    """Return where MLflow shows files to be; they are located without it."""
    return str(place) if len(str(place)) <= _LONGEST_LOCATION else f"mlflow-artifacts:/{place.name}"


def _require_answer(uri: str) -> None:
    """Query an MLflow server once; MLflow itself would try for minutes."""
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=database.CONNECT_SECONDS)
    except requests.exceptions.SSLError:
        return  # MLflow has variables of its own for certificates
    except requests.RequestException as error:
        raise UnavailableError(
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
        Replace students' ids in the data of stored models.
    declared
        Which attributes models may read; `fetch` refuses a model that reads another.
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
        """Point `alias` of `name` to `version`, or remove it, in one atomic call.

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
        """Return the version of `name` that was registered last, or None if there is none."""
        versions = self._client.search_model_versions(
            f"name = '{name}'", max_results=1, order_by=["version_number DESC"]
        )
        return self._read(versions[0]) if versions else None

    def at(self, name: str, version: int) -> ModelVersion:
        """Return a version by its number.

        Raises
        ------
        ArtifactError
            There is no such version.
        """
        stored = self._find(name, version)
        if stored is None:
            raise ArtifactError(
                f"The registry has no version {version} of the model {name}.", "Train it again."
            )
        return self._read(stored)

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
        """Return the version of `name` that holds `alias`, or None if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            stored = self._client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            # The first: the model has no such alias; the second: there is no such model.
            if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                return None
            raise
        return self._read(stored)

    def holders(self, alias: Alias) -> list[ModelVersion]:
        """Return the version with `alias` of each model that has such a version, by name."""
        if self.tracking_uri.startswith("postgresql"):
            return self._holders_in_tables(alias)
        return [
            self._read(self._client.get_model_version(model.name, model.aliases[alias]))
            for model in self._registered()
            if alias in model.aliases
        ]

    def _holders_in_tables(self, alias: Alias) -> list[ModelVersion]:
        engine = database.connect(self.tracking_uri)
        with database.reachable(engine) as connection:
            versions = tables.holders(connection, alias)
        engine.dispose()
        return [
            _version(held.name, held.version, held.run_id, held.tags, held.metrics, held.parameters)
            for held in versions
        ]

    def fetch(self, version: ModelVersion) -> Path:
        """Return a local folder with the verified files of `version`.

        A local storage root is read in place; a remote one is downloaded for the lifetime of this
        object.

        Raises
        ------
        ArtifactError
            A file is missing, was changed, or was added, the model reads an attribute that no model
            may read (the error names it), or it contains values of students that are hidden by
            another secret or by none.
        """
        if unfit := barred(version.features, self.declared):
            named = ", ".join(f"{name} ({why})" for name, why in unfit.items())
            raise ArtifactError(
                f"The model {version.name} {version.version} reads attributes that no model may "
                f"read: {named}.",
                f"Otherwise {_REPLACES}; docs/institution.md describes how to declare attributes.",
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
        versions = self._client.search_model_versions(f"name = '{name}'")
        return [version for stored in versions if self._is_exposed(version := self._read(stored))]

    def registered(self) -> list[Registered]:
        """Return every version of every model."""
        versions, token = [], None
        while True:
            page = self._client.search_model_versions(page_token=token)
            versions += [_registered(version) for version in page]
            token = page.token
            if not token:
                return versions

    def pointed_to(self) -> set[tuple[str, int]]:
        """Return name and version of what any alias in MLflow points to, ours or another."""
        return {
            (model.name, int(version))
            for model in self._registered()
            for version in model.aliases.values()
        }

    def parameter(self, version: Registered, name: str) -> str | None:
        """Return one of the parameters of a version."""
        value: str | None = self._client.get_run(version.run_id).data.params.get(name)
        return value

    def unregistered(self, before: datetime) -> list[str]:
        """Return the runs of models that began before a moment and have no version.

        Their process died before it registered one, or the version was removed. Runs of groups
        that do not have a model's name belong to another program.
        """
        from mlflow.entities import ViewType

        models = {model.name for model in self._registered()}
        groups = [
            group.experiment_id
            for name in sorted(models)
            if (group := self._client.get_experiment_by_name(name))
        ]
        used = {version.run_id for version in self.registered()}
        # A server does not show which of its deleted runs its `mlflow gc` has removed.
        view = ViewType.ALL if self._forgets else ViewType.ACTIVE_ONLY
        unregistered: list[str] = []
        token = None
        while groups:
            page = self._client.search_runs(
                groups,
                f"attributes.start_time < {int(before.timestamp() * 1000)}",
                run_view_type=view,
                page_token=token,
            )
            unregistered += [run.info.run_id for run in page if run.info.run_id not in used]
            token = page.token
            if not token:
                break
        return sorted(unregistered)

    def size(self, run_id: str) -> int:
        """Return the bytes of the files of a run."""
        return size_of(self._models / run_id)

    def drop_run(self, run_id: str) -> None:
        """Remove a run that has no version, its files first.

        Where MLflow is a server, the run is deleted there and its own `mlflow gc` forgets it.
        """
        remove_tree(self._models / run_id)
        if self._forgets:
            # As `mlflow gc` does, which besides would look for files where MLflow lays them.
            self._client._tracking_client.store._hard_delete_run(run_id)
        elif self._client.get_run(run_id).info.lifecycle_stage == "active":
            self._client.delete_run(run_id)

    @property
    def _forgets(self) -> bool:
        """Whether runs can be removed permanently: in a database of our own, not on a server."""
        return hasattr(self._client._tracking_client.store, "_hard_delete_run")

    def _remove(self, version: ModelVersion | Registered) -> None:
        """Remove a version, files first. For `transition`: MLflow drops its aliases in silence."""
        remove_tree(self._models / version.run_id)
        self._client.delete_model_version(version.name, str(version.version))

    def _is_exposed(self, version: ModelVersion) -> bool:
        """Whether it contains values of students (rows, attributes) under another secret."""
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

        group = self._client.get_experiment_by_name(name)
        if group is not None:
            return str(group.experiment_id)
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

    def _read(self, stored: MlflowVersion) -> ModelVersion:
        run = self._client.get_run(str(stored.run_id))
        return _version(
            stored.name,
            int(stored.version),
            str(stored.run_id),
            stored.tags,
            run.data.metrics,
            run.data.params,
        )


def _version(  # noqa: PLR0913, PLR0917 - what MLflow keeps of it in four tables
    name: str,
    version: int,
    run_id: str,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    parameters: Mapping[str, str],
) -> ModelVersion:
    return ModelVersion(
        name=name,
        version=version,
        run_id=run_id,
        manifest_sha256=tags["manifest_sha256"],
        metrics=dict(metrics),
        parameters=dict(parameters),
        features=tuple(json.loads(tags["features"])),
        data_version=tags["data_version"],
        code_version=tags["code_version"],
        trained_at=datetime.fromisoformat(tags["trained_at"]),
        secret=tags.get("secret"),
    )


def _registered(stored: MlflowVersion) -> Registered:
    at = datetime.fromtimestamp(stored.creation_timestamp / 1000, UTC)
    return Registered(stored.name, int(stored.version), str(stored.run_id), at)
