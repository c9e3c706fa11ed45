"""One package per API dialect."""
