"""The base of all other packages: settings, errors, database, artifact store; no domain rule."""
