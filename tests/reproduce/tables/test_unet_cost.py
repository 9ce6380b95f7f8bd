"""Rows, figure and notebook of table mobilediffusion-unet-cost."""

import itertools

import pytest
from matplotlib.text import Annotation, Text

from mdrepro.core.errors import BadInput
from mdrepro.metrics.cost.quantities import Cost
from mdrepro.models import presets
from mdrepro.papers import ledger
from mdrepro.reproduce.tables import unet_cost
from mdrepro.reproduce.workflow.record import complete
from tests.support.notebooks import recorded

TABLE = "mobilediffusion-unet-cost"

SIZES = {  # million parameters, GMAC, GMAC without attention products
    "sd15": (859.5, 401.6, 338.6),
    "sd21": (865.9, 402.1, 339.1),
    "sdxl": (2567.5, 3380.6, 2988.7),
    "bk-sdm-base": (579.4, 261.5, 223.7),
    "bk-sdm-small": (482.3, 255.4, 217.6),
    "bk-sdm-tiny": (323.4, 242.8, 205.0),
    "snapfusion": (846.8, 304.8, 296.5),
    "snapfusion-table3": (759.3, 304.5, 295.6),
    "mobilediffusion": (385.1, 182.2, 179.2),
    "mobilediffusion-lite": (277.2, 116.7, 114.0),
    "sd-decoder": (49.5, 1257.3, 1240.1),
    "snapfusion-decoder": (12.4, 318.9, 310.3),
    "mobilediffusion-decoder": (38.6, 1006.1, 988.9),
    "mobilediffusion-decoder-lite": (9.7, 256.1, 247.5),
    "text-encoder": (123.1, 6.6, 6.5),
}


def cost(name: str) -> Cost:
    params, macs, without = SIZES[name]
    units = round(macs * 1e9)
    return Cost(name, round(params * 1e6), units, round(without * 1e9), 2 * units, presets.get(name).resolution)


def cells(*names: str) -> dict[tuple[str, str], float | None]:
    return {(row.row, row.column): row.value for row in unet_cost.rows([cost(name) for name in names])}


def test_rows_carry_the_numbers_in_the_units_of_the_table():
    rows, units = (
        unet_cost.rows([cost("sd15"), cost("mobilediffusion"), cost("sd-decoder")]),
        ledger.find(TABLE).columns,
    )
    found = {(row.row, row.column): (row.value, units[row.column].unit) for row in rows}
    assert found["sd15", "params"] == (pytest.approx(859.5), "M")
    assert found["sd15", "macs"] == (pytest.approx(401.6), "GMAC")
    assert found["sd15", "macs_without_attention"] == (pytest.approx(338.6), "GMAC")
    assert found["sd15", "flops"] == (pytest.approx(803.2), "GFLOP")
    assert found["sd15", "attention_share"] == (pytest.approx(100 * 63 / 401.6), "%")
    assert found["mobilediffusion", "conv_blocks"] == (11, "")
    assert found["mobilediffusion", "self_attention_layers"] == (15, "")
    assert found["mobilediffusion", "share_of_sd15"] == (pytest.approx(100 * 182.2 / 401.6), "%")
    assert all(row.n is None and row.ci_low is None for row in rows)


def test_rows_of_what_was_not_measured_are_left_out():
    assert ("mobilediffusion", "share_of_sd15") not in cells("mobilediffusion")
    assert ("sd15", "share_of_sd15") not in cells("sd15")
    assert ("sd-decoder", "conv_blocks") not in cells("sd-decoder")


def test_every_row_is_declared_in_the_paper_s_table():
    rows = unet_cost.rows([cost(name) for name in presets.names()])
    declared = complete(ledger.find(TABLE), rows)
    assert {(row.row, row.column) for row in rows} <= {(row.row, row.column) for row in declared}


def test_the_whole_system_is_the_sum_of_its_three_parts():
    whole = cells("text-encoder", "mobilediffusion", "mobilediffusion-decoder-lite")
    assert whole["mobilediffusion-system", "params"] == pytest.approx(123.1 + 385.1 + 9.7)
    assert ("mobilediffusion-system", "params") not in cells("text-encoder", "mobilediffusion")


def test_protocol_says_what_was_run():
    by_name = {row.row: row.protocol for row in unet_cost.rows([cost("sdxl"), cost("mobilediffusion-decoder")])}
    for words in ("UNet2DConditionModel", "meta device", "batch 1", "1024 px", "128x128x4 latent", "77 text tokens"):
        assert words in by_name["sdxl"]
    for words in ("AutoencoderKL decoder", "512 px", "64x64x8 latent"):
        assert words in by_name["mobilediffusion-decoder"]
    assert "tokens" not in by_name["mobilediffusion-decoder"]


def test_a_network_that_is_no_preset():
    with pytest.raises(BadInput, match="allowed:"):
        unet_cost.rows([Cost("vgg", 1, 1, 1, 2, 512)])


def test_figure_shows_every_network_and_no_label_overlaps():
    figure = unet_cost.figure([cost(name) for name in presets.names()])
    figure.canvas.draw()
    shown = 0
    for axes in figure.axes:
        boxes = [Text.get_window_extent(text) for text in axes.texts if isinstance(text, Annotation)]
        assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
        shown += len(boxes)
    assert shown == len(presets.names()) - 1  # the text encoder is neither denoiser nor decoder


@pytest.mark.parametrize("names", [["sd15"], ["sd-decoder"], ["sd15", "sd21", "snapfusion"]])
def test_figure_of_a_few_networks(names):
    figure = unet_cost.figure([cost(name) for name in names])
    assert sum(len(axes.texts) for axes in figure.axes) == len(names)


def test_notebook_runs_to_its_record(monkeypatch):
    rows, figures = recorded(TABLE, monkeypatch, models=["mobilediffusion-lite", "sd-decoder"])
    assert {row.row for row in rows} == {"mobilediffusion-lite", "sd-decoder"}
    assert figures == ["cost"]
