"""Why a prediction is what it is, and how far to trust the explanation."""
