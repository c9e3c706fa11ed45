"""The live view of a running gateway: `miner top`."""
