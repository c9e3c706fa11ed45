"""Measuring what a model's server does under load: `miner bench`."""
