"""Size and cost of every preset by three independent counters, and against known values."""

import functools
import subprocess
import sys

import pytest
import torch
from torch import nn

from mdrepro.core.errors import BadInput
from mdrepro.metrics.cost import closed_form
from mdrepro.metrics.cost.counters import count_by_hooks
from mdrepro.metrics.cost.measure import Blocks, calculate, count_blocks, details, measure, measure_module
from mdrepro.metrics.cost.quantities import Cost, Macs
from mdrepro.models import presets
from mdrepro.models.mobilediffusion.unet import SD_VALUES, MobileDiffusionUNet

torch.set_num_threads(1)

cost_of = functools.cache(measure)


OTHERS = {
    "both": {"shared_key_value": "both"},
    "resampling": {"separable_resampling": True},
    "projection": {"transformer_projection": True},
    "no attention": {"cross_attention": (False, False, False)},
    "ratio": {"ffn_ratio": 2.5, "time_embed_dim": 640},
    "four levels": {
        "block_out_channels": (320, 640, 640, 1024),
        "resnets_per_level": (1, 1, 2, 1),
        "transformer_blocks": (0, 1, 0, 2),
        "self_attention": (False, True, False, True),
        "cross_attention": (False, True, True, True),
        "separable_conv": (False, False, True, True),
    },
}
LITE = dict(presets.get("mobilediffusion-lite").config)


@pytest.mark.parametrize(
    "changes",
    [{}, LITE, *SD_VALUES.values(), *OTHERS.values()],
    ids=["default", "lite", *SD_VALUES, *OTHERS],
)
def test_mobilediffusion_equals_its_closed_form(changes):
    with torch.device("meta"):
        unet = MobileDiffusionUNet(**changes)
    inputs = presets.get("mobilediffusion").example_inputs()
    cost = measure_module(unet, inputs, name="ours", resolution=512)
    expected = closed_form.mobilediffusion_unet(dict(unet.config))
    assert cost.params == expected.params
    assert cost.macs_without_attention == expected.weights
    assert cost.macs - cost.macs_without_attention == expected.attention
    assert count_blocks(unet) == Blocks(expected.resnets, expected.self_attention, expected.cross_attention)


def attention_from_shapes(blocks: dict[int, tuple[int, int]], tokens: int = 77) -> int:
    """Both products of self- and cross-attention; ``blocks`` gives number and width of the blocks at each side."""
    return sum(count * 2 * (side**2 * side**2 + side**2 * tokens) * width for side, (count, width) in blocks.items())


@pytest.mark.parametrize(
    ("name", "products"),
    [
        ("sd15", attention_from_shapes({64: (5, 320), 32: (5, 640), 16: (5, 1280), 8: (1, 1280)})),
        ("sd21", attention_from_shapes({64: (5, 320), 32: (5, 640), 16: (5, 1280), 8: (1, 1280)})),
        ("snapfusion", attention_from_shapes({32: (5, 640), 16: (5, 1280), 8: (1, 1280)})),
        ("sdxl", attention_from_shapes({64: (2 * 2 + 3 * 2, 640), 32: (2 * 10 + 10 + 3 * 10, 1280)})),
        ("bk-sdm-tiny", attention_from_shapes({64: (3, 320), 32: (3, 640), 16: (3, 1280)})),
        ("mobilediffusion", 2 * (15 * 256**2 * 1024 + 18 * 256 * 77 * 1024 + 3 * 1024 * 77 * 640)),
        ("sd-decoder", 2 * (64 * 64) ** 2 * 512),
        ("mobilediffusion-decoder-lite", 2 * (64 * 64) ** 2 * 256),
    ],
)
def test_attention_products_from_shapes(name, products):
    cost = cost_of(name)
    assert cost.macs - cost.macs_without_attention == products


# Three counters that share no code.


@pytest.mark.parametrize("name", presets.names())
def test_all_counters_agree_on_every_preset(name):
    cost = cost_of(name)
    assert measure(name, counter=count_by_hooks) == cost
    assert calculate(name) == cost
    form = closed_form.tally(presets.get(name))
    assert form is not None
    with torch.device("meta"):
        network = presets.build(name)
    assert count_blocks(network) == Blocks(form.resnets, form.self_attention, form.cross_attention)


def test_counters_agree_at_another_resolution():
    for name in ("sd15", "mobilediffusion", "sd-decoder"):
        assert measure(name, 256) == measure(name, 256, counter=count_by_hooks) == calculate(name, 256)


def test_details_give_every_counter():
    found = details("mobilediffusion-lite")
    assert found.cost == cost_of("mobilediffusion-lite")
    assert set(found.counters) == {"closed form", "dispatcher", "hooks"}
    assert len(set(found.counters.values())) == 1
    assert found.blocks == Blocks(11, 15, 21)
    given = found.as_dict()
    assert list(given)[:6] == list(found.cost.as_dict())
    assert given["peak_activation_bytes"]["float32"] == 2 * given["peak_activation_bytes"]["float16"] > 0


def test_a_class_without_a_closed_form_is_measured(monkeypatch):
    monkeypatch.setattr(closed_form, "FORMS", {})
    assert calculate("sd-decoder") == cost_of("sd-decoder")
    assert set(details("sd-decoder").counters) == {"dispatcher", "hooks"}


# Known values.


@pytest.mark.parametrize(
    ("name", "params", "macs", "without"),
    [
        ("sd15", 859.5, 401.6, 338.6),
        ("snapfusion", 846.8, 304.8, 296.5),
        ("mobilediffusion", 385.1, 182.2, 179.2),
        ("mobilediffusion-lite", 277.2, 116.7, 114.0),
    ],
)
def test_known_values(name, params, macs, without):
    cost = cost_of(name)
    measured = (cost.params / 1e6, cost.macs / 1e9, cost.macs_without_attention / 1e9)
    assert tuple(round(value, 1) for value in measured) == (params, macs, without)


def test_published_bars():
    assert cost_of("mobilediffusion").macs == pytest.approx(182e9, rel=0.02)
    assert cost_of("mobilediffusion-lite").macs == pytest.approx(117e9, rel=0.03)


def test_cost_as_a_dictionary():
    cost = Cost("a", 1, 10, 8, 20, 512)
    assert cost.attention_share == pytest.approx(0.2)
    assert cost.as_dict() == {
        "model": "a",
        "params": 1,
        "macs": 10,
        "macs_without_attention": 8,
        "flops": 20,
        "resolution": 512,
    }
    measured = cost_of("sd15").as_dict()
    assert measured["flops"] == 2 * measured["macs"]
    assert all(type(value) is int for name, value in measured.items() if name != "model")


def test_resolution_scales_convolutions_by_area_and_self_attention_by_its_square():
    small, large = measure("sd-decoder", 256), measure("sd-decoder", 512)
    attention = [cost.macs - cost.macs_without_attention for cost in (small, large)]
    assert large.macs_without_attention == 4 * small.macs_without_attention
    assert attention[1] == 16 * attention[0]
    assert (small.resolution, large.resolution, small.params) == (256, 512, large.params)


def test_bad_input():
    with pytest.raises(BadInput, match="a multiple of 32 from 32 to 4096"):
        measure("mobilediffusion", 500)
    with pytest.raises(BadInput, match="did you mean sd15"):
        measure("sd-15")


# The counter itself.


def test_no_weight_is_allocated():
    def spy(network: nn.Module, inputs: object) -> Macs:
        assert not network.training
        assert {p.device.type for p in [*network.parameters(), *network.buffers()]} == {"meta"}
        return Macs(weights=3, attention=4)

    cost = measure("sdxl", counter=spy)
    assert (cost.macs, cost.macs_without_attention, cost.flops) == (7, 3, 14)
    assert cost.resolution == 1024


def test_softmax_and_relu_attention_cost_the_same():
    inputs = presets.get("mobilediffusion").example_inputs()
    with torch.device("meta"):
        relu = MobileDiffusionUNet(attention="relu")
    cost = measure_module(relu, inputs, name="mobilediffusion", resolution=512)
    assert cost == cost_of("mobilediffusion")


def test_a_network_with_weights_is_left_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.BatchNorm2d(4), nn.Dropout()).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    cost = measure_module(network, {"input": torch.zeros(1, 3, 6, 6, device="meta")}, name="small", resolution=6)
    assert cost == Cost("small", 4 * 27 + 4 + 8, 16 * 4 * 27, 16 * 4 * 27, 2 * 16 * 4 * 27, 6)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# What the command takes; its time is measured in benchmarks/.


USED = """
import resource, subprocess, sys
subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(peak * (1 if sys.platform == "darwin" else 1024) / 1e9)
"""


def peak(*command: str) -> float:
    """Peak memory in GB of a fresh Python. (Waited for from here, its peak would not be below ours.)"""
    done = subprocess.run([sys.executable, "-c", USED, *command], check=True, capture_output=True, text=True)
    return float(done.stdout)


COST = ("-c", "from mdrepro.cli.app import main; main()", "cost", *presets.names())


def test_cost_of_all_presets_takes_little_memory():
    assert peak(*COST) < 0.3


@pytest.mark.slow
def test_every_counter_on_all_presets_takes_1_5_gb():
    assert peak(*COST, "--details") <= 1.5
