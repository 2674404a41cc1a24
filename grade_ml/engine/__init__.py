"""`PredictiveAnalyticsEngine`: how will this student do in this course? Applications call it."""

from grade_ml.engine.answers import (
    Answers,
    GradePrediction,
    Level,
    ModelExplanation,
    Narratives,
    Pair,
    Refusal,
    Status,
)
from grade_ml.engine.engine import PredictiveAnalyticsEngine
from grade_ml.engine.errors import (
    NoModel,
    NotEnrolled,
    Overloaded,
    StorageUnavailable,
    UnknownCourse,
    UnknownStudent,
)
from grade_ml.engine.settings import Limits

__all__ = [
    "Answers",
    "GradePrediction",
    "Level",
    "Limits",
    "ModelExplanation",
    "Narratives",
    "NoModel",
    "NotEnrolled",
    "Overloaded",
    "Pair",
    "PredictiveAnalyticsEngine",
    "Refusal",
    "Status",
    "StorageUnavailable",
    "UnknownCourse",
    "UnknownStudent",
]
