"""JSON Schema to what an engine's grammar can enforce."""
