"""The MobileDiffusion UNet: its layers against their formulas, its rules against counts made by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from mdrepro.core.errors import BadInput
from mdrepro.metrics.cost.measure import count_blocks
from mdrepro.models.mobilediffusion.layers import Attention, GatedFeedForward, SeparableConv2d, TransformerStack, attend
from mdrepro.models.mobilediffusion.unet import SD_VALUES, MobileDiffusionUNet
from tests.support.tiny_pipeline import UNET

torch.set_num_threads(1)


def tiny(**changes: object) -> MobileDiffusionUNet:
    torch.manual_seed(0)
    return MobileDiffusionUNet(**(UNET | changes)).eval()  # type: ignore[arg-type]


def inputs(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    sample = torch.randn(batch, 4, 8, 8, generator=draw)
    return sample, torch.tensor([3.0, 700.0][:batch]), torch.randn(batch, 5, 24, generator=draw)


def size(**changes: object) -> int:
    with torch.device("meta"):
        return MobileDiffusionUNet(**changes).num_parameters()  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", [None, *SD_VALUES])
def test_forward_and_gradient_with_each_rule_turned_back(rule):
    changes = dict(SD_VALUES[rule]) if rule else {}
    if rule == "T1":
        changes["block_out_channels"] = (16, 32, 80)
    unet = tiny(**changes).train()
    sample, timestep, text = inputs()
    out = unet(sample, timestep, text)
    assert out.sample.shape == sample.shape
    out.sample.square().mean().backward()
    silent = [name for name, p in unet.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_rectangles_and_another_number_of_latent_channels():
    unet = tiny(out_channels=6)
    sample = torch.randn(1, 4, 12, 20)
    assert unet(sample, 10, torch.randn(1, 7, 24)).sample.shape == (1, 6, 12, 20)


@torch.no_grad()
def test_timestep_may_be_a_number_or_a_tensor_and_matters():
    unet, (sample, _, text) = tiny(), inputs()
    expected = unet(sample, torch.tensor([7, 7]), text).sample
    for same in (7, 7.0, torch.tensor(7), torch.tensor([7.0])):
        assert torch.equal(unet(sample, same, text, return_dict=False)[0], expected)
    assert not torch.allclose(unet(sample, 8, text).sample, expected)


@torch.no_grad()
def test_images_of_a_batch_do_not_touch_each_other_and_text_matters():
    unet, (sample, timestep, text) = tiny(), inputs()
    both = unet(sample, timestep, text).sample
    alone = unet(sample[1:], timestep[1:], text[1:]).sample
    torch.testing.assert_close(both[1:], alone)
    assert not torch.allclose(unet(sample, timestep, text.flip(0)).sample, both, atol=1e-4)


@pytest.mark.parametrize("attention", ["softmax", "relu"])
def test_saved_and_loaded_is_bit_identical(tmp_path, attention):
    unet = tiny(shared_key_value="both", separable_resampling=True)
    unet.set_attention(attention, "sum")
    unet.save_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()
    again = MobileDiffusionUNet.from_pretrained(tmp_path).eval()
    assert again.config.attention == attention
    with torch.no_grad():
        assert torch.equal(unet(*inputs()).sample, again(*inputs()).sample)


# Layers against their formulas.


def explicit_attention(q, k, v, weigh):
    """One query and one head at a time."""
    out = torch.empty_like(q)
    for b, h, n in torch.cartesian_prod(*(torch.arange(s) for s in q.shape[:3])):
        logits = torch.stack([q[b, h, n] @ key / math.sqrt(q.shape[-1]) for key in k[b, h]])
        out[b, h, n] = sum(weight * value for weight, value in zip(weigh(logits), v[b, h], strict=True))
    return out


WEIGHTS = {
    ("softmax", "length"): lambda x: x.exp() / x.exp().sum(),
    ("relu", "length"): lambda x: x.clamp(min=0) / len(x),
    ("relu", "none"): lambda x: x.clamp(min=0),
    ("relu", "sum"): lambda x: x.clamp(min=0) / x.clamp(min=0).sum().clamp(min=1e-6),
}


@pytest.mark.parametrize(("kernel", "scaling"), WEIGHTS)
def test_attention_kernels_follow_their_formulas(kernel, scaling):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 6, 8), torch.randn(2, 3, 6, 8)
    expected = explicit_attention(q, k, v, WEIGHTS[kernel, scaling])
    torch.testing.assert_close(attend(q, k, v, kernel, scaling), expected, rtol=1e-5, atol=1e-5)


def test_relu_attention_that_attends_to_nothing_gives_zero():
    q = torch.ones(1, 1, 2, 4)
    for scaling in ("length", "sum", "none"):
        assert torch.equal(attend(q, -q, q, "relu", scaling), torch.zeros_like(q))


@torch.no_grad()
def test_shared_key_value_uses_the_keys_as_values():
    layer = Attention(32, 24, 16, True, "softmax", "length")
    assert {name for name, _ in layer.named_parameters()} == {
        "to_q.weight",
        "to_k.weight",
        "to_out.weight",
        "to_out.bias",
    }
    x, context = torch.randn(1, 5, 32), torch.randn(1, 3, 24)
    q, k = x @ layer.to_q.weight.T, context @ layer.to_k.weight.T
    heads = []
    for part in (slice(0, 16), slice(16, 32)):
        weights = torch.softmax(q[0, :, part] @ k[0, :, part].T / 4, dim=-1)
        heads.append(weights @ k[0, :, part])
    expected = torch.cat(heads, dim=-1) @ layer.to_out.weight.T + layer.to_out.bias
    torch.testing.assert_close(layer(x, context)[0], expected)


@torch.no_grad()
def test_unshared_value_has_its_own_projection():
    layer = Attention(32, 24, 16, False, "softmax", "length")
    x, context = torch.randn(1, 5, 32), torch.randn(1, 3, 24)
    before = layer(x, context)
    layer.to_v.weight.mul_(2)
    torch.testing.assert_close(layer(x, context) - layer.to_out.bias, 2 * (before - layer.to_out.bias))


@pytest.mark.parametrize(
    ("name", "function"),
    [("swish", lambda x: x / (1 + (-x).exp())), ("gelu", lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2)],
)
@torch.no_grad()
def test_gated_feed_forward(name, function):
    layer = GatedFeedForward(8, 3, name)
    x = torch.randn(2, 5, 8)
    value, gate = layer.to_value_gate.weight.split(24)
    value_bias, gate_bias = layer.to_value_gate.bias.split(24)
    inner = (x @ value.T + value_bias) * function(x @ gate.T + gate_bias)
    torch.testing.assert_close(layer(x), inner @ layer.to_out.weight.T + layer.to_out.bias)


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_separable_convolution_is_the_dense_one_with_a_factored_kernel(stride):
    layer = SeparableConv2d(4, 6, stride)
    kernel = torch.einsum("oi,ihw->oihw", layer.pointwise.weight[:, :, 0, 0], layer.depthwise.weight[:, 0])
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(layer(x), F.conv2d(x, kernel, layer.pointwise.bias, stride, padding=1))


@torch.no_grad()
def test_transformer_keeps_the_places_of_pixels():
    """Without self-attention each position is worked on alone, so moving pixels moves the output with them."""
    block = {"context_width": 24, "head_width": 16, "self_attention": False, "cross_attention": True}
    rest = {"shared_key_value": "self", "kernel": "softmax", "scaling": "length", "ffn_ratio": 3, "activation": "swish"}
    stack = TransformerStack(32, 2, projection=False, groups=8, **block, **rest)
    x, text = torch.randn(2, 32, 4, 6), torch.randn(2, 5, 24)
    torch.testing.assert_close(stack(x.flip(-1), text), stack(x, text).flip(-1))
    torch.testing.assert_close(stack(x.roll(1, dims=2), text), stack(x, text).roll(1, dims=2))


# The rules, at full size.


def test_blocks_of_the_published_network():
    with torch.device("meta"):
        blocks = count_blocks(MobileDiffusionUNet())
    assert (blocks.resnets, blocks.self_attention, blocks.cross_attention) == (11, 15, 21)


def test_shared_key_value_saves_exactly_the_value_projections():
    in_self = 15 * 1024 * 1024
    in_cross = 768 * (3 * 640 + (3 + 15) * 1024)
    unshared = size(shared_key_value="none")
    assert unshared - size(shared_key_value="self") == in_self
    assert unshared - size(shared_key_value="cross") == in_cross
    assert unshared - size(shared_key_value="both") == in_self + in_cross


def test_ffn_ratio_changes_exactly_the_feed_forward_layers():
    def gain(width: int) -> int:  # value, gate and output matrices, biases of value and gate
        return 3 * width * width + 2 * width

    assert size(ffn_ratio=4) - size(ffn_ratio=3) == 3 * gain(640) + 18 * gain(1024)


def test_self_attention_per_level_adds_exactly_its_layers():
    def layer(width: int) -> int:  # query, shared key-value and output matrices, output bias, norm
        return 3 * width * width + width + 2 * width

    assert size(self_attention=(False, True, False)) - size() == 3 * layer(640)
    assert size(self_attention=(False, False, True)) - size() == 3 * layer(1024)
    assert size(self_attention=(True, False, False)) == size()  # no transformer blocks there


def test_cross_attention_per_level_can_be_left_out():
    layer = 2 * 640 * 640 + 2 * 768 * 640 + 640 + 2 * 640  # query, output, key, value, output bias, norm
    assert size() - size(cross_attention=(True, False, True)) == 3 * layer


def test_separable_convolution_saves_exactly_the_kernels():
    def saved(*convolutions: tuple[int, int]) -> int:
        return sum(9 * i * o - (9 * i + i * o) for i, o in convolutions)

    innermost = [(640, 1024), (1024, 1024), (2048, 1024), (1024, 1024), (1664, 1024), (1024, 1024)]
    middle = [(1024, 1024)] * 4
    dense = size(separable_conv=(False, False, False), mid_separable_conv=False)
    assert dense - size(separable_conv=(False, False, False), mid_separable_conv=True) == saved(*middle)
    assert dense - size() == saved(*middle, *innermost)
    assert size() - size(separable_resampling=True) == saved((1024, 1024))  # one upsampler; no downsampler there


def test_activation_and_kernel_cost_nothing():
    assert size(ffn_activation="gelu") == size(attention="relu", relu_scaling="none") == size()


def test_resnets_per_level_turned_back():
    with torch.device("meta"):
        assert count_blocks(MobileDiffusionUNet(**SD_VALUES["C2"])).resnets == 6 + 2 + 9


def test_projection_wraps_each_stack():
    def wrap(width: int) -> int:  # two linear layers with bias, one norm
        return 2 * (width * width + width) + 2 * width

    assert size(transformer_projection=True) - size() == 3 * wrap(640) + 4 * wrap(1024)


@torch.no_grad()
def test_switching_to_relu_and_back_leaves_the_weights():
    unet = tiny()
    before, expected = {k: v.clone() for k, v in unet.state_dict().items()}, unet(*inputs()).sample
    unet.set_attention("relu")
    assert unet.config.attention == "relu"
    assert unet.config.relu_scaling == "length"
    switched = unet(*inputs()).sample
    built = tiny(attention="relu")
    assert torch.equal(built(*inputs()).sample, switched)
    assert not torch.allclose(switched, expected, atol=1e-4)
    unet.set_attention("softmax")
    assert unet.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    assert torch.equal(unet(*inputs()).sample, expected)


def test_gradient_checkpointing_gives_the_same_gradients():
    grads = []
    for checkpointing in (False, True):
        unet = tiny().train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        unet(*inputs()).sample.square().mean().backward()
        grads.append([p.grad for p in unet.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"shared_key_value": "all"}, "none, self, cross, both"),
        ({"ffn_activation": "relu"}, "swish, gelu"),
        ({"attention": "linear"}, "softmax, relu"),
        ({"relu_scaling": "sqrt"}, "length, sum, none"),
        ({"separable_conv": (True, True)}, "separable_conv has 2 values for 3"),
        ({"block_out_channels": (16, 32, 72)}, "72 is not a multiple of attention_head_dim"),
        ({"block_out_channels": (20, 32, 64)}, "20 is not a multiple of norm_num_groups"),
    ],
)
def test_bad_config_names_what_is_allowed(changes, named):
    with pytest.raises(BadInput, match=named):
        tiny(**changes)


def test_bad_inputs_name_the_allowed_shapes():
    unet, (sample, timestep, text) = tiny(), inputs()
    with pytest.raises(BadInput, match="multiples of 4"):
        unet(sample[..., :6], timestep, text)
    with pytest.raises(BadInput, match=r"\(batch, 4, height, width\)"):
        unet(sample[:, :3], timestep, text)
    with pytest.raises(BadInput, match="tokens, 24"):
        unet(sample, timestep, text[..., :20])
    with pytest.raises(BadInput, match="batch 2"):
        unet(sample, timestep, text[:1])
    with pytest.raises(BadInput, match="softmax, relu"):
        unet.set_attention("sparse")
    assert unet.config.attention == "softmax"
