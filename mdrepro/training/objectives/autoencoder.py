"""Training of an autoencoder (MobileDiffusion, arXiv 2311.16567): reconstruction, KL, perceptual and adversarial terms.

The paper's terms are known, their weights are not: the defaults are latent diffusion's (arXiv 2112.10752, its KL models
of factor 8), whose sums over an image are means here, which leaves the ratios as they are.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from mdrepro.core.errors import BadInput, check
from mdrepro.data.examples import Batch, Examples
from mdrepro.metrics.image.reconstruction import Lpips
from mdrepro.models import latents
from mdrepro.models.mobilediffusion import vae
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.objective import Networks, Phase
from mdrepro.training.objectives.adversarial import (
    KINDS,
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)
from mdrepro.training.objectives.inputs import Inputs, Training
from mdrepro.training.objectives.kinds import Kind, register

BALANCES = ("adaptive", "constant")
LPIPS_BACKBONES = ("alex", "vgg", "alex+vgg")
SCALE_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What counts as an error of a decoded image. Raises BadInput for other values.

    Args:
        power: 1 for absolute, 2 for squared error, averaged over all values of pixels in [-1, 1].
        perceptual: weight of LPIPS.
        backbone: of LPIPS: "alex", "vgg", or "alex+vgg" for the mean of both.
        adversarial: weight of the patch discriminator's term.
        kind: its loss, "hinge" or "bce".
        balance: "adaptive": times latent diffusion's `adaptive_weight`, a ratio over a micro-batch, so that a batch in
            two halves gives a slightly different number, and one that needs whole weights (no FSDP); or "constant".
        start: first step at which the discriminator learns and its term counts.
        patch_width, patch_layers: of `PatchDiscriminator`.
    """

    power: int = 1
    perceptual: float = 1.0
    backbone: str = "vgg"
    adversarial: float = 0.5
    kind: str = "hinge"
    balance: str = "adaptive"
    start: int = 50_000
    patch_width: int = 64
    patch_layers: int = 3

    def __post_init__(self) -> None:
        if self.power not in (1, 2):
            raise BadInput(f"power {self.power}: 1 (absolute) or 2 (squared)")
        if min(self.perceptual, self.adversarial, self.start) < 0:
            raise BadInput("perceptual, adversarial and start: from 0")
        check("LPIPS backbone", self.backbone, LPIPS_BACKBONES)
        check("adversarial kind", self.kind, KINDS)
        check("adversarial balance", self.balance, BALANCES)


def reconstruction_loss(x: Tensor, y: Tensor, power: int = 2) -> Tensor:
    """Mean squared (``power`` 2) or absolute (1) error over all values; any shape."""
    return (x.float() - y.float()).abs().pow(power).mean()


def kl_loss(mean: Tensor, logvar: Tensor, pixel_values: int) -> Tensor:
    """KL(N(mean, exp logvar) || N(0, 1)) in nats, summed over the latent (n, c, h, w), by the image's 3 h w values."""
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean() / pixel_values


class PerceptualLoss(nn.Module):
    """LPIPS 0.1 (arXiv 1801.03924, eq. 1) with gradients: `mdrepro.metrics.image.reconstruction.Lpips`'s network.

    Images (b, 3, h, w) in [-1, 1] to distances (b,), 0 for equal ones; of several backbones, as of "alex+vgg", their
    mean. Raises NotAttempted where weights of a backbone are not on this machine; the message says how to get them.
    """

    def __init__(self, backbone: str = "vgg") -> None:
        super().__init__()
        self.lpips = nn.ModuleList(Lpips(net)._model.requires_grad_(False) for net in backbone.split("+"))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        distances = torch.stack([lpips(x.float(), y.float()).flatten() for lpips in self.lpips])
        return distances.mean(dim=0)


class EncoderHalf(nn.Module):
    """Pixels (b, 3, h, w) to mean and log variance of the unscaled latent, each (b, c, h / 8, w / 8).

    The modules are the autoencoder's own, not copies.
    """

    def __init__(self, model: AutoencoderKL) -> None:
        super().__init__()
        self.encoder, self.quant_conv = model.encoder, model.quant_conv

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        moments = self.encoder(pixels)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)  # diffusers' bounds


class DecoderHalf(nn.Module):
    """Unscaled latent (b, c, h / 8, w / 8) to pixels (b, 3, h, w), not clamped; the autoencoder's own modules."""

    def __init__(self, model: AutoencoderKL) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = model.post_quant_conv, model.decoder

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))


class ImageObjective(Networks):
    """What trainers on real images share: the `Terms`, and the phase of the discriminator where there is one.

    Batches need ``pixels``. Besides the loss, its terms are given before their weights: ``reconstruction``,
    ``perceptual``, ``adversarial``, and ``balance``, by which the last is multiplied too (both 0 before the start).

    Args:
        model: the autoencoder, for pixels in [-1, 1].
        terms: the image's error.
        networks, frozen: the halves that are trained and that are not.

    Raises BadInput where pixels are in [0, 1] for this model, and NotAttempted for a perceptual term without its
    backbone's weights.
    """

    name: ClassVar[str]

    def __init__(
        self, model: AutoencoderKL, terms: Terms, networks: dict[str, nn.Module], frozen: dict[str, nn.Module]
    ) -> None:
        if latents.model_range(model) != "-1..1":
            raise BadInput("pixel_range of the autoencoder is (0, 1): it must be (-1, 1) in training")
        self.model, self.terms = model, terms
        self.keep(dict(networks), dict(frozen))
        self.phases: tuple[Phase, ...] = (Phase(self.name, tuple(networks)),)
        if terms.perceptual:
            self.frozen["perceptual"] = PerceptualLoss(terms.backbone)
        if terms.adversarial:
            self.networks["discriminator"] = PatchDiscriminator(terms.patch_width, terms.patch_layers)
            self.phases += (Phase("discriminator", ("discriminator",)),)

    @abstractmethod
    def reconstruct(self, x: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The decoded image, (b, 3, h, w), and further terms of the loss by name, weighted."""

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        x = latents.convert(batch["pixels"], "uint8", "-1..1").contiguous(memory_format=torch.channels_last)
        started = draws.step >= self.terms.start
        if phase == "discriminator":
            return {"loss": self._discriminated(x, draws, started)}
        y, further = self.reconstruct(x, draws)
        error = reconstruction_loss(x, y, self.terms.power)
        terms = {"reconstruction": error}
        if self.terms.perceptual:
            terms["perceptual"] = self.frozen["perceptual"](x, y).mean()
            error = error + self.terms.perceptual * terms["perceptual"]
        loss = error
        if self.terms.adversarial:
            terms["adversarial"] = terms["balance"] = torch.zeros_like(error)
            if started:
                terms["adversarial"] = generator_loss(self.networks["discriminator"](y), self.terms.kind)
                if self.terms.balance == "constant":
                    terms["balance"] = torch.ones_like(error)
                else:
                    last = self.model.decoder.conv_out.weight
                    terms["balance"] = adaptive_weight(error, terms["adversarial"], last)
            loss = loss + self.terms.adversarial * terms["balance"] * terms["adversarial"]
        loss = loss + sum(further.values())
        return {"loss": loss} | {name: term.detach() for name, term in (terms | further).items()}

    def _discriminated(self, x: Tensor, draws: Draws, started: bool) -> Tensor:
        """Real and decoded images go through it together, so that each weight is used once in a backward pass."""
        discriminator = self.networks["discriminator"]
        if not started:
            return 0 * discriminator(x).mean()
        with torch.no_grad():
            y, _ = self.reconstruct(x, draws)
        real, fake = discriminator(torch.cat([x, y.to(x.dtype)])).chunk(2)
        return discriminator_loss(real, fake, self.terms.kind)


class Autoencoding(ImageObjective):
    """Objective: both halves learn from real images, with a latent drawn from its distribution.

    The term ``kl`` is given weighted.

    ``model``, ``terms``: see `ImageObjective`, whose errors it raises. ``kl``: weight of `kl_loss`; 1e-6 is latent
    diffusion's.
    """

    name = "autoencoder"

    def __init__(self, model: AutoencoderKL, terms: Terms = Terms(), *, kl: float = 1e-6) -> None:
        super().__init__(model, terms, {"encoder": EncoderHalf(model), "decoder": DecoderHalf(model)}, {})
        self.kl = kl

    def reconstruct(self, x: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        mean, logvar = self.networks["encoder"](x)
        z = mean + (0.5 * logvar).exp() * draws.normal(*mean.shape[1:]).to(mean)
        return self.networks["decoder"](z), {"kl": self.kl * kl_loss(mean, logvar, x[0].numel())}

    def finish(self, networks: Mapping[str, nn.Module], examples: Examples) -> AutoencoderKL:
        """`take_halves` of what the loop returned, with `unit_scale` of the training data in the config."""
        model = take_halves(self.model, networks)
        model.register_to_config(scaling_factor=unit_scale(model, examples))
        return model


def take_halves(model: AutoencoderKL, networks: Mapping[str, nn.Module]) -> AutoencoderKL:
    """The model with the trained halves among ``networks``, in eval mode, its weights fixed."""
    for name, half in (("encoder", EncoderHalf(model)), ("decoder", DecoderHalf(model))):
        if name in networks:
            half.load_state_dict(networks[name].state_dict())
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def unit_scale(model: AutoencoderKL, examples: Examples, count: int = SCALE_IMAGES) -> float:
    """1 / standard deviation of the latent's mean over ``count`` training images, evenly spaced."""
    indices = sorted({i * len(examples) // count for i in range(count)})
    means = []
    for first in range(0, len(indices), 16):
        pixels = examples.batch(indices[first : first + 16])["pixels"].to(model.device)
        means.append(EncoderHalf(model)(latents.convert(pixels, "uint8", "-1..1").to(model.dtype))[0])
    return 1 / torch.cat([m.flatten() for m in means]).double().std().item()


def initial(inputs: Inputs) -> vae.Autoencoder:
    """A recipe's autoencoder before training: with the weights of its parent ``start``, of the same shape, if any."""
    model = vae.build(**inputs.recipe.network)
    if "start" not in inputs.parents:
        vae.start_as_averages(model)
        return model
    try:
        model.load_state_dict(inputs.parents["start"].load("vae").state_dict())
    except RuntimeError as error:
        raise BadInput(f"{inputs.recipe.name} begins with an autoencoder of another shape: {error}") from error
    return model


def _build(inputs: Inputs) -> Training:
    model, examples = initial(inputs), inputs.examples()
    objective = Autoencoding(model, Terms(**inputs.options_of(Terms)), **inputs.options_of(Autoencoding))
    return Training(objective, examples, lambda networks: {"vae": objective.finish(networks, examples)})


register(
    Kind(
        name="autoencoder",
        build=_build,
        options=(Terms, Autoencoding),
        network=vae.build,
        captions=False,
        check=vae.configuration,
        gives="vae",
    )
)
