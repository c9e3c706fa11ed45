"""The HTTP client towards engines: connections, stream framing, error mapping."""
