"""Options of llama-server that have no setting of their own: `flags` of `miner.toml`, LLAMACPP_FLAGS."""
