"""From a notebook to a published table and the report."""
