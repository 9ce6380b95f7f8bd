"""SnapFusion's architecture evolution (Algorithm 1)."""
