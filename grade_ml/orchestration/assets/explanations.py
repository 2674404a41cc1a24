"""The group `explanations`: the reasons of each current prediction."""

from dagster import AssetCheckSpec, MaterializeResult

from grade_ml.orchestration.assets.reads import RECORDS, SERVED, SURROUNDINGS
from grade_ml.orchestration.courses import Courses, course_asset
from grade_ml.orchestration.degradation import complete
from grade_ml.orchestration.queue import ML_TASKS
from grade_ml.orchestration.resources import Platform


@course_asset(
    group_name="explanations",
    deps=["sections", "grade_snapshots", *SERVED, *SURROUNDINGS],
    kinds={"xgboost", "lightgbm", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool=ML_TASKS,
    metadata={"dagster/table_name": "explanations.attribution"},
    check_specs=[
        AssetCheckSpec(
            "adds_up",
            asset="shap_explanations",
            description="The contributions of every row add up to the served prediction.",
        ),
        complete("shap_explanations"),
    ],
)
def shap_explanations(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Split each current prediction into the contributions of features to the baseline value."""
    from grade_ml.explanations import nightly
    from grade_ml.orchestration.reporting import explanations as reporting

    with platform.workspace() as workspace:
        explained = nightly.attributions(workspace, platform.models, courses.keys)
        drawn = reporting.swarms(workspace, courses.keys)
    return reporting.attributions(courses, platform.as_of, explained, drawn)


@course_asset(
    group_name="explanations",
    deps=[
        *("students", "sections", "enrollments", "grade_snapshots", "shap_explanations"),
        *(*SERVED, *SURROUNDINGS),
    ],
    kinds={"lightgbm", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool=ML_TASKS,
    metadata={"dagster/table_name": "explanations.importance"},
    check_specs=[
        complete("feature_importance"),
        AssetCheckSpec(
            "importance_in_band",
            asset="feature_importance",
            description="No feature is more or less important than in training terms, beyond the "
            "variation over students and fits on unchanged data.",
        ),
        AssetCheckSpec(
            "groups_fare_alike",
            asset="feature_importance",
            description="No protected group is predicted worse, selected or missed more often than "
            "all others by more than the allowed gap, beyond chance.",
        ),
    ],
)
def feature_importance(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Measure the importance of features by course, its change, and compare groups of students."""
    from grade_ml.explanations import nightly
    from grade_ml.orchestration.reporting import explanations as reporting

    with platform.workspace() as workspace:
        weighed = nightly.importance(workspace, platform.models, courses.keys)
        groups, reason = nightly.fairness(workspace, platform.models)
        main = nightly.main_features(workspace)
        most = main["feature"].head(4).tolist()
        moves = nightly.effects(workspace, platform.models, courses.keys, most)
        drawn = reporting.importances(workspace, courses.keys)
    return reporting.importance(
        courses, platform.as_of, weighed, drawn, reporting.overall(main, moves), (groups, reason)
    )


@course_asset(
    group_name="explanations",
    deps=["sections", "grade_snapshots", *SERVED, *SURROUNDINGS],
    kinds={"scikitlearn", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool=ML_TASKS,
    metadata={"dagster/table_name": "explanations.decision_path"},
    check_specs=[complete("decision_paths")],
)
def decision_paths(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Trace each current row through a small surrogate tree, and through a tree of the model."""
    from grade_ml.explanations import nightly
    from grade_ml.orchestration.reporting import explanations as reporting

    with platform.workspace() as workspace:
        ways = nightly.paths(workspace, platform.models, courses.keys)
    return reporting.paths(courses, platform.as_of, ways)


@course_asset(
    group_name="explanations",
    deps=[
        *("sections", "grade_snapshots", "grade_predictions", "shap_explanations"),
        *(*SERVED, *SURROUNDINGS),
    ],
    kinds={"python", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool=ML_TASKS,
    metadata={"dagster/table_name": "explanations.advice"},
    check_specs=[complete("lime_explanations")],
)
def lime_explanations(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Compute a second opinion on predictions at risk, near a threshold, or in dispute."""
    from grade_ml.explanations import nightly
    from grade_ml.orchestration.reporting import explanations as reporting

    with platform.workspace() as workspace:
        advice = nightly.second_opinions(workspace, platform.models, courses.keys)
    return reporting.second_opinions(courses, platform.as_of, advice)


@course_asset(
    group_name="explanations",
    deps=[
        *("grade_snapshots", "grade_predictions", "shap_explanations"),
        *(*RECORDS, *SERVED, *SURROUNDINGS),
    ],
    kinds={"python", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool=ML_TASKS,
    metadata={"dagster/table_name": "explanations.advice"},
    check_specs=[complete("counterfactuals")],
)
def counterfactuals(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Search what students at risk, or close below a goal, could do to reach it."""
    from grade_ml.explanations import nightly
    from grade_ml.orchestration.reporting import explanations as reporting

    with platform.workspace() as workspace:
        advice = nightly.what_ifs(workspace, platform.models, courses.keys)
    return reporting.what_ifs(courses, platform.as_of, advice)


@course_asset(
    group_name="explanations",
    deps=[
        *("sections", "grade_snapshots", "grade_predictions", "shap_explanations"),
        *(*SERVED, *SURROUNDINGS),
    ],
    kinds={"python", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool=ML_TASKS,
    metadata={"dagster/table_name": "explanations.advice"},
    check_specs=[
        AssetCheckSpec(
            "traceable",
            asset="narratives",
            description="Every number, sign and theme of every narrative agrees with storage.",
        ),
        complete("narratives"),
    ],
)
def narratives(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Explain each prediction in two to four sentences to student, adviser and analyst."""
    from grade_ml.explanations import nightly
    from grade_ml.orchestration.reporting import explanations as reporting

    with platform.workspace() as workspace:
        advice = nightly.narratives(workspace, platform.models, courses.keys)
    return reporting.narratives(courses, platform.as_of, advice)


EXPLANATION_ASSETS = [
    shap_explanations,
    feature_importance,
    decision_paths,
    lime_explanations,
    counterfactuals,
    narratives,
]
