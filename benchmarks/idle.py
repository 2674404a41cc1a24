"""The cost of an idle installation: processor and memory of all its processes.

    python benchmarks/idle.py --minutes 360 --folder build/idle

Works on the `grade-ml up` that runs on GRADE_ML_HOME; if none runs, it starts one with the demo on
a home of its own and stops it at the end. Waits until no run is in flight, then writes
`idle.csv` and `idle.png` and prints the figures. Minutes in which a run was in flight are shown but
do not count as rest. Processor time is in per cent of one core.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from matplotlib.figure import Figure
from sqlalchemy import Engine, create_engine, text

from grade_ml.cli.up import where
from grade_ml.core import database
from grade_ml.core.settings import Settings

SAMPLE_SECONDS = 30
#: After so long the consequences of the last run (alerts, runs that a sensor requests) are over.
QUIET_SECONDS = 120
#: The kind of a process by its command line; the first match counts.
KINDS = {
    "PostgreSQL": "postgres",
    "runs": "execute_run|multiprocessing",
    "code server": "code-server|api grpc",
    "daemon": "dagster._daemon",
    "webserver": "webserver",
    "providers": "providers",
    "up": "grade_ml.cli|grade-ml",
}
IN_FLIGHT = "select count(*) from runs where status in ('STARTED', 'STARTING', 'CANCELING')"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--folder", type=Path, default=Path("build/idle"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with running(Settings.from_environment()) as settings:
        urls = database.start(settings)
        engine = create_engine(urls.dagster, isolation_level="AUTOCOMMIT")
        wait_for_rest(engine)
        rows = list(samples(settings, engine, arguments.minutes * 60))
        engine.dispose()
    save(rows, arguments.folder)
    report(rows)


@contextmanager
def running(settings: Settings) -> Iterator[Settings]:
    """Yield the settings of an installation that is up."""
    if where(settings.home):
        yield settings
        return
    with tempfile.TemporaryDirectory(prefix="grade_ml_idle_") as folder:
        home = Path(folder) / "home"
        os.environ |= {"GRADE_ML_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")}
        command = [sys.executable, "-m", "grade_ml.cli", "up", "--demo", "--port", "4199"]
        up = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert up.stdout
        for line in up.stdout:
            print(line, end="", file=sys.stderr)
            if "is up" in line:
                break
        try:
            yield Settings.from_environment()
        finally:
            up.send_signal(signal.SIGTERM)
            up.communicate(timeout=60)


def wait_for_rest(engine: Engine) -> None:
    """Wait until no run has been in flight for `QUIET_SECONDS`."""
    quiet_since = time.monotonic()
    while time.monotonic() < quiet_since + QUIET_SECONDS:
        if in_flight(engine):
            quiet_since = time.monotonic()
        time.sleep(5)


def in_flight(engine: Engine) -> int:
    """Return the number of runs that work."""
    with engine.connect() as connection:
        return connection.execute(text(IN_FLIGHT)).scalar_one()


def samples(settings: Settings, engine: Engine, seconds: float) -> Iterator[dict[str, float]]:
    """Yield, for each interval, seconds since the start, runs, processor seconds and memory."""
    started = time.monotonic()
    before, at = processor(settings), started
    while at < started + seconds:
        time.sleep(SAMPLE_SECONDS)
        runs = in_flight(engine)
        now, after = time.monotonic(), processor(settings)
        # A process that has ended takes its time along.
        spent = {kind: max(0.0, after[kind] - before[kind]) for kind in KINDS}
        percent = {f"cpu {kind}": 100 * used / (now - at) for kind, used in spent.items()}
        yield {
            "seconds": now - started,
            "runs": runs,
            "cpu": sum(percent.values()),
            **percent,
            **memory(settings),
        }
        before, at = after, now


def processes(settings: Settings) -> Iterator[tuple[str, psutil.Process]]:
    """Yield what belongs to the installation, with its kind, but for this script."""
    up = psutil.Process(json.loads((settings.home / "up.lock").read_text())["up"]["pid"])
    roots = [up]
    if settings.embedded:
        pid = (settings.postgres_dir / "postmaster.pid").read_text().split()[0]
        roots.append(psutil.Process(int(pid)))
    for root in roots:
        for process in (root, *root.children(recursive=True)):
            try:
                # PostgreSQL's processes write their state over their command lines.
                words = "postgres" if root is not up else " ".join(process.cmdline())
            except psutil.Error:
                continue
            fitting = (kind for kind, fits in KINDS.items() if re.search(fits, words))
            yield next(fitting, "up"), process


def processor(settings: Settings) -> dict[str, float]:
    """Return the seconds of each kind, those of the children that have ended included."""
    seconds: dict[str, float] = defaultdict(float)
    for kind, process in processes(settings):
        try:
            seconds[kind] += sum(process.cpu_times()[:4])
        except psutil.Error:
            continue
    return seconds


def memory(settings: Settings) -> dict[str, float]:
    """Return megabytes: each kind's share of the memory in use (PSS), and the sum of all RSS."""
    megabytes = dict.fromkeys(["rss", "pss", *(f"pss {kind}" for kind in KINDS)], 0.0)
    for kind, process in processes(settings):
        try:
            used = process.memory_full_info()
        except psutil.Error:
            continue
        megabytes["rss"] += used.rss / 2**20
        for name in ("pss", f"pss {kind}"):
            megabytes[name] += used.pss / 2**20
    return megabytes


def save(rows: list[dict[str, float]], folder: Path) -> None:
    """Write the samples and their plot."""
    with (folder / "idle.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({name: round(value, 3) for name, value in row.items()} for row in rows)
    hours = [row["seconds"] / 3600 for row in rows]
    busy = [row["runs"] > 0 for row in rows]
    figure = Figure(figsize=(10, 7), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    for axes, name, title in ((above, "cpu", "per cent of a core"), (below, "pss", "PSS in MB")):
        axes.stackplot(hours, [[row[f"{name} {kind}"] for row in rows] for kind in KINDS])
        top = max(row[name] for row in rows)
        axes.fill_between(hours, top, where=busy, color="grey", alpha=0.2, step="pre")
        axes.set_ylabel(title)
    above.axhline(5, color="black", linestyle=":")
    above.legend(list(KINDS), ncols=4, fontsize="small")
    below.set_xlabel("hours (grey: a run was in flight)")
    figure.savefig(folder / "idle.png", dpi=100)


def report(rows: list[dict[str, float]]) -> None:
    """Print the means at rest."""
    rest = [row for row in rows if not row["runs"]]

    def mean(name: str, chosen: list[dict[str, float]]) -> float:
        return sum(row[name] for row in chosen) / len(chosen)

    print(f"{rows[-1]['seconds'] / 60:.0f} minutes, of which {len(rest) / len(rows):.0%} at rest")
    print("\n| | per cent of a core | PSS, MB |\n|---|---|---|")
    for kind in KINDS:
        print(f"| {kind} | {mean(f'cpu {kind}', rest):.2f} | {mean(f'pss {kind}', rest):.0f} |")
    print(f"| all | {mean('cpu', rest):.2f} | {mean('pss', rest):.0f} |")
    tenth = max(1, len(rest) // 10)
    print(
        f"\nPSS in the first and last tenth of the rest: {mean('pss', rest[:tenth]):.0f} and "
        f"{mean('pss', rest[-tenth:]):.0f} MB; sum of RSS {mean('rss', rest):.0f} MB"
    )


if __name__ == "__main__":
    main()
