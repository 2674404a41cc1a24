"""Trustworthy grade predictions for a university's gradebook, as one Dagster project."""
