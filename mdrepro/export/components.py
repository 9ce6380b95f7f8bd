"""Exported components: the networks of a text-to-image system, with inputs and outputs of fixed shapes and names.

| component | inputs | output |
| --- | --- | --- |
| text-encoder | input_ids (batch, tokens), int32 | text (batch, features, width): what the denoiser takes |
| unet | sample (batch, channels, h, w); timestep (1,); encoder_hidden_states (batch, features, width) | prediction |
| decoder | latent (1, channels, h, w): the sampler's last | image (1, height, width, 3), in 0..1 |

All but the tokens are float32. The batch of the denoiser is the number of guidance branches: 2 with the negative prompt
first, or 1; that of the text encoder is always 1. A denoiser that takes the guidance scale as an input has one branch
and one input more, guidance (1,). The autoencoder's scaling factor and pixel range are inside the decoder.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from mdrepro.core.errors import BadInput, check
from mdrepro.diffusion.guidance import guidance_embedding, guidance_width
from mdrepro.models import autoencoders, latents, presets, systems, text
from mdrepro.models.network import LARGEST, LATENT_FACTOR
from mdrepro.models.protocols import Autoencoder, Denoiser, TextEncoder, TextToImage
from mdrepro.training.recipes import registry
from mdrepro.training.runs import commands

COMPONENTS = ("text-encoder", "unet", "decoder")

SEED, SPREAD = 0, 0.02  # of random weights, and the standard deviation added to those that are all equal to begin with
TIMES = (999.0, 500.0, 1.0, 749.0, 250.0)  # timesteps that a denoiser is compared at

Inputs = dict[str, Tensor]


class TextEncoderModule(nn.Module):
    """Tokens to text features, as `mdrepro.models.text.encode`."""

    def __init__(self, network: TextEncoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor) -> Inputs:
        features = self.network(input_ids).last_hidden_state
        return {"text": features[:, -getattr(self.network.config, "registers", 0) :]}


class DenoiserModule(nn.Module):
    """One evaluation of the denoiser, at one timestep, and where it takes it at one guidance scale, for the batch."""

    def __init__(self, network: Denoiser) -> None:
        super().__init__()
        self.network, self.width = network, guidance_width(network)

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, guidance: Tensor | None = None
    ) -> Inputs:
        time_b = timestep.expand(sample.shape[0]) if guidance is None else timestep
        w_bc = None if guidance is None or self.width is None else guidance_embedding(guidance, self.width)
        outputs = self.network(sample, time_b, encoder_hidden_states, return_dict=False, timestep_cond=w_bc)
        return {"prediction": outputs[0]}


class DecoderModule(nn.Module):
    """Latents of the diffusion model to pixels: `mdrepro.models.latents.to_image` with range 0..1, channels last."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder
        self.convention, self.signed = SimpleNamespace(config=vae.config), latents.model_range(vae) == "-1..1"

    def forward(self, latent: Tensor) -> Inputs:
        z_bchw = latents.unscale(self.convention, latent)
        if self.post_quant_conv is not None:
            z_bchw = self.post_quant_conv(z_bchw)
        pixels_bchw = self.decoder(z_bchw)
        unit_bchw = pixels_bchw * 0.5 + 0.5 if self.signed else pixels_bchw
        return {"image": unit_bchw.permute(0, 2, 3, 1).clamp(0, 1)}


@dataclass(frozen=True)
class Component:
    """One of `COMPONENTS`, ready to be exported.

    Args:
        module: takes inputs by name and returns a dictionary; in eval mode, float32, on the CPU.
        draw: inputs of the file's shapes from a number; those of different numbers differ.
        output: its name.
        config, facts: the network's configuration and what else the file says of itself, as JSON values.
    """

    name: str
    module: nn.Module = field(repr=False)
    draw: Callable[[int], Inputs] = field(repr=False)
    output: str
    config: Mapping[str, Any] = field(repr=False)
    facts: Mapping[str, Any]
    _computed: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def parameters(self) -> int:
        """How many weights there are."""
        return sum(p.numel() for p in self.module.parameters())

    @torch.inference_mode()
    def reference(self, number: int) -> Tensor:
        """PyTorch's output for ``draw(number)``, computed once however many files are compared with it."""
        if number not in self._computed:
            self._computed[number] = self.module(**self.draw(number))[self.output]
        return self._computed[number]


@dataclass(frozen=True)
class Model:
    """A text-to-image system whose components can be exported.

    Args:
        name, weights: as on the command line, and where they come from.
        guidance: that it is meant to be run with; 1 is none.
        pipeline: of a checkpoint; None for random weights.
        text_encoder, unet, vae: make that network, in eval mode, float32.
        tokens, features: of a prompt, and how many of them the denoiser takes.
        factor: image pixels per latent pixel.
        resolution: image side, px.
    """

    name: str
    weights: str
    licence: str
    guidance: float
    pipeline: TextToImage | None = field(repr=False)
    text_encoder: Callable[[], TextEncoder] = field(repr=False)
    unet: Callable[[], Denoiser] = field(repr=False)
    vae: Callable[[], Autoencoder] = field(repr=False)
    tokens: int
    features: int
    factor: int
    resolution: int

    def component(self, name: str, branches: int | None = None) -> Component:
        """One of `COMPONENTS`.

        ``branches``: batch of the denoiser, 1 or 2; None for 2 where the model is run with guidance, 1 elsewhere.
        Raises BadInput for another name or number, or a resolution that the network cannot take.
        """
        check("component", name, COMPONENTS)
        if branches not in (None, 1, 2):
            raise BadInput(f"branches is {branches}: it must be 1 (no guidance) or 2")
        if name == "text-encoder":
            return _text_encoder(self.text_encoder(), self.tokens)
        if name == "decoder":
            return _decoder(self.vae(), self._side(1))
        unet = self.unet()
        side = self._side(2 ** (len(unet.config.block_out_channels) - 1))
        own = 1 if self.guidance == 1 or guidance_width(unet) is not None else 2
        return _unet(unet, side, own if branches is None else branches, self.features)

    def _side(self, multiple: int) -> int:
        step = self.factor * multiple
        if not 0 < self.resolution <= LARGEST or self.resolution % step:
            multiple_of = f"expected a multiple of {step} up to {LARGEST}"
            raise BadInput(f"{self.name} cannot be exported at {self.resolution} px: {multiple_of}")
        return self.resolution // self.factor


def _text_encoder(network: TextEncoder, tokens: int) -> Component:
    config = network.config
    end = config.eos_token_id if config.eos_token_id < config.vocab_size else config.vocab_size - 1

    def draw(number: int) -> Inputs:
        rng = torch.Generator().manual_seed(number)
        ids = torch.randint(config.vocab_size, (1, tokens), generator=rng)
        ids[:, int(torch.randint(2, tokens, (), generator=rng)) :] = end
        return {"input_ids": ids.int()}

    facts = {"tokens": tokens, "registers": getattr(config, "registers", 0)}
    return Component("text-encoder", TextEncoderModule(network).eval(), draw, "text", _plain(config.to_dict()), facts)


def _unet(network: Denoiser, side: int, branches: int, features: int) -> Component:
    config, width = network.config, guidance_width(network)
    if width is not None and branches == 2:
        raise BadInput("this denoiser takes the guidance scale as an input: branches must be 1")

    def draw(number: int) -> Inputs:
        rng = torch.Generator().manual_seed(number)
        guidance = {} if width is None else {"guidance": torch.tensor([1.0 + 2 * number])}
        return {
            "sample": torch.randn(branches, config.in_channels, side, side, generator=rng),
            "timestep": torch.tensor([TIMES[number % len(TIMES)]]),
            "encoder_hidden_states": torch.randn(branches, features, config.cross_attention_dim, generator=rng),
        } | guidance

    facts = {"branches": branches, "features": features}
    return Component("unet", DenoiserModule(network).eval(), draw, "prediction", _plain(dict(config)), facts)


def _decoder(vae: Autoencoder, side: int) -> Component:
    config = vae.config

    def draw(number: int) -> Inputs:
        rng = torch.Generator().manual_seed(number)
        return {"latent": torch.randn(1, config.latent_channels, side, side, generator=rng)}

    convention = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    facts = {name: config.get(name) for name in convention} | {"scaled": "inside", "pixel_range": [0, 1]}
    return Component("decoder", DecoderModule(vae).eval(), draw, "image", _plain(dict(config)), facts)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values of a configuration, without this machine's paths."""
    public = {name: value for name, value in config.items() if not name.startswith("_")}
    return dict(json.loads(json.dumps(public, default=str)))


def find(name: str, resolution: int | None = None, decoder: str | None = None) -> Model:
    """A whole system of `mdrepro.models.systems`, a recipe such as ``shapes-1``, or a folder of a diffusers pipeline.

    ``resolution``: image side in px; None for the one that the model was made for. ``decoder``: a recipe of another
    decoder for the same latents; of recipes alone. Raises BadInput for none of these, or no text-to-image pipeline of a
    denoiser, CLIP and AutoencoderKL, and NotAttempted for a recipe that is not trained.
    """
    if name in systems.whole():
        if decoder is not None:
            raise BadInput(f"--decoder is of recipes, not of {name}: leave it out")
        return _random(name, resolution)
    own = registry.find(name) is not None
    if not own and not Path(name).is_dir():
        raise registry.unknown_model(name)
    model = find_pipeline(commands.pipeline(name, decoder), name if own else Path(name).name, resolution)
    return replace(model, weights=f"recipe {name}", licence="Apache-2.0") if own else model


def find_pipeline(pipeline: TextToImage, name: str, resolution: int | None = None) -> Model:
    """The model of a diffusers pipeline. Raises BadInput where it is not of a denoiser, CLIP and AutoencoderKL."""
    for part in ("text_encoder", "unet", "vae", "tokenizer"):
        if getattr(pipeline, part, None) is None:
            raise BadInput(f"{name} has no {part}: expected a pipeline of a CLIP text encoder, a UNet and a VAE")
    encoder, factor = pipeline.text_encoder, latents.factor(pipeline.vae)
    tokens = text.length(pipeline.tokenizer, encoder)
    return Model(
        name=name,
        weights="a folder",
        licence="that of the checkpoint",
        guidance=float(pipeline.config.get("default_guidance") or 7.5),
        pipeline=pipeline,
        text_encoder=lambda: pipeline.text_encoder.float().eval(),
        unet=lambda: pipeline.unet.float().eval(),
        vae=lambda: pipeline.vae.float().eval(),
        tokens=tokens,
        features=getattr(encoder.config, "registers", 0) or tokens,
        factor=factor,
        resolution=pipeline.unet.config.sample_size * factor if resolution is None else resolution,
    )


def _drawn(build: Callable[[], Any]) -> Any:
    """A network with random weights, none all equal: a converter would take a gain of ones out of a group norm."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        network = build()
        for weight in network.parameters():
            if weight.numel() > 1 and weight.min() == weight.max():
                weight.add_(torch.randn(weight.shape), alpha=SPREAD)
    return network


def _random(name: str, resolution: int | None) -> Model:
    """A system at full size with random weights."""
    row = systems.get(name)
    assert row.autoencoder is not None
    autoencoder, encoder = row.autoencoder.name, row.parts[0]
    return Model(
        name=name,
        weights=f"random, seed {SEED}: not trained",
        licence="Apache-2.0",
        guidance=row.schedules[-1].guidance,
        pipeline=None,
        text_encoder=lambda: _drawn(lambda: presets.build(encoder)),
        unet=lambda: _drawn(lambda: presets.build(name)),
        vae=lambda: _drawn(lambda: autoencoders.build(autoencoder)),
        tokens=row.denoiser.context_tokens,
        features=row.denoiser.context_tokens,
        factor=LATENT_FACTOR,
        resolution=row.resolution if resolution is None else resolution,
    )
