"""The ground floor: errors, paths, files, locks, machine, provenance, console. It imports nothing above it."""
