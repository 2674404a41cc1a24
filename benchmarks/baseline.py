"""The baseline out of time on OULAD, beside the peers of `bench/README.md`'s protocol.

Usage: baseline.py [OULAD folder]. Loads the folder into a temporary embedded server, runs
`grade-ml backtest` on it, and prints its JSON with the peers' figures as the last line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from quoted import QUOTED

OULAD = Path(__file__).resolve().parents[2] / "shared" / "data" / "oulad"
BACKTEST = [
    "backtest",
    "--train-terms",
    "2013B,2013J",
    "--test-terms",
    "2014B",
    "--json",
    "--model",
    "baseline",
]


def main(folder: Path) -> None:
    """Load, measure, print."""
    with tempfile.TemporaryDirectory() as home:
        command = str(Path(sys.executable).with_name("grade-ml"))
        environment = {**os.environ, "GRADE_ML_HOME": home}
        subprocess.run([command, "load", "oulad", str(folder)], env=environment, check=True)
        answer = subprocess.run(
            [command, *BACKTEST], env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
    print(json.dumps({**json.loads(answer.stdout), "quoted_peers": QUOTED}))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OULAD)
