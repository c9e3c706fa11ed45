"""Reader of GGUF headers."""
