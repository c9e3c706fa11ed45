"""`miner chat`: a conversation in a terminal."""
