"""Which model serves, its predictions for every running enrollment, and where they are stored."""
