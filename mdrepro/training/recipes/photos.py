"""Autoencoders on crops of photographs, for MobileDiffusion's VAE table: squared error and KL.

MobileDiffusion's perceptual and adversarial terms are left out: the first needs backbone weights that packages do not
ship. Its lite decoder is trained with the encoder fixed.

Each network is trained in two runs, the second of which begins with the first's autoencoder, without momentum: the last
steps take crops of twice the size and half the batch, so that norms and attention come to see areas more like the tiles
that are measured. The rate rises in the first and falls to 0 by a cosine in the second.

wanted: an autoencoder with 8 latent channels above one with 4, the lite decoder as good as the full one; measured in
mobilediffusion-vae-reconstruction. Expect 12 crops a second for photos-sd and 14 for photos-ours (50 s each), and 50
for photos-ours-lite, whose encoder is fixed, on one idle core.
"""

from mdrepro.models import systems
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.recipes.quick import SQUARED_ERROR
from mdrepro.training.recipes.recipe import Recipe

FINISH = 0.3  # of the steps, with larger crops
WARMUP = 0.05  # of the steps
CURVE_ROWS = 100


def autoencoders(
    *,
    photos: str = "packages",
    width: int = 16,
    crop: int = 64,
    batch: int = 8,
    steps: int = 400,
    learning_rate: float = 3e-3,
    seed: int = 0,
    threads: int = 1,
    precision: str = "fp32",
) -> dict[str, Recipe]:
    """The table's three networks by row, each with the recipes that it rests on as its parents.

    Args:
        photos: "packages", or a folder; see `mdrepro.data.photos.split`.
        width: channels of the encoder's finest level, a multiple of 8.
        crop, batch: height and width in px, a multiple of 8, and number of the first run's crops a step; the second's
            are twice as large, and half as many.
        steps: of both runs together.
        learning_rate, seed, threads, precision: as in `LoopConfig`.

    Raises BadInput for a value that `LoopConfig` refuses. ``width``, ``crop`` and ``photos`` are checked when a recipe
    is trained, before its first step.
    """
    last = max(1, round(FINISH * steps))
    runs = [run for run in ((crop, batch, steps - last), (2 * crop, max(1, batch // 2), last)) if run[2]]
    recipes: dict[str, Recipe] = {}
    encoders = {each.row: each.layout.encoder_of for each in systems.autoencoders().values() if each.row}
    for row, encoder in encoders.items():
        parents: dict[str, str | Recipe] = {"vae": recipes[encoder]} if encoder else {}
        for number, (size, crops, updates) in enumerate(runs):
            final = number == len(runs) - 1
            recipe = Recipe(
                name=f"photos-{row}{'' if final else '-start'}",
                tier="quick",
                kind="decoder" if encoder else "autoencoder",
                parents=parents,
                data={"source": "photos", "path": photos, "size": size, "count": updates * crops, "seed": seed},
                network={"row": row, "width": width},
                options=SQUARED_ERROR,
                loop=LoopConfig(
                    steps=updates,
                    batch=crops,
                    learning_rate=learning_rate,
                    optimiser="muon",
                    warmup=0 if number else max(1, round(WARMUP * steps)),
                    decay="cosine" if final else "constant",
                    precision=precision,
                    seed=2 * seed + number,
                    threads=threads,
                    checkpoint_every=100,
                    log_every=max(1, updates // CURVE_ROWS),
                ),
            )
            parents["start"] = recipe
        recipes[row] = recipe
    return recipes


PHOTOS = tuple(autoencoders().values())
