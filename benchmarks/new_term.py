"""The judge: how well models hold on a term that no model has seen, in the mean and at the worst.

Usage: `python benchmarks/new_term.py FOLDER [--only oulad,campuses,courses]
[--measures grades,forecasts] [--oulad DIR]`. The splits are every forward one of OULAD (`oulad`),
the same with one known course left out of training (`courses`), and twenty simulated campuses whose
terms differ (`campuses`). Each measure of a split is a file in FOLDER, so an interrupted
run continues; take another folder for other code. LightGBM and a random forest learn from the same
columns, without the protected columns, at the cuts. The last line is one JSON object: `ours` is
what the conditions of training let serve, `large_courses` are those of many rows, and `against_…`
are ratios of our errors to the best peer's and to the baseline's (below 1 is better).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from grade_ml.campus import simulated
from grade_ml.campus.simulated import CampusConfig, Differences
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.ensemble import baseline, pooled
from grade_ml.ensemble.names import BASELINE, POOLED
from grade_ml.ensemble.rows import with_outcomes
from grade_ml.features.snapshots import grade_snapshots, weekly_cuts
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml.gradebook.outcomes import outcomes
from grade_ml.training.backtest import without_terms
from grade_ml.training.comparison import with_baseline
from grade_ml.training.data import TrainingData
from grade_ml.training.forecast_backtest import backtest_forecasts
from grade_ml.training.verdicts import of_pooled
from out_of_time import CUTS, KEYS, OULAD, Table, at_cuts, read_oulad, say, without_intervals

TODAY = date(2026, 11, 24)
PSEUDONYMS = Pseudonyms(b"benchmark")
PEERS = {"lightgbm": "lightgbm-half", "forest": "forest-third"}
#: A few hundred students, which is what many schools have, and one course in the smallest. Few take
#: a course twice, as on OULAD: sections that share students leave little to learn from in folds.
SCHOOL = CampusConfig(students=400, courses=6, terms=5, stay=2)
ONE_COURSE = CampusConfig(students=600, courses=1, terms=4, stay=1)
#: How terms of a school differ: alone, each strongly; all together, each as much as on OULAD,
#: where the share at risk moves by five points.
DIFFERENCES = {
    "alike": Differences(),
    "base_rate": Differences(base_rate=0.4),
    "redesigned": Differences(redesigned=0.5),
    "new_course": Differences(new_courses=1),
    "policy": Differences(policy=6),
    "cohort": Differences(cohort=0.4),
    "all": Differences(base_rate=0.2, cohort=0.2, policy=3, redesigned=0.25, new_courses=1),
}
#: Rows of a course below which its own figures are mostly chance.
LARGE = 500


@dataclass(frozen=True)
class Split:
    """Terms to learn from, and terms to predict; the gradebook has no others."""

    name: str
    gradebook: Gradebook
    train: list[str]
    test: list[str]


def main() -> None:
    """Measure what is not measured yet, and print the figures of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default=",".join(SPLITS))
    parser.add_argument("--measures", default=",".join(MEASURES))
    parser.add_argument("--oulad", type=Path, default=OULAD)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    stored: dict[str, dict[str, Any]] = {name: {} for name in MEASURES}
    for measure in arguments.measures.split(","):
        for kind in arguments.only.split(","):
            for split in SPLITS[kind](arguments.oulad):
                file = arguments.folder / f"{split.name}.{measure}.json"
                if not file.exists():
                    say(f"{split.name}: {measure}")
                    whole = file.with_suffix(".part")
                    whole.write_text(json.dumps(MEASURES[measure](split), indent=1))
                    whole.rename(file)
                stored[measure][split.name] = json.loads(file.read_text())
    print(json.dumps(summary(stored["grades"], stored["forecasts"])))


# Splits


def of_oulad(folder: Path) -> Iterator[Split]:
    """Yield every forward split of OULAD."""
    gradebook = read_oulad(folder)
    terms = sorted(gradebook.sections["term_id"].unique(), key=_starts(gradebook).get)
    for place in range(1, len(terms)):
        train, test = terms[:place], terms[place : place + 1]
        yield Split(f"oulad-{test[0]}", _narrowed(gradebook, train, test), train, test)


def of_courses(folder: Path) -> Iterator[Split]:
    """Yield the same splits with each course that is in both kinds of terms left out of one.

    Of a course that no training term has, the forward split contains it already.
    """
    for split in of_oulad(folder):
        sections = split.gradebook.sections
        learned, tested = (
            set(sections.loc[sections["term_id"].isin(terms), "course_id"])
            for terms in (split.train, split.test)
        )
        for course in sorted(learned & tested):
            name = f"{split.name.replace('oulad', 'course')}-{course}"
            book = _narrowed(split.gradebook, split.train, split.test, course)
            if book.sections["term_id"].isin(split.train).any():
                yield replace(split, name=name, gradebook=book)


def of_campuses(_: Path) -> Iterator[Split]:
    """Yield twenty campuses, of which the term before the running term is predicted."""
    for how, differences in DIFFERENCES.items():
        for seed in (1, 2):
            yield _campus(f"campus-{how}-{seed}", replace(SCHOOL, seed=seed), differences)
    small = replace(DIFFERENCES["all"], new_courses=0)
    for seed in range(1, 7):
        yield _campus(f"campus-one_course-{seed}", replace(ONE_COURSE, seed=seed), small)


def _campus(name: str, config: CampusConfig, differences: Differences) -> Split:
    gradebook = simulated.gradebook(replace(config, differences=differences), TODAY)
    starts = _starts(gradebook)
    *train, test, _ = sorted(starts, key=starts.get)
    return Split(name, _narrowed(gradebook, train, [test]), train, [test])


def _starts(gradebook: Gradebook) -> dict[str, pd.Timestamp]:
    return dict(gradebook.sections.groupby("term_id", observed=True)["starts_on"].min())


def _narrowed(
    gradebook: Gradebook, train: list[str], test: list[str], course: str | None = None
) -> Gradebook:
    """Return the gradebook of these terms.

    Where a course is left out, no training term teaches it, and no other course is tested.
    """
    sections = gradebook.sections
    left_out = ~sections["term_id"].isin([*train, *test])
    if course is not None:
        left_out |= (sections["course_id"] == course) != sections["term_id"].isin(test)
    marked = sections.assign(term_id=sections["term_id"].astype(object).mask(left_out, "gone"))
    return without_terms(replace(gradebook, sections=marked), ["gone"])


# Measures


def grades(split: Split) -> dict[str, Any]:
    """Return the figures of grade and risk: ours, each model's and each peer's."""
    known = without_terms(split.gradebook, split.test)
    end = (split.gradebook.sections["ends_on"].max() + pd.Timedelta(days=1)).date()
    started = perf_counter()
    weekly = grade_snapshots(known, weekly_cuts(known.sections, end), end)
    results = outcomes(known, end, DEFAULTS)
    ensemble = pooled.fit(weekly, results, 0, PSEUDONYMS, on_progress=say)
    seconds = perf_counter() - started
    plain = baseline.fit(weekly, results, 0)
    data = TrainingData.of(weekly, results, PSEUDONYMS)
    verdicts = of_pooled(ensemble, with_baseline(ensemble, plain, data, PSEUDONYMS), weekly)
    table = Table.of(split.gradebook, split.train, split.test)
    of_model = {
        name: with_outcomes(model, table.snapshots, table.truth)
        for name, model in ((POOLED, ensemble), (BASELINE, plain))
    }
    serves = POOLED if all(verdict.passed for verdict in verdicts) else BASELINE
    naive = without_intervals(of_model[BASELINE])
    columns = {
        name for name in table.train if name not in KEYS and not name.startswith("protected_")
    }
    return {
        "serves": serves,
        "failed": {verdict.name: verdict.figures for verdict in verdicts if not verdict.passed},
        "train_seconds": round(seconds, 1),
        "train_rows": len(weekly),
        "models": {name: _figures(rows, table.cuts) for name, rows in of_model.items()},
        "courses": {
            str(course): at_cuts(rows, table.cuts)["all"]
            for course, rows in of_model[serves].groupby("course_id", observed=True)
        },
        "peers": {
            **{
                name: table.peer(Path(sys.executable), kind, 0, columns)
                for name, kind in PEERS.items()
            },
            "naive": at_cuts(naive.assign(grade=naive["naive"], risk=np.nan), table.cuts),
        },
    }


def _figures(rows: pd.DataFrame, cuts: pd.DataFrame) -> dict[str, Any]:
    """Return the figures by cut, with the share at risk of the tenth that is most at risk."""
    figures = at_cuts(rows, cuts)
    for name, group in rows.merge(cuts, on=["section_id", "cut_day"]).groupby("fraction"):
        highest = group.nlargest(max(len(group) // 10, 1), "risk")
        figures[f"{name:g}"]["risk"]["top_tenth"] = float(highest["at_risk"].mean())
    return figures


def forecasts(split: Split) -> dict[str, Any]:
    """Return the figures of forecasts by cut and horizon, and by course."""
    known = without_terms(split.gradebook, split.test)
    report = backtest_forecasts(
        known, split.gradebook, split.train, split.test, fractions=CUTS, on_progress=say
    )
    return report.to_dict()


# Summary


def summary(of_grades: Mapping[str, Any], of_forecasts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the last line."""
    splits = {
        name: {**split, "ours": split["models"][split["serves"]]}
        for name, split in of_grades.items()
    }
    rows = _long(splits)
    whole = rows[(rows["cut"] == "all") & (rows["model"] == "ours")]
    remaining = _long_of_forecasts(of_forecasts)
    return {
        "splits": {name: _as_backtest(split) for name, split in splits.items()},
        **_mean_and_worst(whole),
        "by_model": {
            f"{kind}: {model}, {cut}": _mean_and_worst(group)
            for kind, rows_of_kind in (("all", rows), *rows.groupby("kind"))
            for (model, cut), group in rows_of_kind.groupby(["model", "cut"])
        },
        "against_peers": _against(rows, [*PEERS, "naive"]),
        "against_baseline": _against(rows, [BASELINE]),
        "large_courses": _mean_and_worst(_long_of_courses(splits)),
        "forecasts": _mean_and_worst(remaining) | {"splits": dict(of_forecasts)},
        "train_seconds": {name: split["train_seconds"] for name, split in splits.items()},
        "serves": {name: split["serves"] for name, split in splits.items()},
    }


def _as_backtest(split: Mapping[str, Any]) -> dict[str, Any]:
    """Return a split whose figures of a model stand under the backtest's keys."""

    def shaped(figures: Mapping[str, Any]) -> dict[str, Any]:
        cuts = {f"{fraction:g}": figures[f"{fraction:g}"] for fraction in CUTS}
        return {"cuts": cuts, "all": figures["all"]}

    return {
        **split,
        "ours": shaped(split["ours"]),
        "models": {name: shaped(figures) for name, figures in split["models"].items()},
        "peers": {name: shaped(figures) for name, figures in split["peers"].items()},
    }


def _long(splits: Mapping[str, Any]) -> pd.DataFrame:
    """Return split, kind, model, cut, figure and value, one row per known figure."""
    return _frame(
        {"split": name, "model": model, "cut": cut, "figure": figure, "value": value}
        for name, split in splits.items()
        for model, figures in {"ours": split["ours"], **split["models"], **split["peers"]}.items()
        for cut in (*(f"{fraction:g}" for fraction in CUTS), "all")
        for figure, value in _plain(figures[cut]).items()
    )


def _long_of_courses(splits: Mapping[str, Any]) -> pd.DataFrame:
    return _frame(
        {"split": f"{name}-{course}", "figure": figure, "value": value}
        for name, split in splits.items()
        for course, cut in split["courses"].items()
        for figure, value in _plain(cut).items()
        if cut["n"] >= LARGE
    )


def _long_of_forecasts(splits: Mapping[str, Any]) -> pd.DataFrame:
    return _frame(
        {"split": name, "figure": f"{prefix}{figure}", "value": split[part][figure]}
        for name, split in splits.items()
        for part, prefix in (("all", ""), ("h1", "h1_"))
        for figure in ("mae", "rmse", "coverage80", "coverage95", "width80", "width95")
    )


def _frame(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(records, columns=["split", "model", "cut", "figure", "value"])
    known = frame.dropna(subset="value").astype({"value": float})
    return known.assign(kind=known["split"].str.split("-").str[0])


def _plain(cut: Mapping[str, Any]) -> dict[str, float | None]:
    figures = {**cut["grade"], **cut["risk"]}
    auc = figures["auc"]
    return figures | {"1 - auc": None if auc is None else 1 - auc}


def _mean_and_worst(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the mean and the worst of each figure over splits, and where it is the worst."""
    badness = np.where(rows["figure"].isin(["auc", "ap", "top_tenth"]), -1, 1) * rows["value"]
    promised = rows["figure"].str.extract(r"coverage(\d\d)$")[0].astype(float) / 100
    rows = rows.assign(badness=badness.where(promised.isna(), (rows["value"] - promised).abs()))
    worst = rows.sort_values("badness").groupby("figure").last()
    return {
        "mean": rows.groupby("figure")["value"].mean().round(4).to_dict(),
        "worst": worst["value"].round(4).to_dict(),
        "worst_split": worst["split"].to_dict(),
    }


def _against(rows: pd.DataFrame, others: list[str]) -> dict[str, Any]:
    """Return by cut our error over the best of the others': of the means, and split by split."""
    errors = rows[rows["figure"].isin(["rmse", "mae", "brier", "1 - auc"])]
    ratios: dict[str, Any] = {}
    for cut, group in errors.groupby("cut"):
        wide = group.pivot(index=["figure", "split"], columns="model", values="value")
        means = wide.groupby("figure").mean()
        of_splits = (wide["ours"] / wide[others].min(axis=1)).rename("value").reset_index()
        ratios[str(cut)] = {
            "of_means": (means["ours"] / means[others].min(axis=1)).round(4).to_dict(),
            **_mean_and_worst(of_splits),
        }
    return ratios


SPLITS = {"oulad": of_oulad, "campuses": of_campuses, "courses": of_courses}
MEASURES = {"grades": grades, "forecasts": forecasts}

if __name__ == "__main__":
    main()
