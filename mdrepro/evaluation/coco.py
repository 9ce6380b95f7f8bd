"""Quality on COCO: images on disk, FID to the whole validation set and CLIP score, as BK-SDM measures.

Images are made at the model's own size, and like the real ones brought to 256 x 256. BK-SDM (arXiv 2305.15798, section
4.1) saves images as JPEG in between, which is not repeated here. Features stream from disk and are kept beside the
images, so that a run that was interrupted goes on.
"""

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mdrepro.core import paths, plotting
from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.core.files import digest, replacing
from mdrepro.data import coco, folders
from mdrepro.data.coco import Chosen
from mdrepro.evaluation.protocol import Measure, Replicas, Setup
from mdrepro.metrics.image import encoders, features, frechet, images, sets
from mdrepro.metrics.image.catalogue import INCEPTION, VIT_G
from mdrepro.metrics.image.clip_score import cosines
from mdrepro.metrics.image.encoders import Encoder
from mdrepro.metrics.image.networks import Texts
from mdrepro.metrics.image.presets import PRESETS
from mdrepro.metrics.image.statistics import Array, Statistics
from mdrepro.metrics.jackknife import means_without
from mdrepro.models.protocols import Autoencoder, TextToImage
from mdrepro.sampling import generate
from mdrepro.sampling.manifest import SETTINGS, Manifest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 256  # px of the pictures in a figure
BATCH = 16
FID, CLIP = "legacy-pytorch", "open-clip"  # encoders, of `mdrepro.metrics.image.catalogue.ENCODERS`


@dataclass(frozen=True)
class CocoImages:
    """`ScoredImages` on disk, one file per caption; no ``seconds`` where some of the images were there before."""

    description: str
    files: Sequence[Path]
    features: Array
    similarity: Array
    seconds: float | None = None

    def untimed(self) -> Self:
        return replace(self, seconds=None)

    def batches(self) -> Iterator[Tensor]:
        return (images.read(file)[None] for file in self.files)


@dataclass(frozen=True)
class Coco:
    """The `Evaluation` on a set of COCO's captions."""

    chosen: Chosen
    reference: Statistics  # of the whole validation set
    fid: Encoder
    clip: Encoder
    texts: Texts  # the captions' features
    folder: Path  # below which images are kept
    few: bool = False  # take fewer images than FID needs, and mark the numbers
    batch: int = BATCH  # images at once
    distance: str = "fid"
    label: str = ""

    @property
    def captions(self) -> Sequence[str]:
        return self.chosen.captions

    @property
    def caption_set(self) -> str:
        return self.chosen.description

    @property
    def scoring(self) -> str:
        cut = f", {self.texts.cut} captions cut to {self.texts.tokens} tokens" if self.texts.cut else ""
        return f"FID of {sets.protocol(self.fid)}; CLIP score of {sets.protocol(self.clip)}{cut}"

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {}

    def column(self, name: str) -> str:
        """``fid``, ``clip`` and what is made of them; ``equal`` in place of ``common``."""
        return name.replace("_shapes", "").replace("common", "equal")

    def images(self, pipeline: TextToImage, setup: Setup, seed: int) -> CocoImages:
        """Images of the captions, made where they are missing, and scored.

        Raises NotAttempted where other processes make a share of them, and are not done.
        """
        settings = generate.settings(pipeline, self.captions, seed=seed, batch=self.batch, **setup.sampling)
        folder = self.folder / digest(settings, compact=False)[:16]
        new, began = not (folder / SETTINGS).exists(), time.perf_counter()
        pipeline.to(self.fid.device)
        image_set = generate.generate(pipeline, self.captions, folder, seed=seed, batch=self.batch, **setup.sampling)
        pipeline.to("cpu")
        if not image_set.complete:
            present = f"{len(image_set.images)} of {len(self.captions)} images"
            raise NotAttempted(f"{paths.relative(folder)} has {present}: go on")
        return self.score(setup.describe(seed), image_set, time.perf_counter() - began if new else None)

    def decoded(
        self, pipelines: Mapping[str, TextToImage], setups: Mapping[str, Setup], seed: int
    ) -> dict[str, CocoImages]:
        return {row: self.images(one, setups[row], seed).untimed() for row, one in pipelines.items()}

    def score(self, description: str, image_set: Manifest, seconds: float | None = None) -> CocoImages:
        """Scores of a whole set of images. Raises BadInput where it is not of the captions in their order."""
        from safetensors.numpy import load_file, save_file

        if [entry.prompt for entry in image_set.images] != list(self.captions):
            raise BadInput(f"{paths.relative(image_set.folder)} holds images of other captions than {self.caption_set}")
        both = {"fid": self.fid, "clip": self.clip}
        key = digest([image_set.text(), *(asdict(one.convention) for one in both.values())], compact=False)
        kept = self.folder / "features" / f"{key[:16]}.safetensors"
        if not kept.is_file():
            extracted = features.extract(image_set.files, both, keep=list(both))
            with replacing(kept) as aside:
                arrays = {name: one.features.numpy() for name, one in extracted.items() if one.features is not None}
                save_file(arrays, aside)
        known = load_file(kept)
        similarity = cosines(known["clip"], self.texts.features)
        return CocoImages(description, image_set.files, known["fid"], similarity, seconds)

    def references(self, autoencoder: Autoencoder) -> dict[str, CocoImages]:
        """None: the pictures themselves are no images of the captions at the models' size."""
        return {}

    def at_half_resolution(self, images: CocoImages) -> dict[str, CocoImages]:
        """None: that would be another set of images to keep."""
        return {}

    @property
    def timing(self) -> str:
        return f"on {self.fid.device}, {self.batch} at once"

    @property
    def measures(self) -> dict[str, Measure[CocoImages]]:
        """FID as papers print it, with the bias of its number of images, and CLIP score."""
        n, least = len(self.captions), self.fid.network.width + 1
        short = f"FID of {least - 1} features needs at least {least} images, got {n}" if n < least else ""
        biased = "BIASED, fewer images than features: " if short else ""
        return {
            "fid": Measure(
                f"{biased}Frechet distance to all {self.reference.n} pictures of {self.chosen.row.pictures.name}",
                "distance",
                n,
                lambda images: frechet.distances_without(self.reference, images.features),
                "" if self.few else short,
            ),
            "clip": Measure("mean cosine", "mean", n, lambda images: means_without(images.similarity)),
        }

    def grid(self, measured: Mapping[str, Replicas[CocoImages]], count: int = 8) -> "Figure":
        """The first captions' images, one line per row, below the pictures that the captions are of."""
        from PIL import Image

        def picture(file: Path) -> NDArray[np.uint8]:
            with Image.open(file) as image:
                return np.asarray(image.convert("RGB").resize((SIDE, SIDE)))

        files: dict[str, Sequence[Path]] = {"COCO": self.chosen.files} if self.chosen.files else {}
        files |= {row: replicas[0].files for row, replicas in measured.items()}
        rows = {row: [picture(file) for file in shown[:count]] for row, shown in files.items()}
        return plotting.image_grid(rows, self.captions[:count])


def load(name: str, images: int, *, tier: str, prompts: str = coco.DRAWN) -> Coco:
    """Captions, encoders and reference of a set; arguments and errors as for `Experiment.evaluation`."""
    most = coco.SETS[name].count if name in coco.SETS else images
    chosen = coco.choose(name, min(images, most), None if prompts == coco.DRAWN else Path(prompts))
    on = encoders.device("auto")
    fid, clip = encoder(FID, on), encoder(CLIP, on)
    assert clip.network.texts is not None
    reference = statistics(chosen, fid)
    return Coco(chosen, reference, fid, clip, clip.network.texts(chosen.captions), paths.runs() / tier / "images")


@functools.lru_cache(maxsize=4)  # of gigabytes, for two sets in one notebook
def encoder(name: str, on: torch.device) -> Encoder:
    """An encoder of images of `SIDE` px: weights from ``data/weights/``, from caches, or downloaded.

    Raises BadInput for weights with another hash than the published ones, and NotAttempted where package or weights are
    not here and cannot be had; the message says where to put them.
    """
    if name == FID:
        folder, files, get, what = paths.data() / "weights", INCEPTION.names, INCEPTION.url, "Inception of FID"
    else:
        folder, files, what = folders.weights(VIT_G[0]), VIT_G[1], "CLIP ViT-g/14"
        get = f"`hf download {VIT_G[0]} {files[0]} --local-dir {paths.relative(folder)}`"
    path = next((folder / file for file in files if (folder / file).is_file()), None)
    source = None if path is None else str(path) if name == FID else f"ViT-g-14={path}"
    try:
        ready = encoders.load(name, source, download=True, on=on)
    except NotAttempted as error:
        raise NotAttempted(
            f"evaluation on COCO needs the {what}: put {files[0]} into {paths.relative(folder)} ({get}). {error}"
        ) from error
    return replace(ready, reduction=PRESETS["bk-sdm"].reduction)


def statistics(chosen: Chosen, fid: Encoder) -> Statistics:
    """Features of all pictures of a validation set, computed once for an encoder and these files."""
    names = [(file.name, file.stat().st_size) for file in chosen.whole]
    row, key = chosen.row.pictures.name, digest([asdict(fid.convention), names], compact=False)
    kept = paths.runs() / "coco" / f"{row}-{key[:16]}.safetensors"
    if not kept.is_file():
        print(f"{row}: features of {len(names)} pictures, once", flush=True)
        features.extract(chosen.whole, {FID: fid})[FID].statistics.save(kept)
    known = Statistics.load(kept)
    known.convention.agree(fid.convention)
    return known
