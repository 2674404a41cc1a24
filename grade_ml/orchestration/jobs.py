"""The jobs: which assets are materialized together, in one process."""

from dagster import AssetSelection, define_asset_job, in_process_executor

from grade_ml.orchestration.job_descriptions import JOB_DESCRIPTIONS
from grade_ml.orchestration.queue import IN_ML_TASKS

_gradebook = AssetSelection.groups("gradebook")
_snapshots = AssetSelection.assets("grade_snapshots")

load_inbox = define_asset_job(
    "load_inbox",
    AssetSelection.assets("inbox_deliveries"),
    description=JOB_DESCRIPTIONS["load_inbox"],
    executor_def=in_process_executor,
)

sync_gradebook = define_asset_job(
    "sync_gradebook",
    AssetSelection.assets("gradebook_sync"),
    description=JOB_DESCRIPTIONS["sync_gradebook"],
    executor_def=in_process_executor,
)

refresh_gradebook = define_asset_job(
    "refresh_gradebook",
    _gradebook | AssetSelection.groups("features") | AssetSelection.assets("grade_predictions"),
    description=JOB_DESCRIPTIONS["refresh_gradebook"],
    executor_def=in_process_executor,
)

train_traditional_models = define_asset_job(
    "train_traditional_models",
    _gradebook | _snapshots | AssetSelection.assets("baseline_model", "grade_predictions"),
    description=JOB_DESCRIPTIONS["train_traditional_models"],
    executor_def=in_process_executor,
    tags=IN_ML_TASKS,
)

train_advanced_ml_models = define_asset_job(
    "train_advanced_ml_models",
    _gradebook
    | _snapshots
    | AssetSelection.assets("pooled_ensemble", "course_ensemble", "grade_predictions"),
    description=JOB_DESCRIPTIONS["train_advanced_ml_models"],
    executor_def=in_process_executor,
    tags=IN_ML_TASKS,
)

collect_external_data = define_asset_job(
    "collect_external_data",
    AssetSelection.groups("external"),
    description=JOB_DESCRIPTIONS["collect_external_data"],
    executor_def=in_process_executor,
)

generate_time_series_forecasts = define_asset_job(
    "generate_time_series_forecasts",
    AssetSelection.groups("features", "forecasts") | AssetSelection.assets("trajectory_model"),
    description=JOB_DESCRIPTIONS["generate_time_series_forecasts"],
    executor_def=in_process_executor,
    tags=IN_ML_TASKS,
)

monitor_model_performance = define_asset_job(
    "monitor_model_performance",
    AssetSelection.groups("monitoring"),
    description=JOB_DESCRIPTIONS["monitor_model_performance"],
    executor_def=in_process_executor,
)

manage_ab_tests = define_asset_job(
    "manage_ab_tests",
    AssetSelection.groups("experiments"),
    description=JOB_DESCRIPTIONS["manage_ab_tests"],
    executor_def=in_process_executor,
)

update_model_explanations = define_asset_job(
    "update_model_explanations",
    AssetSelection.groups("explanations"),
    description=JOB_DESCRIPTIONS["update_model_explanations"],
    executor_def=in_process_executor,
    tags=IN_ML_TASKS,
)

retrain_drifted_courses = define_asset_job(
    "retrain_drifted_courses",
    AssetSelection.assets("course_ensemble", "grade_predictions"),
    description=JOB_DESCRIPTIONS["retrain_drifted_courses"],
    executor_def=in_process_executor,
    tags=IN_ML_TASKS,
)

data_cleanup = define_asset_job(
    "data_cleanup",
    AssetSelection.assets("data_cleanup"),
    description=JOB_DESCRIPTIONS["data_cleanup"],
    executor_def=in_process_executor,
)

model_cleanup = define_asset_job(
    "model_cleanup",
    AssetSelection.assets("model_cleanup"),
    description=JOB_DESCRIPTIONS["model_cleanup"],
    executor_def=in_process_executor,
)

system_health = define_asset_job(
    "system_health",
    AssetSelection.assets("system_health"),
    description=JOB_DESCRIPTIONS["system_health"],
    executor_def=in_process_executor,
)

JOBS = [
    collect_external_data,
    data_cleanup,
    generate_time_series_forecasts,
    load_inbox,
    manage_ab_tests,
    model_cleanup,
    monitor_model_performance,
    refresh_gradebook,
    retrain_drifted_courses,
    sync_gradebook,
    system_health,
    train_advanced_ml_models,
    train_traditional_models,
    update_model_explanations,
]
