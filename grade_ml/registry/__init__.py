"""Model versions, their stages and their artifacts; nothing here knows what a model does."""
