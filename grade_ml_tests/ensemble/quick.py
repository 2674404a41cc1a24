"""Parameters with which the whole ensemble is fitted in seconds."""

from grade_ml.ensemble.pooled import Parameters, default_parameters

QUICK = {
    "rounds": 240,
    "learning_rate": 0.12,
    "depth": 4,
    "max_depth": 4,
    "num_leaves": 8,
    "epochs": 12,
    "units": 16,
}


def quick(**changes: float) -> Parameters:
    """Return parameters of every member: few rounds of large steps, or as in `changes`."""
    chosen = QUICK | changes
    parameters = default_parameters()
    for members in parameters.values():
        for name, values in members.items():
            # A network's steps are of another kind.
            kept = {"learning_rate"} if name == "mlp" else set()
            values |= {key: chosen[key] for key in values.keys() & chosen.keys() - kept}
    return parameters
