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
from mdrepro.data.shapes import Scene, Shapes, caption, render
from mdrepro.evaluation import networks
from mdrepro.evaluation.protocol import Measure, Replicas, Setup
from mdrepro.metrics.image import frechet, kernel
from mdrepro.metrics.image.scenes import Judgement, clip_cosines, judge
from mdrepro.metrics.image.statistics import Array, Convention, Statistics
from mdrepro.metrics.jackknife import means_without, unbiased
from mdrepro.models.latents import to_image, to_latent
from mdrepro.models.protocols import Autoencoder, TextToImage
from mdrepro.models.scenes.clip import SceneClip
from mdrepro.models.scenes.reader import SceneReader
from mdrepro.sampling import generate
from mdrepro.training.runs.store import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCE = 5000  # real renders of other scenes of the test split
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

    def right(self) -> Array:
        """Right attributes, all attributes, and whether all are right, of each image: (n, 3)."""
        each = [judgement.attributes() for judgement in self.judgements]
        return np.array([(sum(one), len(one), all(one)) for one in each], np.float64)


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


@torch.inference_mode()
def autoencoded(autoencoder: Autoencoder, images: Tensor, batch: int = BATCH) -> Tensor:
    """Images as they come out of the autoencoder, by the mean of their latent; uint8 (n, 3, 64, 64) both."""
    return torch.cat([to_image(autoencoder, to_latent(autoencoder, x, "uint8"), "uint8") for x in images.split(batch)])


@dataclass(frozen=True)
class Scenes:
    """The `Evaluation` on scenes of the test split, with statistics of other scenes' renders, and the scenes' own."""

    scorers: Scorers
    scenes: Sequence[Scene]
    reference: Statistics
    renders: SceneImages
    caption_set: str = "captions of the test split"
    distance: str = "distance_shapes"
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

    def references(self, autoencoder: Autoencoder) -> dict[str, SceneImages]:
        """The scenes' own renders as row ``real``, and these through the autoencoder."""
        there_and_back = autoencoded(autoencoder, self.renders.images)
        described = "the scenes' own renders, through the autoencoder"
        return {"real": self.renders, "autoencoder": score(described, there_and_back, self.scenes, self.scorers)}

    def at_half_resolution(self, images: SceneImages) -> dict[str, SceneImages]:
        small = F.avg_pool2d(images.images.float(), 2)
        blurred = F.interpolate(small, scale_factor=2.0, mode="bilinear").round().to(torch.uint8)
        described = f"{images.description}, at half of their resolution and back"
        return {"half-resolution": score(described, blurred, self.scenes, self.scorers)}

    @property
    def timing(self) -> str:
        return f"{torch.get_num_threads()} CPU threads"

    @property
    def measures(self) -> dict[str, Measure[SceneImages]]:
        """Distances to renders and shares of what is right; ``seen``: the scene's graph may be one of training's.

        A graph with a relation belongs to one split alone, so those of the test split are unseen.
        """
        n, paired = len(self.scenes), "the same captions' own renders, without the bias of their number, cut at 0"
        real = self.renders.features if self.renders else np.empty((0, 0))
        related = np.array([bool(scene.graph.relations) for scene in self.scenes], bool)

        def share(of: np.typing.NDArray[np.bool_], column: int, by: int | None, what: str) -> Measure[SceneImages]:
            def without(images: SceneImages) -> Array:
                right = images.right()[of]
                return means_without(right[:, column], None if by is None else right[:, by])

            reason = "" if of.sum() > 1 else f"{what}: fewer than 2 captions"
            return Measure(f"share of {what}", "share", int(of.sum()), without, reason)

        every = np.ones(n, bool)
        return {
            "fid_shapes": Measure(
                f"Frechet distance to {self.reference.n} other renders of the test split",
                "distance",
                n,
                lambda images: frechet.distances_without(self.reference, images.features),
            ),
            "distance_shapes": Measure(
                f"Frechet distance to {paired}",
                "distance",
                n,
                lambda images: unbiased(frechet.paired_distances_without(images.features, real), n),
                not_of=("real",),
            ),
            "kid_shapes": Measure(
                f"kernel distance to {paired}",
                "distance",
                n,
                lambda images: kernel.paired_kernel_distances_without(images.features, real),
                not_of=("real",),
            ),
            "clip_shapes": Measure("mean cosine", "mean", n, lambda images: means_without(images.similarity)),
            "attribute_accuracy": share(every, 0, 1, "right attributes"),
            "attribute_accuracy_seen": share(~related, 0, 1, "right attributes of scenes that training may have had"),
            "attribute_accuracy_unseen": share(related, 0, 1, "right attributes of scenes that training did not have"),
            "scene_accuracy": share(every, 2, None, "scenes with all attributes right"),
        }

    def grid(self, measured: Mapping[str, Replicas[SceneImages]], count: int = 8) -> "Figure":
        """The first captions' images, one line per row; framed where something is not what the caption says."""
        shown = [(row, replicas[0]) for row, replicas in measured.items()]
        rows = {row: images.images[:count].permute(0, 2, 3, 1).numpy() for row, images in shown}
        wrong = {row: [not all(one.attributes()) for one in images.judgements[:count]] for row, images in shown}
        return plotting.image_grid(rows, prompts(self.scenes[:count]), wrong)
