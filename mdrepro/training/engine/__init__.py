"""The training loop and what it needs: state, checkpoints, feed, random draws."""
