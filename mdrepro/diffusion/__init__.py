"""Noise levels, schedulers and samplers."""
