"""The running server: listening sockets, connections, signals, log."""
