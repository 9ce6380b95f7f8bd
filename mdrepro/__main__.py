"""``python -m mdrepro``."""

from mdrepro.cli import main

main()
