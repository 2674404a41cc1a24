"""Everything made up: the simulated campus and the providers that serve its world."""
