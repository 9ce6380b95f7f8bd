"""The underspecification register: what it says of the code is so, and its counts are recounted."""

import itertools

import pytest
from pydantic import ValidationError

from mdrepro.metrics.cost.closed_form import MOBILEDIFFUSION, mobilediffusion_unet
from mdrepro.papers.underspecified import Register, register
from tests.support.checkout import REPOSITORY

ENTRIES = register().entries
ALTERNATIVES = [(entry, other) for entry in ENTRIES for other in entry.alternatives]


def test_both_papers_and_the_known_holes_are_there():
    assert {entry.paper for entry in ENTRIES} == {"mobilediffusion", "snapfusion"}
    names = {entry.id for entry in ENTRIES}
    assert names >= {"md-block-placement", "md-attention-layers", "md-relu-scaling", "sf-table3-or-848m"}
    assert all(entry.id.startswith("md-" if entry.paper == "mobilediffusion" else "sf-") for entry in ENTRIES)


@pytest.mark.parametrize(
    ("entry", "other"), ALTERNATIVES, ids=[f"{entry.id}-{other.change[:20]}" for entry, other in ALTERNATIVES]
)
def test_counts_of_alternatives_are_what_the_closed_form_gives(entry, other):
    assert set(other.config) <= set(MOBILEDIFFUSION)
    tally = mobilediffusion_unet(other.config)
    assert (round(tally.params / 1e6, 2), round(tally.macs / 1e9, 2)) == (other.params, other.macs)


def test_what_t1_saves_is_what_all_even_spreads_of_its_blocks_give():
    """Every network of one number of blocks after each ResNet and any in the middle whose size is level within 4 %."""
    entry = next(entry for entry in ENTRIES if entry.id == "md-t1-before")
    ours, widths = mobilediffusion_unet({}), [320, 640, 1280]
    savings = {}
    for after, middle in itertools.product(range(1, 6), range(1, 16)):
        config = {"transformer_blocks": [after] * 3, "mid_transformer_blocks": middle, "block_out_channels": widths}
        before = mobilediffusion_unet(config)
        if abs(before.params / ours.params - 1) <= 0.04:
            savings[after, middle] = 100 * (1 - ours.macs / before.macs)
    assert f"from {min(savings.values()):.0f} % to {max(savings.values()):.0f} % in compute" in entry.otherwise
    listed = {
        (one.config["transformer_blocks"][0], one.config["mid_transformer_blocks"]): one for one in entry.alternatives
    }
    assert listed.keys() == {*savings, (1, 1)}
    assert f"it costs {100 * (ours.macs / 1e9 / listed[1, 1].macs - 1):.0f} % more" in entry.otherwise


def test_files_named_are_there():
    for entry in ENTRIES:
        assert not entry.where or (REPOSITORY / entry.where).is_file(), entry.id


def test_an_entry_given_twice_or_left_empty():
    good = ENTRIES[0].model_dump()
    with pytest.raises(ValidationError, match="given twice: md-block-placement"):
        Register.model_validate({"entries": [good, good]})
    with pytest.raises(ValidationError, match="otherwise"):
        Register.model_validate({"entries": [good | {"otherwise": ""}]})
