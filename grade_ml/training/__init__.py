"""Fits models on what is stored, judges them, and lets the registry move their stages."""
