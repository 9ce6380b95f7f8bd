"""Both papers as data, their schema, and the ledger that judges measurements."""
