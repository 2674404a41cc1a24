"""Trajectories: every score that is still to come, the weeks between, and how certain each is."""
