"""``python -m mdrepro``."""

from mdrepro.cli.app import main

main()
