"""The latency table: on a clock whose every tick is known, and on the real one what any host must show."""

import json
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from mdrepro.core.errors import BadInput
from mdrepro.metrics.cost import block_latency
from mdrepro.metrics.cost.block_latency import LatencyTable, Timing, measure
from mdrepro.models.snapfusion.evolvable import EvolvableUNet

torch.set_num_threads(1)

TINY = {
    "sample_size": 8,
    "cross_attention_dim": 12,
    "block_out_channels": (8, 16),
    "cross_attention": (True, False),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
WIDE = {"sample_size": 32, "block_out_channels": (64, 64), "attention_heads": 2}
LEAVING = ("down-2 resnet 0", *(f"up-{level} resnet {index}" for level in (0, 1) for index in (0, 1)))
"""Blocks whose 1x1 shortcut stays where they are removed."""
ACTIONS = (
    "remove down-2 resnet 0",
    "duplicate up-1 resnet 1",
    "duplicate mid cross-attention 0",
    "remove up-0 resnet 1",
)


def tiny(**changes) -> EvolvableUNet:
    torch.manual_seed(0)
    return EvolvableUNet(**TINY | changes)


def leaves(unet: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in unet.named_modules() if any(True for _ in module.parameters(False))}


class Clock:
    """A clock that a layer moves on by its number of inputs times its number of weights, in microseconds."""

    def __init__(self, unet: EvolvableUNet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.slow = 0.0, 1.0
        for module in leaves(unet).values():
            module.register_forward_hook(self.tick)
        monkeypatch.setattr(block_latency.time, "perf_counter", lambda: self.now)

    @staticmethod
    def cost(module: nn.Module, shape: torch.Size) -> float:
        return 1e-6 * shape.numel() * sum(p.numel() for p in module.parameters(False))

    def tick(self, module, args, out) -> None:
        self.now += self.slow * self.cost(module, args[0].shape)


def block_of(unet: EvolvableUNet, name: str):
    return next(block for block in unet.blocks() if block.name == name)


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return measure(tiny(**WIDE), tokens=4, threads=1, seconds=1)


def test_every_layer_is_run_as_in_the_network_and_none_is_left_out():
    unet = tiny()
    calls: Counter[tuple[str, torch.Size]] = Counter()
    for name, module in leaves(unet).items():
        module.register_forward_hook(lambda module, args, out, name=name: calls.update([(name, args[0].shape)]))
    with torch.no_grad():
        unet(torch.zeros(2, 4, 8, 8), 3, torch.zeros(2, 5, 12))
    once = calls.copy()
    calls.clear()
    measure(unet, tokens=5, rounds=3, seconds=0)
    rounds = 3 + block_latency.WARM_UP
    shortcuts = {
        call for call in once if re.fullmatch(r"(down_blocks\.1|up_blocks\.\d)\.resnets\.\d\.conv_shortcut", call[0])
    }
    assert len(shortcuts) == len(LEAVING)
    assert calls == Counter({call: rounds * (2 * n + (call in shortcuts)) for call, n in once.items()})


def test_on_a_known_clock_each_block_costs_what_its_layers_do(monkeypatch):
    unet = tiny()
    clock = Clock(unet, monkeypatch)
    table = measure(unet, tokens=5, rounds=3, seconds=0)
    up = unet.up_blocks[1].resnets["1"]
    on_map = {up.norm1: (2, 16, 8, 8), up.conv1: (2, 16, 8, 8), up.conv_shortcut: (2, 16, 8, 8)}
    after = {up.norm2: (2, 8, 8, 8), up.conv2: (2, 8, 8, 8), up.time_emb_proj: (2, 32)}
    expected = 1000 * sum(clock.cost(module, torch.Size(shape)) for module, shape in (on_map | after).items())
    assert table.ms(block_of(unet, "up-1 resnet 1")) == pytest.approx(expected)
    merges = 1000 * clock.cost(up.conv_shortcut, torch.Size(on_map[up.conv_shortcut]))
    assert table.saved(block_of(unet, "up-1 resnet 1")) == pytest.approx(expected - merges)
    first = unet.down_blocks[1].resnets["0"]
    stays = 1000 * clock.cost(first.conv_shortcut, torch.Size((2, 8, 4, 4)))
    block = block_of(unet, "down-2 resnet 0")
    assert table.ms(block) - table.saved(block) == pytest.approx(stays)
    assert table.ms(replace(block, kind="shortcut")) == pytest.approx(stays)
    assert table.ratio == pytest.approx(1)
    assert table.total(unet.layout) == pytest.approx(table.whole.median_ms)


def test_the_table_foretells_the_latency_after_actions(monkeypatch):
    unet = tiny()
    Clock(unet, monkeypatch)
    table = measure(unet, rounds=1, seconds=0)
    assert [block.name for block in unet.blocks() if table.saved(block) < table.ms(block)] == list(LEAVING)
    for block in unet.blocks():
        after = unet.layout.replay([f"remove {block.name}"])
        assert table.total(after) == pytest.approx(table.total(unet.layout) - table.saved(block))
    evolved = tiny().replay(ACTIONS)
    Clock(evolved, monkeypatch)
    measured = measure(evolved, rounds=1, seconds=0)
    assert measured.ratio == pytest.approx(1)
    assert table.total(evolved.layout) == pytest.approx(measured.whole.median_ms)
    assert measured.total(evolved.layout) == pytest.approx(measured.whole.median_ms)


def test_a_disturbance_of_a_few_rounds_moves_no_median(monkeypatch):
    unet, other = tiny(), tiny()
    Clock(other, monkeypatch)
    calm = measure(other, rounds=5, seconds=0)
    clock, numbers = Clock(unet, monkeypatch), iter(range(100))
    slow = {0: 100.0, 2: 7.0, 5: 3.0}  # the warm-up and two of the five rounds that count
    unet.time_embedding.register_forward_pre_hook(
        lambda *_: setattr(clock, "slow", slow.get(next(numbers) // 2, 1.0))  # it is run twice a round
    )
    table = measure(unet, rounds=5, seconds=0)
    assert [e.timing.median_ms for e in table.blocks] == pytest.approx([e.timing.median_ms for e in calm.blocks])
    assert all(e.timing.p10_ms < 1.01 * e.timing.median_ms < e.timing.p90_ms for e in table.blocks)
    assert table.whole.median_ms == pytest.approx(calm.whole.median_ms)
    assert table.whole.p90_ms == pytest.approx((7 - 0.4 * (7 - 3)) * calm.whole.median_ms)  # 10 % from the top of five


def test_rounds_go_on_until_the_time_is_up(monkeypatch):
    unet = tiny()
    clock = Clock(unet, monkeypatch)
    table = measure(unet, rounds=2, seconds=0)
    assert table.whole.runs == 2
    shortcuts = sum(table.ms(block) - table.saved(block) for block in unet.blocks())
    a_round = (table.total(unet.layout) + table.whole.median_ms + shortcuts) / 1000
    assert measure(unet, rounds=2, seconds=6.5 * a_round).whole.runs == 7 - block_latency.WARM_UP
    assert clock.now > 0


def test_parts_add_up_to_the_network(table):
    """Really measured, beside whatever else runs: within a factor of two."""
    assert 0.5 < table.ratio < 2
    assert table.whole.runs >= 10
    for timing in [table.whole, *table.fixed.values(), *(entry.timing for entry in table.blocks)]:
        assert timing.p10_ms <= timing.median_ms <= timing.p90_ms
    assert 0 < table.seconds < 60


def test_four_times_the_positions_are_slower(table):
    """Same widths on both levels: a convolution has a quarter of the work on the inner one, attention a sixteenth."""
    unet = tiny(**WIDE)
    outer, inner = (block_of(unet, f"{stage} resnet 0") for stage in ("down-1", "down-2"))
    assert table.ms(outer) > 1.3 * table.ms(inner)
    outer, inner = (block_of(unet, f"{stage} cross-attention 0") for stage in ("down-1", "mid"))
    assert table.ms(outer) > 2 * table.ms(inner)


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("two_threads")
def test_the_host_is_told_and_the_network_left_as_it_was():
    unet, seen = tiny().train(), set()
    weights = {name: value.clone() for name, value in unet.state_dict().items()}
    unet.conv_in.register_forward_hook(
        lambda *_: seen.add((torch.get_num_threads(), unet.training, torch.is_inference_mode_enabled()))
    )
    table = measure(unet, batch=1, size=16, tokens=3, threads=1, rounds=1, seconds=0)
    assert seen == {(1, False, True)}
    assert (torch.get_num_threads(), unet.training) == (2, True)
    assert all(torch.equal(value, weights[name]) for name, value in unet.state_dict().items())
    assert (table.batch, table.height, table.width, table.tokens, table.dtype) == (1, 16, 16, 3, "float32")
    host = table.host
    assert (host.threads, host.device, host.torch) == (1, "cpu", torch.__version__)
    assert host.machine
    assert host.cores >= 1


def test_robust_training_skips_nothing_while_measuring():
    unet = tiny().train()
    unet.robust_training(1.0, seed=0)
    ran = []
    unet.mid_block.resnets["0"].register_forward_hook(lambda *_: ran.append(1))
    measure(unet, rounds=1, seconds=0)
    assert len(ran) == 2 * (1 + block_latency.WARM_UP)


# Looking up.


def test_a_copy_costs_what_blocks_of_its_shape_and_stage_do(table):
    unet = tiny(**WIDE)
    entries = {entry.block.name: entry.timing.median_ms for entry in table.blocks}
    assert all(table.ms(block) == entries[block.name] for block in unet.blocks())
    unet.duplicate("mid", "resnet", 0)
    alike = (entries["mid resnet 0"] + entries["mid resnet 1"]) / 2
    assert table.ms(block_of(unet, "mid resnet 2")) == pytest.approx(alike)


def test_a_block_of_another_network_is_refused(table):
    with pytest.raises(BadInput, match=r"of another network: .*in_width=8,"):
        table.total(tiny().layout)


# Storage.


def test_stored_and_read_again_it_is_the_same(table, tmp_path):
    path = tmp_path / "tables" / "latency.json"
    table.save(path)
    assert LatencyTable.load(path) == table
    assert [file.name for file in path.parent.iterdir()] == ["latency.json"]
    assert json.loads(path.read_text())["blocks"][0]["timing"].keys() == Timing.model_fields.keys()


def damaged(text: str) -> dict[str, str]:
    whole = json.loads(text)
    without = {key: value for key, value in whole.items() if key != "host"}
    return {
        "truncated": text[: len(text) // 2],
        "empty": "",
        "host": json.dumps(without),
        "blocks.0.timing.median_ms": re.sub(r'"median_ms": [\d.]+', '"median_ms": -1', text, count=1),
        "whole.median_ms": json.dumps(whole | {"whole": whole["whole"] | {"median_ms": "soon"}}),
        "colour": json.dumps(whole | {"colour": "red"}),
        "ratio": json.dumps(whole | {"ratio": float("nan")}),
    }


@pytest.mark.parametrize("kind", damaged('{"whole": {}, "ratio": 1}'))
def test_a_damaged_file_is_refused_by_name(table, tmp_path, kind):
    path = tmp_path / "latency.json"
    path.write_text(damaged(table.model_dump_json(indent=1))[kind])
    named = "cannot be read as JSON" if kind in ("truncated", "empty", "ratio") else f"a latency table: {kind}: "
    with pytest.raises(BadInput, match=rf"latency\.json\W.*{re.escape(named)}"):
        LatencyTable.load(path)


def test_no_file(tmp_path):
    with pytest.raises(BadInput, match=r"none\.json is no file here"):
        LatencyTable.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"rounds": 0}, "rounds is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"size": 9}, "2"),
    ],
)
def test_impossible_settings(setting, message):
    with pytest.raises(BadInput, match=message):
        measure(tiny(), **setting)
