"""How fast, frugal and small collecting external data is, and what each source tells of grades.

Usage: `python benchmarks/external.py [--students 600] [--oulad DIR]`. The eight sources are asked
for 365 days on an embedded PostgreSQL of their own, once with an empty cache and once more right
after. The providers are those of the simulated campus, in a process of their own, so that the
figures are the collector's.

`gain` is how much the baseline's error (RMSE of the final grade, per cent; negative is better) on
the last term that ended changes when it also sees what was known of a source at each cut, `range`
where 95 % of resampled students put it. Heat, events and mood act on the simulated campus's grades;
economy, jobs and page views do not. For OULAD, whose surroundings no simulated provider knows,
there is only the difficulty of its courses. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import atexit
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import Engine

from grade_ml.core import database
from grade_ml.core.settings import Settings
from grade_ml.ensemble import baseline
from grade_ml.ensemble.backtest import without_terms
from grade_ml.external import features
from grade_ml.external.catalog import facts, sources
from grade_ml.external.client import Client
from grade_ml.external.collect import collect
from grade_ml.external.course_difficulty import CourseDifficulty, Records
from grade_ml.external.protocol import COURSE_PLACE, Window
from grade_ml.external.settings import ExternalSettings
from grade_ml.features.snapshots import fraction_cuts, grade_snapshots
from grade_ml.gradebook import frames, oulad, simulated
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.loading import load
from grade_ml.gradebook.outcomes import outcomes
from grade_ml.gradebook.simulated import CampusConfig
from grade_ml.providers.server import serve

TODAY = date(2026, 11, 24)
NOW = datetime(2026, 11, 24, 18, tzinfo=UTC)
YEAR = Window(TODAY - timedelta(days=364), TODAY)


TRAINING_FRACTIONS = tuple(np.arange(0.05, 1, 0.1).round(2).tolist())
FRACTIONS = (0.25, 0.5, 0.75)
RESAMPLES = 1000


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--students", type=int, default=600)
    parser.add_argument("--oulad", type=Path, help="the folder of the Open University's files")
    arguments = parser.parse_args()
    campus = CampusConfig(students=arguments.students)
    gradebook = simulated.gradebook(campus, TODAY)
    with _database() as engine, _providers(campus) as url:
        external = ExternalSettings(_env_file=None, providers_url=url)
        year = _collect(engine, external, gradebook, YEAR)
        again = _collect(engine, external, gradebook, YEAR)
        figures = {
            "year_s": year["seconds"],
            "requests": year["requests"],
            "cached_s": again["seconds"],
            "cached_requests": again["requests"],
            "peak_mb": round(_peak_mb()),
        }
        terms = sorted(gradebook.sections["term_id"].unique())
        # The last one still runs.
        gain = _gains(engine, external, gradebook, terms[:-2], terms[-2])
    figures |= {"gain": {name: one["rmse_change"] for name, one in gain.items()}, "range": gain}
    if arguments.oulad:
        figures["oulad"] = _oulad(arguments.oulad)
    print(json.dumps(figures))


def _collect(
    engine: Engine, external: ExternalSettings, gradebook: Gradebook, window: Window
) -> dict[str, Any]:
    """Collect days and describe them; return the seconds and the requests."""
    records = Records(
        gradebook.sections, gradebook.enrollments, gradebook.assignments, gradebook.results
    )
    start = time.perf_counter()
    with Client(engine, NOW) as client:
        done = collect(engine, client, sources(external, records), window, external.place)
    with engine.begin() as connection:
        features.refresh(connection, facts(external), window, external.place, NOW)
    seconds = time.perf_counter() - start
    for one in done.values():
        print(f"{one.source}: {one.rows_new} rows, {one.requests} requests, {one.problem}")
    return {"seconds": round(seconds, 2), "requests": sum(one.requests for one in done.values())}


def _gains(
    engine: Engine,
    external: ExternalSettings,
    gradebook: Gradebook,
    train: Sequence[str],
    test: str,
) -> dict[str, dict[str, Any]]:
    """Return for each source how the error changes if the baseline sees it."""
    first = gradebook.sections["starts_on"].min().date()
    days = Window(first, TODAY)
    _collect(engine, external, gradebook, days)
    with engine.connect() as connection:
        wide = features.read_wide(connection, days)
    names = {
        about.name: [f"{about.name}_{series.name}" for series in about.series]
        for about in facts(external)
    }
    return _ablate(gradebook, train, test, wide, names)


def _ablate(
    gradebook: Gradebook,
    train: Sequence[str],
    test: str,
    wide: pd.DataFrame,
    names: Mapping[str, list[str]],
) -> dict[str, dict[str, Any]]:
    end = (gradebook.sections["ends_on"].max() + pd.Timedelta(days=1)).date()
    of_term = gradebook.sections["term_id"]
    known = without_terms(gradebook, [test])
    # A third of the weekly cuts that the baseline learns from: nine models in minutes.
    learned = fraction_cuts(gradebook.sections[of_term.isin(train)], TRAINING_FRACTIONS)
    chosen = fraction_cuts(gradebook.sections[of_term == test], FRACTIONS)
    seen = _beside(grade_snapshots(known, learned, end), wide)
    unseen = _beside(grade_snapshots(gradebook, chosen, end), wide)
    truth, ended = outcomes(known, end), outcomes(gradebook, end)
    every = [f"attribute_{name}" for columns in names.values() for name in columns]

    def errors(columns: Sequence[str]) -> pd.DataFrame:
        hidden = [name for name in every if name not in columns]
        model = baseline.fit(seen.drop(columns=hidden, errors="ignore"), truth, seed=0)
        rows = baseline.with_outcomes(model, unseen.drop(columns=hidden, errors="ignore"), ended)
        rows = rows.dropna(subset="final_grade")
        squared = (rows["grade"] - rows["final_grade"]) ** 2
        return squared.groupby(rows["student_id"].astype(str)).agg(["sum", "count"])

    without = errors([])
    found = {}
    for source, columns in names.items():
        present = [f"attribute_{name}" for name in columns if f"attribute_{name}" in seen]
        found[source] = _change(without, errors(present))
        print(source, found[source], flush=True)
    return found


def _beside(snapshots: pd.DataFrame, wide: pd.DataFrame) -> pd.DataFrame:
    """Return the snapshots with what was known on the day of each cut, as attributes."""
    values = wide[["day", "place"]].join(wide.select_dtypes("number").add_prefix("attribute_"))
    values["day"] = pd.to_datetime(values["day"]).astype("datetime64[ns]")
    values = values.loc[:, ~values.columns.str.endswith("_age_hours")]
    is_course = values["place"].str.startswith(COURSE_PLACE)
    joined = snapshots.assign(day=snapshots["cut_on"])
    joined["place"] = COURSE_PLACE + snapshots["course_id"].astype(str)
    for rows, keys in ((values[~is_course], ["day"]), (values[is_course], ["day", "place"])):
        known = rows.dropna(axis=1, how="all") if len(rows) else rows[["day", "place"]]
        known = known[[*keys, *known.columns.difference(["day", "place"])]]
        joined = joined.merge(known, on=keys, how="left")
    return joined.drop(columns=["day", "place"])


def _change(without: pd.DataFrame, with_it: pd.DataFrame) -> dict[str, Any]:
    """Return the change of the RMSE in per cent and its range over resampled students."""
    random = np.random.default_rng(0)
    draws = random.integers(0, len(without), (RESAMPLES, len(without)))
    before, after = (frame["sum"].to_numpy()[draws].sum(axis=1) for frame in (without, with_it))
    changes = 100 * (np.sqrt(after / before) - 1)
    low, high = np.quantile(changes, [0.025, 0.975])
    total = 100 * (np.sqrt(with_it["sum"].sum() / without["sum"].sum()) - 1)
    return {
        "rmse_change": round(float(total), 2),
        "range": [round(float(low), 2), round(float(high), 2)],
        "enters": bool(high < 0),
    }


def _oulad(folder: Path) -> dict[str, Any]:
    """Return the gain of the difficulty of courses on the Open University's data."""
    with _database() as engine:
        load(engine, oulad.bundle(folder), loaded_at=NOW)
        with engine.connect() as connection:
            gradebook = frames.read(connection)
        records = Records(
            gradebook.sections, gradebook.enrollments, gradebook.assignments, gradebook.results
        )
        source, place = CourseDifficulty(records), ExternalSettings(_env_file=None).place
        sections = gradebook.sections
        days = Window(sections["starts_on"].min().date(), sections["ends_on"].max().date())
        with Client(engine, NOW) as client:
            collect(engine, client, [source], days, place)
        with engine.begin() as connection:
            features.refresh(connection, [source.about], days, place, NOW)
            wide = features.read_wide(connection, days)
    names = {source.about.name: [f"course_difficulty_{one.name}" for one in source.about.series]}
    return _ablate(gradebook, ["2013B", "2013J"], "2014B", wide, names)


@contextmanager
def _database() -> Iterator[Engine]:
    home = Path(tempfile.mkdtemp(prefix="grade_ml_external_"))
    # Before the server's own end is registered, hence after it.
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    settings = Settings(_env_file=None, home=home)
    engine = database.connect(database.start(settings).grade_ml)
    database.migrate(engine)
    yield engine
    engine.dispose()


@contextmanager
def _providers(campus: CampusConfig) -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(campus, theirs), daemon=True)
    process.start()
    yield ours.recv()
    process.terminate()
    process.join()


def _serve(campus: CampusConfig, pipe: Pipe) -> None:
    with serve(campus, TODAY) as server:
        pipe.send(server.url)
        pipe.recv()


def _peak_mb() -> float:
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main()
