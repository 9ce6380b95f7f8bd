"""The published networks: sizes to the last printed digit, and a table that imports nothing heavy."""

import functools
import subprocess
import sys

import pytest
import torch
from torch import nn

from mdrepro.core.errors import BadInput
from mdrepro.metrics.cost.measure import count_blocks
from mdrepro.models import presets

torch.set_num_threads(1)

# Parameters as others count them in the published checkpoints, such as the README of segmind/distill-sd.
CHECKPOINTS = {
    "sd15": 859_520_964,
    "sd21": 865_910_724,
    "sdxl": 2_567_463_684,
    "bk-sdm-base": 579_384_964,
    "bk-sdm-small": 482_346_884,
    "bk-sdm-tiny": 323_384_964,
    "text-encoder": 123_060_480,
}

# name: parameters in millions as published or counted by hand, printed digits after the point
SIZES = {
    "snapfusion": (846.8, 1),
    "snapfusion-table3": (759.3, 1),
    "sd-decoder": (49.49, 2),
    "snapfusion-decoder": (12.39, 2),
}

# name: published parameters in millions, how far ours may be
BARS = {
    "snapfusion": (848, 0.01),
    "mobilediffusion": (386, 0.01),
    "mobilediffusion-lite": (278, 0.02),
    "mobilediffusion-decoder": (39.3, 0.02),
    "mobilediffusion-decoder-lite": (9.8, 0.02),
    "snapfusion-decoder": (13, 0.05),
}


@functools.cache
def built(name: str) -> nn.Module:
    with torch.device("meta"):
        return presets.build(name)


def millions(name: str) -> float:
    return sum(p.numel() for p in built(name).parameters()) / 1e6


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_size_is_that_of_the_published_checkpoint(name):
    assert sum(p.numel() for p in built(name).parameters()) == CHECKPOINTS[name]


@pytest.mark.parametrize("name", SIZES)
def test_size_to_the_last_printed_digit(name):
    value, digits = SIZES[name]
    assert round(millions(name), digits) == value


@pytest.mark.parametrize("name", BARS)
def test_size_near_the_published_one(name):
    published, tolerance = BARS[name]
    assert millions(name) == pytest.approx(published, rel=tolerance)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("sd15", (22, 16, 16)),
        ("sdxl", (17, 70, 70)),
        ("snapfusion", (22, 11, 11)),
        ("snapfusion-table3", (17, 14, 14)),  # the sums of the paper's Table 3
        ("mobilediffusion", (11, 15, 21)),
        ("mobilediffusion-lite", (11, 15, 21)),
    ],
)
def test_block_counts(name, counts):
    blocks = count_blocks(built(name))
    assert (blocks.resnets, blocks.self_attention, blocks.cross_attention) == counts


@pytest.mark.parametrize(
    ("name", "heads", "projection"),
    [("sd15", [8, 8, 8], nn.Conv2d), ("sd21", [5, 10, 20], nn.Linear), ("sdxl", [10, 20], nn.Linear)],
)
def test_attention_of_the_baselines_has_the_published_shape(name, heads, projection):
    """Sizes and costs are blind to both; weights and outputs are not."""
    blocks = [block for block in built(name).down_blocks if hasattr(block, "attentions")]
    assert [block.attentions[0].transformer_blocks[0].attn1.heads for block in blocks] == heads
    assert all(isinstance(block.attentions[0].proj_in, projection) for block in blocks)


def test_the_table_imports_no_torch():
    code = (
        "import sys, mdrepro.models.presets as p; assert len(p.names()) == 15; "
        "assert not {'torch', 'diffusers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_by_kind():
    assert presets.names("denoiser") + presets.names("decoder") + presets.names("text encoder") == presets.names()
    assert presets.names("decoder") == [name for name in presets.names() if "decoder" in name]
    assert presets.names("text encoder") == ["text-encoder"]


def test_unknown_name_says_what_is_allowed():
    with pytest.raises(BadInput) as error:
        presets.build("mobilediffusion-light")
    assert "did you mean mobilediffusion-lite?" in str(error.value)
    assert all(name in str(error.value) for name in presets.names())


def test_select_keeps_the_order_of_the_table():
    assert presets.select(["sd-decoder", "sd15", "sd-decoder"]) == ["sd15", "sd-decoder"]
    assert presets.select(["all", "sd15"]) == presets.names()
    with pytest.raises(BadInput, match="allowed:"):
        presets.select(["all", "sd16"])


@pytest.mark.parametrize("name", presets.names())
def test_example_inputs_fit_the_network(name):
    preset = presets.get(name)
    network = built(name)
    assert not network.training
    with torch.no_grad():
        out = network(**preset.example_inputs(preset.multiple, batch=2))
    side = preset.multiple // 8
    if preset.kind == "denoiser":
        assert out.sample.shape == (2, preset.latent_channels, side, side)
        assert preset.context_width == network.config.cross_attention_dim
    elif preset.kind == "decoder":
        assert out.shape == (2, 3, preset.multiple, preset.multiple)
    else:
        assert out.last_hidden_state.shape == (2, 77, preset.context_width)


@pytest.mark.parametrize(("name", "allowed"), [("sd15", 64), ("mobilediffusion", 32), ("sd-decoder", 8)])
@pytest.mark.parametrize("resolution", [500, 0, -64, 8192])
def test_impossible_resolution(name, allowed, resolution):
    with pytest.raises(BadInput, match=f"a multiple of {allowed} from {allowed} to 4096"):
        presets.get(name).example_inputs(resolution)


def test_decoder_modules_are_named_as_in_autoencoder_kl():
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        whole = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        ).state_dict()
        ours = presets.build("sd-decoder").state_dict()
    theirs = {name: value.shape for name, value in whole.items() if name.startswith(("decoder.", "post_quant_conv."))}
    assert {name: value.shape for name, value in ours.items()} == theirs


def test_the_text_encoder_is_vit_l_14s_by_hand():
    """Token and position embeddings, twelve blocks of attention (4 linear layers), MLP and two norms, a last norm."""
    d, inner = 768, 3072
    block = 4 * (d * d + d) + (d * inner + inner) + (inner * d + d) + 2 * 2 * d
    assert sum(p.numel() for p in built("text-encoder").parameters()) == (49408 + 77) * d + 12 * block + 2 * d
