"""Counts, rows, figure and notebook of table snapfusion-unet-table3."""

import functools

import pytest
import torch

from mdrepro.metrics.cost.measure import measure
from mdrepro.models import presets
from mdrepro.papers import ledger
from mdrepro.papers.schema import Verdict
from mdrepro.reproduce.tables import unet_table3
from mdrepro.reproduce.tables.unet_table3 import Counted, Group
from mdrepro.reproduce.workflow.record import complete
from tests.support.notebooks import recorded

torch.set_num_threads(1)

TABLE = "snapfusion-unet-table3"

# SnapFusion's Table 3, typed in from the paper: row, side for 512 px, width, blocks of origin, blocks of ours.
TABLE_3 = [
    ("down-1-cross-attention", 64, 320, 2, 0),
    ("down-1-resnet", 64, 320, 2, 2),
    ("down-2-cross-attention", 32, 640, 2, 2),
    ("down-2-resnet", 32, 640, 2, 2),
    ("down-3-cross-attention", 16, 1280, 2, 2),
    ("down-3-resnet", 16, 1280, 2, 1),
    ("mid-cross-attention", 8, 1280, 1, 1),
    ("mid-resnet", 8, 1280, 7, 4),
    ("up-1-cross-attention", 16, 1280, 3, 6),
    ("up-1-resnet", 16, 1280, 3, 2),
    ("up-2-cross-attention", 32, 640, 3, 3),
    ("up-2-resnet", 32, 640, 3, 3),
    ("up-3-cross-attention", 64, 320, 3, 0),
    ("up-3-resnet", 64, 320, 3, 3),
]


@functools.cache
def counted(ending: str) -> Counted:
    return unet_table3.count(unet_table3.NETWORKS[ending])


def everything() -> dict[str, Counted]:
    return {ending: counted(ending) for ending in unet_table3.NETWORKS}


@pytest.mark.parametrize(("row", "side", "width", "origin", "ours"), TABLE_3, ids=[row for row, *_ in TABLE_3])
def test_blocks_are_those_of_the_paper_s_table_3(row, side, width, origin, ours):
    group, evolved = counted("origin").groups[row], counted("ours").groups[row]
    assert (group.side, group.width, group.blocks, evolved.blocks) == (side, width, origin, ours)
    if evolved.blocks:
        assert (evolved.side, evolved.width) == (side, width)


def test_the_variant_of_table_1_lacks_the_five_transformers_at_64x64_alone():
    fewer = {row: g.blocks - counted("table1").groups[row].blocks for row, g in counted("origin").groups.items()}
    assert {row: number for row, number in fewer.items() if number} == {
        "down-1-cross-attention": 2,
        "up-3-cross-attention": 3,
    }


def transformer(d: int, n: int) -> tuple[int, int]:
    """Parameters and MACs of SD's transformer block of width d on n pixels, from its formula."""
    text, tokens = 768, 77
    norms = 2 * d + 3 * 2 * d
    projections = 2 * (d * d + d)
    self_attention = 4 * d * d + d
    cross_attention = 2 * d * d + 2 * text * d + d
    feed_forward = d * 8 * d + 8 * d + 4 * d * d + d
    products = 2 * n * n * d + 2 * n * tokens * d
    weights = (2 + 4 + 2 + 12) * d * d * n + 2 * text * d * tokens
    return norms + projections + self_attention + cross_attention + feed_forward, weights + products


def resnet(i: int, o: int, n: int) -> tuple[int, int]:
    """Parameters and MACs of SD's ResNet from i to o channels on n pixels, from its formula."""
    time = 1280
    shortcut = i * o + o if i != o else 0
    params = 2 * i + 9 * i * o + o + time * o + o + 2 * o + 9 * o * o + o + shortcut
    return params, n * (9 * i * o + 9 * o * o + (i * o if i != o else 0)) + time * o


@pytest.mark.parametrize(
    ("ending", "row", "blocks"),
    [
        ("origin", "down-1-cross-attention", [transformer(320, 4096)] * 2),
        ("ours", "up-1-cross-attention", [transformer(1280, 256)] * 6),
        ("ours", "down-3-resnet", [resnet(640, 1280, 256)]),
        ("ours", "mid-resnet", [resnet(1280, 1280, 64)] * 2 + [resnet(2560, 1280, 64)] * 2),
        ("ours", "up-1-resnet", [resnet(2560, 1280, 256), resnet(1920, 1280, 256)]),
        ("table1", "up-3-resnet", [resnet(960, 320, 4096), resnet(640, 320, 4096), resnet(640, 320, 4096)]),
    ],
)
def test_sizes_and_costs_are_those_of_the_formulas(ending, row, blocks):
    group = counted(ending).groups[row]
    assert group.params == sum(params for params, _ in blocks)
    assert group.macs == sum(macs for _, macs in blocks)


@pytest.mark.parametrize("ending", unet_table3.NETWORKS)
def test_groups_and_rest_are_the_whole(ending):
    network, cost = counted(ending), measure(unet_table3.NETWORKS[ending])
    assert (network.whole.params, network.whole.macs) == (cost.params, cost.macs)
    parts = [*network.groups.values(), network.rest]
    assert sum(part.params for part in parts) == cost.params
    assert sum(part.macs for part in parts) == cost.macs
    assert network.whole.blocks == sum(part.blocks for part in parts)
    assert network.rest == counted("origin").rest  # evolution touches blocks alone


def test_the_two_published_figures_cannot_both_be_met():
    table = ledger.find(TABLE)
    verdicts = {
        ending: ledger.judge(table, "quick", "whole", f"params_{ending}", counted(ending).whole.params / 1e6)
        for ending in unet_table3.NETWORKS
    }
    assert verdicts == {"origin": Verdict.REPRODUCED, "ours": Verdict.DIFFERS, "table1": Verdict.BY_CONSTRUCTION}


def test_the_arithmetic_of_the_docstring():
    """Every choice of which ResNets go under Table 3's counts: 723 to 786M, and with six in Mid 822 to 848M."""
    start = counted("table1").whole.params + 3 * transformer(1280, 1)[0]
    after = [
        start - resnet(1280, 1280, 1)[0] - resnet(2560, 1280, 1)[0],
        start - resnet(1280, 1280, 1)[0] - resnet(1920, 1280, 1)[0],
    ]
    small, large = resnet(1280, 1280, 1)[0], resnet(2560, 1280, 1)[0]

    def span(gone: int) -> tuple[int, int]:
        totals = [first - (gone - k) * small - k * large for first in after for k in range(gone + 1)]
        return round(min(totals) / 1e6), round(max(totals) / 1e6)

    assert span(3) == (723, 786)
    assert span(1) == (822, 848)


def test_every_cell_of_the_paper_is_measured():
    rows = unet_table3.rows(everything())
    table = ledger.find(TABLE)
    assert len(complete(table, rows)) == len(rows)
    verdicts = {
        (row.row, row.column): ledger.judge(table, "quick", row.row, row.column, row.value)
        for row in rows
        if table.cell(row.row, row.column)
    }
    assert len(verdicts) == 4 * 14 + 3
    put_in = {key for key, verdict in verdicts.items() if verdict is Verdict.BY_CONSTRUCTION}
    assert put_in == {key for key in verdicts if key[1] == "blocks_ours"} | {("whole", "params_table1")}
    assert {key for key, verdict in verdicts.items() if verdict is Verdict.DIFFERS} == {("whole", "params_ours")}
    assert set(verdicts.values()) == {Verdict.REPRODUCED, Verdict.BY_CONSTRUCTION, Verdict.DIFFERS}


def test_columns_have_units_and_rows_say_how_they_were_counted():
    rows = {(row.row, row.column): row for row in unet_table3.rows(everything())}
    units = {name: column.unit for name, column in ledger.find(TABLE).columns.items()}
    assert (units["macs_ours"], units["params_ours"]) == ("GMAC", "M")
    assert rows["whole", "params_ours"].value == pytest.approx(759.3, abs=0.05)
    assert ("whole", "blocks_ours") not in rows
    assert "UNet2DConditionModel" in rows["up-1-resnet", "blocks_origin"].protocol
    assert "EvolvableUNet" in rows["up-1-resnet", "blocks_ours"].protocol
    assert all("meta device" in row.protocol and row.n is None for row in rows.values())


def test_frame_shows_what_is_recorded():
    frame = unet_table3.frame(everything())
    assert list(frame.index) == [*(row for row, *_ in TABLE_3), "rest", "whole"]
    assert frame.loc["up-1-cross-attention", "blocks_ours"] == 6
    assert frame.loc["whole", "params_table1"] == 846.8
    assert frame.loc["up-3-resnet", "resolution"] == 64


def test_figure_has_a_bar_for_each_number():
    drawn = unet_table3.figure(everything())
    labels = [text.get_text() for text in drawn.axes[0].get_yticklabels()]
    assert (labels[0], labels[7]) == ("Down-1, cross-attention", "Mid, ResNet")
    bars = drawn.axes[0].patches
    assert [bar.get_width() for bar in bars] == [
        *(row[3] for row in TABLE_3),
        *(row[4] for row in TABLE_3),
        *(counted("table1").groups[row[0]].blocks for row in TABLE_3),
    ]
    assert [len(axes.patches) for axes in drawn.axes] == [42, 42, 42]


@pytest.mark.parametrize("name", ["sdxl", "bk-sdm-tiny"])
def test_a_network_of_another_build_is_refused(name):
    with pytest.raises(ValueError, match=r"no block of Table 3 in down_blocks\.3"):
        unet_table3.count(name)


def test_a_block_that_does_not_run_is_not_counted(monkeypatch):
    with torch.device("meta"):
        idle = presets.build("sd15")
    monkeypatch.setattr(idle, "forward", lambda **_: None)
    monkeypatch.setattr(presets.Preset, "build", lambda self: idle)
    with pytest.raises(ValueError, match="no block of Table 3 that runs"):
        unet_table3.count("sd15")


def test_notebook_runs_to_its_record(monkeypatch):
    small = Counted(dict.fromkeys(unet_table3.GROUPS, Group(1, 8, 8, 1, 1)), Group(), Group())
    monkeypatch.setattr(unet_table3, "count", lambda name: small)
    rows, figures = recorded(TABLE, monkeypatch)
    assert len(rows) == 14 * (2 + 3 * 3) + 2 * 3 * 2
    assert figures == ["blocks"]
