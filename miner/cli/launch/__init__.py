"""`miner launch`: programs that use a gateway, each set up for this node and started."""
