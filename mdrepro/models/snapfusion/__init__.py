"""The networks of SnapFusion (arXiv 2306.00980)."""
