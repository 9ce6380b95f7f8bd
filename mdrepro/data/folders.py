"""Pictures and weights that the user has put or linked under ``data/`` (not committed), for whole chains of recipes."""

from pathlib import Path

from mdrepro.core import paths

CLIP = "openai/clip-vit-large-patch14"
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def pictures() -> Path:
    """``data/captions/``: pictures with captions; see `mdrepro.data.sources`."""
    return paths.data() / "captions"


def weights(source: str) -> Path:
    """``data/weights/<name>/``: pretrained weights that are called ``<owner>/<name>`` on the hub."""
    return paths.data() / "weights" / source.rstrip("/").rpartition("/")[2]
