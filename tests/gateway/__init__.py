"""Tests of `miner serve`, over real sockets."""
