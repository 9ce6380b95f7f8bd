"""Makers of small inputs, shared by tests."""
