"""Memory that a model needs, and that is free."""
