"""Timed comparisons with other packages; not part of the tests."""
