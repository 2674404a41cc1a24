"""grade_ml: trustworthy grade predictions for a university's gradebook, as one Dagster project."""

import os

# OpenMP's threads wait for each other in a busy loop by default, which other work on the machine
# turns into minutes: 50 boosting rounds on two busy cores took 5 to 21 s so, and 0.7 s like this.
# It is read when the first library with OpenMP is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
