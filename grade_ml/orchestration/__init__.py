"""Dagster over the domain rooms: the only room that imports dagster; no domain rule lives here."""
