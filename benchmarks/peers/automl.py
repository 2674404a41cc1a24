"""Fit another program on a table of features and predict; runs in that program's environment.

Usage: `automl.py KIND TRAIN TEST OUT SECONDS TARGET`, where KIND is flaml, autogluon, lightgbm or
forest, the files are Parquet, and TARGET is final_grade or at_risk. OUT gets one column, predicted.
"""

from __future__ import annotations

import sys
import tempfile

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
    asked = test.drop(columns=TARGETS)
    predicted = FITS[kind](known, truth, asked, target == "at_risk", int(seconds))
    pd.DataFrame({"predicted": predicted}).to_parquet(out)


def _read(file: str) -> pd.DataFrame:
    frame = pd.read_parquet(file)
    texts = frame.select_dtypes(["object", "string"]).columns
    return frame.astype(dict.fromkeys(texts, "category"))


def _flaml(known, truth, asked, risk, seconds):
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
    return model.predict_proba(asked)[:, 1] if risk else model.predict(asked)


def _autogluon(known, truth, asked, risk, seconds):
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
        return model.predict_proba(asked)[1.0].to_numpy() if risk else model.predict(asked)


def _lightgbm(known, truth, asked, risk, seconds):
    from lightgbm import LGBMClassifier, LGBMRegressor

    kind = LGBMClassifier if risk else LGBMRegressor
    model = kind(
        n_estimators=500, learning_rate=0.03, num_leaves=31, n_jobs=THREADS, random_state=0
    ).fit(known, truth)
    return model.predict_proba(asked)[:, 1] if risk else model.predict(asked)


def _forest(known, truth, asked, risk, seconds):
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    kind = RandomForestClassifier if risk else RandomForestRegressor
    both = pd.get_dummies(pd.concat([known, asked]))
    model = kind(n_estimators=300, min_samples_leaf=5, n_jobs=THREADS, random_state=0)
    model.fit(both[: len(known)], truth)
    unseen = both[len(known) :]
    return model.predict_proba(unseen)[:, 1] if risk else model.predict(unseen)


FITS = {"flaml": _flaml, "autogluon": _autogluon, "lightgbm": _lightgbm, "forest": _forest}

if __name__ == "__main__":
    main()
