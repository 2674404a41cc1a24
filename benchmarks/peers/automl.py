"""Fit another program on a table of features and predict; runs in that program's environment.

Usage: `automl.py KIND TRAIN TEST OUT SECONDS TARGET`, where KIND is one of `FITS`, the files are
Parquet, and TARGET is final_grade or at_risk. OUT gets one column, predicted.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial

import pandas as pd

TARGETS = ["final_grade", "at_risk"]
THREADS = 2


def main() -> None:
    """Fit, predict, write."""
    kind, train_file, test_file, out, seconds, target = sys.argv[1:]
    train, test = _read(train_file), _read(test_file)
    for name in train.select_dtypes("category"):
        known = train[name].cat.categories.union(test[name].cat.categories)
        train[name] = train[name].cat.set_categories(known)
        test[name] = test[name].cat.set_categories(known)
    train = train[train[target].notna()]
    known, truth = train.drop(columns=TARGETS), train[target].astype(float)
    features = test.drop(columns=TARGETS)
    predicted = FITS[kind](known, truth, features, target == "at_risk", int(seconds))
    pd.DataFrame({"predicted": predicted}).to_parquet(out)


def _read(file: str) -> pd.DataFrame:
    frame = pd.read_parquet(file)
    texts = frame.select_dtypes(["object", "string"]).columns
    return frame.astype(dict.fromkeys(texts, "category"))


def _flaml(known, truth, unseen, risk, seconds):
    from flaml import AutoML

    model = AutoML()
    model.fit(
        known,
        truth.astype(int) if risk else truth,
        task="classification" if risk else "regression",
        metric="log_loss" if risk else "rmse",
        time_budget=seconds,
        n_jobs=THREADS,
        seed=0,
        verbose=0,
    )
    return model.predict_proba(unseen)[:, 1] if risk else model.predict(unseen)


def _autogluon(known, truth, unseen, risk, seconds):
    from autogluon.tabular import TabularPredictor

    with tempfile.TemporaryDirectory() as folder:
        model = TabularPredictor(
            label="truth",
            problem_type="binary" if risk else "regression",
            eval_metric="log_loss" if risk else "root_mean_squared_error",
            path=folder,
            verbosity=0,
        ).fit(
            known.assign(truth=truth),
            presets="good_quality",
            time_limit=seconds,
            num_cpus=THREADS,
            dynamic_stacking=False,
        )
        return model.predict_proba(unseen)[1.0].to_numpy() if risk else model.predict(unseen)


def _lightgbm(known, truth, unseen, risk, seconds, **parameters):
    from lightgbm import LGBMClassifier, LGBMRegressor

    kind = LGBMClassifier if risk else LGBMRegressor
    fixed = {"n_estimators": 500, "learning_rate": 0.03, "num_leaves": 31, "random_state": 0}
    model = kind(**fixed | parameters, n_jobs=THREADS, verbosity=-1).fit(known, truth)
    return model.predict_proba(unseen)[:, 1] if risk else model.predict(unseen)


def _forest(known, truth, rows, risk, seconds, **parameters):
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    kind = RandomForestClassifier if risk else RandomForestRegressor
    both = pd.get_dummies(pd.concat([known, rows]))
    fixed = {"n_estimators": 300, "min_samples_leaf": 5, "random_state": 0}
    model = kind(**fixed | parameters, n_jobs=THREADS)
    model.fit(both[: len(known)], truth)
    unseen = both[len(known) :]
    return model.predict_proba(unseen)[:, 1] if risk else model.predict(unseen)


FITS = {
    "flaml": _flaml,
    "autogluon": _autogluon,
    "lightgbm": _lightgbm,
    "forest": _forest,
    # For the many columns of the ensemble: each tree, or split, sees a part of them.
    "lightgbm-half": partial(_lightgbm, n_estimators=400, colsample_bytree=0.5),
    "forest-third": partial(_forest, max_features=1 / 3),
}

if __name__ == "__main__":
    main()
