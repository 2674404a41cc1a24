"""A process that holds the embedded server of GRADE_ML_HOME until its input ends."""

import sys

from grade_ml.core import database
from grade_ml.core.settings import Settings

if __name__ == "__main__":
    print(database.start(Settings.from_environment()).grade_ml, flush=True)
    sys.stdin.read()
