"""Models of the final grade and of the risk, their evaluation, and their stored predictions."""
