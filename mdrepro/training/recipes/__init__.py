"""Training runs as named rows."""
