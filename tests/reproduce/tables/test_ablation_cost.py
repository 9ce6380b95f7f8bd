"""Rows, figure and notebook of table mobilediffusion-ablation-cost."""

import functools
import math

import pytest
import torch

from mdrepro.core.errors import BadInput
from mdrepro.metrics.cost.closed_form import mobilediffusion_unet
from mdrepro.metrics.cost.quantities import Cost
from mdrepro.models.mobilediffusion.unet import SD_VALUES, MobileDiffusionUNet
from mdrepro.papers import ledger
from mdrepro.reproduce.tables import ablation_cost
from mdrepro.reproduce.tables.ablation_cost import RULES, TABLE, Change
from mdrepro.reproduce.workflow.record import complete
from tests.support.notebooks import recorded
from tests.support.tiny_pipeline import UNET

torch.set_num_threads(1)


measured = functools.cache(lambda: ablation_cost.measure(list(RULES)))


def changes() -> dict[str, Change]:
    return {change.rule: change for change in measured()}


@pytest.mark.parametrize("name", RULES)
def test_a_network_with_the_rule_turned_back_runs(name):
    different = dict(RULES[name].changes)
    if "block_out_channels" in different:
        different["block_out_channels"] = (16, 32, 80)
        different["transformer_blocks"] = (1, 1, 1)
    torch.manual_seed(0)
    unet = MobileDiffusionUNet(**({"attention": "relu"} | UNET | different)).eval()
    sample = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        out = unet(sample, 10, torch.randn(1, 5, 24)).sample
    assert out.shape == sample.shape
    assert out.isfinite().all()


@pytest.mark.parametrize("name", [name for name in RULES if name != "t5"])
def test_both_sides_are_counted_as_the_closed_form_counts_them(name):
    change, rule = changes()[name], RULES[name]
    ours, other = mobilediffusion_unet({}), mobilediffusion_unet(rule.changes)
    before, after = (other, ours) if rule.adopted else (ours, other)
    assert (change.before.params, change.before.macs) == (before.params, before.macs)
    assert (change.after.params, change.after.macs) == (after.params, after.macs)


def test_rules_change_size_and_cost_in_the_papers_direction():
    found = changes()
    for name in ("t2", "t3", "t6", "c1", "c2"):
        assert found[name].params < -1
        assert found[name].macs < -1
    for name in ("t4", "t5"):
        assert (found[name].params, found[name].macs) == (0, 0)
    assert found["t1"].macs < -20
    assert abs(found["t1"].params) < 5  # the parameters stay level


def test_t3_by_hand():
    """Fifteen self-attention layers of width 1024 lose one projection without bias."""
    change = changes()["t3"]
    assert change.before.params - change.after.params == 15 * 1024 * 1024
    assert change.params == pytest.approx(-3.92, abs=0.01)


def test_along_a_path_as_the_notebook_says():
    found = ablation_cost.along_a_path()
    assert list(found) == ["t1", "t2", "t3", "t6", "c1", "c2"]
    changes = {name: change for rule in found for name, change in RULES[rule].changes.items()}
    with torch.device("meta"):
        start, end = MobileDiffusionUNet(**changes), MobileDiffusionUNet()
        without_t1 = MobileDiffusionUNet(**{k: v for k, v in changes.items() if k not in RULES["t1"].changes})
    left = math.prod(1 + params / 100 for params, _ in found.values())
    assert left == pytest.approx(end.num_parameters() / start.num_parameters())
    assert found["t1"][0] == pytest.approx(100 * (without_t1.num_parameters() / start.num_parameters() - 1))
    assert found["t6"][0] == pytest.approx(-10, abs=0.5)
    assert found["c1"][0] < -20
    assert found["c2"][1] < -20
    alone = mobilediffusion_unet(SD_VALUES["C1"]).params - mobilediffusion_unet({}).params
    assert alone == pytest.approx(94e6, rel=0.01)


def test_only_t1_is_turned_back_to_something_else_than_sd():
    assert {rule.upper() for rule in RULES if "-" not in rule} == set(SD_VALUES)
    for name, rule in RULES.items():
        if name not in ("t1", "t2-no-cross-attention"):
            assert dict(rule.changes) == SD_VALUES[name.upper()]


def change(rule: str, before: tuple[int, int], after: tuple[int, int]) -> Change:
    costs = [Cost("mobilediffusion", params, macs, macs, 2 * macs, 512) for params, macs in (before, after)]
    return Change(rule, *costs)


def test_rows_are_changes_in_per_cent():
    rows = ablation_cost.rows([change("c2", (200, 1000), (150, 900)), change("t1", (100, 100), (104, 80))])
    units = ledger.find(TABLE).columns
    found = {(row.row, row.column): (row.value, units[row.column].unit) for row in rows}
    assert found["c2", "params_change"] == (pytest.approx(-25), "%")
    assert found["c2", "compute_change"] == (pytest.approx(-10), "%")
    assert found["t1", "params_change"] == (pytest.approx(4), "%")
    assert found["c2", "conv_blocks"] == (11, "")
    assert found["base", "conv_blocks"] == (22, "")
    reasons = {row.row: row.reason for row in rows if row.column == "runtime_change"}
    assert set(reasons) == {"t1"}
    assert "device is not stated" in reasons["t1"]


def test_every_row_is_declared_and_the_claim_holds():
    table = ledger.find(TABLE)
    rows = ablation_cost.rows(measured())
    declared = complete(table, rows)
    assert {(row.row, row.column) for row in rows} <= {(row.row, row.column) for row in declared}
    numbers = [vars(row) for row in declared]
    assert ledger.judge_claim(table.claims[0], numbers)[0] == "holds"


def test_protocol_names_both_networks():
    texts = {row.row: row.protocol for row in ablation_cost.rows(measured()) if row.column == "params_change"}
    assert "against the same with ffn_ratio 4" in texts["t6"]
    assert "against itself" in texts["t2-no-cross-attention"]
    assert all("meta device" in text and "batch 1" in text for text in texts.values())


def test_selection():
    assert ablation_cost.select(["all", "t3"]) == list(RULES)
    assert ablation_cost.select(["c1", "t3"]) == ["t3", "c1"]
    with pytest.raises(BadInput, match="allowed: t1"):
        ablation_cost.select(["t9"])


def test_figure_marks_the_papers_figures():
    figure = ablation_cost.figure(measured())
    left, right = figure.axes
    assert sum(line.get_label() == "paper" for line in left.lines) == 4  # t3, t6, c1, c2
    assert sum(line.get_label() == "paper" for line in right.lines) == 1  # c2
    assert len(left.patches) == len(right.patches) == len(RULES)


def test_notebook_runs_to_its_record(monkeypatch):
    rows, figures = recorded(TABLE, monkeypatch, rules=["t3"])
    assert {row.row for row in rows} == {"t3"}
    assert figures == ["ablation"]
