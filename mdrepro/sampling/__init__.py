"""Image sets: generated, sharded, resumed."""
