"""What benchmarks out of time share: OULAD's gradebook, rows at the cuts, peers, and figures."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grade_ml.ensemble.evaluation import cut_table
from grade_ml.ensemble.rows import join
from grade_ml.features.snapshots import fraction_cuts, grade_snapshots
from grade_ml.gradebook import frames, oulad
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml.gradebook.loading import load
from grade_ml.gradebook.outcomes import outcomes
from grade_ml.training.backtest import without_terms
from installation import temporary_installation

OULAD = Path(__file__).resolve().parents[2] / "shared" / "data" / "oulad"
CUTS = (0.25, 0.5, 0.75)
PEERS = Path(__file__).resolve().parent / "peers"
#: No peer reads them.
KEYS = frozenset({"section_id", "student_id", "cut_on"})


def say(message: str) -> None:
    """Report progress."""
    print(f"{datetime.now(UTC):%H:%M:%S} {message}", file=sys.stderr, flush=True)


def read_oulad(folder: Path) -> Gradebook:
    """Return OULAD as the project's loader reads it."""
    with temporary_installation() as (_, engine):
        load(engine, oulad.bundle(folder), loaded_at=datetime.now(UTC))
        with engine.connect() as connection:
            return frames.read(connection)


@dataclass(frozen=True)
class Table:
    """The rows at the cuts, from which peers learn and which they predict.

    Attributes
    ----------
    train, test
        Snapshots of enrollments whose outcome is known, with final_grade and at_risk.
    snapshots, truth
        All snapshots of the test terms, and all outcomes.
    cuts
        Of the test terms: section_id, cut_day and fraction.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    snapshots: pd.DataFrame
    truth: pd.DataFrame
    cuts: pd.DataFrame

    @classmethod
    def of(cls, gradebook: Gradebook, train: Sequence[str], test: Sequence[str]) -> Table:
        """Compute the rows; those of the terms `train` know nothing of the terms `test`."""
        end = (gradebook.sections["ends_on"].max() + pd.Timedelta(days=1)).date()
        known = without_terms(gradebook, test)
        rows, cuts = [], pd.DataFrame()
        for book, terms in ((known, train), (gradebook, test)):
            cuts = fraction_cuts(book.sections[book.sections["term_id"].isin(terms)], CUTS)
            rows.append(grade_snapshots(book, cuts, end))
        truth = outcomes(gradebook, end, DEFAULTS)
        learned = join(rows[0], outcomes(known, end, DEFAULTS))
        return cls(learned, join(rows[1], truth), rows[1], truth, cuts)

    def peer(
        self,
        python: Path,
        kind: str,
        seconds: int,
        columns: Collection[str],
        targets: Sequence[str] = ("final_grade", "at_risk"),
    ) -> dict[str, Any]:
        """Return a peer's figures at the cuts, and the seconds it took for each target."""
        say(f"{kind}, {seconds} s: {', '.join(targets)}")
        seen = [name for name in self.train if name in {*columns, "final_grade", "at_risk"}]
        predicted, took = {"final_grade": np.nan, "at_risk": np.nan}, {}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.train[seen].to_parquet(folder / "train")
            self.test[seen].to_parquet(folder / "test")
            for target in targets:
                files = [folder / part for part in ("train", "test", "out")]
                script = [python, PEERS / "automl.py", kind, *files, str(seconds), target]
                started = time.perf_counter()
                subprocess.run(script, check=True, stdout=sys.stderr)
                took[target] = round(time.perf_counter() - started, 1)
                predicted[target] = pd.read_parquet(folder / "out")["predicted"].to_numpy()
        grade = np.clip(predicted["final_grade"], 0, 100)
        rows = without_intervals(self.test).assign(grade=grade, risk=predicted["at_risk"])
        return {"seconds": took, **at_cuts(rows, self.cuts)}


def without_intervals(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a forecast that states no interval."""
    return rows.assign(**dict.fromkeys(("lower80", "upper80", "lower95", "upper95"), np.nan))


def at_cuts(rows: pd.DataFrame, cuts: pd.DataFrame) -> dict[str, Any]:
    """Return the figures of predictions (columns as for `evaluate`) by cut, and over all."""
    keys = ["section_id", "cut_day"]
    beside = rows.merge(cuts[[*keys, "fraction"]].astype({"section_id": "string"}), on=keys)
    groups = {f"{name:g}": group for name, group in beside.groupby("fraction")} | {"all": beside}
    return {name: cut_table(group).to_dict() for name, group in groups.items()}
