"""What the rows of one chain of recipes share, and the rows that every chain has: each names only what is its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mdrepro.data.folders import SD15
from mdrepro.diffusion.levels import SD_NOISE, V
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.recipes.recipe import Recipe

Values = Mapping[str, Any]

NONE: Values = {}
DROP: Values = {"drop": 0.1}
DISTILLATION: Values = {"probability": 0.1, "guidance": (2.0, 14.0), "gamma": 0.2, **DROP}
"""The paper's p, CFG range and weight of the original loss (SnapFusion); the share of empty texts is ours."""
ONE_STEP: Values = {
    **{"last": 0.5, "drawn": 3.0, "gamma": "v", "cap": 20.0, "reconstruction": 0.05},
    **{"loss": "relativistic", "hold": None, "penalty": 0.0125, "every": 1},
}
"""Of a diffusion-GAN whose one step works on the 2-D bed (docs/training.md); UFOGen's papers give none of them."""
SKIP: Values = {"skip_probability": 0.1}
"""Of blocks in robust training (SnapFusion); p is not in the paper."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Fields of recipes that begin with the same encoders and see the same data, at one tier; see `Recipe`.

    ``parents`` and ``pretrained`` are encoders by role, ``vae`` and ``text``; ``sampling`` is of rows that give none.
    """

    tier: str
    data: Values
    sampling: Values = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)
    pretrained: Mapping[str, str] = field(default_factory=dict)

    def row(
        self,
        name: str,
        kind: str,
        loop: LoopConfig,
        *,
        vae: str | None = None,
        unet: str | None = None,
        teacher: str | None = None,
        pretrained: Mapping[str, str] = NONE,
        network: Values = NONE,
        noise: Values = NONE,
        options: Values = NONE,
        sampling: Values | None = None,
    ) -> Recipe:
        """A row with the parents ``vae``, ``unet``, ``teacher`` where given, and ``pretrained`` beside the encoders."""
        roles = {"vae": vae, "unet": unet, "teacher": teacher}
        return Recipe(
            name=name,
            tier=self.tier,
            kind=kind,
            parents={**self.parents, **{role: parent for role, parent in roles.items() if parent}},
            pretrained={**self.pretrained, **pretrained},
            data=self.data,
            network=network,
            noise=noise,
            options=options,
            loop=loop,
            sampling=self.sampling if sampling is None else sampling,
        )

    def autoencoder(
        self, name: str, loop: LoopConfig, width: int, *, encoder: str | None = None, options: Values = NONE
    ) -> Recipe:
        """MobileDiffusion's autoencoder; where ``encoder`` is another's row, the lite decoder for its latents."""
        kind, row = ("decoder", "ours-lite") if encoder else ("autoencoder", "ours")
        return self.row(name, kind, loop, vae=encoder, network={"row": row, "width": width}, options=options)

    def from_sd(self, name: str, loop: LoopConfig) -> Recipe:
        """SD-1.5's network, which SnapFusion evolves, trained to predict v (SnapFusion)."""
        network = {"class": "EvolvableUNet"}
        return self.row(name, "diffusion", loop, pretrained={"unet": SD15}, network=network, noise=V, options=DROP)

    def half_decoder(self, name: str, loop: LoopConfig) -> Recipe:
        """Half the channels of SD's decoder, on latents that SD-1.5 samples with ``sampling`` (SnapFusion)."""
        return self.row(
            name,
            "synthetic",
            loop,
            pretrained={"unet": SD15},
            network={"share": 0.5},
            noise=SD_NOISE,
            options=self.sampling,
            sampling=NONE,
        )

    def few_steps(
        self,
        name: str,
        steps: int,
        unet: str,
        loop: LoopConfig,
        *,
        kind: str = "steps",
        teacher: str | None = None,
        guidance: float | None = None,
        options: Values | None = None,
    ) -> Recipe:
        """A student of ``steps`` steps, sampled at ``guidance``; SnapFusion's distillation where no options are given.

        Its teacher is ``unet`` where there is no other.
        """
        options = {"steps": steps, **DISTILLATION} if options is None else options
        sampling = {"steps": steps, "guidance": self.sampling["guidance"] if guidance is None else guidance}
        return self.row(name, kind, loop, unet=unet, teacher=teacher, options=options, sampling=sampling)
