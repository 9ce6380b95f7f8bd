"""The papers' data: spot checks typed in independently of the YAML, and what must hold of every cell."""

import pytest
import yaml

from mdrepro.papers import ledger
from mdrepro.papers.base import CONFIRMED
from mdrepro.papers.schema import TIERS, Verdict

# table, row, column, value (or a piece of the text; None: not found), confidence, source key
SPOT_CHECKS = [
    ("mobilediffusion-unet-cost", "sd15", "params", 860, "read-P", "SF-P"),
    ("mobilediffusion-unet-cost", "sd15", "macs", 392, "recalled", "memory"),
    ("mobilediffusion-unet-cost", "sd15", "macs_without_attention", 339, "recalled", "memory"),
    ("mobilediffusion-unet-cost", "sd15", "conv_blocks", 22, "read-S", "MD-1"),
    ("mobilediffusion-unet-cost", "sd21", "params", 870, "read-P", "BK-SDM"),
    ("mobilediffusion-unet-cost", "sd21", "macs", None, "not found", ""),
    ("mobilediffusion-unet-cost", "sdxl", "params", 2570, "read-S", "MD-7"),
    ("mobilediffusion-unet-cost", "bk-sdm-base", "params", 580, "read-P", "BK-SDM"),
    ("mobilediffusion-unet-cost", "bk-sdm-small", "params", 490, "read-P", "BK-SDM"),
    ("mobilediffusion-unet-cost", "bk-sdm-tiny", "params", 330, "read-P", "BK-SDM"),
    ("mobilediffusion-unet-cost", "snapfusion", "params", 848, "read-P", "SF-P"),
    ("mobilediffusion-unet-cost", "snapfusion", "macs", 285, "recalled", "memory"),
    ("mobilediffusion-unet-cost", "mobilediffusion", "params", 386, "read-S", "MD-2"),
    ("mobilediffusion-unet-cost", "mobilediffusion", "macs", 182, "read-S", "MD-2"),
    ("mobilediffusion-unet-cost", "mobilediffusion", "conv_blocks", 11, "read-S", "MD-2"),
    ("mobilediffusion-unet-cost", "mobilediffusion", "cross_attention_layers", 18, "recalled", "memory"),
    ("mobilediffusion-unet-cost", "mobilediffusion", "share_of_sd15", 46.4, "read-S", "MD-1"),
    ("mobilediffusion-unet-cost", "mobilediffusion-lite", "params", 278, "recalled", "memory"),
    ("mobilediffusion-unet-cost", "mobilediffusion-lite", "macs", 117, "inferred", "own"),
    ("mobilediffusion-unet-cost", "mobilediffusion-decoder", "params", 39.3, "read-P", "MD-4"),
    ("mobilediffusion-unet-cost", "mobilediffusion-decoder-lite", "params", 9.8, "read-P", "MD-4"),
    ("mobilediffusion-unet-cost", "snapfusion-decoder", "params", 13, "read-P", "SF-P"),
    ("mobilediffusion-unet-cost", "sd-decoder", "params", 49.5, "read-P", "MD-4"),
    ("mobilediffusion-unet-cost", "mobilediffusion-system", "params", 520, "read-P", "MD-4"),
    ("mobilediffusion-unet-cost", "pixart-alpha", "params", 600, "read-S", "MD-6"),
    ("mobilediffusion-unet-cost", "wuerstchen", "params", None, "not found", ""),
    ("mobilediffusion-vae-reconstruction", "sd", "psnr", 26.7, "read-P", "MD-4"),
    ("mobilediffusion-vae-reconstruction", "ours", "ssim", 0.83, "read-P", "MD-4"),
    ("mobilediffusion-vae-reconstruction", "ours-lite", "psnr", 30.2, "read-P", "MD-4"),
    ("mobilediffusion-vae-reconstruction", "sd", "lpips", 0.037, "read-P", "MD-4"),
    ("mobilediffusion-vae-reconstruction", "ours-lite", "lpips", 0.032, "read-P", "MD-4"),
    ("mobilediffusion-vae-reconstruction", "ours-lite", "psnr_gain_over_ours", 0.2, "inferred", "own"),
    ("mobilediffusion-steps", "50", "fid", 8.65, "read-S", "MD-2"),
    ("mobilediffusion-steps", "50", "hps", 27.3, "read-S", "MD-2"),
    ("mobilediffusion-steps", "8", "fid", None, "not found", ""),
    ("mobilediffusion-steps", "1", "fid", 11.67, "read-S", "MD-2"),
    ("mobilediffusion-steps", "1", "clip", 0.32, "read-S", "MD-2"),
    ("mobilediffusion-steps", "snapfusion-8", "clip", 0.308, "read-S", "MD-2"),
    ("mobilediffusion-steps", "sd-50", "fid", 9.62, "read-S", "MD-2"),
    ("mobilediffusion-ablation-cost", "t1", "runtime_change", -26, "read-S", "MD-1"),
    ("mobilediffusion-ablation-cost", "t3", "params_change", -5, "read-S", "MD-1"),
    ("mobilediffusion-ablation-cost", "c2", "compute_change", -19, "read-S", "MD-1"),
    ("mobilediffusion-ablation-quality", "base", "fid", 12.5, "read-S", "MD-1"),
    ("mobilediffusion-ablation-quality", "t2-no-cross-attention", "fid", 17.87, "read-S", "MD-1"),
    ("mobilediffusion-ablation-quality", "t2-no-cross-attention", "clip", 0.302, "read-S", "MD-1"),
    ("mobilediffusion-ablation-quality", "t5", "fid", 12.31, "read-S", "MD-1"),
    ("mobilediffusion-ablation-quality", "t6", "fid", 12.58, "read-S", "MD-1"),
    ("mobilediffusion-ablation-quality", "t3", "clip", "no loss", "read-S", "MD-1"),
    ("mobilediffusion-device-latency", "iphone15pro-mobilediffusion-1", "total_ms", 238, "read-S", "MD-2"),
    ("mobilediffusion-device-latency", "iphone15pro-mobilediffusion-1", "unet_ms_per_step", 142, "inferred", "own"),
    ("mobilediffusion-device-latency", "iphone15pro-mobilediffusion-8", "total_ms", 1232, "inferred", "own"),
    ("mobilediffusion-device-latency", "iphone15pro-unnamed-1740", "total_ms", 1740, "read-S", "MD-2"),
    ("mobilediffusion-device-latency", "premium-phones-claimed", "total_ms", 500, "read-P", "MD-4"),
    ("mobilediffusion-device-latency", "galaxy-s24", "total_ms", None, "not found", ""),
    ("snapfusion-unet-table3", "down-1-cross-attention", "blocks_ours", 0, "read-P", "SF-P"),
    ("snapfusion-unet-table3", "mid-resnet", "blocks_origin", 7, "read-P", "SF-P"),
    ("snapfusion-unet-table3", "mid-resnet", "blocks_ours", 4, "read-P", "SF-P"),
    ("snapfusion-unet-table3", "up-1-cross-attention", "blocks_ours", 6, "read-P", "SF-P"),
    ("snapfusion-unet-table3", "up-3-resnet", "dimension", 320, "read-P", "SF-P"),
    ("snapfusion-unet-table3", "whole", "params_ours", 848, "read-P", "SF-P"),
    ("snapfusion-unet-table3", "whole", "params_table1", 848, "read-P", "SF-P"),
    ("snapfusion-step-distillation", "table2-dpm++", "fid", 25.6, "read-P", "SF-P"),
    ("snapfusion-step-distillation", "table2-ours", "fid", 24.2, "read-P", "SF-P"),
    ("snapfusion-step-distillation", "table2-meng", "clip", 0.3, "read-P", "SF-P"),
    ("snapfusion-step-distillation", "fig4-ours-cfg-4.5", "fid", 13.64, "inferred", "SF-W"),
    ("snapfusion-step-distillation", "fig4-sd15-cfg-2.5", "clip", 0.2826, "inferred", "SF-W"),
    ("snapfusion-step-distillation", "fig4-ours-cfg-10.0", "clip", 0.3073, "inferred", "SF-W"),
    ("snapfusion-distillation-ablations", "fig6c-vanilla", "result", "lowest FID", "read-P", "SF-P"),
    ("snapfusion-distillation-ablations", "fig7b-constant-1.0", "result", "spoils", "read-P", "SF-P"),
    ("snapfusion-evolution", "action", "a100_hours", 2.5, "read-P", "SF-P"),
    ("snapfusion-evolution", "robust-recipe", "skip_probability", None, "not found", ""),
    ("snapfusion-decoder", "half-width", "params", 13, "read-P", "SF-P"),
    ("snapfusion-decoder", "original", "latency_ms", 369, "read-P", "SF-P"),
    ("snapfusion-latency-breakdown", "iphone14pro-sd15-unet", "latency_ms", 1700, "read-P", "SF-P"),
    ("snapfusion-latency-breakdown", "iphone14pro-ours-unet", "total_ms", 1840, "read-P", "SF-P"),
    ("snapfusion-latency-breakdown", "iphone12promax-ours-image", "image_s", 4.4, "read-P", "SF-P"),
    ("snapfusion-latency-breakdown", "iphone13promax-ours-image", "unet_ms", 315, "read-P", "SF-P"),
    ("snapfusion-latency-breakdown", "a100-ours-unet", "memory_mb", 3549, "read-P", "SF-P"),
    ("snapfusion-latency-breakdown", "a100-sd15-unet", "total_ms", 2560, "read-P", "SF-P"),
]
TABLES = list(ledger.tables(planned=True).values())
CELLS = [(table, cell) for table in TABLES for cell in table.cells]


@pytest.mark.parametrize(
    ("name", "row", "column", "value", "confidence", "source"),
    SPOT_CHECKS,
    ids=[f"{name}:{row}/{column}" for name, row, column, *_ in SPOT_CHECKS],
)
def test_cell_is_what_was_read(
    name: str, row: str, column: str, value: float | str | None, confidence: str, source: str
) -> None:
    cell = ledger.find(name, planned=True).cell(row, column)
    assert cell is not None
    assert (cell.confidence, cell.source.split(":")[0]) == (confidence, source)
    if isinstance(value, str):
        assert value in cell.text
    else:
        assert cell.value == value


def test_spot_checks_touch_every_table() -> None:
    assert {name for name, *_ in SPOT_CHECKS} == {table.id for table in TABLES}


def test_unconfirmed_figures_are_never_reproduced() -> None:
    """The rule of the house, over all cells: hitting a recalled or inferred figure exactly proves nothing."""
    seen = set()
    for table, cell in CELLS:
        for tier in TIERS:
            verdict = ledger.judge(table, tier, cell.row, cell.column, cell.value, (-1e9, 1e9))
            if cell.value is None:
                assert verdict is Verdict.NOT_ATTEMPTED
            elif cell.confidence not in CONFIRMED:
                assert verdict in (Verdict.UNCONFIRMED, Verdict.NOT_COMPARABLE), (table.id, cell)
            elif cell.constructed:
                assert verdict in (Verdict.BY_CONSTRUCTION, Verdict.NOT_COMPARABLE), (table.id, cell)
            else:
                assert verdict in (Verdict.REPRODUCED, Verdict.NOT_COMPARABLE), (table.id, cell)
            seen.add(verdict)
    exact = {Verdict.REPRODUCED, Verdict.BY_CONSTRUCTION}
    assert seen == {Verdict.NOT_ATTEMPTED, Verdict.UNCONFIRMED, Verdict.NOT_COMPARABLE, *exact}


def test_where_sources_conflict_both_figures_stand_in_the_data() -> None:
    """v1 counts 12 ResNets and v2 11."""
    conflicts = {
        (table.id, cell.row, cell.column): (cell.value, cell.conflict) for table, cell in CELLS if cell.conflict
    }
    counts = {
        ("mobilediffusion-unet-cost", "mobilediffusion", "conv_blocks"): (11, "v1: 12"),
        ("mobilediffusion-ablation-cost", "c2", "conv_blocks"): (11, "v1: 12"),
    }
    assert conflicts == counts


def test_worked_out_and_recalled_figures_name_such_a_source() -> None:
    """A figure from our own arithmetic or from memory may not borrow a confirmed tag."""
    for table, cell in CELLS:
        if cell.source.split(":")[0] in ("own", "memory"):
            assert cell.confidence not in CONFIRMED, (table.id, cell)
        if cell.confidence == "recalled":
            assert cell.source.startswith("memory"), (table.id, cell)


def test_every_claim_says_why_its_margin_is_what_it_is() -> None:
    claims = [claim for table in TABLES for claim in table.claims]
    assert len({claim.id for claim in claims}) == len(claims) >= 40
    assert all(claim.note for claim in claims)


def test_a_claim_that_is_recalled_is_not_a_claim() -> None:
    assert all(claim.confidence != "recalled" for table in TABLES for claim in table.claims)


def test_tables_with_a_notebook_say_something_for_every_tier() -> None:
    built = ledger.tables()
    assert list(built)[:2] == ["mobilediffusion-unet-cost", "mobilediffusion-vae-reconstruction"]
    for table in built.values():
        assert set(table.tiers) | set(table.not_at) == set(TIERS)
        assert all("tier" not in run.parameters for run in table.tiers.values())


def test_sources_are_used_or_explained() -> None:
    for paper in ledger.papers().values():
        assert all(source.what for source in paper.sources.values())
        assert paper.sources.keys() >= {"own", "memory"}


def test_evolved_network_of_table_3_and_its_total_disagree() -> None:
    """Table 1's 848M and Table 3 cannot both be met, so the data must say so where both stand."""
    assert "do not fit together" in ledger.find("snapfusion-unet-table3", planned=True).protocol


def test_each_file_is_parsed_once_and_by_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML's own parser takes ten times as long."""
    loaders: list[type] = []
    load = yaml.load
    monkeypatch.setattr(yaml, "load", lambda text, Loader: loaders.append(Loader) or load(text, Loader))
    ledger.papers.cache_clear()
    for _ in range(2):
        assert len(ledger.papers()) == 2
    assert len(loaders) == 2
    assert all(issubclass(loader, yaml.CSafeLoader) for loader in loaders)
