"""The members of an ensemble, one module each, behind one contract."""

from grade_ml.ensemble.members.catboost import CatBoost
from grade_ml.ensemble.members.contract import Member, Task
from grade_ml.ensemble.members.forest import Forest
from grade_ml.ensemble.members.lightgbm import LightGBM
from grade_ml.ensemble.members.mlp import Perceptron
from grade_ml.ensemble.members.xgboost import XGBoost

__all__ = ["MEMBERS", "Member", "Task"]

MEMBERS: tuple[type[Member], ...] = (XGBoost, LightGBM, CatBoost, Forest, Perceptron)
