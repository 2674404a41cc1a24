"""Explanations of the full stack on OULAD: additivity, speed, faithfulness, reachable goals.

Usage: `python benchmarks/explain.py [--oulad DIR] [--rows 10000] [--model DIR] [--only PART,…]`.
The ensemble is fitted on 2013B and 2013J with its default parameters (or read from `--model`, where
it is kept), and explains weekly rows of 2014B, which it has not seen, in a process of its own. The
peer is shap's own route for any model, its permutation explainer. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import shap
from ensemble import TEST, TRAIN
from lime.lime_tabular import LimeTabularExplainer
from whatif import whatif

from grade_ml.core.process import peak_megabytes
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.ensemble import pooled
from grade_ml.ensemble.members import Task
from grade_ml.ensemble.members.xgboost import XGBoost
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.ensemble.rows import join
from grade_ml.explanations.attribution import explain
from grade_ml.features.snapshots import grade_snapshots, weekly_cuts
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml.gradebook.outcomes import outcomes
from grade_ml.training.backtest import without_terms
from out_of_time import OULAD, read_oulad

Floats = npt.NDArray[np.float64]

#: Features deleted one after the other, and the rows of which they are.
DELETED, FAITHFUL_ROWS, LIME_ROWS = 20, 2000, 100
#: Rows that are explained at once where milliseconds a row are counted.
BLOCK = 1000
#: Rows that the peer explains, and its background: shap's own default is one hundred rows.
PEER_ROWS, PEER_BACKGROUND = 5, 100


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oulad", type=Path, default=OULAD)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--model", type=Path, help="folder that stores the fitted ensemble")
    parser.add_argument("--only", default=",".join(PARTS))
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.model or Path(name)
        if not (folder / "rows.parquet").exists():
            prepare(arguments.oulad, arguments.rows, folder)
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for part in arguments.only.split(","):
                _say(part)
                given = (arguments.oulad, folder) if part == "whatif" else (folder,)
                figures |= pool.apply(PARTS[part], given)
    print(json.dumps(figures))


def prepare(oulad: Path, rows: int, folder: Path) -> None:
    """Fit the ensemble and store it with the rows to explain."""
    _say("Fitting the ensemble")
    gradebook = read_oulad(oulad)
    end = (gradebook.sections["ends_on"].max() + pd.Timedelta(days=1)).date()
    known = without_terms(gradebook, TEST)
    train = known.sections[known.sections["term_id"].isin(TRAIN)]
    snapshots = grade_snapshots(known, weekly_cuts(train, end), end)
    model = pooled.fit(
        snapshots, outcomes(known, end, DEFAULTS), 0, Pseudonyms(b"benchmark"), on_progress=_say
    )
    model.save(folder / "model")
    test = gradebook.sections[gradebook.sections["term_id"].isin(TEST)]
    unseen = grade_snapshots(gradebook, weekly_cuts(test, end), end)
    sample = join(unseen.sample(rows, random_state=0), outcomes(gradebook, end, DEFAULTS))
    sample.to_parquet(folder / "rows.parquet")
    numbers = snapshots.select_dtypes("number").mean().to_frame().T
    numbers.to_parquet(folder / "average.parquet")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _read(folder: Path) -> tuple[PooledModel, pd.DataFrame]:
    return PooledModel.load(folder / "model"), pd.read_parquet(folder / "rows.parquet")


def speed(folder: Path) -> dict[str, Any]:
    """Return seconds for all rows, milliseconds a row, and the largest gaps of sums."""
    model, rows = _read(folder)
    explain(model, rows.head(10))
    durations, explanations = [], None
    for _ in range(3):
        started = time.perf_counter()
        explanations = explain(model, rows)
        durations.append(time.perf_counter() - started)
    assert explanations is not None
    blocks = [
        1000 * _seconds(model, rows.iloc[first : first + BLOCK]) / BLOCK
        for first in range(0, len(rows) - BLOCK + 1, BLOCK // 2)
    ]
    single = [1000 * _seconds(model, rows.iloc[[place]]) for place in range(60)]
    return {
        "rows": len(rows),
        "members": {str(task): list(part.members) for task, part in model.parts.items()},
        "additivity_max": float(explanations.grade.error.max()),
        "additivity_risk_max": float(explanations.risk.error.max()),
        "additivity_share": float((explanations.grade.error <= 1e-3).mean()),
        "rows_10k_s": round(float(np.median(durations)) * 10_000 / len(rows), 1),
        "row_p95_ms": round(float(np.quantile(blocks, 0.95)), 2),
        "single_p95_ms": round(float(np.quantile(single[10:], 0.95)), 1),
        "peak_mb": round(peak_megabytes()),
    }


def _seconds(model: PooledModel, rows: pd.DataFrame) -> float:
    started = time.perf_counter()
    explain(model, rows)
    return time.perf_counter() - started


def members(folder: Path) -> dict[str, Any]:
    """Return the seconds of each member for a thousand rows."""
    model, rows = _read(folder)
    sample, seconds = rows.head(1000), {}
    for task, part in model.parts.items():
        for name, member in part.members.items():
            matrix = part.encoders[member.view(task)].transform(sample)
            member.contributions(matrix[:5])
            started = time.perf_counter()
            member.contributions(matrix)
            seconds[f"{task} {name}"] = round(time.perf_counter() - started, 2)
    return {"member_1k_s": seconds}


def generic(folder: Path) -> dict[str, Any]:
    """Return how many times as long shap's permutation explainer takes for one row's grade."""
    model, rows = _read(folder)
    features = [name for name in model.features if pd.api.types.is_numeric_dtype(rows[name])]
    fixed = rows.iloc[0]

    def predict(values: Floats) -> Floats:
        frame = pd.DataFrame(values, columns=features).astype("float32")
        others = {name: fixed[name] for name in rows.columns if name not in features}
        return model.predict(frame.assign(**others))["grade"].to_numpy(np.float64)

    table = rows[features].to_numpy(np.float64)
    background = table[-PEER_BACKGROUND:]
    explainer = shap.PermutationExplainer(predict, background)
    started = time.perf_counter()
    explainer(table[:PEER_ROWS], max_evals=2 * len(features) + 1, silent=True)
    theirs = (time.perf_counter() - started) / PEER_ROWS
    # Ours explains the risk as well.
    ours = float(np.median([_seconds(model, rows.head(1000)) for _ in range(3)])) / 1000
    return {
        "shap_generic_row_s": round(theirs, 2),
        "shap_generic_ratio": round(theirs / ours, 1),
    }


def faithfulness(folder: Path) -> dict[str, Any]:
    """Return the mean R² of the grade while features are deleted in some order; less is better.

    A deleted feature has the value of the average training row. Orders are those of each row's
    contributions, of the weights of its LIME (on fewer rows, beside SHAP on the same), of the gain
    in XGBoost (the same for all rows), and five random features.
    """
    model, unseen = _read(folder)
    average = pd.read_parquet(folder / "average.parquet").iloc[0]
    rows = unseen[unseen["final_grade"].notna()].head(FAITHFUL_ROWS).reset_index(drop=True)
    explanations = explain(model, rows)
    names = [name for name in explanations.features if name in average.index and name in rows]
    places = [explanations.features.index(name) for name in names]
    shap_order = np.argsort(
        -np.abs(explanations.grade.contributions[:, places]), axis=1, kind="stable"
    )
    area = _area(model, rows, names, average)
    gains = _gains(model)
    by_gain = np.argsort([-gains.get(name, 0.0) for name in names], kind="stable")
    randoms = [area(np.random.default_rng(seed).permuted(shap_order, axis=1)) for seed in range(5)]
    few = slice(0, LIME_ROWS)
    lime_order = _lime_order(model, rows.iloc[few], names, average)
    little = _area(model, rows.iloc[few].reset_index(drop=True), names, average)
    return {
        "faithfulness": {
            "shap": round(area(shap_order), 3),
            "lime": round(little(lime_order), 3),
            "shap_on_lime_rows": round(little(shap_order[few]), 3),
            "gain": round(area(np.tile(by_gain, (len(rows), 1))), 3),
            "random": round(float(np.mean(randoms)), 3),
        }
    }


def _gains(model: PooledModel) -> dict[str, float]:
    """Return the gain of each feature in the grade's XGBoost."""
    part = model.parts[Task.GRADE]
    member = part.members[XGBoost.name]
    assert isinstance(member, XGBoost), "the grade of this model has no XGBoost"
    features = part.encoders[member.view(Task.GRADE)].features
    gains = member.booster.get_score(importance_type="gain")
    return {features[int(name.removeprefix("f"))]: gain for name, gain in gains.items()}


def _area(
    model: PooledModel, rows: pd.DataFrame, names: list[str], average: pd.Series
) -> Callable[[npt.NDArray[np.intp]], float]:
    truth = rows["final_grade"].to_numpy(np.float64)
    usual = average[names].to_numpy(np.float32)

    def area(order: npt.NDArray[np.intp]) -> float:
        values = rows[names].to_numpy(np.float32, na_value=np.nan)
        fits = []
        for step in range(DELETED + 1):
            if step:
                replaced = order[:, step - 1]
                values[np.arange(len(rows)), replaced] = usual[replaced]
            frame = rows.assign(**dict(zip(names, values.T, strict=True)))
            error = model.predict(frame)["grade"].to_numpy(np.float64) - truth
            fits.append(1 - np.mean(error**2) / truth.var())
        return float(np.mean(fits))

    return area


def _lime_order(
    model: PooledModel, rows: pd.DataFrame, names: list[str], average: pd.Series
) -> npt.NDArray[np.intp]:
    usual = average[names].to_numpy(np.float64)
    table = rows[names].to_numpy(np.float64, na_value=np.nan)
    table = np.where(np.isnan(table), usual, table)
    orders = []
    for place in range(len(rows)):
        others = rows.iloc[[place]].drop(columns=names)

        def predict(values: Floats, beside: pd.DataFrame = others) -> Floats:
            frame = pd.DataFrame(values, columns=names).astype("float32")
            fixed = {name: beside[name].iloc[0] for name in beside}
            return model.predict(frame.assign(**fixed))["grade"].to_numpy(np.float64)

        explainer = LimeTabularExplainer(
            table, mode="regression", discretize_continuous=False, random_state=0
        )
        explanation = explainer.explain_instance(
            table[place], predict, num_features=len(names), num_samples=1000
        )
        weights = dict(next(iter(explanation.local_exp.values())))
        sizes = [abs(weights.get(number, 0.0)) for number in range(len(names))]
        orders.append(np.argsort(-np.array(sizes), kind="stable"))
    return np.array(orders)


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "speed": speed,
    "members": members,
    "generic": generic,
    "faithfulness": faithfulness,
    "whatif": whatif,
}

if __name__ == "__main__":
    main()
