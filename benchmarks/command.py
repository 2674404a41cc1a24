"""How long the command takes: `--help`, `predict` and `status`, five times each.

    python benchmarks/command.py --student ID --course ID

Works on the installation of GRADE_ML_HOME, together with a `grade-ml up` that runs there. If no
student is named, it uses the student whom `up` names. Prints seconds of the clock and of the
processor, and the machine's load, because other work on the machine makes the clock's longer.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from statistics import median

from grade_ml.campus.simulated import example
from grade_ml.core import database
from grade_ml.core.settings import Settings

RUNS = 5


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--student")
    parser.add_argument("--course")
    arguments = parser.parse_args()
    student, course = arguments.student, arguments.course
    if student is None:
        student, course = _example()
    calls = {
        "help": ["--help"],
        "predict": ["predict", "--student", student, "--course", course],
        "status": ["status"],
    }
    report = {name: _measured(words) for name, words in calls.items()}
    for name, figures in report.items():
        print(f"{name:<8}" + "".join(f"  {key} {value:.2f} s" for key, value in figures.items()))
    print(json.dumps({"load": [round(load, 2) for load in os.getloadavg()], **report}))


def _example() -> tuple[str, str]:
    settings = Settings.from_environment()
    engine = database.migrated(database.start(settings).grade_ml)
    with database.reachable(engine) as connection:
        named = example(connection, settings.date_at(datetime.now(UTC)))
    engine.dispose()
    if named is None:
        sys.exit("There is no simulated campus: name --student and --course.")
    return named


def _measured(words: list[str]) -> dict[str, float]:
    clock, processor = [], []
    for _ in range(RUNS):
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "grade_ml.cli", *words]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        clock.append(time.perf_counter() - begun)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        )
    return {
        "median": round(median(clock), 3),
        "max": round(max(clock), 3),
        "processor": round(median(processor), 3),
    }


if __name__ == "__main__":
    main()
