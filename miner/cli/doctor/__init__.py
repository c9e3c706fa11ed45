"""`miner doctor`: what is wrong on this machine or with a running node, and the line that fixes it."""
