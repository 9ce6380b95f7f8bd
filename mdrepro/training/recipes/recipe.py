"""What a training run is: the fields of a row of `mdrepro.training.recipes.registry`.

A recipe is identified by a hash (`runs.store.key`) over its fields, its parents' hashes and its data, not
over source code: raise ``version`` by hand when the meaning of an objective changes, so that old checkpoints are not
taken.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from mdrepro.core.errors import BadInput, unknown
from mdrepro.training.engine.config import LoopConfig

TIERS = ("quick", "proxy", "paper")
LATENT = ("vae", "text")
NEEDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "reader": (),
        "clip": (),
        "autoencoder": (),
        "decoder": ("vae",),
        "synthetic": (*LATENT, "unet"),
        "text": (),
        "diffusion": LATENT,
        "relu": (*LATENT, "unet"),
        "steps": (*LATENT, "unet"),
        "progressive": (*LATENT, "unet"),
        "guidance": (*LATENT, "unet"),
        "conditioned": (*LATENT, "unet"),
        "consistency": (*LATENT, "unet"),
        "gan": (*LATENT, "unet"),
        "robust": (*LATENT, "unet"),
        "evolution": (*LATENT, "unet"),
    }
)
"""Kinds of run, and the roles that each needs a parent or pretrained weights for."""
ROLES = ("vae", "text", "unet", "teacher")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run.

    Args:
        name: of the run.
        tier: quick, proxy or paper.
        kind: the objective, one of `NEEDS`.
        parents: recipes that it builds on, by role: ``vae`` and ``text`` make latents and text features, ``unet`` is
            what it begins with (diffusion may begin with random weights), ``teacher`` what it learns from (``unet``
            where none is given).
        pretrained: in place of a parent, a folder or a name on the hub, by role.
        data: ``source`` and its settings; see `mdrepro.data.sources`.
        network: class and arguments of what is trained, where it does not begin with a parent's; of one that begins
            with Stable Diffusion's UNet, its class alone, by which it can become an ``EvolvableUNet``.
        noise: arguments of diffusers' DDIMScheduler; empty for the parent's.
        options: of the objective.
        loop: how it is trained.
        sampling: ``steps`` and ``guidance`` with which the checkpoint is meant to be run; not part of its hash.
        version: raised by hand when an objective's meaning changes.

    Raises:
        BadInput: an unknown tier, kind or role, or a role that is needed and not filled.
    """

    name: str
    tier: str
    kind: str
    parents: Mapping[str, str] = field(default_factory=dict)
    pretrained: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any]
    network: Mapping[str, Any] = field(default_factory=dict)
    noise: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    loop: LoopConfig
    sampling: Mapping[str, float] = field(default_factory=dict)
    version: int = 1

    def __post_init__(self) -> None:
        for name in ("parents", "pretrained", "data", "network", "noise", "options", "sampling"):
            object.__setattr__(self, name, dict(getattr(self, name)))
        for what, value, allowed in (("tier", self.tier, TIERS), ("kind", self.kind, NEEDS)):
            if value not in allowed:
                raise unknown(what, value, allowed)
        filled = [*self.parents, *self.pretrained]
        for role in filled:
            if role not in ROLES:
                raise unknown("role", role, ROLES)
        for role in NEEDS[self.kind]:
            if role not in filled:
                raise BadInput(f"{self.name}: {self.kind} needs {' and '.join(NEEDS[self.kind])}, and has no {role}")

    def plain(self) -> dict[str, Any]:
        """All fields as JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values
