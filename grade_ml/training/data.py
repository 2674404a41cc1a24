"""What models learn from: outcomes of sections that have ended, and their stored snapshots."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Self

import pandas as pd
from sqlalchemy import Connection

from grade_ml.core.hashing import section_hashes
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.ensemble.rows import section_versions, versions_of
from grade_ml.features.attributes import as_declared
from grade_ml.features.store import Frames
from grade_ml.gradebook import frames
from grade_ml.gradebook.attributes import Declarations
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import Institution
from grade_ml.gradebook.outcomes import outcomes
from grade_ml.registry.workspace import Workspace
from grade_ml.training.settings import SETTINGS


@dataclass(frozen=True)
class TrainingData:
    """What models learn from.

    Attributes
    ----------
    results
        Outcomes of all sections that have ended, and of no other (see `finished`).
    versions
        Per section a text that changes with its snapshots or results.
    """

    results: pd.DataFrame
    versions: Mapping[str, str]
    _read: Callable[[], pd.DataFrame]

    @cached_property
    def snapshots(self) -> pd.DataFrame:
        """The snapshots of sections with outcomes; read on first use: most runs need none."""
        ended = self.results["section_id"].astype("string[pyarrow]").unique()
        stored = self._read()
        rows: pd.DataFrame = stored[stored["section_id"].astype("string[pyarrow]").isin(ended)]
        return rows

    @property
    def pass_marks(self) -> str:
        """The pass marks by which the outcomes were judged, points of 100, as text."""
        return ", ".join(f"{mark:g}" for mark in sorted(self.results["pass_mark"].unique()))

    @classmethod
    def of(cls, snapshots: pd.DataFrame, results: pd.DataFrame, pseudonyms: Pseudonyms) -> Self:
        """Return those of `snapshots` that have an outcome, beside it."""
        return cls(results, section_versions(snapshots, results, pseudonyms), lambda: snapshots)

    @classmethod
    def read(cls, workspace: Workspace) -> Self:
        """Return what is known on the day.

        Raises
        ------
        NotReadyError
            No snapshots have been computed.
        """
        results = finished_in(workspace.connection, workspace.as_of, workspace.institution)
        return cls.stored(workspace.frames, results, workspace.registry.declared, workspace.seed)

    @classmethod
    def stored(
        cls, stored: Frames, results: pd.DataFrame, declared: Declarations, seed: int = 0
    ) -> Self:
        """Return the stored snapshots of all courses, with the attributes that are `declared`.

        Of more than `max_snapshots` a part is drawn; the versions are those of all.

        Raises
        ------
        NotReadyError
            No snapshots have been computed.
        """
        hashes = dict(ChainMap(*stored.hashes(None).values()))

        def read() -> pd.DataFrame:
            snapshots = stored.snapshots(None, most=SETTINGS.max_snapshots, seed=seed)
            return as_declared(snapshots, declared)

        return cls(results, versions_of(hashes, section_hashes(results, stored.pseudonyms)), read)


def finished_in(connection: Connection, as_of: date, institution: Institution) -> pd.DataFrame:
    """Return the outcomes of the gradebook's sections that ended before `as_of`."""
    known = frames.read(connection, without={"activity", "student"})
    return finished(known, as_of, institution)


def finished(gradebook: Gradebook, as_of: date, institution: Institution) -> pd.DataFrame:
    """Return the outcomes of the sections that ended before `as_of`.

    Withdrawals from running sections are known too, but alone they are no evidence: students who
    stay have no outcome yet.
    """
    known = outcomes(gradebook, as_of, institution)
    sections = gradebook.sections
    ended = sections.loc[sections["ends_on"] < pd.Timestamp(as_of), "section_id"]
    rows: pd.DataFrame = known[known["section_id"].astype("string[pyarrow]").isin(ended)]
    return rows
