"""Quality on captioned scenes: images of their captions, scored by two small networks.

Both scorers were trained on real renders alone. `SceneReader` reads what is in an image (attribute and scene accuracy)
and gives the features of FID[shapes]; `SceneClip`, another pair than the one that conditions the denoisers, gives the
CLIP score[shapes].
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdrepro.core import plotting
from mdrepro.core.errors import BadInput
from mdrepro.data.shapes import Scene, Shapes, caption, render
from mdrepro.evaluation import intervals, networks
from mdrepro.evaluation.intervals import RESAMPLES, SPREAD
from mdrepro.evaluation.protocol import Setup, caption_count
from mdrepro.evaluation.rows import Row
from mdrepro.metrics.image import frechet
from mdrepro.metrics.image.clip_score import clip_score
from mdrepro.metrics.image.scenes import Judgement, clip_cosines, judge
from mdrepro.metrics.image.statistics import Array, Convention, Statistics, as_features
from mdrepro.models.latents import to_image
from mdrepro.models.protocols import Autoencoder, TextToImage
from mdrepro.models.scenes.clip import SceneClip
from mdrepro.models.scenes.reader import SceneReader
from mdrepro.sampling import generate
from mdrepro.training.runs.store import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCE = 5000  # real renders of other scenes of the test split
CURVE_RESAMPLES = 500
BATCH = 50  # images at once


@dataclass(frozen=True)
class Scorers:
    """The networks that score, what they are, and SHA-256 of the reader's weights, whose features make FID[shapes]."""

    reader: SceneReader
    clip: SceneClip
    description: str
    weights: str

    @classmethod
    def load(cls, reader: Run, clip: Run) -> Self:
        """Those of two trained runs."""
        description = "; ".join(
            f"{what} by {run.recipe.name} ({run.record['key']}), trained on {run.recipe.loop.steps} batches of "
            f"{run.recipe.loop.batch} real renders{others}"
            for what, run, others in (("read", reader, ""), ("compared with captions", clip, " and their captions"))
        )
        weights = next(digest for name, digest in reader.record["files"].items() if name.endswith(".safetensors"))
        return cls(reader.load("reader"), clip.load("clip"), f"{description}, of the training split", weights)


@dataclass(frozen=True)
class SceneImages:
    """`ScoredImages` of scenes, uint8 (n, 3, 64, 64), with what each shows of its caption.

    Features are `SceneReader`'s, cosines `SceneClip`'s.
    """

    description: str
    images: Tensor
    judgements: Sequence[Judgement]
    features: Array
    similarity: Array
    seconds: float | None = None

    def untimed(self) -> Self:
        return replace(self, seconds=None)

    def batches(self) -> Iterator[Tensor]:
        yield self.images

    def attributes(self) -> list[Array]:
        """Right (1) or wrong (0), of each image's attributes."""
        return [np.array(judgement.attributes(), float) for judgement in self.judgements]

    def scenes(self) -> list[Array]:
        """Whether all of an image's attributes are right."""
        return [np.array([float(all(judgement.attributes()))]) for judgement in self.judgements]


def prompts(scenes: Sequence[Scene]) -> list[str]:
    """Each scene's own caption."""
    return [caption(scene) for scene in scenes]


def score(
    description: str, images: Tensor, scenes: Sequence[Scene], scorers: Scorers, seconds: float | None = None
) -> SceneImages:
    """Scores of images, uint8 (n, 3, 64, 64), of the scenes' captions."""
    readings = scorers.reader.read(images)
    judgements = [judge(scene.graph, reading) for scene, reading in zip(scenes, readings, strict=True)]
    similarity = clip_cosines(scorers.clip, images, prompts(scenes))
    return SceneImages(description, images, judgements, features(scorers.reader, images), similarity, seconds)


def renders(scenes: Sequence[Scene], scorers: Scorers) -> SceneImages:
    """The scenes' own renders, scored: the best that any model could show to the scorers."""
    return score("the scenes' own renders", render(scenes), scenes, scorers)


def reference(scorers: Scorers, skip: int, count: int = REFERENCE) -> Statistics:
    """Feature statistics of real renders: ``count`` scenes of the test split after the first ``skip``."""
    convention = Convention("SceneReader, mean of the last features", scorers.weights, "uint8 64 px, no resize")
    statistics, data = Statistics(convention), Shapes("test", count, first=skip)
    for first in range(0, count, 250):
        pixels = data.batch(range(first, min(first + 250, count)))["pixels"]
        statistics.add(features(scorers.reader, pixels))
    return statistics


@torch.inference_mode()
def features(reader: SceneReader, pixels: Tensor) -> Array:
    """Features of uint8 images, (n, width)."""
    return torch.cat([reader.features(part) for part in pixels.split(250)]).double().numpy()


@torch.inference_mode()
def decode(decoder: Autoencoder, latents: Tensor, batch: int = BATCH) -> Tensor:
    """Images of scaled latents, uint8 (n, 3, 64, 64)."""
    return torch.cat([to_image(decoder, part, "uint8") for part in latents.split(batch)])


def distances_to_renders(images: Array, renders: Array, counts: Array) -> Array:
    """Fréchet distances of images to the renders of the same captions, (resamples,), both drawn ``counts`` times.

    On 400 validation captions a student of 8 steps (w 1.5) has 0.28 then, with a standard error of 0.06; to 3,000
    renders of other captions it has 2.6 with one of 1.4, and the 400 renders themselves have 2.1. With features
    (n, width) of both, counts are (resamples, n). Raises BadInput where the two differ in shape, or have fewer rows
    than features + 1.
    """
    x_nd, y_nd = as_features(images), as_features(renders)
    n, width = x_nd.shape
    if y_nd.shape != x_nd.shape or n <= width:
        raise BadInput(
            f"features of {x_nd.shape} images and {y_nd.shape} renders: expected as many of both, and at least "
            f"{width + 1} of {width} features"
        )
    pairs, distances = np.concatenate([x_nd, y_nd], axis=1), []
    for counts_n in counts:
        n = counts_n.sum()
        mean = counts_n @ pairs / n
        rows = (pairs - mean) * np.sqrt(counts_n)[:, None]
        covariances = [part.T @ part / (n - 1) for part in (rows[:, :width], rows[:, width:])]
        distances.append(frechet.frechet_distance(mean[:width], covariances[0], mean[width:], covariances[1]))
    return np.array(distances)


@dataclass(frozen=True)
class Scenes:
    """The `Evaluation` on scenes of the test split, with statistics of other scenes' renders, and the scenes' own."""

    scorers: Scorers
    scenes: Sequence[Scene]
    reference: Statistics
    renders: SceneImages
    resamples: int = CURVE_RESAMPLES
    caption_set: str = "captions of the test split"
    distance_to: str = "Frechet distance to the same captions' own renders"
    label: str = "[shapes]"

    @classmethod
    def load(cls, scorers: Scorers, count: int) -> Self:
        """The first ``count`` scenes of the test split."""
        scenes = Shapes("test", count).scenes(range(count))
        return cls(scorers, scenes, reference(scorers, skip=count), renders(scenes, scorers))

    @property
    def captions(self) -> list[str]:
        return prompts(self.scenes)

    @property
    def scoring(self) -> str:
        return self.scorers.description

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"reader": self.scorers.reader, "clip": self.scorers.clip}

    def column(self, name: str) -> str:
        return name

    def images(self, pipeline: TextToImage, setup: Setup, seed: int) -> SceneImages:
        began = time.perf_counter()
        images = self._generate(pipeline, setup, seed)
        return score(setup.describe(seed), images, self.scenes, self.scorers, time.perf_counter() - began)

    def features(self, pipeline: TextToImage, setup: Setup, seed: int) -> Array:
        return features(self.scorers.reader, self._generate(pipeline, setup, seed))

    def _generate(self, pipeline: TextToImage, setup: Setup, seed: int) -> Tensor:
        return generate.images(pipeline, self.captions, seed=seed, batch=BATCH, **setup.sampling)

    def decoded(
        self, pipelines: Mapping[str, TextToImage], setups: Mapping[str, Setup], seed: int
    ) -> dict[str, SceneImages]:
        first = next(iter(pipelines))
        latents = networks.latents(pipelines[first], self.captions, seed=seed, **setups[first].sampling)
        return {
            row: score(setups[row].describe(seed), decode(pipeline.vae, latents), self.scenes, self.scorers)
            for row, pipeline in pipelines.items()
        }

    def best(self) -> dict[str, SceneImages]:
        """The scenes' own renders as row ``real``."""
        return {"real": self.renders}

    def at_half_resolution(self, images: SceneImages) -> dict[str, SceneImages]:
        small = F.avg_pool2d(images.images.float(), 2)
        blurred = F.interpolate(small, scale_factor=2.0, mode="bilinear").round().to(torch.uint8)
        described = f"{images.description}, at half of their resolution and back"
        return {"half-resolution": score(described, blurred, self.scenes, self.scorers)}

    def rows(self, row: str, images: SceneImages) -> list[Row]:
        base = f"{caption_count(images, self)}; {self.scoring}"
        distance = frechet.distance_interval(self.reference, images.features, resamples=RESAMPLES)
        cells = [
            Row.measured(row, "fid_shapes", distance, self._against(base)),
            Row.measured(row, "clip_shapes", clip_score(images.similarity), f"mean cosine; {base}; {SPREAD}"),
            *self.accuracy(row, images, f"{base}; {SPREAD}"),
            Row.measured(row, "scene_accuracy", intervals.share(images.scenes()), f"{base}; {SPREAD}"),
        ]
        if images.seconds is not None:
            how = f"{base}; {torch.get_num_threads()} CPU threads, decoder and text encoder included"
            cells.append(Row(row, "seconds_per_image", images.seconds / len(images.images), how))
        return cells

    def _against(self, base: str) -> str:
        """A protocol sentence for Fréchet distances to the reference."""
        renders = f"{self.reference.n} other renders of the test split"
        return f"Frechet distance to {renders}; {base}; {SPREAD}, {RESAMPLES} resamples"

    def difference(self, row: str, column: str, first: Array, second: Array, description: str, before: str = "") -> Row:
        paired = intervals.distance_difference(self.reference, first, second)
        return Row.measured(row, column, paired, before + self._against(description))

    def accuracy(self, row: str, images: SceneImages, protocol: str) -> list[Row]:
        return [Row.measured(row, "attribute_accuracy", intervals.share(images.attributes()), protocol)]

    def accuracy_difference(
        self, row: str, column: str, images: SceneImages, other: SceneImages, protocol: str
    ) -> list[Row]:
        paired = intervals.share_difference(images.attributes(), other.attributes())
        return [Row.measured(row, column, paired, f"{protocol}; {SPREAD}")]

    def distance(self, images: SceneImages) -> float:
        """To renders of other scenes."""
        return frechet.distance(self.reference, Statistics.of(images.features, self.reference.convention)).value

    def distances(self, images: SceneImages, counts: Array) -> Array:
        """To the same captions' own renders, which are drawn with the images."""
        return distances_to_renders(images.features, self.renders.features, counts)

    def grid(self, measured: Mapping[str, SceneImages], count: int = 8) -> "Figure":
        """The first captions' images, one line per row; framed where something is not what the caption says."""
        shown = measured.items()
        rows = {row: images.images[:count].permute(0, 2, 3, 1).numpy() for row, images in shown}
        wrong = {row: [not all(one.attributes()) for one in images.judgements[:count]] for row, images in shown}
        return plotting.image_grid(rows, prompts(self.scenes[:count]), wrong)
