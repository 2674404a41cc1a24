"""The university's records: schema, loaders, quality, outcomes, the simulated campus.

No feature and no model is made here.
"""
