"""`miner serve`: one HTTP process in front of any backend, in the dialects that clients already speak."""
