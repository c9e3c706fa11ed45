"""What `miner serve` says without serving: `--check`, and the settings in `--help`."""
