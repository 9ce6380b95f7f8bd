"""Quality on COCO: images on disk, FID to the whole validation set and CLIP score, as BK-SDM measures.

Images are made at the model's own size, and like the real ones brought to 256 x 256. BK-SDM (arXiv 2305.15798, section
4.1) saves images as JPEG in between, which is not repeated here. Features stream from disk and are kept beside the
images, so that a run that was interrupted goes on.
"""

import functools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdrepro.core import paths, plotting
from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.core.files import digest, replacing
from mdrepro.data import coco, folders
from mdrepro.data.coco import Chosen
from mdrepro.evaluation import curves, scenes
from mdrepro.evaluation.curves import Curve, Key, Levels
from mdrepro.evaluation.rows import Row
from mdrepro.metrics.image import encoders, features, frechet, resizing, sets
from mdrepro.metrics.image.catalogue import INCEPTION, VIT_G
from mdrepro.metrics.image.clip_score import clip_score, cosines
from mdrepro.metrics.image.encoders import Encoder
from mdrepro.metrics.image.networks import Texts
from mdrepro.metrics.image.statistics import Array, Statistics
from mdrepro.sampling import generate
from mdrepro.sampling.manifest import SETTINGS, Manifest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 256  # px
BATCH = 16
RESAMPLES = 50  # seconds each, at 2,048 features of 30,000 images
FID, CLIP = "legacy-pytorch", "open-clip"
"""Encoders, of `mdrepro.metrics.image.catalogue.ENCODERS`."""


@dataclass(frozen=True)
class Reduced(Encoder):
    """An encoder that is given images of `SIDE` px."""

    @property
    def preparation(self) -> str:
        """How images are prepared, for people."""
        return f"{SIDE} x {SIDE} px by Pillow's bicubic on 8 bits, squashed; then {super().preparation}"

    def prepare(self, x_3hw: Tensor) -> Tensor:
        """A uint8 image (3, h, w) as float32 (3, size, size)."""
        small = x_3hw if x_3hw.shape[1:] == (SIDE, SIDE) else resizing.pillow_squashed(x_3hw, SIDE).to(torch.uint8)
        return super().prepare(small)


@dataclass(frozen=True)
class Scored:
    """Images on disk, with their features.

    Args:
        how: in words.
        files: one a caption.
        features: of FID, float32 (n, width).
        similarity: cosines of image and caption, (n,).
        seconds: of generation; None where some of the images were there before.
    """

    how: str
    files: Sequence[Path]
    features: Any
    similarity: NDArray[np.float64]
    seconds: float | None


@dataclass(frozen=True)
class Coco:
    """An `Evaluation` on a set of COCO's captions.

    Args:
        chosen: the captions.
        reference: features of the whole validation set.
        fid, clip: encoders of FID and of the CLIP score.
        texts: the captions' features.
        folder: below which images are kept.
        few: take fewer images than FID needs, and mark the numbers.
        resamples: of FID's bootstrap.
        batch: images at once.
    """

    chosen: Chosen
    reference: Statistics
    fid: Encoder
    clip: Encoder
    texts: Texts
    folder: Path
    few: bool = False
    resamples: int = RESAMPLES
    batch: int = BATCH
    label: str = ""

    @property
    def captions(self) -> Sequence[str]:
        """One an image."""
        return self.chosen.captions

    @property
    def of(self) -> str:
        """Which captions these are."""
        return self.chosen.words

    @property
    def to(self) -> str:
        """What distances are to."""
        biased = "BIASED, fewer images than features: " if len(self.captions) <= self.fid.network.width else ""
        return f"{biased}Frechet distance to all {self.reference.n} pictures of {self.chosen.row.pictures.name}"

    @property
    def words(self) -> str:
        """What scores."""
        cut = f", {self.texts.cut} captions cut to {self.texts.tokens} tokens" if self.texts.cut else ""
        return f"FID of {sets.protocol(self.fid)}; CLIP score of {sets.protocol(self.clip)}{cut}"

    def column(self, name: str) -> str:
        """``fid``, ``clip`` and what is made of them; ``equal`` in place of ``common``."""
        return name.replace("_shapes", "").replace("common", "equal")

    def images(self, pipeline: Any, how: str, *, steps: int, guidance: float, sampler: str | None, seed: int) -> Scored:
        """Images of the captions, made where they are missing, and scored.

        Raises:
            NotAttempted: other processes make a share of them, and are not done.
        """
        options: dict[str, Any] = {"steps": steps, "guidance": guidance, "sampler": sampler, "seed": seed}
        options["batch"] = self.batch
        told = generate.settings(pipeline, self.captions, **options)
        place = self.folder / _digest(told)[:16]
        new, began = not (place / SETTINGS).exists(), time.perf_counter()
        pipeline.to(self.fid.device)
        made = generate.generate(pipeline, self.captions, place, **options)
        pipeline.to("cpu")
        if not made.complete:
            raise NotAttempted(f"{paths.relative(place)} has {len(made.images)} of {len(self.captions)} images: go on")
        return self.scored(how, made, time.perf_counter() - began if new else None)

    def features(self, pipeline: Any, *, steps: int, guidance: float, sampler: str | None, seed: int) -> Any:
        """Features of such images, (n, width)."""
        return self.images(pipeline, "", steps=steps, guidance=guidance, sampler=sampler, seed=seed).features

    def scored(self, how: str, made: Manifest, seconds: float | None = None) -> Scored:
        """Features of a whole set of images, of the captions in their order.

        Raises:
            BadInput: images of other captions.
        """
        from safetensors.numpy import load_file, save_file

        if [entry.prompt for entry in made.images] != list(self.captions):
            raise BadInput(f"{paths.relative(made.folder)} holds images of other captions than {self.of}")
        both = {"fid": self.fid, "clip": self.clip}
        key = _digest([made.text(), *(asdict(one.convention) for one in both.values())])
        kept = self.folder / "features" / f"{key[:16]}.safetensors"
        if not kept.is_file():
            found = features.extract(made.files, both, keep=list(both))
            arrays = {name: one.features.numpy() for name, one in found.items() if one.features is not None}
            with replacing(kept) as aside:
                save_file(arrays, aside)
        known = load_file(kept)
        return Scored(how, made.files, known["fid"], cosines(known["clip"], self.texts.features), seconds)

    def best(self) -> dict[str, Scored]:
        """Nothing."""
        return {}

    def rows(self, row: str, ours: Scored) -> list[Row]:
        """FID, CLIP score, and time where all images were made now."""
        how = f"{ours.how}; {len(ours.files)} {self.of}; {self.words}"
        drawn = f"95 % bootstrap over images, {self.resamples} resamples"

        def measured() -> Any:
            given: dict[str, Any] = {"few": self.few, "resamples": self.resamples}
            return frechet.distance_interval(self.reference, ours.features, **given)

        cells = [
            self._distance(row, self.column("fid_shapes"), measured, f"{self.to}; {how}; {drawn}"),
            Row.measured(
                row, self.column("clip_shapes"), clip_score(ours.similarity), f"mean cosine; {how}; {scenes.SPREAD}"
            ),
        ]
        if ours.seconds is not None:
            told = f"{how}; on {self.fid.device}, {self.batch} at once, decoder and text encoder included"
            each = ours.seconds / len(ours.files)
            cells.append(Row(row, "seconds_per_image", each, told))
        return cells

    def difference(self, row: str, column: str, first: Array, second: Array, how: str, before: str = "") -> Row:
        """FID of one way less that of another; the same captions of both are drawn."""

        def measured() -> Any:
            return scenes.distance_difference(self.reference, first, second, resamples=self.resamples, few=self.few)

        drawn = f"95 % bootstrap over captions, {self.resamples} resamples"
        return self._distance(row, self.column(column), measured, f"{before}{self.to}; {how}; {drawn}")

    def _distance(self, row: str, column: str, measured: Callable[[], Any], told: str) -> Row:
        """A cell of FID, or why there is none."""
        if reason := self._too_few():
            return Row.absent(row, column, reason)
        return Row.measured(row, column, measured(), told)

    def _too_few(self) -> str:
        least = self.fid.network.width + 1
        few = len(self.captions) < least and not self.few
        return f"FID of {least - 1} features needs at least {least} images, got {len(self.captions)}" if few else ""

    def _enough(self) -> None:
        if told := self._too_few():
            raise BadInput(told)

    def accuracies(self, row: str, column: str, ours: Scored, other: Scored, told: str) -> list[Row]:
        """Nothing: the captions say no attributes."""
        return []

    def accuracy(self, row: str, ours: Scored, told: str) -> list[Row]:
        """Nothing."""
        return []

    def distance(self, ours: Scored) -> float:
        """FID; errors as `distances`."""
        self._enough()
        mine = Statistics.of(ours.features, self.reference.convention)
        return frechet.distance(self.reference, mine, few=self.few).value

    def distances(self, ours: Scored, counts: Array) -> Array:
        """To the whole validation set, which stays as it is.

        Raises:
            BadInput: fewer captions than FID needs.
        """
        self._enough()
        return frechet.distances_of_resamples(self.reference, ours.features, counts)

    def levels(self, traced: Mapping[Key, Curve]) -> dict[Key, Levels]:
        """The curves of FID and CLIP score; see `curves.levels`."""
        drawn = curves.counts(len(self.captions), self.resamples)
        return {name: curves.level(curve, drawn, self.distances) for name, curve in traced.items()}

    def grid(self, measured: Mapping[str, Scored], count: int = 8) -> "Figure":
        """The first captions' images, a row a way, below the pictures that the captions are of."""
        from PIL import Image

        def picture(file: Path) -> NDArray[np.uint8]:
            with Image.open(file) as image:
                return np.asarray(image.convert("RGB").resize((SIDE, SIDE)))

        count = min(count, len(self.captions))
        files: dict[str, Sequence[Path]] = {"COCO": self.chosen.files} if self.chosen.files else {}
        files |= {row: ours.files for row, ours in measured.items()}
        rows = {row: [picture(file) for file in those[:count]] for row, those in files.items()}
        return plotting.image_grid(rows, self.captions[:count])


def load(name: str, images: int, *, tier: str, prompts: str = coco.DRAWN) -> Coco:
    """Captions, encoders and reference of a set; arguments and errors as for `evaluation.load`."""
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

    Raises:
        BadInput: weights with another hash than the published ones.
        NotAttempted: package or weights are not here and cannot be had; the message says where to put them.
    """
    if name == FID:
        folder, files, get = paths.root() / "data" / "weights", INCEPTION.names, INCEPTION.url
    else:
        folder, files = folders.weights(VIT_G[0]), VIT_G[1]
        get = f"`hf download {VIT_G[0]} {files[0]} --local-dir {paths.relative(folder)}`"
    place = next((folder / file for file in files if (folder / file).is_file()), None)
    source = None if place is None else str(place) if name == FID else f"ViT-g-14={place}"
    try:
        ready = encoders.load(name, source, download=True, on=on)
    except NotAttempted as error:
        what = "Inception of FID" if name == FID else "CLIP ViT-g/14"
        raise NotAttempted(
            f"evaluation on COCO needs the {what}: put {files[0]} into {paths.relative(folder)} ({get}). {error}"
        ) from error
    found = ready.network.found
    stored = found.path.resolve().name  # the hub's cache calls files by their hash
    if re.fullmatch(r"[0-9a-f]{64}", stored) and found.path.is_file() and stored != found.sha256:
        raise BadInput(f"{found.path} is damaged: its SHA-256 is {found.sha256}; delete it and get it again")
    return Reduced(ready.row, ready.network, ready.device)


def statistics(chosen: Chosen, fid: Encoder) -> Statistics:
    """Features of all pictures of a validation set, computed once for an encoder and these files."""
    names = [(file.name, file.stat().st_size) for file in chosen.whole]
    row = chosen.row.pictures.name
    kept = paths.runs() / "coco" / f"{row}-{_digest([asdict(fid.convention), names])[:16]}.safetensors"
    if not kept.is_file():
        print(f"{row}: features of {len(names)} pictures, once", flush=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        features.extract(chosen.whole, {FID: fid})[FID].statistics.save(kept)
    known = Statistics.load(kept)
    known.convention.agree(fid.convention)
    return known


def _digest(value: Any) -> str:
    return digest(value, compact=False)
