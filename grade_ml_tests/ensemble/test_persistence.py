import hashlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import FunctionTransformer

from grade_ml.core.errors import ArtifactError
from grade_ml.ensemble import persistence

X = np.random.default_rng(0).normal(size=(300, 4))
Y = X[:, 0] > 0


def fitted() -> dict[str, object]:
    return {
        "boosting": HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(X, Y),
        "trees": [ExtraTreesRegressor(50, random_state=0).fit(X, X[:, 1])],
        "bayes": GaussianNB().fit(X, Y),
        "none": None,
    }


def test_equal_objects_have_equal_files(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        persistence.save(fitted(), tmp_path / name)
        digests.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert digests[0] == digests[1]


def test_what_was_saved_predicts_the_same(tmp_path: Path) -> None:
    saved = fitted()
    persistence.save(saved, tmp_path / "m")
    again = persistence.load(tmp_path / "m")
    assert (again["boosting"].predict_proba(X) == saved["boosting"].predict_proba(X)).all()
    assert (again["trees"][0].predict(X) == saved["trees"][0].predict(X)).all()
    assert (again["bayes"].predict(X) == saved["bayes"].predict(X)).all()
    assert again["none"] is None


def test_functions_from_elsewhere_are_refused(tmp_path: Path) -> None:
    persistence.save(FunctionTransformer(hashlib.sha256), tmp_path / "m")
    with pytest.raises(ArtifactError, match="cannot be loaded safely"):
        persistence.load(tmp_path / "m")


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"not a zip file")
    with pytest.raises(ArtifactError, match="cannot be loaded safely"):
        persistence.load(tmp_path / "m")
