"""Routes for operators: health, metrics, admin, OpenAPI."""
