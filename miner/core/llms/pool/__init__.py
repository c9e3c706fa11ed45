"""The models of `miner.toml`: which service serves each."""
