"""What every table of quality on captioned scenes measures: images by their captions, scored by two small networks.

Both scorers were trained on real renders alone. `SceneReader` reads what is in an image (attribute and scene accuracy)
and gives the features of FID[shapes]; `SceneClip`, another pair than the one that conditions the denoisers, gives the
CLIP score[shapes].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdrepro.core import paths, plotting
from mdrepro.data.shapes import SIZE, Scene, Shapes, caption, render
from mdrepro.evaluation.rows import Row
from mdrepro.metrics import bootstrap
from mdrepro.metrics.bootstrap import Interval
from mdrepro.metrics.cost.measure import measure_module
from mdrepro.metrics.image import frechet
from mdrepro.metrics.image.clip_score import clip_score
from mdrepro.metrics.image.scenes import Judgement, clip_cosines, judge
from mdrepro.metrics.image.statistics import Convention, Statistics
from mdrepro.models.scenes.clip import SceneClip
from mdrepro.models.scenes.reader import SceneReader
from mdrepro.training.runs.store import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCE = 5000  # real renders of other scenes of the test split
RESAMPLES = 1000
READER, CLIP = "shapes-reader", "shapes-clip"
SCORERS = (READER, CLIP)
SPREAD = "95 % bootstrap over images"


@dataclass(frozen=True)
class Scorers:
    """The networks that score, and where they come from.

    Args:
        reader: finds objects.
        clip: sets an image beside its caption.
        words: what they are.
        weights: SHA-256 of the reader's weights, whose features make FID[shapes].
    """

    reader: SceneReader
    clip: SceneClip
    words: str
    weights: str


@dataclass(frozen=True)
class Found:
    """A set of images and what was found in them.

    Args:
        how: in words.
        images: uint8 (n, 3, 64, 64).
        judgements: one an image.
        features: of `SceneReader`, (n, width).
        similarity: cosines of image and caption, of `SceneClip`, (n,).
        seconds: of generation, a whole set; None where nothing was generated.
    """

    how: str
    images: Tensor
    judgements: list[Judgement]
    features: NDArray[np.float64]
    similarity: NDArray[np.float64]
    seconds: float | None

    def attributes(self) -> list[NDArray[np.float64]]:
        """Right (1) or wrong (0), of each image's attributes."""
        return [np.array(judgement.attributes(), float) for judgement in self.judgements]

    def scenes(self) -> list[NDArray[np.float64]]:
        """Whether all of an image's attributes are right."""
        return [np.array([float(all(judgement.attributes()))]) for judgement in self.judgements]


def networks(trained: Mapping[str, Run]) -> Any:
    """Where each network comes from, as a data frame."""
    import pandas as pd

    def line(run: Run) -> dict[str, Any]:
        record = run.record
        return {
            "recipe": record["recipe"],
            "parameters (M)": round(record["parameters"] / 1e6, 3),
            "steps": record["steps"],
            "trained (min)": round(record["seconds"] / 60, 1),
            "commit": (record["commit"] or "none")[:10] + (" with local changes" if record["dirty"] else ""),
            "from": paths.relative(run.folder),
        }

    return pd.DataFrame([line(run) for run in trained.values()]).set_index("recipe")


def scorers(trained: Mapping[str, Run]) -> Scorers:
    """The scorers among trained runs, by recipe."""
    reader, clip = trained[READER], trained[CLIP]
    words = "; ".join(
        f"{what} by {run.recipe.name} ({run.record['key']}), trained on {run.recipe.loop.steps} batches of "
        f"{run.recipe.loop.batch} real renders{others}"
        for what, run, others in (("read", reader, ""), ("compared with captions", clip, " and their captions"))
    )
    weights = next(digest for name, digest in reader.record["files"].items() if name.endswith(".safetensors"))
    return Scorers(reader.load("reader"), clip.load("clip"), f"{words}, of the training split", weights)


def prompts(scenes: Sequence[Scene]) -> list[str]:
    """Each scene's own caption."""
    return [caption(scene) for scene in scenes]


def found(how: str, images: Tensor, scenes: Sequence[Scene], scored_by: Scorers, seconds: float | None = None) -> Found:
    """What is in images, uint8 (n, 3, 64, 64), of the scenes' captions."""
    read = scored_by.reader.read(images)
    judgements = [judge(scene.graph, seen) for scene, seen in zip(scenes, read, strict=True)]
    similarity = clip_cosines(scored_by.clip, images, prompts(scenes))
    return Found(how, images, judgements, features(scored_by.reader, images), similarity, seconds)


def renders(scenes: Sequence[Scene], scored_by: Scorers) -> Found:
    """What is in the scenes' own renders: the best that any model could show to the scorers."""
    return found("the scenes' own renders", render(scenes), scenes, scored_by)


def reference(scored_by: Scorers, skip: int, count: int = REFERENCE) -> Statistics:
    """Feature statistics of real renders: ``count`` scenes of the test split after the first ``skip``.

    Args:
        scored_by: gives the features.
        skip: scenes that are measured.
        count: how many renders.
    """
    convention = Convention("SceneReader, mean of the last features", scored_by.weights, "uint8 64 px, no resize")
    statistics, data = Statistics(convention), Shapes("test", count, first=skip)
    for first in range(0, count, 250):
        pixels = data.batch(range(first, min(first + 250, count)))["pixels"]
        statistics.add(features(scored_by.reader, pixels))
    return statistics


@torch.inference_mode()
def features(reader: SceneReader, pixels: Tensor) -> NDArray[np.float64]:
    """Features of uint8 images, (n, width)."""
    return torch.cat([reader.features(part) for part in pixels.split(250)]).double().numpy()


def rows(row: str, ours: Found, real: Statistics, scored_by: str) -> list[Row]:
    """Cells of one row: FID[shapes], CLIP score[shapes], accuracies, and time where images were generated.

    Args:
        row: its name in the table.
        ours: what was found.
        real: from `reference`.
        scored_by: what scored, in words.
    """
    how = f"{ours.how}; {len(ours.images)} captions of the test split; {scored_by}"
    distance = frechet.distance_interval(real, ours.features, resamples=RESAMPLES)
    cells = [
        Row.measured(row, "fid_shapes", distance, against(real, how)),
        Row.measured(row, "clip_shapes", clip_score(ours.similarity), f"mean cosine; {how}; {SPREAD}"),
        # an attribute counts as much as any other: clusters are weighed by their size
        Row.measured(row, "attribute_accuracy", share(ours.attributes()), f"{how}; {SPREAD}"),
        Row.measured(row, "scene_accuracy", share(ours.scenes()), f"{how}; {SPREAD}"),
    ]
    if ours.seconds is not None:
        each = ours.seconds / len(ours.images)
        how = f"{how}; {torch.get_num_threads()} CPU threads, decoder and text encoder included"
        cells.append(Row(row, "seconds_per_image", each, how))
    return cells


def distance_difference(
    real: Statistics,
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    resamples: int | None = None,
    few: bool = False,
) -> Interval:
    """Fréchet distance of ``first`` less that of ``second``, of the same captions and noises; captions are drawn.

    Args:
        real: of real images, such as from `reference`.
        first, second: features, (noises, captions, width); [k, i] of both began with the same noise.
        resamples: of captions; `RESAMPLES` by default.
        few: as for `mdrepro.metrics.image.frechet.distance`.
    """
    noises, captions, width = first.shape
    both = [x.reshape(noises * captions, width) for x in (first, second)]
    counts = np.tile(frechet.draws(captions, RESAMPLES if resamples is None else resamples, seed=0), noises)
    ours, other = (frechet.distance(real, Statistics.of(x, real.convention), few=few).value for x in both)
    drawn = [frechet.distances_of_resamples(real, x, counts) for x in both]
    return frechet.centred_interval(ours - other, drawn[0] - drawn[1], noises * captions)


def evaluation_gmacs(unet: Any, tokens: int) -> float:
    """Multiply-accumulates of one evaluation of a denoiser at its own size, batch 1, 10^9.

    Args:
        unet: with diffusers' configuration.
        tokens: text features that it is given.
    """
    side = unet.config.sample_size
    inputs = {
        "sample": torch.zeros(1, unet.config.in_channels, side, side, device="meta"),
        "timestep": torch.zeros(1, dtype=torch.long, device="meta"),
        "encoder_hidden_states": torch.zeros(1, tokens, unet.config.cross_attention_dim, device="meta"),
    }
    return measure_module(unet, inputs, name=type(unet).__name__, resolution=SIZE).macs / 1e9


def against(real: Statistics, how: str) -> str:
    """A protocol sentence for Fréchet distances to ``real``."""
    return f"Frechet distance to {real.n} other renders of the test split; {how}; {SPREAD}, {RESAMPLES} resamples"


def share(values: Sequence[NDArray[np.float64]], seed: int = 0) -> Interval:
    """Share of right attributes over all images together, with a percentile bootstrap over images."""
    right, count = np.array([v.sum() for v in values]), np.array([len(v) for v in values])
    return _ratio(right, count, seed)


def share_difference(
    first: Sequence[NDArray[np.float64]], second: Sequence[NDArray[np.float64]], seed: int = 0
) -> Interval:
    """`share` of ``first`` less that of ``second``, of the same captions: the same images of both are drawn."""
    right = np.array([a.sum() - b.sum() for a, b in zip(first, second, strict=True)])
    return _ratio(right, np.array([len(v) for v in first]), seed)


def _ratio(right: NDArray[np.float64], count: NDArray[np.int64], seed: int) -> Interval:
    drawn = np.random.default_rng(seed).integers(len(right), size=(bootstrap.RESAMPLES, len(right)))
    shares = right[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    low, high = np.quantile(shares, [(1 - bootstrap.LEVEL) / 2, (1 + bootstrap.LEVEL) / 2])
    value = float(right.sum() / count.sum())
    return Interval(value, min(float(low), value), max(float(high), value), len(right))


def grid_figure(measured: Mapping[str, Found], scenes: Sequence[Scene], count: int = 8) -> "Figure":
    """The first captions' images, a column a caption, a row a way: same prompts, same noise.

    Framed are images in which something is not what the caption says.
    """
    rows = {row: ours.images[:count].permute(0, 2, 3, 1).numpy() for row, ours in measured.items()}
    wrong = {row: [not all(one.attributes()) for one in ours.judgements[:count]] for row, ours in measured.items()}
    return plotting.image_grid(rows, prompts(scenes[:count]), wrong)
