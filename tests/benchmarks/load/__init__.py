"""Load generators: the same processes for every broker, so that only the broker differs."""
