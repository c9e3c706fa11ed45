"""What the gateway keeps across requests and restarts, in one SQLite database."""
