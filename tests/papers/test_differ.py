"""What two compared rows differ in, by their recipes and sampling, against what the papers' data say."""

from typing import Any

import pytest

from mdrepro.papers import ledger
from mdrepro.papers.schema import PUBLISHED, Table
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.recipe import Recipe

SAMPLING = ("steps", "sampler", "guidance", "decoder", "removed")


def flat(fields: dict[str, Any], before: str = "") -> dict[str, Any]:
    nested = {name: value for name, value in fields.items() if isinstance(value, dict)}
    found = {before + name: value for name, value in fields.items() if name not in nested}
    for name, value in nested.items():
        found |= flat(value, f"{before}{name}.")
    return found


def updates(row: Recipe) -> int:
    """Of a run; an evolution trains in each of its rounds."""
    return row.loop.steps * int(row.options.get("rounds", 1))


def trained(name: str) -> dict[str, Any]:
    """A recipe with what it inherits: network and noise of the first of its chain, and the updates of all of it."""
    chain = [registry.get(name)]
    while "unet" in chain[-1].parents:
        chain.append(registry.get(chain[-1].parents["unet"]))
    fields, first = chain[0].plain(), chain[-1].plain()
    parents = {role: parent for role, parent in fields["parents"].items() if role != "unet"}
    loop = {key: value for key, value in fields["loop"].items() if key != "steps"}
    inherited = {"network": first["network"], "noise": first["noise"], "start": tuple(one.name for one in chain[1:])}
    own = {key: value for key, value in fields.items() if key not in ("name", "sampling", "version")}
    return flat(own | inherited | {"parents": parents, "loop": loop, "updates": sum(map(updates, chain))})


def differences(table: Table, row: str, other: str) -> set[str]:
    one, two = (table.networks("quick")[name] for name in (row, other))
    first, second = trained(one.recipe), trained(two.recipe)
    return {name for name in SAMPLING if getattr(one, name) != getattr(two, name)} | {
        name for name in first | second if first.get(name) != second.get(name)
    }


TABLES = [table for table in ledger.tables().values() if table.networks("quick")]
PAIRS = [
    (table.id, *pair)
    for table in TABLES
    for pair in dict.fromkeys(pair for claim in table.claims for pair in table.pairs(claim))
    if set(pair) <= table.networks("quick").keys()
]


@pytest.mark.parametrize(("table", "row", "other"), PAIRS)
def test_rows_differ_in_what_is_declared_and_in_nothing_else(table: str, row: str, other: str) -> None:
    spec = ledger.find(table)
    declared, found = spec.differ[row][other], differences(spec, row, other)
    assert PUBLISHED not in (spec.networks("quick")[name].recipe for name in (row, other))
    for name in found:
        assert any(name == one or name.startswith(f"{one}.") for one in declared), f"{name} differs, too"
    for one in declared:
        assert any(name == one or name.startswith(f"{one}.") for name in found), f"{one} is the same"


def test_nothing_is_declared_that_no_claim_compares() -> None:
    declared = {(table.id, row, other) for table in TABLES for row, others in table.differ.items() for other in others}
    assert declared == set(PAIRS)
    assert len(declared) > 40


def test_claims_name_the_pairs_that_were_not_trained_as_long() -> None:
    found = {claim.id: table.unmatched(claim) for table in TABLES for claim in table.claims}
    assert found["relu-attention-does-not-hurt"] == []
    assert found["swish-does-not-hurt"] == []
    assert found["evolved-network-keeps-quality"] == ["evolved and standard"]  # cost alone; quality: standard-tuned
