"""Loopback servers that the tests talk to instead of engines."""
