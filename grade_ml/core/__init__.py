"""What every other room stands on: settings, errors, database, artifact store; no domain rule."""
