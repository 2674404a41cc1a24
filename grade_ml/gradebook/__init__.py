"""Records as the university keeps them: schema, loaders, quality, outcomes, the simulated campus.

No feature and no model is made here.
"""
