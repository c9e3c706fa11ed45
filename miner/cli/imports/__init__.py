"""Other tools' configurations as a `miner.toml`: one module for each tool."""
