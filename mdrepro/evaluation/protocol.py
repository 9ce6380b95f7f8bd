"""On what a table of quality is measured: scenes that the program draws, or COCO. A notebook's cells are the same.

Tables name columns as on scenes; `Evaluation.column` says what they are called where they are measured.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mdrepro.core.errors import BadInput
from mdrepro.data.coco import DRAWN
from mdrepro.data.shapes import Scene, Shapes
from mdrepro.evaluation import curves
from mdrepro.evaluation import scenes as quality
from mdrepro.evaluation.curves import Curve, Key, Levels
from mdrepro.evaluation.rows import Row
from mdrepro.evaluation.scenes import Found, Scorers
from mdrepro.metrics.image import frechet
from mdrepro.metrics.image.statistics import Array, Statistics
from mdrepro.sampling import generate
from mdrepro.training.runs.store import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHAPES = "shapes"
BATCH = 50
"""Images of scenes at once."""


class Images(Protocol):
    """A set of images that was scored; image i is of caption i.

    ``how``: in words. ``features``: (n, width), of the Fréchet distance. ``similarity``: cosines of image and caption,
    (n,). ``seconds``: of generation, a whole set; None where that is not known.
    """

    @property
    def how(self) -> str: ...

    @property
    def features(self) -> Array: ...

    @property
    def similarity(self) -> Array: ...

    @property
    def seconds(self) -> float | None: ...


class Evaluation(Protocol):
    """Captions to make images of, and what scores them.

    ``captions``: one an image. ``words``: what scores. ``of``: which captions these are. ``to``: what distances of
    `distances` are to. ``resamples``: of their intervals. ``label``: what follows the names of the scores.
    """

    @property
    def captions(self) -> Sequence[str]: ...

    @property
    def words(self) -> str: ...

    @property
    def of(self) -> str: ...

    @property
    def to(self) -> str: ...

    @property
    def resamples(self) -> int: ...

    @property
    def label(self) -> str: ...

    def column(self, name: str) -> str:
        """What a column that is named as on scenes is called here."""

    def images(self, pipeline: Any, how: str, *, steps: int, guidance: float, sampler: str | None, seed: int) -> Images:
        """Images of the captions, scored; arguments as for `mdrepro.sampling.generate.images`, ``how`` in words."""

    def features(self, pipeline: Any, *, steps: int, guidance: float, sampler: str | None, seed: int) -> Array:
        """Features of such images, (n, width)."""

    def best(self) -> Mapping[str, Any]:
        """Rows of what no model made, by name."""

    def rows(self, row: str, ours: Any) -> list[Row]:
        """Cells of one row: Fréchet distance, CLIP score, and what else can be measured."""

    def difference(self, row: str, column: str, first: Array, second: Array, how: str, before: str = "") -> Row:
        """Fréchet distance of ``first`` less that of ``second``, (noises, captions, width) each, drawn in pairs.

        ``how`` and ``before`` go into the protocol, after what the distance is to and before it.
        """

    def accuracies(self, row: str, column: str, ours: Any, other: Any, told: str) -> list[Row]:
        """Attribute accuracy of a row less that of another; nothing where no attributes are known."""

    def accuracy(self, row: str, ours: Any, told: str) -> list[Row]:
        """Attribute accuracy of a row; nothing where no attributes are known."""

    def distance(self, ours: Any) -> float:
        """Fréchet distance as it stands in `rows`."""

    def distances(self, ours: Any, counts: Array) -> Array:
        """Fréchet distances of images drawn ``counts`` times, (resamples,)."""

    def levels(self, traced: Mapping[Key, Curve]) -> dict[Key, Levels]:
        """The curves of FID and CLIP score, as measured and in resamples."""

    def grid(self, measured: Mapping[str, Any]) -> "Figure":
        """The first captions' images, a row a way."""


@dataclass(frozen=True)
class Drawn:
    """Scenes of the test split, scored by networks that were trained on renders.

    Args:
        scorers: the scorers.
        scenes: one image each.
        reference: of renders of other scenes.
        renders: the scenes' own.
        words: what scores.
    """

    scorers: Scorers
    scenes: Sequence[Scene]
    reference: Statistics
    renders: Found
    words: str
    of: str = "captions of the test split"
    to: str = curves.TO_RENDERS
    label: str = "[shapes]"

    @classmethod
    def load(cls, trained: Mapping[str, Run], count: int) -> "Drawn":
        """The first ``count`` scenes of the test split, and the scorers among trained runs."""
        scored_by, scenes = quality.scorers(trained), Shapes("test", count).scenes(range(count))
        real, renders = quality.reference(scored_by, skip=count), quality.renders(scenes, scored_by)
        return cls(scored_by, scenes, real, renders, scored_by.words)

    @property
    def captions(self) -> list[str]:
        """The scenes' own."""
        return quality.prompts(self.scenes)

    @property
    def resamples(self) -> int:
        """Of curves."""
        return curves.RESAMPLES

    def column(self, name: str) -> str:
        """The name itself."""
        return name

    def images(self, pipeline: Any, how: str, *, steps: int, guidance: float, sampler: str | None, seed: int) -> Found:
        """See `Evaluation`."""
        began = time.perf_counter()
        made = generate.images(
            pipeline, self.captions, steps=steps, guidance=guidance, sampler=sampler, seed=seed, batch=BATCH
        )
        return quality.found(how, made, self.scenes, self.scorers, time.perf_counter() - began)

    def features(self, pipeline: Any, *, steps: int, guidance: float, sampler: str | None, seed: int) -> Array:
        """Features of such images; nothing else is looked for in them."""
        made = generate.images(
            pipeline, self.captions, steps=steps, guidance=guidance, sampler=sampler, seed=seed, batch=BATCH
        )
        return quality.features(self.scorers.reader, made)

    def best(self) -> dict[str, Found]:
        """The scenes' own renders: the best that any model could show to the scorers."""
        return {"real": self.renders}

    def rows(self, row: str, ours: Found) -> list[Row]:
        """See `quality.rows`."""
        return quality.rows(row, ours, self.reference, self.words)

    def difference(self, row: str, column: str, first: Array, second: Array, how: str, before: str = "") -> Row:
        """See `quality.distance_difference`."""
        pairs = quality.distance_difference(self.reference, first, second)
        return Row.measured(row, column, pairs, before + quality.against(self.reference, how))

    def accuracies(self, row: str, column: str, ours: Found, other: Found, told: str) -> list[Row]:
        """See `quality.share_difference`."""
        pairs = quality.share_difference(ours.attributes(), other.attributes())
        return [Row.measured(row, column, pairs, f"{told}; {quality.SPREAD}")]

    def accuracy(self, row: str, ours: Found, told: str) -> list[Row]:
        """See `quality.share`."""
        return [Row.measured(row, "attribute_accuracy", quality.share(ours.attributes()), told)]

    def distance(self, ours: Found) -> float:
        """To renders of other scenes."""
        return frechet.distance(self.reference, Statistics.of(ours.features, self.reference.convention)).value

    def distances(self, ours: Found, counts: Array) -> Array:
        """To the same captions' own renders, which are drawn with the images."""
        return curves.distances(ours.features, self.renders.features, counts)

    def levels(self, traced: Mapping[Key, Curve]) -> dict[Key, Levels]:
        """See `curves.levels`."""
        return curves.levels(traced, self.renders.features)

    def grid(self, measured: Mapping[str, Found]) -> "Figure":
        """Framed are images in which something is not what the caption says."""
        return quality.grid_figure(measured, self.scenes)


def load(name: str, images: int, trained: Mapping[str, Run], *, tier: str, prompts: str = DRAWN) -> Any:
    """What a notebook's parameter ``evaluation`` names.

    Args:
        name: `SHAPES`, or a set of `mdrepro.data.coco.SETS`.
        images: how many captions; of a set that has fewer, all.
        trained: of scenes: the runs among which are the scorers.
        tier: where images are kept.
        prompts: of COCO: a file of captions, or `DRAWN`.

    Returns:
        an `Evaluation`.

    Raises:
        BadInput: an unknown name, or more captions than there are.
        NotAttempted: COCO or weights of the metrics are not on this machine.
    """
    if name == SHAPES:
        if lacking := [scorer for scorer in quality.SCORERS if scorer not in trained]:
            raise BadInput(
                f"evaluation {SHAPES} needs {', '.join(lacking)} among the recipes; COCO is named by its sets"
            )
        return Drawn.load(trained, images)
    from mdrepro.evaluation import coco

    return coco.load(name, images, tier=tier, prompts=prompts)
