"""Measurements of images and of networks."""
