"""Decision paths: through a small tree that imitates the model, and through the model's own tree.

The surrogate is one small tree that imitates the model in a course; its fidelity is the R² on
unseen students. The other path leads through one tree of the model itself: of the readable member
with the largest weight, the most telling tree for the student.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.ensemble.baseline import BaselineModel
from grade_ml.ensemble.encoding import Encoder
from grade_ml.ensemble.members import Task
from grade_ml.ensemble.members.contract import Matrix, View
from grade_ml.ensemble.members.forest import Forest
from grade_ml.ensemble.members.lightgbm import LightGBM
from grade_ml.ensemble.members.xgboost import XGBoost
from grade_ml.ensemble.pooled import Part
from grade_ml.explanations.attribution import ensemble_of, pooled_of
from grade_ml.explanations.settings import SETTINGS
from grade_ml.serving.models import Servable

Floats = npt.NDArray[np.float64]

SURROGATE = "surrogate"


@dataclass(frozen=True)
class Step:
    """One question on the path, and the answer.

    Attributes
    ----------
    threshold
        The feature is compared with it; None if the question is about `categories`.
    categories
        Of a text feature, the values that take the same branch as this value; without any, and
        without a threshold, the question is whether the feature is missing.
    value
        As it was read; None if it is missing.
    below
        Whether the answer was yes to "at most" (or "below"), or to "one of" for the other texts.
    inclusive
        Whether the question is "at most"; XGBoost splits by "below".
    """

    feature: str
    threshold: float | None
    categories: tuple[str, ...]
    value: float | str | None
    below: bool
    inclusive: bool = True


@dataclass(frozen=True)
class Path:
    """A student's path through one tree.

    Attributes
    ----------
    tree
        `SURROGATE`, or a member and the number of its tree, such as "lightgbm 12".
    predicted
        The value of the leaf, in points: the grade (surrogate), points still to come (forest), or
        what this tree adds to them (boosting).
    fidelity
        R² of the surrogate on unseen students; None for a tree of the model itself.
    """

    tree: str
    steps: tuple[Step, ...]
    predicted: float
    fidelity: float | None = None

    def to_json(self) -> str:
        """Return the path as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Path:
        """Return the path that `to_json` described."""
        steps = tuple(
            Step(**{**step, "categories": tuple(step["categories"])}) for step in values["steps"]
        )
        return cls(values["tree"], steps, values["predicted"], values["fidelity"])


@dataclass(frozen=True)
class Surrogate:
    """A small tree that imitates the grade of a model; `tree` is scikit-learn's."""

    encoder: Encoder
    tree: Any
    fidelity: float

    @classmethod
    def fit(
        cls, rows: pd.DataFrame, grade: Floats, encoder: Encoder, seed: int
    ) -> Surrogate | None:
        """Imitate `grade` (points) of `rows`; None if there are too few students to learn from.

        Parameters
        ----------
        rows
            Snapshots of one course.
        encoder
            Of the model's columns.
        """
        from sklearn.model_selection import GroupKFold, cross_val_predict
        from sklearn.tree import DecisionTreeRegressor

        students = rows["student_id"].astype(object).to_numpy()
        known = ~np.isnan(grade)
        if len(np.unique(students[known])) < SETTINGS.least_students:
            return None
        rows, grade, students = rows[known], grade[known], students[known]
        if len(rows) > SETTINGS.surrogate_rows:
            drawn = np.random.default_rng(seed).permutation(len(rows))[: SETTINGS.surrogate_rows]
            rows, grade, students = rows.iloc[drawn], grade[drawn], students[drawn]
        matrix = _filled(encoder.transform(rows))
        tree = DecisionTreeRegressor(
            max_depth=SETTINGS.surrogate_depth, min_samples_leaf=10, random_state=seed
        )
        unseen = cross_val_predict(tree, matrix, grade, groups=students, cv=GroupKFold(3))
        spread = float(((grade - grade.mean()) ** 2).sum())
        fidelity = 1 - float(((grade - unseen) ** 2).sum()) / max(spread, 1e-9)
        return cls(encoder, tree.fit(matrix, grade), fidelity)

    def paths(self, rows: pd.DataFrame) -> Iterator[Path]:
        """Yield the path of each row."""
        matrix = self.encoder.transform(rows)
        filled, tree = _filled(matrix), self.tree.tree_
        leaves = tree.apply(filled)
        for row, known, leaf in zip(filled, matrix, leaves, strict=True):
            steps = tuple(_walk(tree, row, known, self.encoder))
            yield Path(SURROGATE, steps, float(tree.value[leaf, 0, 0]), self.fidelity)


@dataclass(frozen=True)
class Trees:
    """The trees of a model's grades in one course; None if there is no such tree."""

    surrogate: Surrogate | None
    part: Part | None

    @classmethod
    def of(cls, model: Servable, rows: pd.DataFrame, seed: int) -> Trees:
        """Return the trees of `model`, the surrogate learnt from `rows` of the course."""
        grade = model.predict(rows)["grade"].to_numpy(np.float64)
        surrogate = Surrogate.fit(rows, grade, _encoder(model), seed)
        pooled = pooled_of(model)
        return cls(surrogate, pooled.parts.get(Task.GRADE) if pooled else None)

    def paths(self, rows: pd.DataFrame) -> list[list[Path]]:
        """Return the paths of all rows through each of the trees."""
        through = list(self.surrogate.paths(rows)) if self.surrogate else []
        within = member_paths(self.part, rows) or [] if self.part else []
        return [paths for paths in (through, within) if paths]


def _encoder(model: Servable) -> Encoder:
    """Return an encoder of the columns of the grade's model, on the course's own scale."""
    if isinstance(model, BaselineModel):
        return model.encoder
    parts = ensemble_of(model)[0].parts
    part = parts.get(Task.GRADE) or next(iter(parts.values()))
    return part.encoders[View.OWN_SCALE]


#: Below every value that a feature has.
_MISSING = np.float32(-1000)
#: Halfway between that and a value: a threshold here separates missing from known values.
_NO_VALUE = -300.0


def _filled(matrix: Matrix) -> Matrix:
    return np.where(np.isnan(matrix), _MISSING, matrix)


def _walk(tree: Any, row: Matrix, known: Matrix, encoder: Encoder) -> Iterator[Step]:
    node = 0
    while tree.children_left[node] != -1:
        place, threshold = int(tree.feature[node]), float(tree.threshold[node])
        below = bool(row[place] <= threshold)
        step = _step(encoder, place, threshold, known[place], below)
        about_gaps = threshold < _NO_VALUE
        yield replace(step, threshold=None, categories=()) if about_gaps else step
        node = (tree.children_left if below else tree.children_right)[node]


def _step(encoder: Encoder, place: int, threshold: float, value: float, below: bool) -> Step:
    feature = encoder.features[place]
    if np.isinf(value):
        raise ValueError(f"{feature} is infinite")  # a forest reads it, and JSON cannot hold it
    missing = bool(np.isnan(value))
    if feature in encoder.categories:
        texts = encoder.categories[feature]
        same = tuple(text for code, text in enumerate(texts) if (code <= threshold) == below)
        return Step(feature, None, same, None if missing else texts[int(value)], below)
    return Step(feature, threshold, (), None if missing else float(value), below)


def member_paths(part: Part, rows: pd.DataFrame) -> list[Path] | None:
    """Return each row's path through the most telling tree of the model.

    Of the members whose trees can be read (forest, LightGBM, XGBoost) the member with the largest
    weight halfway through the section is chosen; None if there is no such member. In a forest every
    tree predicts the whole number: the tree nearest to the forest's mean represents it. In boosting
    each tree adds a little: the tree with the largest contribution is shown.
    """
    weights = part.stack.at(np.array([0.5]))
    readable = {
        name: member
        for name, member in part.members.items()
        if isinstance(member, Forest | LightGBM | XGBoost)
    }
    if not readable:
        return None
    best = max(readable, key=lambda name: (float(weights[name][0]), name))
    member, encoder = readable[best], part.encoders[readable[best].view(Task.GRADE)]
    matrix = encoder.transform(rows)
    if isinstance(member, Forest):
        return list(_through_forest(member, matrix, encoder))
    return list(_through_boosting(member, matrix, encoder))


def _through_forest(member: Forest, matrix: Matrix, encoder: Encoder) -> Iterator[Path]:
    filled = _filled(matrix)
    trees = [estimator.tree_ for estimator in member.forest.estimators_]
    predictions = np.column_stack([tree.predict(filled)[:, 0] for tree in trees])
    nearest = np.abs(predictions - predictions.mean(axis=1, keepdims=True)).argmin(axis=1)
    for row, known, number, values in zip(filled, matrix, nearest, predictions, strict=True):
        steps = tuple(_walk(trees[number], row, known, encoder))
        yield Path(f"{Forest.name} {number + 1}", steps, float(values[number]))


@dataclass(frozen=True)
class _Node:
    """A node of a boosted tree; a leaf has no `feature`, and the library's `number`."""

    number: int = 0
    value: float = 0.0
    feature: int = -1
    threshold: float = 0.0
    #: Whether values equal to the threshold take the branch below; in XGBoost they do not.
    inclusive: bool = True
    missing_below: bool = True
    below: _Node | None = None
    above: _Node | None = None

    def is_below(self, value: float) -> bool:
        if np.isnan(value):
            return self.missing_below
        return bool(value <= self.threshold if self.inclusive else value < self.threshold)


def _through_boosting(
    member: LightGBM | XGBoost, matrix: Matrix, encoder: Encoder
) -> Iterator[Path]:
    if isinstance(member, LightGBM):
        dumped = member.booster.dump_model()["tree_info"]
        trees = [_of_lightgbm(tree_dump["tree_structure"]) for tree_dump in dumped]
        reached = member.booster.predict(matrix, pred_leaf=True)
    else:
        import xgboost

        trees = [
            _of_xgboost(json.loads(tree_dump))
            for tree_dump in member.booster.get_dump(dump_format="json")
        ]
        reached = member.booster.predict(xgboost.DMatrix(matrix), pred_leaf=True)
    leaves = np.asarray(reached, dtype=np.intp).reshape(len(matrix), len(trees))
    values = [{leaf.number: leaf.value for leaf in _leaves(tree)} for tree in trees]
    added = np.column_stack(
        [[known[leaf] for leaf in column] for known, column in zip(values, leaves.T, strict=True)]
    )
    for row, number, own in zip(matrix, np.abs(added).argmax(axis=1), added, strict=True):
        steps = tuple(_down(trees[number], row, encoder))
        yield Path(f"{member.name} {number + 1}", steps, float(own[number]))


def _leaves(node: _Node) -> Iterator[_Node]:
    if node.below is None or node.above is None:
        yield node
    else:
        yield from _leaves(node.below)
        yield from _leaves(node.above)


def _down(node: _Node, row: Matrix, encoder: Encoder) -> Iterator[Step]:
    while node.below is not None and node.above is not None:
        value = float(row[node.feature])
        below = node.is_below(value)
        step = _step(encoder, node.feature, node.threshold, value, below)
        yield replace(step, inclusive=node.inclusive)
        node = node.below if below else node.above


def _of_lightgbm(node: Mapping[str, Any]) -> _Node:
    if "split_feature" not in node:
        return _Node(int(node.get("leaf_index", 0)), float(node["leaf_value"]))
    threshold = float(node["threshold"])
    return _Node(
        feature=int(node["split_feature"]),
        threshold=threshold,
        # If no value was missing in training, the library reads a missing value as 0.
        missing_below=threshold >= 0 if node["missing_type"] == "None" else node["default_left"],
        below=_of_lightgbm(node["left_child"]),
        above=_of_lightgbm(node["right_child"]),
    )


def _of_xgboost(node: Mapping[str, Any]) -> _Node:
    if "leaf" in node:
        return _Node(int(node["nodeid"]), float(node["leaf"]))
    children = {child["nodeid"]: child for child in node["children"]}
    return _Node(
        feature=int(str(node["split"]).removeprefix("f")),
        threshold=float(np.float32(node["split_condition"])),
        inclusive=False,
        missing_below=node["missing"] == node["yes"],
        below=_of_xgboost(children[node["yes"]]),
        above=_of_xgboost(children[node["no"]]),
    )
