"""Training runs on disk: trained, found, published."""
