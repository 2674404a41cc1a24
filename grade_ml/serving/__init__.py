"""Which model answers, its predictions of every running enrollment, and where they are kept."""
