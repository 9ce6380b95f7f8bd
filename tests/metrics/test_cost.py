"""The dispatcher counter against two independent ones: hooks on weighted layers, and closed forms from shapes."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mdrepro.errors import BadInput
from mdrepro.metrics.cost import Cost, Macs, count_by_dispatcher, measure, measure_module
from mdrepro.models import presets
from mdrepro.models.unet import SD_VALUES, MobileDiffusionUNet

torch.set_num_threads(1)

cost_of = functools.cache(measure)


# The closed form: layers are listed, not run.


class Tally:
    """Parameters, MACs with a weight, and MACs of attention products, added up from shapes alone."""

    def __init__(self) -> None:
        self.params = self.weights = self.attention = 0

    def linear(self, i: int, o: int, n: int, bias: bool = True) -> None:
        self.params += i * o + bias * o
        self.weights += i * o * n

    def conv(self, i: int, o: int, n: int, separable: bool = False) -> None:
        self.params += (9 * i + i * o if separable else 9 * i * o) + o
        self.weights += (9 * i + i * o if separable else 9 * i * o) * n

    def norm(self, width: int) -> None:
        self.params += 2 * width

    def attend(self, width: int, source: int, n: int, m: int, shared: bool) -> None:
        self.norm(width)
        self.linear(width, width, n, bias=False)
        for _ in range(1 if shared else 2):
            self.linear(source, width, m, bias=False)
        self.linear(width, width, n)
        self.attention += 2 * n * m * width


def closed_form(c: dict, latent: int = 64, tokens: int = 77) -> Tally:
    """MobileDiffusion's UNet from its config: (convolutions, transformers) of each level, down, middle and up."""
    t, widths, share = Tally(), c["block_out_channels"], c["shared_key_value"]
    pixels = [(latent >> level) ** 2 for level in range(len(widths))]
    time = 4 * widths[0]

    def resnet(i: int, o: int, n: int, separable: bool) -> None:
        t.norm(i), t.norm(o), t.conv(i, o, n, separable), t.conv(o, o, n, separable), t.linear(time, o, 1)
        if i != o:
            t.linear(i, o, n)

    def blocks(w: int, n: int, depth: int, self_attention: bool) -> None:
        for _ in range(depth):
            if self_attention:
                t.attend(w, w, n, n, share in ("self", "both"))
            t.attend(w, c["cross_attention_dim"], n, tokens, share in ("cross", "both"))
            t.norm(w), t.linear(w, 2 * c["ffn_ratio"] * w, n), t.linear(c["ffn_ratio"] * w, w, n)

    t.linear(widths[0], time, 1), t.linear(time, time, 1), t.conv(c["in_channels"], widths[0], pixels[0])
    width, skips, last = widths[0], [widths[0]], len(widths) - 1
    for level, w in enumerate(widths):
        for _ in range(c["resnets_per_level"][level]):
            resnet(width, w, pixels[level], c["separable_conv"][level])
            blocks(w, pixels[level], c["transformer_blocks"][level], c["self_attention"][level])
            width = w
            skips.append(w)
        if level < last:
            t.conv(w, w, pixels[level + 1], c["separable_resampling"] and c["separable_conv"][level])
            skips.append(w)
    resnet(width, width, pixels[last], c["mid_separable_conv"])
    blocks(width, pixels[last], c["mid_transformer_blocks"], True)
    resnet(width, width, pixels[last], c["mid_separable_conv"])
    for level in range(last, -1, -1):
        for _ in range(c["resnets_per_level"][level] + 1):
            resnet(width + skips.pop(), widths[level], pixels[level], c["separable_conv"][level])
            width = widths[level]
            blocks(width, pixels[level], c["transformer_blocks"][level], c["self_attention"][level])
        if level:
            t.conv(width, width, pixels[level - 1], c["separable_resampling"] and c["separable_conv"][level])
    t.norm(width), t.conv(width, c["out_channels"], pixels[0])
    return t


LITE = dict(presets.get("mobilediffusion-lite").config)


@pytest.mark.parametrize(
    "changes",
    [{}, LITE, *SD_VALUES.values(), {"shared_key_value": "both"}, {"separable_resampling": True}],
    ids=["default", "lite", *SD_VALUES, "both", "resampling"],
)
def test_mobilediffusion_equals_its_closed_form(changes):
    with torch.device("meta"):
        unet = MobileDiffusionUNet(**changes)
    inputs = presets.get("mobilediffusion").example_inputs()
    cost = measure_module(unet, inputs, name="ours", resolution=512)
    expected = closed_form(dict(unet.config))
    assert cost.params == expected.params
    assert cost.macs_without_attention == expected.weights
    assert cost.macs - cost.macs_without_attention == expected.attention


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


# Hooks: what each convolution and linear layer says of itself.


def count_by_hooks(network: nn.Module, inputs: dict) -> int:
    macs = 0

    def hook(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal macs
        if isinstance(layer, nn.Conv2d):
            macs += out.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            macs += out.numel() * layer.in_features

    for module in network.modules():
        module.register_forward_hook(hook)
    with torch.no_grad():
        network(**inputs)
    return macs


@pytest.mark.parametrize("name", presets.names())
def test_hooks_agree_on_the_layers_with_weights(name):
    preset = presets.get(name)
    with torch.device("meta"):
        network = preset.build()
    assert count_by_hooks(network, preset.example_inputs()) == cost_of(name).macs_without_attention


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
    with pytest.raises(BadInput, match="multiples of 32 from 32 to 4096"):
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


class Batched(nn.Module):
    """A linear layer that reaches the dispatcher as a batched product, then attention of its output with itself."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.fused = fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.bmm(x, self.weight.expand(x.shape[0], 8, 8))
        if self.fused:
            return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])
        return torch.baddbmm(torch.zeros_like(x), torch.relu(x @ x.transpose(1, 2)), x)


@pytest.mark.parametrize("fused", [True, False])
def test_weights_are_known_by_their_storage(fused):
    macs = count_by_dispatcher(Batched(fused), {"x": torch.zeros(2, 5, 8, device="meta")})
    assert macs == Macs(weights=2 * 5 * 8 * 8, attention=2 * (2 * 5 * 5 * 8))


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
