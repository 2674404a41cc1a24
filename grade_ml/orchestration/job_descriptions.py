"""Descriptions of the jobs for the UI and for `grade-ml run --help`.

Apart from the jobs, because the help must not wait for Dagster, whose import takes a second.
"""

from collections.abc import Collection
from difflib import get_close_matches

from grade_ml.core.errors import NotFoundError

JOB_DESCRIPTIONS = {
    "collect_external_data": (
        "Queries the eight external sources for the current day and stores the values that are "
        "known on that day."
    ),
    "comprehensive_ml_maintenance": (
        "Runs the jobs of external data, monitoring, experiments, explanations, forecasts, "
        "clean-up and health one after the other; a job that fails does not stop the others."
    ),
    "data_cleanup": (
        "Removes what is older than its retention policy allows; with the option dry_run it only "
        "lists what would be removed, and how many bytes."
    ),
    "first_day": (
        "Fills everything from the gradebook, one job after the other: records of the OneRoster "
        "server, baseline and predictions, external data of all days since the earliest section "
        "began, ensemble, forecasts, explanations, monitoring, experiments, clean-up and health. "
        "A job that fails does not stop the others. Starts by itself after the first load; later "
        "it updates only what is out of date. Launch it in place of “Materialize all” on the whole "
        "graph, which Dagster refuses because courses and days start there side by side."
    ),
    "generate_time_series_forecasts": (
        "Computes features and sequences of the day, trains the model of remaining scores if much "
        "has changed, forecasts every remaining score of every running enrollment of the courses, "
        "and derives risk periods, interventions and anomalies."
    ),
    "load_inbox": (
        "Loads the deliveries in GRADE_ML_INBOX, in order, and moves each to done or refused."
    ),
    "manage_ab_tests": (
        "Evaluates the running experiments, promotes a challenger that is better, rolls back a "
        "version that is worse, and opens experiments for new challengers."
    ),
    "model_cleanup": (
        "Removes versions of models that are no longer needed, with their files and runs: never "
        "a champion or challenger, nor what an experiment, an explanation or a rollback needs."
    ),
    "monitor_model_performance": (
        "Compares features, predictions and scores with those of the training terms, compares "
        "errors with those on record, and rates the health of each course's model."
    ),
    "refresh_gradebook": (
        "After a load: checks the gradebook's tables, computes the features of the courses "
        "that changed, and predicts their running enrollments."
    ),
    "retrain_drifted_courses": (
        "Corrects the ensemble again for courses whose drift is confirmed by a loss or by labels, "
        "and predicts their running enrollments."
    ),
    "sync_gradebook": (
        "Loads what changed on the OneRoster server of GRADE_ML_ONEROSTER_URL since the last "
        "sync; once a week, or with the option full, everything."
    ),
    "system_health": (
        "Rates the health of the installation in one number, gives the reasons and what to do "
        "first, with a page and figures for Prometheus."
    ),
    "train_advanced_ml_models": (
        "From the gradebook to predictions: checks the tables, computes features, trains the "
        "ensemble of all courses and each course's correction, and predicts every running "
        "enrollment of the courses."
    ),
    "train_traditional_models": (
        "From the gradebook to predictions: checks the tables, computes features, trains the "
        "baseline of all courses, and predicts every running enrollment of the courses."
    ),
    "update_model_explanations": (
        "Explains every current prediction whose model or features changed, weighs the features "
        "of each course, and compares groups of students."
    ),
}

#: The jobs that run for all courses; the others for the day, or for the installation.
WITHOUT_COURSES = frozenset(
    {
        "collect_external_data",
        "comprehensive_ml_maintenance",
        "data_cleanup",
        "first_day",
        "load_inbox",
        "manage_ab_tests",
        "model_cleanup",
        "sync_gradebook",
        "system_health",
    }
)


def require_job(name: str, courses: Collection[str] = ()) -> None:
    """Raise `NotFoundError` if there is no such job, or it has no courses and some are given."""
    if name not in JOB_DESCRIPTIONS:
        near = get_close_matches(name, JOB_DESCRIPTIONS, n=1)
        guess = f"Did you mean {near[0]}? " if near else ""
        known = ", ".join(sorted(JOB_DESCRIPTIONS))
        raise NotFoundError(f"There is no job {name!r}.", f"{guess}Known jobs: {known}.")
    if courses and name in WITHOUT_COURSES:
        raise NotFoundError(f"The job {name} has no courses.", "Leave out --course.")
