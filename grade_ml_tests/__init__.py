"""Tests of grade_ml; the folders mirror the package."""
