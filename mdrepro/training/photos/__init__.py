"""Autoencoders trained on photographs."""
