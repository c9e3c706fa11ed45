"""API keys: their file and their checks."""
