"""Why a prediction says what it says, and how far to trust the explanation."""
