"""What each job does, in a sentence for the UI and for `grade-ml run --help`.

Apart from the jobs, because the help is not to wait for Dagster, whose import takes a second.
"""

JOB_DESCRIPTIONS = {
    "collect_external_data": (
        "Asks the eight external sources about the current day and writes down what is known of "
        "the world on it."
    ),
    "generate_time_series_forecasts": (
        "Computes features and sequences of the day, trains the model of remaining scores where "
        "much has changed, forecasts every remaining score of every running enrollment of the "
        "courses, and says what follows from it."
    ),
    "load_inbox": ("Loads what is in GRADE_ML_INBOX, in order, and moves it to done or refused."),
    "manage_ab_tests": (
        "Looks at the running experiments, promotes a challenger that is better, rolls back a "
        "version that disappoints, and opens experiments for new challengers."
    ),
    "monitor_model_performance": (
        "Compares features, predictions and scores with those of the training terms, sets "
        "errors beside the record, and says how each course's model is."
    ),
    "refresh_gradebook": (
        "After a load: looks at the gradebook's tables, computes the features of the courses "
        "that changed, and predicts their running enrollments."
    ),
    "retrain_drifted_courses": (
        "Corrects the ensemble anew for courses whose drift a loss has confirmed, and predicts "
        "their running enrollments."
    ),
    "sync_gradebook": (
        "Loads what changed on the OneRoster server of GRADE_ML_ONEROSTER_URL since the last "
        "time; once a week, or with `full`, everything."
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
