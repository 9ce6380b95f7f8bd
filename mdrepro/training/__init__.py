"""One training loop, objectives, recipes and runs."""
