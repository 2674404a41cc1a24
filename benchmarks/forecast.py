"""Forecasts of remaining scores on OULAD and of peers, their speed, and how they scale.

Usage: `python benchmarks/forecast.py [--oulad DIR] [--peer-students 1500] [--sizes 10000,100000]`.
Fits on 2013B and 2013J and forecasts every remaining score of 2014B at its cuts. The naive
forecasts, AutoARIMA, AutoTheta and AutoETS do the same for some of the students, in the same run.
Then the largest term is forecast in a process of its own, and copies of a simulated campus. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from prophet import Prophet
from statsforecast.models import AutoARIMA, AutoETS, AutoTheta
from statsmodels.tsa.arima.model import ARIMA

from grade_ml.campus import simulated
from grade_ml.core.process import peak_megabytes
from grade_ml.features.sequences import score_sequences
from grade_ml.features.snapshots import fraction_cuts, grade_snapshots, weekly_cuts
from grade_ml.forecasting.contract import Counts, Panel
from grade_ml.forecasting.panels import panels, thinned
from grade_ml.forecasting.trajectory import Trajectory, fit
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml.gradebook.outcomes import outcomes
from grade_ml.training.backtest import without_terms
from grade_ml.training.forecast_backtest import ForecastReport, backtest_forecasts, training_panels
from out_of_time import CUTS, OULAD, read_oulad, say
from quoted import QUOTED_FORECASTS

TRAIN, TEST = ["2013B", "2013J"], ["2014B"]
ATTRIBUTES = (
    *(f"protected_{name}" for name in ("gender", "age_band", "disability", "imd_band")),
    "attribute_highest_education",
)
NIGHT = datetime(2026, 11, 24, 3, tzinfo=UTC)
TODAY = date(2026, 11, 24)
#: Points and horizon of the series on which one-at-a-time methods are timed.
POINTS, AHEAD = 30, 8


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oulad", type=Path, default=OULAD)
    parser.add_argument("--peer-students", type=int, default=1500)
    parser.add_argument("--sizes", default="10000,100000")
    arguments = parser.parse_args()
    gradebook = read_oulad(arguments.oulad)
    report = backtest_forecasts(
        without_terms(gradebook, TEST),
        gradebook,
        TRAIN,
        TEST,
        fractions=CUTS,
        attributes=ATTRIBUTES,
        on_progress=say,
    )
    say(json.dumps(report.to_dict()))
    figures: dict[str, Any] = {
        **report.to_dict(),
        "quoted_peers": QUOTED_FORECASTS,
        "train_s": report.train_seconds,
        "weights": report.model.combination.table.to_dict("records"),
        **_early_warning(gradebook, report),
    }
    say("Peers")
    figures["peers"] = _peers(gradebook, report.rows, arguments.peer_students)
    say("Throughput")
    figures["series_per_s"] = _throughput(gradebook, report.model)
    with tempfile.TemporaryDirectory() as folder:
        report.model.save(Path(folder))
        context = multiprocessing.get_context("spawn")
        with context.Pool(1, maxtasksperchild=1) as pool:
            say("The largest term")
            figures |= pool.apply(_largest_term, (gradebook, folder))
            figures["scaling"] = [
                pool.apply(_scale, (int(size),)) for size in arguments.sizes.split(",") if size
            ]
    print(json.dumps(figures))


def _end(gradebook: Gradebook) -> date:
    return (gradebook.sections["ends_on"].max() + pd.Timedelta(days=1)).date()


def _at_cuts(
    gradebook: Gradebook, terms: list[str], fractions: tuple[float, ...]
) -> tuple[list[Panel], pd.DataFrame]:
    cuts = fraction_cuts(gradebook.sections[gradebook.sections["term_id"].isin(terms)], fractions)
    snapshots = grade_snapshots(gradebook, cuts, _end(gradebook))
    sequences = score_sequences(gradebook, snapshots["course_id"].astype(object).unique(), DEFAULTS)
    return list(panels(sequences, snapshots, truth_on=_end(gradebook))), snapshots


def _early_warning(gradebook: Gradebook, report: ForecastReport) -> dict[str, Any]:
    """Return how many of those with the lowest tenth of forecast grades at 25% ended at risk."""
    tested, snapshots = _at_cuts(gradebook, TEST, CUTS[:1])
    predicted = report.model.forecast(tested, snapshots, _end(gradebook)).forecasts
    keys = ["section_id", "student_id"]
    to_come = (
        (predicted["weight"] * predicted["mean"] / 100)
        .groupby([predicted[key] for key in keys])
        .sum()
    )
    rows = snapshots.astype(dict.fromkeys(keys, object)).merge(
        outcomes(gradebook, _end(gradebook), DEFAULTS).astype(dict.fromkeys(keys, object)),
        on=keys,
    )
    expected = (
        rows["grade_if_nothing_more"].fillna(0).to_numpy()
        + to_come.reindex(pd.MultiIndex.from_frame(rows[keys])).fillna(0).to_numpy()
    )
    at_risk = rows["at_risk"].to_numpy(bool)
    number = len(rows) // 10

    def precision(score: np.ndarray) -> float:
        return round(float(at_risk[np.argsort(score, kind="stable")[:number]].mean()), 4)

    rate = rows["grade_rate_so_far"].fillna(rows["grade_rate_so_far"].mean())
    return {
        "top10_risk_precision": precision(expected),
        "base_rate": round(float(at_risk.mean()), 4),
        "top10_peers": {
            "points so far": precision(rate.to_numpy()),
            "share missed": precision(-rows["missed_share"].fillna(0).to_numpy()),
        },
    }


def _peers(gradebook: Gradebook, ours: pd.DataFrame, students: int) -> dict[str, Any]:
    """Return MAE and RMSE of peers and of ours on the rows of the same students."""
    random = np.random.default_rng(0)
    names = np.unique(ours["student_id"].to_numpy(str))
    chosen = set(random.permutation(names)[:students])
    ours = ours[ours["student_id"].isin(chosen)].reset_index(drop=True)
    tested, _ = _at_cuts(gradebook, TEST, CUTS)
    history = {}
    for panel in tested:
        # As in the protocol: work that was due by the cut, scored like the truth.
        past = panel.truth[:, panel.past]
        for student, scores in zip(panel.students, past, strict=True):
            history[panel.section_id, panel.day, student] = scores[~np.isnan(scores)]
    keys = list(zip(ours["section_id"], ours["cut_day"], ours["student_id"], strict=True))
    longest = int(ours["horizon"].max())
    figures = {"ours": _errors(ours, ours["mean"].to_numpy(), ours["median"].to_numpy())}
    for name, method in _one_series_at_a_time().items():
        started = time.perf_counter()
        distinct = {tuple(history[key]): history[key] for key in set(keys)}
        answers = {known: method(series, longest) for known, series in distinct.items()}
        took = time.perf_counter() - started
        point = np.array(
            [
                answers[tuple(history[key])][h - 1]
                for key, h in zip(keys, ours["horizon"], strict=True)
            ]
        )
        figures[name] = _errors(ours, point, point) | {
            "seconds": round(took, 1),
            "series": len(distinct),
        }
        say(f"{name}: {figures[name]['all']}, {took:.0f} s")
    return figures


def _errors(rows: pd.DataFrame, mean: np.ndarray, median: np.ndarray) -> dict[str, Any]:
    truth = rows["truth"].to_numpy()
    groups = {"all": np.ones(len(rows), bool), "h1": (rows["horizon"] == 1).to_numpy()}
    groups |= {f"{cut:g}": (rows["fraction"] == cut).to_numpy() for cut in CUTS}
    return {
        name: {
            "mae": round(float(np.abs(median - truth)[group].mean()), 2),
            "rmse": round(float(np.sqrt(((mean - truth) ** 2)[group].mean())), 2),
        }
        for name, group in groups.items()
    }


Method = Callable[[np.ndarray, int], np.ndarray]


def _one_series_at_a_time() -> dict[str, Method]:
    def last(series: np.ndarray, ahead: int) -> np.ndarray:
        return np.full(ahead, series[-1] if len(series) else 50.0)

    def mean(series: np.ndarray, ahead: int) -> np.ndarray:
        return np.full(ahead, series.mean() if len(series) else 50.0)

    def of(model: Any) -> Method:
        def forecast(series: np.ndarray, ahead: int) -> np.ndarray:
            if len(series) < 4:
                return mean(series, ahead)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    predicted = model.forecast(y=series, h=ahead)["mean"]
                except NotImplementedError:  # AutoETS, of series that are too short for it
                    return mean(series, ahead)
            return np.where(np.isfinite(predicted), np.clip(predicted, 0, 100), series.mean())

        return forecast

    return {
        "last score": last,
        "mean so far": mean,
        "AutoARIMA": of(AutoARIMA(season_length=1)),
        "AutoTheta": of(AutoTheta(season_length=1)),
        "AutoETS": of(AutoETS(season_length=1)),
    }


def _throughput(gradebook: Gradebook, model: Trajectory) -> dict[str, float]:
    """Return series per second: of our forecasters on students of 2014B, of peers on long ones."""
    tested = thinned(_at_cuts(gradebook, TEST, (0.5,))[0], 20_000, seed=0)
    number = sum(panel.shape[0] for panel in tested)
    speeds = {}
    for method, forecaster in model.forecasters.items():
        forecaster.forecast(tested, Counts())
        speed = sorted(
            _seconds(lambda candidate=forecaster: candidate.forecast(tested, Counts()), 3)
        )
        speeds[str(method)] = round(number / speed[1], 1)
    random = np.random.default_rng(0)
    series = np.clip(random.normal(65, 20, (40, POINTS)), 0, 100)
    speeds["peer: statsmodels ARIMA(1,1,1)"] = _loop(_statsmodels, series)
    speeds["peer: Prophet"] = _loop(_prophet, series[:12])
    peers = _one_series_at_a_time()
    speeds |= {
        f"peer: {name}": _loop(peers[name], series)
        for name in ("AutoARIMA", "AutoTheta", "AutoETS")
    }
    return speeds


def _loop(method: Method, series: np.ndarray) -> float:
    method(series[0], AHEAD)
    seconds = sorted(_seconds(lambda: [method(row, AHEAD) for row in series], 3))
    return round(len(series) / seconds[1], 1)


def _seconds(work: Callable[[], object], times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds


def _statsmodels(series: np.ndarray, ahead: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(ARIMA(series, order=(1, 1, 1)).fit().forecast(ahead))


def _prophet(series: np.ndarray, ahead: int) -> np.ndarray:
    logging.getLogger("cmdstanpy").disabled = True
    days = pd.date_range("2014-02-01", periods=len(series) + ahead, freq="W")
    model = Prophet(uncertainty_samples=100)
    model.fit(pd.DataFrame({"ds": days[: len(series)], "y": series}))
    return np.asarray(model.predict(pd.DataFrame({"ds": days[len(series) :]}))["yhat"])


def _largest_term(gradebook: Gradebook, folder: str) -> dict[str, Any]:
    """Return time and memory to forecast all enrollments of the largest term in its middle."""
    sections = gradebook.enrollments.merge(gradebook.sections, on="section_id")
    term = str(sections["term_id"].value_counts().index[0])
    started = time.perf_counter()
    model = Trajectory.load(Path(folder))
    own = gradebook.sections[gradebook.sections["term_id"] == term]
    middle = (own["starts_on"].min() + (own["ends_on"] - own["starts_on"]).max() / 2).floor("D")
    cuts = weekly_cuts(own, middle.date())
    snapshots = grade_snapshots(gradebook, cuts, middle.date())
    today = snapshots[snapshots["cut_on"] > middle - pd.Timedelta(days=7)]
    newest = today.groupby("section_id", observed=True)["cut_on"].transform("max")
    sequences = score_sequences(gradebook, own["course_id"].unique(), DEFAULTS)
    batches = list(panels(sequences, today[today["cut_on"] == newest]))
    counts = Counts()
    model.answers(batches, counts, everyone=True)
    result = model.forecast(batches, snapshots, middle.date())
    return {
        "term": term,
        "term_enrolments": int(sum(panel.shape[0] for panel in batches)),
        "term_forecasts": len(result.forecasts),
        "term_s": round(time.perf_counter() - started, 1),
        "term_peak_mb": round(peak_megabytes()),
        "term_network_mb": round(_children_megabytes()),
        "term_fallbacks": counts.of,
    }


def _children_megabytes() -> float:
    """Return the memory of the network's process, which still runs."""
    return sum(process.memory_info().rss for process in psutil.Process().children()) / 2**20


def _scale(size: int) -> dict[str, Any]:
    """Return time and memory to forecast copies of a simulated campus of `size` enrollments."""
    config = simulated.CampusConfig(students=2000, courses=20, terms=4)
    gradebook = simulated.gradebook(config, TODAY)
    snapshots = grade_snapshots(gradebook, weekly_cuts(gradebook.sections, TODAY), TODAY)
    sequences = score_sequences(gradebook, gradebook.courses["course_id"], DEFAULTS)
    ended = gradebook.sections.loc[
        gradebook.sections["ends_on"] < pd.Timestamp(TODAY), "term_id"
    ].unique()
    model = fit(
        *training_panels(without_terms(gradebook, _others(gradebook, ended)), ended), seed=0
    ).model
    batches = list(panels(sequences, snapshots[snapshots["cut_on"] == pd.Timestamp(TODAY)]))
    own = sum(panel.shape[0] for panel in batches)
    copies = -(-size // own)
    copied = [
        replace(panel, section_id=f"{panel.section_id}-{k}")
        for k in range(copies)
        for panel in batches
    ]
    del sequences, gradebook
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    result = model.forecast(copied, snapshots.head(0), TODAY)
    return {
        "enrolments": own * copies,
        "forecasts": len(result.forecasts),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mb": round(peak_megabytes()),
        "peak_before_mb": round(before / 1024),
    }


def _others(gradebook: Gradebook, terms: np.ndarray) -> list[str]:
    return [term for term in gradebook.sections["term_id"].unique() if term not in set(terms)]


if __name__ == "__main__":
    main()
