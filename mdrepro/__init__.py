"""Open reproduction of MobileDiffusion (arXiv 2311.16567) and SnapFusion (arXiv 2306.00980)."""

from mdrepro.core.library_warnings import leave_out

__version__ = "0.1.0"

leave_out()
