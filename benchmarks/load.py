"""How fast and how small loading is: OULAD into an empty gradebook, again, and a simulated campus.

Usage: `python benchmarks/load.py [--oulad DIR] [--results N] [--runs 3]`. Every case runs in a
process of its own on an embedded PostgreSQL of its own; the figures are medians, the peak is the
largest of all processes (the server's is not counted). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from grade_ml.campus.simulated import Campus, CampusConfig
from grade_ml.core.process import peak_megabytes
from grade_ml.gradebook import oulad
from grade_ml.gradebook.bundle import from_frames
from grade_ml.gradebook.loading import load
from installation import temporary_installation

TODAY = date(2026, 11, 24)
REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run every case and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oulad", type=Path, default=REPOSITORY / "../shared/data/oulad")
    parser.add_argument("--results", type=int, default=1_000_000, help="results of the campus")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--case", choices=["oulad", "simulated"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(_case(arguments)))
        return
    runs = {
        case: [_in_own_process(case, arguments.results) for _ in range(arguments.runs)]
        for case in ("oulad", "simulated")
    }
    smaller = _in_own_process("simulated", arguments.results // 3)
    print(
        json.dumps(
            {
                "oulad_first_s": _median(runs["oulad"], "first_s"),
                "oulad_again_s": _median(runs["oulad"], "again_s"),
                "simulated_rows_per_s": _median(runs["simulated"], "rows_per_s"),
                "simulated_results": runs["simulated"][0]["results"],
                "simulated_rows": runs["simulated"][0]["rows"],
                "peak_mb": max(run["peak_mb"] for case in runs.values() for run in case),
                "peak_mb_by_results": {
                    str(run["results"]): run["peak_mb"] for run in (smaller, runs["simulated"][0])
                },
            }
        )
    )


def _in_own_process(case: str, results: int) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--case", case, "--results", str(results)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(case, done.stdout.strip(), flush=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _median(runs: list[dict[str, Any]], name: str) -> float:
    return round(statistics.median(run[name] for run in runs), 2)


def _case(arguments: argparse.Namespace) -> dict[str, Any]:
    now = datetime.now(UTC)
    with temporary_installation() as (_, engine):
        if arguments.case == "oulad":
            figures: dict[str, Any] = {}
            for name in ("first_s", "again_s"):
                start = time.perf_counter()
                load(engine, oulad.bundle(arguments.oulad), loaded_at=now)
                figures[name] = time.perf_counter() - start
        else:
            campus = _campus(arguments.results)
            start = time.perf_counter()
            report = load(engine, from_frames("simulated", campus.batches), loaded_at=now)
            rows = sum(report.loaded.values())
            figures = {
                "results": report.loaded["result"],
                "rows": rows,
                "rows_per_s": rows / (time.perf_counter() - start),
            }
    return figures | {"peak_mb": round(peak_megabytes())}


def _campus(results: int) -> Campus:
    """Return a campus with about `results` results: a small campus's mean per student, scaled."""
    sample = Campus(CampusConfig(students=500), TODAY)
    drawn = sum(len(frame) for table, frame in sample.batches() if table == "result")
    return Campus(CampusConfig(students=results * 500 // drawn), TODAY)


if __name__ == "__main__":
    main()
