"""What the rows of one chain of recipes share, and the rows that every chain has: each names only what is its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.recipes.recipe import Recipe

Values = Mapping[str, Any]

DISTILLATION: Values = MappingProxyType({"probability": 0.1, "guidance": (2.0, 14.0), "gamma": 0.2})
"""The paper's p, CFG range and weight of the original loss (SnapFusion 2.5)."""
DROP: Values = MappingProxyType({"drop": 0.1})


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Fields of denoisers that begin with the same encoders and see the same data, at one tier; see `Recipe`.

    Args:
        tier, data: of every row.
        parents, pretrained: the encoders by role: ``vae`` and ``text``.
        sampling: of rows that give none.
    """

    tier: str
    data: Values
    sampling: Values
    parents: Mapping[str, str] = field(default_factory=dict)
    pretrained: Mapping[str, str] = field(default_factory=dict)

    def row(
        self,
        name: str,
        kind: str,
        loop: LoopConfig,
        *,
        unet: str | None = None,
        teacher: str | None = None,
        pretrained: Mapping[str, str] = MappingProxyType({}),
        network: Values = MappingProxyType({}),
        noise: Values = MappingProxyType({}),
        options: Values = MappingProxyType({}),
        sampling: Values | None = None,
    ) -> Recipe:
        """A row that begins with the denoiser of the row ``unet`` and learns from that of ``teacher``, where given.

        ``pretrained`` weights come beside the encoders.
        """
        roles = {"unet": unet, "teacher": teacher}
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

    def few_steps(
        self,
        name: str,
        steps: int,
        unet: str,
        loop: LoopConfig,
        *,
        guidance: float,
        kind: str = "steps",
        teacher: str | None = None,
        options: Values | None = None,
    ) -> Recipe:
        """A student of ``steps`` steps, sampled at ``guidance``; SnapFusion's distillation where no options are given.

        Its teacher is ``unet`` where there is no other.
        """
        return self.row(
            name,
            kind,
            loop,
            unet=unet,
            teacher=teacher,
            options={"steps": steps, **DISTILLATION} if options is None else options,
            sampling={"steps": steps, "guidance": guidance},
        )
