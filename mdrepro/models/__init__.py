"""The networks of both papers, and their baselines from diffusers."""
