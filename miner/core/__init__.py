"""The library: wire types, transport, engines, models, services."""
