"""Names of one recipe's runs by several training seeds: NAME has the recipe's own seed, NAME-seed1 the next."""

import re

_NAME = re.compile("(.+)-seed([1-9][0-9]*)")


def replica(name: str, seed: int) -> str:
    """The name of a recipe's run by another training seed; for seed 0 the recipe's own name."""
    return f"{name}-seed{seed}" if seed else name


def split(name: str) -> tuple[str, int]:
    """The recipe's own name and the training seed that a name says; 0 where it says none."""
    found = _NAME.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, 0)
