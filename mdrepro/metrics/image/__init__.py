"""Measurements of images: reconstruction, distances between sets, agreement with captions."""
