"""Table ``mobilediffusion-vae-reconstruction``: which autoencoders it measures at each tier, and on which pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffusers import AutoencoderKL
from torch import Tensor

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.data import coco, photos, pixels
from mdrepro.data.folders import SD15
from mdrepro.data.photos import Photograph
from mdrepro.metrics.image import images
from mdrepro.models import latents
from mdrepro.models.mobilediffusion import vae
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.photos import PERCEPTUAL
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import store
from mdrepro.training.runs.model_folders import Pretrained
from mdrepro.training.runs.store import Run

COCO = "coco-2017"
TRAINED = {"proxy": ("proxy-vae", "proxy-vae-lite"), "paper": ("md-vae", "md-vae-lite")}
"""Recipes of the rows ``ours`` and ``ours-lite`` above the quick tier; row ``sd`` is SD-1.5's published autoencoder."""
SIZES = {"quick": (128, 256, 512), "proxy": (256, 512), "paper": (256, 512)}
"""Sizes of what is reconstructed, px, by tier."""


@dataclass(frozen=True)
class Network:
    """An autoencoder: its name in figures, how it came about, and the run that it was loaded from, if any."""

    name: str
    model: AutoencoderKL
    training: str
    run: Run | None = None

    @property
    def params(self) -> int:
        """Parameters of the decoder, without the 1x1 convolution on the latent."""
        return vae.decoder_parameters(self.model)


@dataclass(frozen=True)
class Picture:
    """What is reconstructed: ``tiles`` gives uint8 (n, 3, size, size), none where it is too small for the size.

    Pictures of one ``scene`` are not independent.
    """

    name: str
    scene: str
    tiles: Callable[[int], Tensor]


@dataclass(frozen=True)
class Pictures:
    """Pictures in order, what they are in words, and the photographs that are recorded as inputs."""

    pictures: tuple[Picture, ...]
    description: str
    inputs: tuple[Photograph, ...] = ()


def pictures(tier: str, where: str = photos.PACKAGES) -> Pictures:
    """Held-out photographs at the quick tier; above it pictures of COCO 2017 val ("coco-2017") or of any folder.

    Photographs are cut into centred tiles that do not overlap; other pictures are cropped to their centre square and
    brought to the size by Lanczos, one tile each. Raises BadInput for a folder without pictures, NotAttempted where
    COCO is not here.
    """
    if tier == "quick":
        if where == COCO:
            raise BadInput(f'photos: {COCO} is of the larger tiers: must be "{photos.PACKAGES}" or a folder')
        parts = photos.split(where)
        held_out = tuple(Picture(one.name, one.scene, _tiles_of(one)) for one in parts.held_out)
        names = ", ".join(one.name for one in parts.held_out[:12]) + (", ..." if len(held_out) > 12 else "")
        return Pictures(held_out, f"held-out photographs ({names}; {parts.rule})", parts.held_out)
    if where == COCO:
        row = coco.SETS["coco-2017-5k"]
        if not row.pictures.is_dir():
            raise NotAttempted(f"reconstruction of COCO's pictures: {coco.lacks(row)}")
        files, what = images.files(row.pictures), "pictures of COCO 2017 val"
    else:
        files, what = images.files(Path(where)), f"pictures of a folder, {Path(where).name}"
    found = tuple(Picture(file.name, file.name, _square_of(file)) for file in files)
    return Pictures(found, f"{what}, centre squares brought to the size by Lanczos")


def networks(tier: str, recipes: Mapping[str, Recipe]) -> dict[str, Network]:
    """The rows' autoencoders, in eval mode: at the quick tier those of ``recipes``, trained where they are missing.

    Above it SD-1.5's, from ``data/weights`` or the hub, and MobileDiffusion's with both decoders, of the tier's
    recipes. Raises NotAttempted where weights, or what a training needs, are not on this machine, and BadInput for an
    autoencoder of pixels in [0, 1].
    """
    if tier == "quick":
        return {row: _small(row, store.load_or_train(recipe)) for row, recipe in recipes.items()}
    Pretrained(SD15).check("vae")
    sd = Pretrained(SD15).load("vae")
    if latents.model_range(sd) != "-1..1":
        raise BadInput("the autoencoder of row sd takes pixels in [0, 1]: expected Stable Diffusion's, in [-1, 1]")
    found = {"sd": Network(_name("SD-1.5", sd), sd, "Stable Diffusion 1.5's published autoencoder")}
    for row, name in zip(("ours", "ours-lite"), TRAINED[tier], strict=True):
        run = store.load_or_train(registry.get(name))
        model, loop = run.load("vae"), run.recipe.loop
        what = f"recipe {name}: {loop.steps} steps of {loop.batch} pictures of {run.recipe.data['size']} px"
        found[row] = Network(_name(_kind(row), model), model, what, run)
    return found


def checkpoints(measured: Mapping[str, Network]) -> dict[str, Path]:
    """Records of the runs that the rows rest on."""
    return {row: network.run.file for row, network in measured.items() if network.run}


def in_turn(recipe: Recipe) -> list[Recipe]:
    """The runs that trained a network, the first one first."""
    start = recipe.parents.get("start")
    return [*(in_turn(registry.get(start)) if start else []), recipe]


def _small(row: str, run: Run) -> Network:
    model, recipe = run.load("vae"), run.recipe
    layout, width = vae.FAMILY[recipe.network["row"]], recipe.network["width"]
    part = "decoder alone, encoder of the full one fixed" if layout.encoder_of else "encoder and decoder"
    photographs = len(photos.split(recipe.data["path"]).train)
    training = (
        f"small network in the paper's proportions (encoder width {width}, decoder width "
        f"{round(width * layout.decoder_share)}, {layout.latent_channels} latent channels, f8), {part}, reconstructed "
        f"from the latent's mean; {', then '.join(_stage(one) for one in in_turn(recipe))}; from {photographs} "
        f"photographs; {recipe.loop.precision}, {recipe.loop.threads} threads, seed {recipe.data['seed']}"
    )
    ended = ", LPIPS and GAN" if row.endswith(PERCEPTUAL) else ""
    return Network(_name(_kind(row), model) + ended, model, training, run)


def _stage(recipe: Recipe) -> str:
    loop, sizes = recipe.loop, recipe.data["sizes"]
    loss = "LPIPS, patch-GAN and absolute error" if recipe.options.get("perceptual", 1) else "squared error"
    kl = ", KL" if recipe.kind == "autoencoder" else ""
    crops = f"{loop.batch} crops of {sizes[0]} px"
    if len(sizes) > 1:
        crops = f"crops of {', '.join(map(str, sizes))} px with the area of {loop.batch} of the largest"
    return f"{loop.steps} steps of {crops} ({loss}{kl}, {loop.optimiser} {loop.learning_rate:g})"


def _kind(row: str) -> str:
    row = row.removesuffix(PERCEPTUAL)
    return {"sd": "SD-like", "ours": "MobileDiffusion-like", "ours-lite": "MobileDiffusion-like, lite"}[row]


def _name(kind: str, model: AutoencoderKL) -> str:
    return f"{kind}, {model.config.latent_channels} channels, {vae.decoder_parameters(model) / 1e6:.1f}M"


def _tiles_of(photograph: Photograph) -> Callable[[int], Tensor]:
    def tiles(size: int) -> Tensor:
        return photos.tiles(photograph.pixels(), size)

    return tiles


def _square_of(file: Path) -> Callable[[int], Tensor]:
    def tiles(size: int) -> Tensor:
        return pixels.tensor(pixels.square(pixels.rgb(file, str(file)), size, "center-crop"))[None]

    return tiles
