"""Metrics and traces: the names of the conventions, and the ways out."""
