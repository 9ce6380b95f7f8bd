"""Whole text-to-image systems: which networks make an image, and how often each of them runs.

An image of one prompt costs ``branches`` runs of the text encoder, ``steps`` times ``branches`` evaluations of the
denoiser and one run of the decoder. With classifier-free guidance there are two branches, the prompt and the empty
prompt; without it there is one. Importing this module imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mdrepro.core.errors import unknown


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How often the denoiser runs for one image.

    Args:
        steps: denoising steps.
        branches: evaluations a step, and runs of the text encoder: 2 with classifier-free guidance, 1 without.
        source: where the two come from.
    """

    steps: int
    branches: int
    source: str


@dataclass(frozen=True, kw_only=True)
class System:
    """One published system.

    Args:
        name: the name on the command line.
        title: the name in print.
        text_encoder, denoiser, decoder: names of presets.
        schedules: the published ways of running it.
        resolution: image height and width, px.
    """

    name: str
    title: str
    denoiser: str
    decoder: str
    schedules: tuple[Schedule, ...]
    text_encoder: str = "text-encoder"
    resolution: int = 512

    @property
    def parts(self) -> tuple[str, str, str]:
        """The presets in the order in which they run."""
        return self.text_encoder, self.denoiser, self.decoder


_ROWS = (
    System(
        name="sd15",
        title="SD-1.5",
        denoiser="sd15",
        decoder="sd-decoder",
        schedules=(Schedule(steps=50, branches=2, source="SnapFusion Table 1: 50 steps, text encoder twice"),),
    ),
    System(
        name="snapfusion",
        title="SnapFusion",
        denoiser="snapfusion",
        decoder="snapfusion-decoder",
        schedules=(
            Schedule(steps=8, branches=2, source="SnapFusion Table 1: 8 steps, text encoder twice; Table 5: batch 2"),
        ),
    ),
    System(
        name="mobilediffusion",
        title="MobileDiffusion",
        denoiser="mobilediffusion",
        decoder="mobilediffusion-decoder-lite",
        schedules=(
            Schedule(steps=8, branches=2, source="v1: SnapFusion's guidance-aware distillation, so guided (inferred)"),
            Schedule(steps=1, branches=1, source="v2: UFOGen's one step, which takes no guidance (inferred)"),
        ),
    ),
)

SYSTEMS: Mapping[str, System] = MappingProxyType({row.name: row for row in _ROWS})


def get(name: str) -> System:
    """The system of this name.

    Raises:
        BadInput: there is none; the message names all and the nearest one.
    """
    if name not in SYSTEMS:
        raise unknown("system", name, SYSTEMS)
    return SYSTEMS[name]
