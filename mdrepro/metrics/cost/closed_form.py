"""Size and cost of a network from its configuration alone: the layers are listed, not built, and no torch is imported.

Conventions: see `mdrepro.metrics.cost.measure`. ``side`` is the latent's height and width, ``tokens`` the number of
text tokens; batch 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mdrepro.models.network import DECODER, EVOLVABLE_UNET, LATENT_FACTOR, MOBILE_UNET, TEXT_MODEL, UNET, Preset
from mdrepro.models.snapfusion.blocks import SHORTCUT, sd_layout

MOBILEDIFFUSION: Mapping[str, Any] = {
    "in_channels": 8,
    "out_channels": 8,
    "cross_attention_dim": 768,
    "block_out_channels": (320, 640, 1024),
    "resnets_per_level": (1, 1, 1),
    "transformer_blocks": (0, 1, 1),
    "mid_transformer_blocks": 15,
    "self_attention": (False, False, False),
    "cross_attention": (True, True, True),
    "shared_key_value": "self",
    "ffn_ratio": 3,
    "separable_conv": (False, False, True),
    "mid_separable_conv": True,
    "separable_resampling": False,
    "transformer_projection": False,
    "time_embed_dim": None,
}
"""The defaults of `mdrepro.models.mobilediffusion.unet.MobileDiffusionUNet` that bear on size or cost."""

DIFFUSERS_UNET: Mapping[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "transformer_layers_per_block": 1,
    "addition_embed_type": None,
    "projection_class_embeddings_input_dim": None,
}
"""The defaults of diffusers' ``UNet2DConditionModel`` that bear on size or cost; they are Stable Diffusion 1.5's."""


@dataclass
class Tally:
    """Counts, added up layer by layer: parameters, MACs with a weight as one operand and MACs of the attention
    products, ResNet blocks, and self- and cross-attention layers of transformer blocks, as the papers count them."""

    params: int = 0
    weights: int = 0
    attention: int = 0
    resnets: int = 0
    self_attention: int = 0
    cross_attention: int = 0

    @property
    def macs(self) -> int:
        """All MACs, attention products included."""
        return self.weights + self.attention

    def norm(self, width: int) -> None:
        """A group or layer norm: scale and shift."""
        self.params += 2 * width

    def linear(self, source: int, target: int, positions: int, bias: bool = True) -> None:
        """A linear layer or 1x1 convolution at so many positions."""
        self.params += source * target + bias * target
        self.weights += source * target * positions

    def conv(self, source: int, target: int, pixels: int, separable: bool = False) -> None:
        """A 3x3 convolution, dense or separable (rule C1: the depthwise half has no bias), ``pixels`` out."""
        kernel = 9 * source + source * target if separable else 9 * source * target
        self.params += kernel + target
        self.weights += kernel * pixels

    def attend(
        self, width: int, source: int, queries: int, keys: int, *, shared: bool = False, bias: bool = False
    ) -> None:
        """Projections and both products of one attention layer; ``shared``: one projection is key and value (T3)."""
        self.linear(width, width, queries, bias)
        for _ in range(1 if shared else 2):
            self.linear(source, width, keys, bias)
        self.linear(width, width, queries)
        self.attention += 2 * queries * keys * width

    def resnet(self, source: int, target: int, pixels: int, time: int, separable: bool = False) -> None:
        """A ResNet block; ``time`` is the width of the time embedding, 0 for none."""
        self.resnets += 1
        self.norm(source)
        self.conv(source, target, pixels, separable)
        if time:
            self.linear(time, target, 1)
        self.norm(target)
        self.conv(target, target, pixels, separable)
        if source != target:
            self.linear(source, target, pixels)

    def stem(self, channels: int, width: int, time: int, pixels: int) -> None:
        """A UNet's way in: the time embedding, and a 3x3 convolution from the latent's channels."""
        self.linear(width, time, 1)
        self.linear(time, time, 1)
        self.conv(channels, width, pixels)

    def head(self, width: int, channels: int, pixels: int) -> None:
        """A norm and a 3x3 convolution to the channels that go out."""
        self.norm(width)
        self.conv(width, channels, pixels)

    def feed_forward(self, width: int, inner: int, positions: int) -> None:
        """A gated feed-forward layer and the norm before it."""
        self.norm(width)
        self.linear(width, 2 * inner, positions)
        self.linear(inner, width, positions)

    def transformers(
        self, width: int, inner: int, n: int, depth: int, text: int, tokens: int, *attends: bool, shared: str = "none"
    ) -> None:
        """``depth`` transformer blocks; ``attends``: whether they have self- and cross-attention."""
        for _ in range(depth):
            if attends[0]:
                self.norm(width)
                self.attend(width, width, n, n, shared=shared in ("self", "both"))
            if attends[1]:
                self.norm(width)
                self.attend(width, text, n, tokens, shared=shared in ("cross", "both"))
            self.feed_forward(width, inner, n)
        self.self_attention += depth * attends[0]
        self.cross_attention += depth * attends[1]

    def projections(self, width: int, n: int) -> None:
        """The norm and the linear layers before and behind a stack of transformer blocks."""
        self.norm(width)
        self.linear(width, width, n)
        self.linear(width, width, n)


def mobilediffusion_unet(config: Mapping[str, Any], side: int = 64, tokens: int = 77) -> Tally:
    """MobileDiffusion's UNet with this configuration (missing fields: the class's defaults)."""
    c = {**MOBILEDIFFUSION, **config}
    tally, widths, shared, text = Tally(), c["block_out_channels"], c["shared_key_value"], c["cross_attention_dim"]
    time, last = c["time_embed_dim"] or 4 * widths[0], len(widths) - 1
    pixels = [(side >> level) ** 2 for level in range(len(widths))]

    def stack(width: int, n: int, depth: int, *attends: bool) -> None:
        tally.transformers(width, round(width * c["ffn_ratio"]), n, depth, text, tokens, *attends, shared=shared)
        if depth and c["transformer_projection"]:
            tally.projections(width, n)

    def unit(level: int, source: int) -> int:
        width = widths[level]
        tally.resnet(source, width, pixels[level], time, c["separable_conv"][level])
        attends = c["self_attention"][level], c["cross_attention"][level]
        stack(width, pixels[level], c["transformer_blocks"][level], *attends)
        return width

    def resample(level: int, to_level: int) -> None:
        separable = c["separable_resampling"] and c["separable_conv"][level]
        tally.conv(widths[level], widths[level], pixels[to_level], separable)

    tally.stem(c["in_channels"], widths[0], time, pixels[0])
    width, skips = widths[0], [widths[0]]
    for level in range(last + 1):
        for _ in range(c["resnets_per_level"][level]):
            width = unit(level, width)
            skips.append(width)
        if level < last:
            resample(level, level + 1)
            skips.append(width)
    for _ in range(2):
        tally.resnet(width, width, pixels[last], time, c["mid_separable_conv"])
    stack(width, pixels[last], c["mid_transformer_blocks"], True, True)
    for level in reversed(range(last + 1)):
        for _ in range(c["resnets_per_level"][level] + 1):
            width = unit(level, width + skips.pop())
        if level:
            resample(level, level - 1)
    tally.head(width, c["out_channels"], pixels[0])
    return tally


def sd_unet(config: Mapping[str, Any], side: int = 64, tokens: int = 77) -> Tally:
    """diffusers' ``UNet2DConditionModel``, or SnapFusion's UNet after its ``actions``.

    The way up mirrors the way down. Missing fields: diffusers' defaults, SD-1.5's.
    """
    c = {**DIFFUSERS_UNET, "cross_attention_dim": 768, "actions": (), **config}
    tally, widths, depths = Tally(), c["block_out_channels"], c["transformer_layers_per_block"]
    time, pixels = 4 * widths[0], [(side >> level) ** 2 for level in range(len(widths))]
    tally.stem(c["in_channels"], widths[0], time, pixels[0])
    if c["addition_embed_type"] == "text_time":
        tally.linear(c["projection_class_embeddings_input_dim"], time, 1)
        tally.linear(time, time, 1)
    for level in range(len(widths) - 1):
        tally.conv(widths[level], widths[level], pixels[level + 1])
        tally.conv(widths[level + 1], widths[level + 1], pixels[level])
    cross_attention = [kind == "CrossAttnDownBlock2D" for kind in c["down_block_types"]]
    for block in sd_layout(widths, cross_attention, c["layers_per_block"]).replay(c["actions"]).computed():
        width, n, source = block.out_width, pixels[block.level], block.in_width + block.skip_width
        if block.stage == "mid" and not c["mid_block_type"]:
            continue
        if block.kind == "resnet":
            tally.resnet(source, width, n, time)
        elif block.kind == SHORTCUT:
            tally.linear(source, width, n)
        else:
            depth = depths if isinstance(depths, int) else depths[block.level]
            tally.transformers(width, 4 * width, n, depth, c["cross_attention_dim"], tokens, True, True)
            tally.projections(width, n)
    tally.head(widths[0], c["out_channels"], pixels[0])
    return tally


def kl_decoder(config: Mapping[str, Any], side: int = 64, tokens: int = 0) -> Tally:
    """AutoencoderKL's decoder: ``width`` of the outermost level, ``resnets`` a level, ``latent_channels``."""
    tally, base, latent = Tally(), config["width"], config["latent_channels"]
    widths = [4 * base, 4 * base, 2 * base, base]
    pixels = side**2
    tally.linear(latent, latent, pixels)
    width = widths[0]
    tally.conv(latent, width, pixels)
    tally.resnet(width, width, pixels, 0)
    tally.norm(width)
    tally.attend(width, width, pixels, pixels, bias=True)
    tally.resnet(width, width, pixels, 0)
    for level, target in enumerate(widths):
        if level:
            pixels *= 4
            tally.conv(width, width, pixels)
        for _ in range(config["resnets"]):
            tally.resnet(width, target, pixels, 0)
            width = target
    tally.head(width, 3, pixels)
    return tally


def clip_text_model(config: Mapping[str, Any], side: int = 0, tokens: int = 77) -> Tally:
    """transformers' ``CLIPTextModel``: embeddings, then blocks of attention and a plain feed-forward layer."""
    tally, width, inner = Tally(), config["hidden_size"], config["intermediate_size"]
    tally.params += (config["vocab_size"] + config["max_position_embeddings"]) * width
    for _ in range(config["num_hidden_layers"]):
        tally.norm(width)
        tally.attend(width, width, tokens, tokens, bias=True)
        tally.norm(width)
        tally.linear(width, inner, tokens)
        tally.linear(inner, width, tokens)
    tally.norm(width)
    return tally


FORMS: Mapping[str, Callable[..., Tally]] = {
    MOBILE_UNET: mobilediffusion_unet,
    UNET: sd_unet,
    EVOLVABLE_UNET: sd_unet,
    DECODER: kl_decoder,
    TEXT_MODEL: clip_text_model,
}
"""The closed form of each class of network, by `Preset.network`."""


def tally(preset: Preset, resolution: int | None = None) -> Tally | None:
    """The counts of a preset; None where its class has no closed form.

    Raises BadInput for a resolution that the network cannot take.
    """
    side, form = preset.resolve(resolution) // LATENT_FACTOR, FORMS.get(preset.network)
    return form(preset.config, side, preset.context_tokens) if form else None
