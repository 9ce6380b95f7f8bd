"""For each table: how measurements become rows and figures."""
