"""The command `miner`."""
