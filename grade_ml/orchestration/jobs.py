"""The jobs: which assets are materialized together, in one process."""

from dagster import AssetSelection, define_asset_job, in_process_executor

_deliveries = AssetSelection.assets("gradebook_sync", "inbox_deliveries")
#: The tables; what fills them runs by itself.
_gradebook = AssetSelection.groups("gradebook") - _deliveries
_snapshots = AssetSelection.assets("grade_snapshots")

load_inbox = define_asset_job(
    "load_inbox",
    AssetSelection.assets("inbox_deliveries"),
    description="Loads what stands in GRADE_ML_INBOX, in order, and moves it to done or refused.",
    executor_def=in_process_executor,
)

sync_gradebook = define_asset_job(
    "sync_gradebook",
    AssetSelection.assets("gradebook_sync"),
    description="Loads what changed on the OneRoster server of GRADE_ML_ONEROSTER_URL since the "
    "last time; once a week, or with `full`, everything.",
    executor_def=in_process_executor,
)

refresh_gradebook = define_asset_job(
    "refresh_gradebook",
    _gradebook | AssetSelection.groups("features") | AssetSelection.assets("grade_predictions"),
    description="After a load: looks at the gradebook's tables, computes the features of the "
    "courses that changed, and predicts their running enrollments.",
    executor_def=in_process_executor,
)

train_traditional_models = define_asset_job(
    "train_traditional_models",
    _gradebook | _snapshots | AssetSelection.assets("baseline_model", "grade_predictions"),
    description="From the gradebook to predictions: checks the tables, computes features, trains "
    "the baseline of all courses, and predicts every running enrollment of the courses.",
    executor_def=in_process_executor,
)

train_advanced_ml_models = define_asset_job(
    "train_advanced_ml_models",
    _gradebook
    | _snapshots
    | AssetSelection.assets("pooled_ensemble", "course_ensemble", "grade_predictions"),
    description="From the gradebook to predictions: checks the tables, computes features, trains "
    "the ensemble of all courses and each course's correction, and predicts every running "
    "enrollment of the courses.",
    executor_def=in_process_executor,
    tags={"dagster/max_runtime": 3 * 3600},
)

collect_external_data = define_asset_job(
    "collect_external_data",
    AssetSelection.groups("external"),
    description="Asks the eight external sources about the current day and writes down what is "
    "known of the world on it.",
    executor_def=in_process_executor,
)

generate_time_series_forecasts = define_asset_job(
    "generate_time_series_forecasts",
    AssetSelection.groups("features", "forecasts") | AssetSelection.assets("trajectory_model"),
    description="Computes features and sequences of the day, trains the model of remaining scores "
    "where much has changed, forecasts every remaining score of every running enrollment of the "
    "courses, and says what follows from it.",
    executor_def=in_process_executor,
    tags={"dagster/max_runtime": 3 * 3600},
)

monitor_model_performance = define_asset_job(
    "monitor_model_performance",
    AssetSelection.groups("monitoring"),
    description="Compares features, predictions and scores with those of the training terms, sets "
    "errors beside the record, and says how each course's model is.",
    executor_def=in_process_executor,
)

update_model_explanations = define_asset_job(
    "update_model_explanations",
    AssetSelection.groups("explanations"),
    description="Explains every current prediction whose model or features changed, weighs the "
    "features of each course, and compares groups of students.",
    executor_def=in_process_executor,
    tags={"dagster/max_runtime": 3 * 3600},
)

retrain_drifted_courses = define_asset_job(
    "retrain_drifted_courses",
    AssetSelection.assets("course_ensemble", "grade_predictions"),
    description="Corrects the ensemble anew for courses whose drift a loss has confirmed, and "
    "predicts their running enrollments.",
    executor_def=in_process_executor,
    tags={"dagster/max_runtime": 3600},
)

JOBS = [
    collect_external_data,
    generate_time_series_forecasts,
    load_inbox,
    monitor_model_performance,
    refresh_gradebook,
    retrain_drifted_courses,
    sync_gradebook,
    train_advanced_ml_models,
    train_traditional_models,
    update_model_explanations,
]
