"""The published text-to-image systems: one row each, from which every other list of networks is derived.

From the rows come the presets (`mdrepro.models.presets`), the cost of whole systems (`mdrepro.metrics.cost.systems`),
the full-size autoencoders (`mdrepro.models.autoencoders`), what can be exported (`mdrepro.export.components`) and what
latencies are measured of (`mdrepro.reproduce.workflow.exported`). To add a system, add a row.

Importing this module imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mdrepro.core.errors import BadInput, check
from mdrepro.models.network import DECODER, EVOLVABLE_UNET, LATENT_FACTOR, MOBILE_UNET, TEXT_MODEL, UNET, Preset
from mdrepro.models.snapfusion.blocks import MEETS_TABLE_1, MEETS_TABLE_3

WIDTH = 128
"""Channels of the outermost level of every full-size encoder."""


@dataclass(frozen=True)
class Schedule:
    """How often the denoiser runs for one image.

    ``branches`` are evaluations a step, and runs of the text encoder (the decoder runs once): 2 with classifier-free
    guidance of scale w, 1 without, where ``guidance`` is 1.
    """

    steps: int
    branches: int
    guidance: float
    source: str


@dataclass(frozen=True)
class DecoderLayout:
    """What differs between the autoencoders; all have the channel multipliers 1, 2, 4, 4 and SD's encoder.

    Args:
        decoder_resnets: ResNets per decoder level.
        decoder_share: decoder width divided by encoder width.
        encoder_of: row of MobileDiffusion's VAE table whose trained, fixed encoder it takes; None trains both halves.
    """

    latent_channels: int
    decoder_resnets: int
    decoder_share: float = 1.0
    encoder_of: str | None = None


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """One published autoencoder.

    Args:
        decoder: preset of the decoder alone.
        row: its row in MobileDiffusion's VAE table, by which recipes name it at any width.
        config: arguments of the class that do not follow from the layout.
    """

    name: str
    decoder: str
    title: str
    source: str
    layout: DecoderLayout
    row: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def preset(self) -> Preset:
        """The decoder."""
        width, latent = round(WIDTH * self.layout.decoder_share), self.layout.latent_channels
        return Preset(
            name=self.decoder,
            title=self.title,
            kind="decoder",
            network=DECODER,
            config={"width": width, "resnets": self.layout.decoder_resnets, "latent_channels": latent},
            source=self.source,
            multiple=LATENT_FACTOR,
            latent_channels=latent,
            context_tokens=0,
            context_width=0,
        )


CLIP_VIT_L14 = Preset(
    name="text-encoder",
    title="CLIP ViT-L/14 text encoder",
    kind="text encoder",
    network=TEXT_MODEL,
    config={
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
    },
    source="openai/clip-vit-large-patch14 text_config: 125M in MobileDiffusion's blog, 123M in SnapFusion Table 1",
    multiple=LATENT_FACTOR,
)
_SD_CONFIG = {"sample_size": 512, "scaling_factor": 0.18215}
SD = Autoencoder(
    name="sd",
    decoder="sd-decoder",
    title="SD",
    source="stable-diffusion-v1-5 vae/config.json: 49.49M",
    layout=DecoderLayout(4, 3),
    row="sd",
    config=_SD_CONFIG,
)
HALF_SD = Autoencoder(
    name="snapfusion",
    decoder="snapfusion-decoder",
    title="SnapFusion",
    source="SnapFusion Table 1: 13M; SD's decoder at half width",
    layout=DecoderLayout(4, 3, decoder_share=0.5),
    config={**_SD_CONFIG, "decoder_norm_num_groups": 32},
)
OURS = Autoencoder(
    name="mobilediffusion",
    decoder="mobilediffusion-decoder",
    title="MobileDiffusion",
    source="MobileDiffusion VAE table: 39.3M; layout inferred",
    layout=DecoderLayout(8, 2),
    row="ours",
)
OURS_LITE = Autoencoder(
    name="mobilediffusion-lite",
    decoder="mobilediffusion-decoder-lite",
    title="MobileDiffusion-Lite",
    source="MobileDiffusion VAE table: 9.8M; layout inferred (the full one at half width)",
    layout=DecoderLayout(8, 2, decoder_share=0.5, encoder_of="ours"),
    row="ours-lite",
)


@dataclass(frozen=True, kw_only=True)
class System:
    """One published system.

    Args:
        name, title, resolution: of the system and of its denoiser's preset.
        source, network, config, multiple, context_width, pooled_width: of the denoiser, see `Preset`.
        text_encoder, autoencoder: None where it is none of those here.
        deployed: an autoencoder of the same latent whose lighter decoder makes the published images.
        schedules: how it is run as published, the last one by default.
    """

    name: str
    title: str
    source: str
    network: str = UNET
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    multiple: int = 64
    context_width: int = 768
    pooled_width: int = 0
    text_encoder: Preset | None = CLIP_VIT_L14
    autoencoder: Autoencoder | None = SD
    deployed: Autoencoder | None = None
    schedules: tuple[Schedule, ...] = ()
    resolution: int = 512

    @property
    def denoiser(self) -> Preset:
        """The denoiser."""
        latent_channels = self.autoencoder.layout.latent_channels if self.autoencoder else 4
        common = {each.name: getattr(self, each.name) for each in fields(Preset) if hasattr(self, each.name)}
        return Preset(kind="denoiser", latent_channels=latent_channels, **common)

    @property
    def parts(self) -> tuple[str, str, str]:
        """Presets of a whole system in the order in which they run."""
        decoding = self.deployed or self.autoencoder
        assert self.text_encoder
        assert decoding
        return self.text_encoder.name, self.name, decoding.decoder

    def schedule(self, steps: int) -> Schedule:
        """The schedule of so many steps. Raises BadInput where none is published."""
        by_steps = {each.steps: each for each in self.schedules}
        if steps not in by_steps:
            raise BadInput(f"{self.name} is not published at {steps} steps: expected {', '.join(map(str, by_steps))}")
        return by_steps[steps]


_CROSS_DOWN, _CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
_ROWS = (
    System(
        name="sd15",
        title="SD-1.5",
        source="stable-diffusion-v1-5 unet/config.json; 860M in SnapFusion Table 1",
        schedules=(Schedule(50, 2, 7.5, "SnapFusion Table 1: 50 steps, text encoder twice"),),
    ),
    System(
        name="sd21",
        title="SD-2.1",
        source="stable-diffusion-2-1-base unet/config.json (the 512 px network); 0.87B in BK-SDM's README",
        config={"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
        context_width=1024,
        text_encoder=None,
    ),
    System(
        name="sdxl",
        title="SDXL",
        source="stable-diffusion-xl-base-1.0 unet/config.json (1024 px)",
        config={
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", _CROSS_DOWN, _CROSS_DOWN),
            "up_block_types": (_CROSS_UP, _CROSS_UP, "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 1280 + 6 * 256,
        },
        resolution=1024,
        multiple=32,
        context_width=2048,
        pooled_width=1280,
        text_encoder=None,
        autoencoder=None,
    ),
    System(
        name="bk-sdm-base",
        title="BK-SDM-Base",
        source="BK-SDM src/unet_config/bk_base: one layer a block",
        config={"layers_per_block": 1},
    ),
    System(
        name="bk-sdm-small",
        title="BK-SDM-Small",
        source="BK-SDM src/unet_config/bk_small: Base without the mid block",
        config={"layers_per_block": 1, "mid_block_type": None},
    ),
    System(
        name="bk-sdm-tiny",
        title="BK-SDM-Tiny",
        source="BK-SDM src/unet_config/bk_tiny: Small without the innermost level",
        config={
            "layers_per_block": 1,
            "mid_block_type": None,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": (_CROSS_DOWN,) * 3,
            "up_block_types": (_CROSS_UP,) * 3,
        },
        multiple=32,
    ),
    # Two rows: the paper's Tables 1 (848M) and 3 (759M) do not fit together, see `mdrepro.models.snapfusion.blocks`.
    System(
        name="snapfusion",
        title="SnapFusion",
        source="SnapFusion Table 1 (848M): SD-1.5 without its five 320-wide transformer blocks; "
        "its Table 3, built literally, has 759M: see snapfusion-table3",
        network=EVOLVABLE_UNET,
        config={"actions": MEETS_TABLE_1},
        autoencoder=HALF_SD,
        schedules=(Schedule(8, 2, 7.5, "SnapFusion Table 1: 8 steps, text encoder twice; Table 5: batch 2"),),
    ),
    System(
        name="snapfusion-table3",
        title="SnapFusion (Table 3)",
        source="SnapFusion Table 3, its block counts exactly; which blocks stay is ours, see "
        "mdrepro/models/snapfusion/blocks.py; its Table 1 says 848M: see snapfusion",
        network=EVOLVABLE_UNET,
        config={"actions": MEETS_TABLE_3},
        autoencoder=HALF_SD,
    ),
    System(
        name="mobilediffusion",
        title="MobileDiffusion",
        source="MobileDiffusion v2: 386M, 182 GMAC, 11 ResNets, 1024 channels; layout of the blocks ours, "
        "see mdrepro/models/mobilediffusion/unet.py",
        network=MOBILE_UNET,
        multiple=32,
        autoencoder=OURS,
        deployed=OURS_LITE,
        schedules=(
            Schedule(8, 2, 7.5, "v1: SnapFusion's guidance-aware distillation, so guided (inferred)"),
            Schedule(1, 1, 1, "v2: UFOGen's one step, which takes no guidance (inferred)"),
        ),
    ),
    # 278M and 117 GMAC are remembered and inferred, not read: C1 taken literally (every level but the outermost, the
    # resamplers too) at 896 channels meets both.
    System(
        name="mobilediffusion-lite",
        title="MobileDiffusion-Lite",
        source="MobileDiffusion-Lite: 278M, 117 GMAC, 896 channels, none of them read in the paper; layout ours",
        network=MOBILE_UNET,
        config={
            "block_out_channels": (320, 640, 896),
            "separable_conv": (False, True, True),
            "separable_resampling": True,
        },
        multiple=32,
        autoencoder=OURS_LITE,
        schedules=(Schedule(1, 1, 1, "one step, as the larger network (inferred)"),),
    ),
)

SYSTEMS: dict[str, System] = {row.name: row for row in _ROWS}
"""The rows by name, in the order of the tables."""


def whole() -> dict[str, System]:
    """Systems of which text encoder, denoiser, autoencoder and a schedule are here, by name."""
    return {name: row for name, row in SYSTEMS.items() if row.text_encoder and row.autoencoder and row.schedules}


def get(name: str) -> System:
    """The whole system of this name. Raises BadInput, which names all and the nearest one, where there is none."""
    return SYSTEMS[check("system", name, whole())]


def autoencoders() -> dict[str, Autoencoder]:
    """The autoencoders of all systems by name."""
    return {each.name: each for row in SYSTEMS.values() for each in (row.autoencoder, row.deployed) if each}


def exports() -> dict[str, tuple[str, str]]:
    """Full-size networks that can be exported, by preset: the first system that has it, and which component it is."""
    networks: dict[str, tuple[str, str]] = {}
    for index, component in enumerate(("text-encoder", "unet", "decoder")):
        for row in whole().values():
            assert row.autoencoder
            preset = (*row.parts[:2], row.autoencoder.decoder)[index]
            networks.setdefault(preset, (row.name, component))
    return networks
