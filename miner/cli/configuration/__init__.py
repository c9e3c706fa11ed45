"""`miner config`: what a file leads to on this machine, and a first one for it."""
