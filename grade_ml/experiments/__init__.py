"""Whether a model or an action is better: experiments, their evidence, and what follows from it."""
