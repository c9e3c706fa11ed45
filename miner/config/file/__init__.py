"""`miner.toml`: one file that says what is served."""
