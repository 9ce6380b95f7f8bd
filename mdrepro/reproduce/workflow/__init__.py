"""One run of a table: parameters, fingerprint, notebook, record, results, publication."""
