"""What a table of quality asks for: how a row's images are made, scored images, and where they are scored.

Images are scored on scenes that the program draws (`mdrepro.evaluation.scenes`) or on COCO (`mdrepro.evaluation.coco`).
Tables name columns as on scenes; `Evaluation.column` gives their names where they are measured.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, Self, TypeVar

from torch import Tensor, nn

from mdrepro.metrics.image.statistics import Array
from mdrepro.models.protocols import Autoencoder, TextToImage
from mdrepro.papers.schema import network_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Setup:
    """How a row's images are made, as the papers' YAML declares it with the notebook's parameters."""

    recipe: str  # of the denoiser's checkpoint, or `mdrepro.papers.schema.PUBLISHED`
    steps: int
    sampler: str | None  # a name in `mdrepro.diffusion.samplers.SAMPLERS`; None for the checkpoint's own
    guidance: float  # w; 1 is none
    scales: tuple[float, ...] = ()  # guidance scales of the row's curve, rising; none where it is no curve
    decoder: str = ""  # the recipe whose decoder stands for the checkpoint's own
    removed: str = ""  # blocks that are removed first, a key of `mdrepro.evaluation.networks.REMOVALS`

    @property
    def network(self) -> str:
        """What makes the images."""
        return network_name(self.recipe, self.decoder, self.removed)

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments of `mdrepro.sampling.generate`."""
        return {"steps": self.steps, "guidance": self.guidance, "sampler": self.sampler}

    @property
    def model(self) -> str:
        """Network, steps and sampler, for protocols."""
        return f"{self.network}, {self.steps} step{'s' * (self.steps > 1)} of {self.sampler or 'its own sampler'}"

    def describe(self, seed: int) -> str:
        """All of it but the scales, and the seed of the noise."""
        guided = f"guidance {self.guidance:g}" if self.guidance != 1 else "no guidance"
        return f"{self.model}, {guided}, seed {seed}"


class ScoredImages(Protocol):
    """A set of images with their scores; image i is of caption i.

    ``description``: how they were made. ``features``: (n, width), of the Fréchet distance. ``similarity``: cosines of
    image and caption, (n,). ``seconds``: of making the whole set; None where that is not known.
    """

    @property
    def description(self) -> str: ...
    @property
    def features(self) -> Array: ...
    @property
    def similarity(self) -> Array: ...
    @property
    def seconds(self) -> float | None: ...

    def untimed(self) -> Self:
        """The same without `seconds`."""

    def batches(self) -> Iterator[Tensor]:
        """The images in order, uint8 (batch, 3, height, width)."""


Scored = TypeVar("Scored", bound=ScoredImages)
Replicas = Sequence[Scored]
"""Images of one row by networks that differ in their training seed alone, of the same captions and noises."""
REFERENCES = ("real", "autoencoder")
"""Rows that no denoiser makes: what the best one could show, and what the autoencoder alone costs."""


@dataclass(frozen=True)
class Measure(Generic[Scored]):
    """What one column says of a set of images.

    Args:
        protocol: what it is, in a few words.
        kind: which interval it has, of those of `mdrepro.metrics.jackknife.Estimate`.
        n: captions that it rests on.
        without: its value, and without each group of captions: (1 + G,), see `mdrepro.metrics.jackknife`.
        reason: why it cannot be measured here.
        not_of: rows of which it says nothing.
    """

    protocol: str
    kind: Literal["mean", "share", "distance"]
    n: int
    without: Callable[[Scored], Array]
    reason: str = ""
    not_of: tuple[str, ...] = ()


class Evaluation(Protocol[Scored]):
    """Captions to make images of, and what scores them.

    ``captions``: one per image. ``caption_set``: which these are. ``scoring``: what scores. ``networks``: the trained
    networks that score, by name, in the order of the table's scorers; none where others' weights score. ``measures``:
    what is measured, by column. ``distance``: the column of the distance that curves show. ``timing``: on what images
    are made. ``label``: what follows the names of the scores in figures.
    """

    @property
    def captions(self) -> Sequence[str]: ...
    @property
    def caption_set(self) -> str: ...
    @property
    def scoring(self) -> str: ...
    @property
    def networks(self) -> Mapping[str, nn.Module]: ...
    @property
    def measures(self) -> Mapping[str, Measure[Scored]]: ...
    @property
    def distance(self) -> str: ...
    @property
    def timing(self) -> str: ...
    @property
    def label(self) -> str: ...

    def column(self, name: str) -> str:
        """The name here of a column that is named as on scenes."""

    def images(self, pipeline: TextToImage, setup: Setup, seed: int) -> Scored:
        """Images of the captions, scored; arguments and errors as for `mdrepro.sampling.generate.images`."""

    def decoded(
        self, pipelines: Mapping[str, TextToImage], setups: Mapping[str, Setup], seed: int
    ) -> dict[str, Scored]:
        """Images by row of pipelines and setups that differ in their decoder alone, from the same latents."""

    def references(self, autoencoder: Autoencoder) -> Mapping[str, Scored]:
        """Images of rows that no denoiser makes, `REFERENCES`; none on COCO."""

    def at_half_resolution(self, images: Scored) -> Mapping[str, Scored]:
        """The images at half of their resolution and back, scored, as row ``half-resolution``; none on COCO."""

    def grid(self, measured: Mapping[str, Replicas[Scored]]) -> "Figure":
        """The first captions' images by the first training seed, one line per row."""


def caption_count(images: ScoredImages, scored: Evaluation[Scored]) -> str:
    """How images were made and of how many captions, for protocols."""
    return f"{images.description}; {len(images.similarity)} {scored.caption_set}"
