"""Risk periods on a term of OULAD that the model has not seen: precision, recall, lead time.

Usage: `python benchmarks/risk.py [--oulad DIR]`. Fits on 2013B and 2013J and predicts the risk of
each enrollment of 2014B at a quarter, a half and three quarters of its section. Prints, by cut and
in all, the figures of `risk_periods.Evaluation` and the calibration of both probabilities. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from forecast import TEST, TRAIN, _at_cuts

from grade_ml.early_warning.grade_paths import (
    KEY,
    PathModel,
    grade_paths,
    standing,
    true_paths,
    truths,
)
from grade_ml.early_warning.risk_model import RiskModel
from grade_ml.early_warning.risk_periods import evaluate
from grade_ml.forecasting.contract import Panel
from grade_ml.forecasting.panels import day_of
from grade_ml.forecasting.trajectory import fit
from grade_ml.training.backtest import without_terms
from grade_ml.training.forecast_backtest import training_panels
from out_of_time import CUTS, OULAD, read_oulad, say


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oulad", type=Path, default=OULAD)
    gradebook = read_oulad(parser.parse_args().oulad)
    known = training_panels(without_terms(gradebook, TEST), TRAIN)
    fitted = fit(*known, seed=0, on_progress=say)
    model, risk = fitted.model, RiskModel.fit(fitted.forecasts, fitted.panels)
    figures: dict[str, Any] = {
        "on_2013J": [_rounded(evaluation) for evaluation in risk.evaluation],
        "dependence": risk.paths.dependence,
        "curves": {name: asdict(getattr(risk.paths, name)) for name in CHANCES},
        "degraded": [*model.degraded, *risk.degraded],
    }
    parts = []
    for cut in CUTS:
        tested, snapshots = _at_cuts(gradebook, TEST, (cut,))
        forecasts = pd.concat(
            [
                model.forecast([panel], snapshots.head(0), day_of(panel)).forecasts
                for panel in tested
            ]
        )
        parts.append((f"{cut:g}", tested, forecasts))
        figures[f"{cut:g}"] = _figures(risk.paths, tested, forecasts)
        say(f"{cut:g}: {figures[f'{cut:g}']['groups'][0]}")
    panels = [panel for _, tested, _ in parts for panel in tested]
    figures["all"] = _figures(risk.paths, panels, pd.concat([frame for *_, frame in parts]))
    print(json.dumps(figures))


CHANCES = ("below_pass", "missed")


def _figures(model: PathModel, tested: Sequence[Panel], forecasts: pd.DataFrame) -> dict[str, Any]:
    state = standing(tested)
    started = time.perf_counter()
    paths = grade_paths(forecasts, state, model)
    seconds = time.perf_counter() - started
    happened = true_paths(forecasts, truths(tested), state)
    rows = paths.merge(happened, on=[*KEY, "week"])
    return {
        "groups": [_rounded(evaluation) for evaluation in evaluate(paths, happened)],
        "calibration": {
            name: _calibration(
                rows[f"{name}_probability"].to_numpy(), rows[name].to_numpy(np.float64)
            )
            for name in CHANCES
        },
        "paths": len(paths),
        "seconds": round(seconds, 2),
    }


def _calibration(chance: np.ndarray, happened: np.ndarray) -> dict[str, float]:
    """Return mean chance, share that happened, Brier score and ECE (15 bins of equal mass)."""
    bins = np.array_split(np.argsort(chance, kind="stable"), 15)
    gaps = [
        abs(chance[places].mean() - happened[places].mean()) * len(places)
        for places in bins
        if len(places)
    ]
    figures = {
        "mean": chance.mean(),
        "happened": happened.mean(),
        "brier": ((chance - happened) ** 2).mean(),
        "ece": sum(gaps) / len(chance),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def _rounded(evaluation: Any) -> dict[str, Any]:
    return {
        name: (None if math.isnan(value) else round(value, 4))
        if isinstance(value, float)
        else value
        for name, value in asdict(evaluation).items()
    }


if __name__ == "__main__":
    main()
