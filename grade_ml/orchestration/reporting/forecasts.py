"""What Dagster shows of the trajectory model, its forecasts, and what follows from them."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dagster import MetadataValue, TableRecord

from grade_ml.core.process import peak_megabytes
from grade_ml.orchestration import plots
from grade_ml.orchestration.courses import Courses

if TYPE_CHECKING:
    import pandas as pd

    from grade_ml.early_warning.outlook import Outlook
    from grade_ml.early_warning.risk_periods import Evaluation
    from grade_ml.experiments.actions import Actions
    from grade_ml.forecasting.contract import Forecasts
    from grade_ml.forecasting.trajectory import Trajectory
    from grade_ml.training.steps import Training

#: Rows of the table of weights: the cells of all courses together come first.
SHOWN = 200
#: Courses whose pictures a run draws: half a second each.
PICTURES = 20


def of_model(training: "Training[Trajectory]") -> dict[str, Any]:
    """Return what became of a training, the model's figures, and the weights of its forecasters."""
    version, model = training.version, training.model
    return {
        "model_version": version.version,
        "fitted": training.fitted,
        "outcome": training.reason,
        **dict(version.metrics),
        "sections": len(model.sections),
        "weights": _records(model.combination.table.head(SHOWN)),
        "fallbacks_in_training": _counted(model.fallbacks),
        "degraded": list(model.degraded),
        "data_version": version.data_version,
        "manifest_sha256": version.manifest_sha256,
    }


def of_forecasts(found: "Forecasts", courses: Courses) -> dict[str, Any]:
    """Return figures of a run, and tell `courses` theirs."""
    for key in courses.keys:
        courses.add_asset_metadata(_of_course(found, key), partition_key=key)
    return {
        "forecasts": len(found.forecasts),
        "weeks_of_activity": len(found.activity),
        "fallbacks": _counted(found.fallbacks),
        "degraded": list(found.degraded),
        "peak_megabytes": peak_megabytes(),
    }


def _of_course(found: "Forecasts", course_id: str) -> dict[str, Any]:
    rows = found.forecasts[found.forecasts["course_id"] == course_id]
    figures: dict[str, Any] = {"dagster/row_count": len(rows)}
    if course_id in found.nothing:
        figures["nothing_to_forecast"] = found.nothing[course_id]
    if len(rows):
        means = rows[["mean", "submit_probability"]].mean()
        figures |= {f"mean_{name}": float(value) for name, value in means.items()}
        figures["students"] = int(rows["student_id"].nunique())
    return figures


def of_periods(found: "Outlook", courses: Courses) -> dict[str, Any]:
    """Return figures of risk periods, and tell `courses` theirs with pictures."""
    drawn = _drawn(found)
    for key in courses.keys:
        rows = found.periods[found.periods["course_id"] == key]
        figures = {"periods": len(rows), "students": int(rows["student_id"].nunique())}
        figures |= _sizes(rows["driver"])
        courses.add_asset_metadata({**figures, **drawn.get(key, {})}, partition_key=key)
    return {
        "periods": len(found.periods),
        "students": int(found.periods["student_id"].nunique()),
        "on_a_later_term": plots.table(list(map(_evaluated, found.model.evaluation))),
        "degraded": list(found.degraded),
    }


def _evaluated(one: "Evaluation") -> TableRecord:
    """Return precision, recall and lead time of a group on the newest term that has ended."""

    def plain(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return None if math.isnan(value) else round(value, 3)

    return TableRecord({name: plain(value) for name, value in asdict(one).items()})


def _drawn(found: "Outlook") -> dict[str, dict[str, Any]]:
    """Return the fan and the calendar of the largest section of those courses most at risk."""
    from grade_ml.early_warning import pictures
    from grade_ml.early_warning.grade_paths import results_so_far

    drawn = {}
    for key in found.periods["course_id"].value_counts().index[:PICTURES]:
        largest = max(
            (one for one in found.panels if one.course_id == key), key=lambda one: one.shape[0]
        )
        if largest.shape[0] < plots.FEWEST:
            continue
        paths = found.paths[found.paths["section_id"] == largest.section_id]
        title = f"Running grades in {largest.section_id}"
        fan = pictures.course_fan(results_so_far([largest]), paths, largest.day, title)
        calendar = pictures.risk_calendar(paths, f"Risk in {largest.section_id}")
        drawn[str(key)] = {
            "running_grades": plots.embed(fan, "running grades"),
            "risk_calendar": plots.embed(calendar, "risk calendar"),
        }
    return drawn


def of_interventions(found: "pd.DataFrame", courses: Courses, load: int) -> dict[str, Any]:
    """Return how many tasks are planned and left out, and tell `courses` theirs."""
    for key in courses.keys:
        tasks = _tasks(found[found["course_id"] == key])
        courses.add_asset_metadata(tasks | {"load": load}, partition_key=key)
    return {
        "planned": int(found["planned_on"].notna().sum()),
        "left_out": int(found["planned_on"].isna().sum()),
    }


def of_exposures(found: "Actions") -> dict[str, dict[str, int]]:
    """Return on how many students each arm of each experiment took effect; nobody is named."""
    return {name: _sizes(rows["arm"]) for name, rows in found.exposed.items()}


def _tasks(rows: "pd.DataFrame") -> dict[str, Any]:
    """Return how many tasks each owner got and how many are left out; nobody is named."""
    planned = rows["planned_on"].notna()
    sizes = rows.assign(planned=planned).groupby(["owner", "driver", "action", "evidence"])
    table = sizes["planned"].agg(planned="sum", asked="size").reset_index()
    return {
        "planned": int(planned.sum()),
        "left_out": int((~planned).sum()),
        "by_action": _records(table.assign(left_out=table["asked"] - table["planned"])),
    }


def of_anomalies(found: "pd.DataFrame", courses: Courses) -> dict[str, Any]:
    """Return how many anomalies there are, and tell `courses` theirs by kind."""
    for key in courses.keys:
        figures = _sizes(found.loc[found["course_id"] == key, "kind"])
        courses.add_asset_metadata(
            {"anomalies": sum(figures.values())} | figures, partition_key=key
        )
    return {"anomalies": len(found)}


def _sizes(values: "pd.Series[str]") -> dict[str, int]:
    return {str(name): int(number) for name, number in values.value_counts().items()}


def _records(rows: "pd.DataFrame") -> MetadataValue:
    return plots.table(
        [
            TableRecord({str(name): value for name, value in row.items()})
            for row in rows.to_dict("records")
        ]
    )


def _counted(fallbacks: Mapping[str, int]) -> MetadataValue:
    return plots.table(
        [TableRecord({"reason": name, "rows": rows}) for name, rows in sorted(fallbacks.items())]
    )
