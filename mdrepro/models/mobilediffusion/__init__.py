"""The networks of MobileDiffusion (arXiv 2311.16567)."""
