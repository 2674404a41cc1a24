"""Dagster over the domain packages. No other package imports dagster; no domain rule is here."""
