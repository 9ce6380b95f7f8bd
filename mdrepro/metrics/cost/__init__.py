"""Sizes, operation counts, memory and block latencies of networks."""
