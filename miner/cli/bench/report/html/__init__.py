"""The page that `miner bench --html` writes: one file, nothing from the network."""
