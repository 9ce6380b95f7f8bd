"""The published networks by name: the denoisers, image decoders and text encoders of `mdrepro.models.systems`.

Importing this module imports neither torch nor diffusers: only building a network does.
"""

from typing import TYPE_CHECKING

from mdrepro.core.errors import check, select_all
from mdrepro.models import systems
from mdrepro.models.network import Kind, Preset

if TYPE_CHECKING:
    from torch import nn


def rows() -> dict[str, Preset]:
    """All presets by name, in the order of the tables: denoisers, decoders, text encoders."""
    listed = systems.SYSTEMS.values()
    presets = [row.denoiser for row in listed]
    presets += [each.preset for each in systems.autoencoders().values()]
    presets += [row.text_encoder for row in listed if row.text_encoder is not None]
    return {preset.name: preset for preset in presets}


def names(kind: Kind | None = None) -> list[str]:
    """Names of all presets, or of one kind, in the order of the tables."""
    return [name for name, preset in rows().items() if kind in (None, preset.kind)]


def get(name: str) -> Preset:
    """The preset of this name. Raises BadInput, which names all and the nearest one, where there is none."""
    known = rows()
    return known[check("network", name, known)]


def select(wanted: list[str]) -> list[str]:
    """Names of presets, ``all`` standing for every one; in table order, each once. Raises BadInput for unknown ones."""
    return select_all("network", wanted, rows())


def build(name: str) -> "nn.Module":
    """The network of this name, see `Preset.build`. Raises BadInput for an unknown name."""
    return get(name).build()
