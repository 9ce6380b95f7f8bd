"""Programs for maintainers: the layout search, the conda environment, badges."""
