"""grade_ml: trustworthy grade predictions for a university's gradebook, as one Dagster project."""

import os

# Libraries read these when they are loaded, in any process that imports grade_ml: the only
# variables that this process sets for itself.
# OpenMP's threads wait for each other in a busy loop by default, which other work on the machine
# turns into minutes: 50 boosting rounds on two busy cores took 5 to 21 s so, and 0.7 s like this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# MLflow would report its use to its makers.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
