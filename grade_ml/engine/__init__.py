"""`PredictiveAnalyticsEngine`: how will this student do in this course? The application asks it."""

from grade_ml.engine.answers import GradePrediction, Narratives, Pair, Status, Told
from grade_ml.engine.engine import PredictiveAnalyticsEngine

__all__ = ["GradePrediction", "Narratives", "Pair", "PredictiveAnalyticsEngine", "Status", "Told"]
