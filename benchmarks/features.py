"""How fast and how small the snapshots are: OULAD, and a simulated campus at 1x, 3x and 10x.

Usage: `python benchmarks/features.py [--oulad DIR] [--students N] [--runs 3]`. The
benchmark times the work of the asset grade_snapshots: read the gradebook, compute weekly cuts,
validate, store. Every case runs in a process of its own with a loaded gradebook; seconds are
medians, the peak is that of the process. The last line is one JSON object.
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
from grade_ml.core import database
from grade_ml.core.process import peak_megabytes
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.core.settings import Settings
from grade_ml.features.refresh import refresh
from grade_ml.features.store import Frames
from grade_ml.gradebook import oulad
from grade_ml.gradebook.bundle import Bundle, from_frames
from grade_ml.gradebook.catalog import course_ids
from grade_ml.gradebook.loading import load
from installation import temporary_installation

TODAY = date(2026, 11, 24)
REPOSITORY = Path(__file__).resolve().parents[1]
FACTORS = (1, 3, 10)


def main() -> None:
    """Load each gradebook, run its case several times, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oulad", type=Path, default=REPOSITORY / "../shared/data/oulad")
    parser.add_argument("--students", type=int, default=1000, help="of the campus at 1x")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.home:
        print(json.dumps(_refresh(Settings(_env_file=None, home=arguments.home))))
        return
    real = _case(oulad.bundle(arguments.oulad), arguments.runs)
    scaling = []
    for factor in FACTORS:
        config = CampusConfig(students=factor * arguments.students, courses=8 * factor)
        campus = from_frames("simulated", Campus(config, TODAY).batches)
        scaling.append({"factor": factor, **_case(campus, arguments.runs)})
    print(
        json.dumps(
            {
                "oulad_s": real["seconds"],
                "oulad_rows": real["rows"],
                "peak_mb": real["peak_mb"],
                "scaling": scaling,
            }
        )
    )


def _case(bundle: Bundle, runs: int) -> dict[str, Any]:
    with temporary_installation() as (settings, engine):
        load(engine, bundle, loaded_at=datetime.now(UTC))
        figures = [_in_own_process(settings.home) for _ in range(runs)]
    return {
        "rows": figures[0]["rows"],
        "seconds": round(statistics.median(run["seconds"] for run in figures), 2),
        "peak_mb": max(run["peak_mb"] for run in figures),
    }


def _in_own_process(home: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--home", str(home)]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def _refresh(settings: Settings) -> dict[str, Any]:
    engine = database.connect(database.start(settings).grade_ml)
    frames = Frames(settings.storage_root, TODAY, Pseudonyms(b"benchmark"))
    start = time.perf_counter()
    with engine.connect() as connection:
        counts = refresh(connection, frames, course_ids(connection))
    seconds = time.perf_counter() - start
    engine.dispose()
    return {
        "rows": sum(refreshed.rows for refreshed in counts.values()),
        "seconds": seconds,
        "peak_mb": round(peak_megabytes()),
    }


if __name__ == "__main__":
    main()
