"""Latencies, measured or read from a file; they know nothing of papers or notebooks."""
