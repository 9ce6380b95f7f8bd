"""The report: an HTML site of all verdicts."""
