"""Names of runs by other training seeds."""

import pytest

from mdrepro.core.replicas import replica, split


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("shapes-8-seed1", ("shapes-8", 1)),
        ("shapes-8-seed12", ("shapes-8", 12)),
        ("shapes-8-seed1-seed2", ("shapes-8-seed1", 2)),
        *((name, (name, 0)) for name in ("shapes-8", "shapes-8-seed0", "shapes-8-seed01", "-seed1", "shapes-seed1-8")),
    ],
)
def test_a_name_says_its_training_seed(name: str, parts: tuple[str, int]) -> None:
    assert split(name) == parts
    assert replica(*parts) == name
