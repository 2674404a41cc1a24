"""All that risk needs from training terms, in one artifact.

Learned from forecasts whose outcome is known; the forecasts themselves are made elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pandas as pd

from grade_ml.core.degradation import expected
from grade_ml.core.errors import ArtifactError
from grade_ml.early_warning.anomalies import Reference, reference_of
from grade_ml.early_warning.grade_paths import (
    Curve,
    PathModel,
    grade_paths,
    standing,
    true_paths,
    truths,
)
from grade_ml.early_warning.risk_periods import Evaluation, evaluate
from grade_ml.forecasting.contract import Panel

_FILE = "risk.json"


@dataclass(frozen=True)
class RiskModel:
    """How paths are drawn and calibrated, what is usual, and how risk periods did.

    Attributes
    ----------
    reference
        How unusual ordinary cases were, by kind of anomaly.
    evaluation
        Figures on the newest training term by a path model of the terms before it; empty if
        there is one term only.
    degraded
        Why the chances are less than they could be; empty if they are not.
    """

    paths: PathModel = field(default_factory=PathModel)
    reference: Reference = field(default_factory=dict)
    evaluation: tuple[Evaluation, ...] = ()
    degraded: tuple[str, ...] = ()

    @classmethod
    def fit(cls, forecasts: pd.DataFrame, panels: Sequence[Panel]) -> Self:
        """Learn from held-out forecasts and the panels, with `truth`, that they are about.

        Parameters
        ----------
        forecasts
            `contract.FORECASTS`, made by models that had not seen these sections; as_of is the
            panel's day.
        """
        state, truth = standing(panels), truths(panels)
        fitted = cls(PathModel.fit(forecasts, truth, state), reference_of(panels, forecasts, truth))
        reasons = []
        if fitted.paths.uncalibrated:
            names = " and ".join(fitted.paths.uncalibrated)
            reasons.append(expected(f"too few ended sections to calibrate the chance of {names}"))
        newest = state["starts_on"] == state["starts_on"].max()
        if newest.all():
            unchecked = "one term has ended: risk periods were not checked on a later one"
            reasons.append(expected(unchecked))
            return replace(fitted, degraded=tuple(reasons))
        before, after = state[~newest], state[newest]
        sections = after["section_id"].unique()
        later = forecasts["section_id"].isin(sections)
        known = PathModel.fit(forecasts[~later], truth, before)
        return replace(
            fitted,
            evaluation=tuple(
                evaluate(
                    grade_paths(forecasts[later], after, known),
                    true_paths(forecasts[later], truth, after),
                )
            ),
            degraded=tuple(reasons),
        )

    def save(self, folder: Path) -> None:
        """Write to an existing folder; the same model gives the same bytes."""
        (folder / _FILE).write_text(json.dumps(asdict(self), sort_keys=True))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ArtifactError
            The folder holds no such model.
        """
        try:
            body: dict[str, Any] = json.loads((folder / _FILE).read_text())
        except (FileNotFoundError, json.JSONDecodeError) as error:
            raise ArtifactError(
                f"The trajectory model in {folder.name} has no model of risk: {error}.",
                "Run the job generate_time_series_forecasts; it trains a new one.",
            ) from error
        paths = body["paths"]
        curves = {name: Curve(**paths[name]) for name in ("below_pass", "missed")}
        return cls(
            PathModel(**{**paths, **curves}),
            body["reference"],
            tuple(Evaluation(**stored) for stored in body["evaluation"]),
            tuple(body["degraded"]),
        )
