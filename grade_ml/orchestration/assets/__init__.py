"""The assets, one module per group; each asset calls a domain function and reports on it."""
