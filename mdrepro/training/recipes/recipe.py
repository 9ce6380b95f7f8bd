"""What a training run is: the fields of a row of `mdrepro.training.recipes.registry`.

A recipe is identified by a hash (`runs.store.key`) over its fields, its parents' hashes and its data, not over source
code: raise ``version`` by hand when the meaning of an objective changes, so that old checkpoints are not taken.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mdrepro.core.errors import check
from mdrepro.training.engine.config import LoopConfig

TIERS = ("quick", "proxy", "paper")
ROLES = ("vae", "text", "unet", "teacher", "start")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run.

    Args:
        name, tier: of the run.
        kind: the objective; see `mdrepro.training.objectives.kinds`.
        parents: recipes that it builds on, by role, as names of rows or as recipes that need not be rows: ``vae`` and
            ``text`` make latents and text features, ``unet`` is what it begins with (diffusion may begin with random
            weights), ``teacher`` what it learns from (``unet`` where none is given), ``start`` the autoencoder that an
            autoencoder or decoder begins with, in place of random weights.
        pretrained: in place of a parent, a folder or a name on the hub, by role.
        data: ``source`` and its settings; see `mdrepro.data.sources`.
        network: class and arguments of what is trained, where it does not begin with a parent's; of one that begins
            with Stable Diffusion's UNet, its class alone, by which it can become an ``EvolvableUNet``.
        noise: arguments of diffusers' DDIMScheduler; empty for the parent's.
        options: of the objective.
        sampling: ``steps`` and ``guidance`` with which the checkpoint is meant to be run; not part of its hash.

    Raises BadInput for an unknown tier or role. `mdrepro.training.objectives.kinds.kind_of`, which imports torch,
    checks what its kind needs before it is trained.
    """

    name: str
    tier: str
    kind: str
    parents: Mapping[str, "str | Recipe"] = field(default_factory=dict)
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
        check("tier", self.tier, TIERS)
        for role in (*self.parents, *self.pretrained):
            check("role", role, ROLES)

    def plain(self) -> dict[str, Any]:
        """All fields as JSON values, parents by name."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values | {"parents": self.parent_names}

    @property
    def parent_names(self) -> dict[str, str]:
        """Names of the parents by role."""
        return {role: parent if isinstance(parent, str) else parent.name for role, parent in self.parents.items()}
