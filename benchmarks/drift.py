"""How often drift is reported without and with drift; speed in comparison with a peer.

Usage: `python benchmarks/drift.py [--only PART,…] [--reports 1000] [--seeds 40]
[--monitored 100,1000]`. Each share comes with its Monte-Carlo standard error. `evidently_ratio`
makes an environment of its own from benchmarks/peers/evidently.txt. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ensemble import TODAY
from loop import loop
from monitor import courses
from streams import streams
from threadpoolctl import threadpool_limits

from grade_ml.core.process import peak_megabytes
from grade_ml.features.catalogue import NUMERIC_FEATURES
from grade_ml.features.snapshots import grade_snapshots
from grade_ml.monitoring import detect_drift
from out_of_time import read_oulad

HERE = Path(__file__).resolve().parent
OULAD = HERE.parents[1] / "shared" / "data" / "oulad"
FEATURES, REFERENCE = 25, 1000
#: Rows per student, and the share of the variance that lies between students.
ROWS, CORRELATION = 4, 0.6
#: Weeks of term, of which the same is compared in every course.
WEEKS = (2, 5, 10, 20)

Frames = tuple[pd.DataFrame, pd.DataFrame]


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--reports", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=40, help="of streams")
    parser.add_argument("--campuses", type=int, default=20, help="without a change")
    parser.add_argument("--changed", type=int, default=5, help="campuses with a change")
    parser.add_argument("--students", type=int, default=360)
    parser.add_argument("--courses", type=int, default=12)
    parser.add_argument("--monitored", default="100,1000", help="courses of a run")
    parser.add_argument("--oulad", type=Path, default=OULAD)
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    for part in arguments.only.split(","):
        print(part, file=sys.stderr, flush=True)
        figures |= PARTS[part](arguments)
    print(json.dumps(figures))


def false_alarm(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the share of reports that report drift if nothing differs."""
    draws: dict[str, tuple[Callable[[int], Frames], str | None]] = {
        **{f"n{size}": (partial(independent, size=size), None) for size in (60, 120, 300)},
        "clustered": (clustered, "student"),
    }
    shares_of = {
        name: shares(draw, arguments.reports, *rest) for name, (draw, *rest) in draws.items()
    }
    return {
        "false_alarm": {name: share["reports"] for name, share in shares_of.items()},
        "false_alarm_se": {name: share["reports_se"] for name, share in shares_of.items()},
        "false_alarm_together": {name: share["together"] for name, share in shares_of.items()},
    }


def oulad_split(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the same for halves of the students of 2013B and 2013J in the same week of term."""
    with tempfile.TemporaryDirectory() as folder:
        weeks = same_weeks(arguments.oulad)
        paths = []
        for number, week in enumerate(weeks):
            paths.append(Path(folder) / f"{number}.parquet")
            week.to_parquet(paths[-1])
        share = shares(partial(halves, paths=paths), arguments.reports, "student_id")
    return {"oulad_split": share["reports"], "oulad_split_se": share["reports_se"]}


def power(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how often 3 of 25 shifted features are detected: by the report, and each of them."""
    cases = {"d05_n60": (60, 0.5), "d03_n120": (120, 0.3), "d03_n300": (300, 0.3)}
    shares_of = {
        name: shares(partial(independent, size=size, shift=shift), arguments.reports)
        for name, (size, shift) in cases.items()
    }
    return {
        "power": {name: share["reports"] for name, share in shares_of.items()},
        "power_se": {name: share["reports_se"] for name, share in shares_of.items()},
        "power_by_feature": {name: share["shifted"] for name, share in shares_of.items()},
        "false_features": {name: share["others"] for name, share in shares_of.items()},
    }


def independent(seed: int, size: int, shift: float = 0.0) -> Frames:
    """Draw 25 normal features; the first three are shifted by `shift` standard deviations."""
    generator = np.random.default_rng((seed, size))
    moved = np.zeros(FEATURES)
    moved[:3] = shift
    names = [f"feature_{number}" for number in range(FEATURES)]
    return (
        pd.DataFrame(generator.normal(size=(REFERENCE, FEATURES)), columns=names),
        pd.DataFrame(generator.normal(moved, size=(size, FEATURES)), columns=names),
    )


def clustered(seed: int) -> Frames:
    """Draw 25 features of 15 students against 250, four rows of each that are alike."""
    generator = np.random.default_rng(seed)

    def window(students: int, name: str) -> pd.DataFrame:
        own = np.repeat(generator.normal(size=(students, FEATURES)), ROWS, axis=0)
        noise = generator.normal(size=own.shape)
        values = np.sqrt(CORRELATION) * own + np.sqrt(1 - CORRELATION) * noise
        frame = pd.DataFrame(values, columns=[f"feature_{n}" for n in range(FEATURES)])
        return frame.assign(student=[f"{name}{n}" for n in np.repeat(np.arange(students), ROWS)])

    return window(REFERENCE // ROWS, "r"), window(60 // ROWS, "c")


def same_weeks(folder: Path) -> list[pd.DataFrame]:
    """Return the snapshots of both terms of each course that has them, week by week."""
    gradebook = read_oulad(folder)
    terms = gradebook.sections["term_id"].isin(["2013B", "2013J"])
    sections = gradebook.sections[terms & gradebook.sections["course_id"].duplicated(keep=False)]
    cuts = pd.MultiIndex.from_product(
        [sections["section_id"], [7.0 * week for week in WEEKS]], names=["section_id", "cut_day"]
    ).to_frame(index=False)
    snapshots = grade_snapshots(gradebook, cuts, TODAY)
    both = snapshots.groupby("course_id", observed=True)["section_id"].transform("nunique") == 2
    attributes = [name for name in snapshots if name.startswith(("attribute_", "protected_"))]
    snapshots = snapshots[both][
        ["course_id", "cut_day", "student_id", *NUMERIC_FEATURES, *attributes]
    ]
    groups = snapshots.groupby(["course_id", "cut_day"], observed=True)
    return [
        week.drop(columns=["course_id", "cut_day"]).reset_index(drop=True) for _, week in groups
    ]


def halves(seed: int, paths: list[Path]) -> Frames:
    """Divide the students of one week into two halves at random."""
    week = pd.read_parquet(paths[seed % len(paths)])
    generator = np.random.default_rng(seed)
    students = week["student_id"].astype(str)
    names = np.unique(students)
    half = students.isin(generator.choice(names, len(names) // 2, replace=False))
    return week[half], week[~half]


def shares(
    draw: Callable[[int], Frames], reports: int, cluster: str | None = None
) -> dict[str, float]:
    """Return how many of `reports` detect drift, and features, with the standard error."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        rates = np.array(
            list(
                pool.map(
                    partial(_report_of_draw, draw=draw, cluster=cluster),
                    range(reports),
                    chunksize=10,
                )
            )
        )
    mean = rates.mean(axis=0)
    error = np.sqrt(mean[0] * (1 - mean[0]) / reports)
    return {
        "reports": round(float(mean[0]), 4),
        "reports_se": round(float(error), 4),
        "shifted": round(float(mean[1]), 4),
        "others": round(float(mean[2]), 4),
        "together": round(float(mean[3]), 4),
    }


def _report_of_draw(
    seed: int, draw: Callable[[int], Frames], cluster: str | None
) -> tuple[float, float, float, float]:
    with threadpool_limits(1):
        report = detect_drift(*draw(seed), cluster=cluster, seed=seed)
    drifted = report.features["drifted"]
    together = report.multivariate is not None and report.multivariate.drifted
    return report.drifted, drifted[:3].mean(), drifted[3:].mean(), together


def large(seed: int = 0) -> Frames:
    """Draw 25 features, 8,000 rows against 8,000."""
    generator = np.random.default_rng(seed)
    names = [f"feature_{number}" for number in range(FEATURES)]
    frames = [
        pd.DataFrame(generator.normal(size=(8000, FEATURES)), columns=names) for _ in range(2)
    ]
    return frames[0], frames[1]


def seconds(_: argparse.Namespace) -> dict[str, Any]:
    """Return what one report of 8,000 against 8,000 rows takes in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        median, peak = pool.submit(_seconds).result()
    return {"seconds": round(median, 2), "peak_mb": round(peak)}


def _seconds() -> tuple[float, float]:
    frames = large()
    detect_drift(frames[0][:100], frames[1][:100])
    durations = []
    for _ in range(3):
        started = time.perf_counter()
        detect_drift(*frames)
        durations.append(time.perf_counter() - started)
    return float(np.median(durations)), peak_megabytes()


#: One report for each of the statistics that both know, as a library without a choice of several
#: at once must.
_PEER = """
import sys, time, warnings
import pandas as pd
warnings.filterwarnings("ignore")
from evidently import Report
from evidently.presets import DataDriftPreset
reference, current = (pd.read_parquet(path) for path in sys.argv[1:3])
def run(frames):
    for method in ("ks", "cramer_von_mises", "psi", "kl_div", "jensenshannon", "wasserstein"):
        Report([DataDriftPreset(method=method)]).run(frames[1], frames[0]).dict()
run((reference[:100], current[:100]))
taken = []
for _ in range(3):
    started = time.perf_counter()
    run((reference, current))
    taken.append(time.perf_counter() - started)
print(sorted(taken)[1])
"""


def evidently_ratio(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the peer's seconds over ours, for the same six statistics of the same frames."""
    frames = large()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        paths = [home / "reference.parquet", home / "current.parquet"]
        for frame, path in zip(frames, paths, strict=True):
            frame.to_parquet(path)
        python = home / "environment" / "bin" / "python"
        peer = HERE / "peers" / "evidently.txt"
        subprocess.run([sys.executable, "-m", "venv", home / "environment"], check=True)
        _quietly([python, "-m", "pip", "install", "-q", "-r", peer, "pyarrow"])
        theirs = float(_quietly([python, "-c", _PEER, *paths]).splitlines()[-1])
    ours = seconds(arguments)
    return {"evidently_s": round(theirs, 2), "evidently_ratio": round(theirs / ours["seconds"], 1)}


def _quietly(command: Iterable[str | Path]) -> str:
    done = subprocess.run(list(command), check=True, capture_output=True, text=True)
    return done.stdout


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "false_alarm": false_alarm,
    "oulad_split": oulad_split,
    "power": power,
    "seconds": seconds,
    "evidently_ratio": evidently_ratio,
    "streams": streams,
    "loop": loop,
    "courses": courses,
}

if __name__ == "__main__":
    main()
