"""Tests of framing, error mapping and the HTTP client."""
