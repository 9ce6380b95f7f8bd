"""FID-CLIP curves over guidance: models compared at equal FID, or at equal CLIP score, on the same captions and noise.

A curve is the broken line through a model's points (CLIP score, FID) in the order of their guidance scales. Between two
neighbouring scales both are interpolated linearly. A resample draws captions, the same ones of all points of all curves
that are compared, so that it has a common FID and a common CLIP score of its own.

FID is the distance to the renders of the very captions that the images are made of, which are drawn with them. On 400
validation captions shapes-8 (w 1.5) has 0.28 then, with a standard error of 0.06; to 3,000 renders of other captions it
has 2.6 with one of 1.4, and the 400 renders themselves have 2.1.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mdrepro.core import plotting
from mdrepro.core.errors import BadInput
from mdrepro.evaluation.rows import Row
from mdrepro.metrics.bootstrap import Interval
from mdrepro.metrics.image import frechet
from mdrepro.metrics.image.statistics import as_features

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mdrepro.evaluation.protocol import Evaluation, Images

Key = TypeVar("Key")
Array = NDArray[np.float64]
RESAMPLES = 500
MORE_FID, LESS_CLIP = 0.1, 0.01
"""How far beyond the worst of the curves' best points the common ones lie, so that every curve reaches them."""
TO_RENDERS = "Frechet distance to the same captions' own renders"
BEST_FID, BEST_CLIP = "best_fid_shapes", "best_clip_shapes"
CLIP_AT_FID, FID_AT_CLIP = "clip_at_common_fid", "fid_at_common_clip"
COLUMNS = (BEST_FID, BEST_CLIP, CLIP_AT_FID, FID_AT_CLIP)


@dataclass(frozen=True)
class Line:
    """How a curve's images are made: recipe of the checkpoint, and DDIM steps."""

    recipe: str
    steps: int


@dataclass(frozen=True)
class Curve:
    """One model at rising guidance scales.

    Args:
        how: in words, without the guidance.
        scales: w of each point, rising.
        points: what was found at each; image i of all is of the same caption and noise.

    Raises:
        BadInput: scales that do not rise, fewer than two of them, or points that are not one a scale.
    """

    how: str
    scales: tuple[float, ...]
    points: "tuple[Images, ...]"

    def __post_init__(self) -> None:
        rising = all(first < second for first, second in zip(self.scales, self.scales[1:], strict=False))
        if not rising or len(self.scales) < 2 or len(self.points) != len(self.scales):
            raise BadInput(
                f"{len(self.points)} points at guidance {self.scales}: allowed are two scales or more, each larger "
                "than the one before, with a point each"
            )

    def at(self, scale: float) -> Any:
        """The point of a guidance scale. Raises BadInput where the curve has none."""
        if scale not in self.scales:
            raise BadInput(f"guidance {scale:g} is no point of this curve: allowed are {_listed(self.scales)}")
        return self.points[self.scales.index(scale)]


@dataclass(frozen=True)
class Levels:
    """FID and CLIP score of a curve's points, (1 + resamples, scales) each; the first row is as measured.

    Args:
        how, scales: as in `Curve`.
        n: captions.
        fid, clip: the values.
    """

    how: str
    scales: tuple[float, ...]
    n: int
    fid: Array
    clip: Array


def guidance_scales(words: Sequence[str]) -> tuple[float, ...]:
    """Guidance scales from a notebook's parameter. Raises BadInput for what is no number from 1."""
    try:
        scales = tuple(float(word) for word in words)
    except ValueError:
        scales = (0.0,)
    if not all(1 <= scale < float("inf") for scale in scales):
        raise BadInput(f"scales {', '.join(words)}: allowed are numbers from 1 (no guidance)")
    return scales


def trace(line: Line, pipeline: Any, scored: "Evaluation", *, scales: Sequence[float], seed: int) -> Curve:
    """Images of the captions at each guidance scale, from the same noise, scored.

    Args:
        line: of which model.
        pipeline: of its recipe.
        scored: the captions, and what scores.
        scales: w, rising.
        seed: of the noise.

    Raises:
        BadInput: as `Curve`.
    """
    points = [point(line, pipeline, scored, guidance=scale, sampler="ddim", seed=seed) for scale in scales]
    spent = sum(found.seconds or 0.0 for found in points)
    print(
        f"{line.recipe}, {line.steps} steps: {spent:.0f} s for {len(scales)} x {len(scored.captions)} images",
        flush=True,
    )
    return Curve(f"{line.recipe}, {line.steps} steps of ddim, seed {seed}", tuple(scales), tuple(points))


def point(
    line: Line, pipeline: Any, scored: "Evaluation", *, guidance: float, sampler: str | None, seed: int
) -> "Images":
    """Images of the captions at one guidance scale; arguments as for `trace`, ``sampler`` as for `generate`."""
    name = sampler or type(pipeline.scheduler).__name__
    guided = f"guidance {guidance:g}" if guidance != 1 else "no guidance"
    how = f"{line.recipe}, {line.steps} steps of {name}, {guided}, seed {seed}"
    return scored.images(pipeline, how, steps=line.steps, guidance=guidance, sampler=sampler, seed=seed)


def counts(n: int, resamples: int = RESAMPLES) -> Array:
    """How often each of n captions is drawn, (1 + resamples, n); in the first row once, which is as measured."""
    return np.concatenate([np.ones((1, n)), frechet.draws(n, resamples, 0)])


def distances(features: Any, renders: Any, counts_rn: Array) -> Array:
    """Fréchet distances of images to the renders of the same captions, (resamples,), both drawn ``counts_rn`` times.

    Args:
        features, renders: (n, width) each.
        counts_rn: whole numbers, (resamples, n).

    Raises:
        BadInput: the two differ in shape, or fewer captions than features + 1.
    """
    x_nd, y_nd = as_features(features), as_features(renders)
    n, width = x_nd.shape
    if y_nd.shape != x_nd.shape or n <= width:
        raise BadInput(
            f"features of {x_nd.shape} images and {y_nd.shape} renders: allowed are as many of both, and at least "
            f"{width + 1} of {width} features"
        )
    pairs = np.concatenate([x_nd, y_nd], axis=1)
    return np.array([_distance(pairs, row, width) for row in counts_rn])


def _distance(pairs: Array, counts_n: Array, width: int) -> float:
    """The Fréchet distance of the first and the last ``width`` columns of rows that are there ``counts_n`` times."""
    n = counts_n.sum()
    mean = counts_n @ pairs / n
    rows = (pairs - mean) * np.sqrt(counts_n)[:, None]
    images, renders = rows[:, :width], rows[:, width:]
    covariances = [part.T @ part / (n - 1) for part in (images, renders)]
    return frechet.frechet_distance(mean[:width], covariances[0], mean[width:], covariances[1])


def levels(curves: Mapping[Key, Curve], renders: Any, *, resamples: int = RESAMPLES) -> dict[Key, Levels]:
    """FID and CLIP score of all points of all curves, as measured and in resamples of their captions.

    Args:
        curves: of the same captions, by name.
        renders: features of those captions' own renders, (n, width).
        resamples: how many.

    Raises:
        BadInput: another number of captions in one of them, or as `distances`.
    """
    sizes = {len(found.similarity) for curve in curves.values() for found in curve.points}
    if sizes != {len(renders)}:
        raise BadInput(
            f"curves of {sorted(sizes)} captions, {len(renders)} renders: allowed are those of the same ones"
        )
    n = len(renders)
    drawn = counts(n, resamples)
    return {
        name: level(curve, drawn, lambda found, rows: distances(found.features, renders, rows))
        for name, curve in curves.items()
    }


def level(curve: Curve, counts_rn: Array, measure: Callable[[Any, Array], Array]) -> Levels:
    """FID and CLIP score of a curve's points, from a point's images drawn ``counts_rn`` times."""
    n = counts_rn.shape[1]
    fid = [measure(found, counts_rn) for found in curve.points]
    clip = [counts_rn @ found.similarity / n for found in curve.points]
    return Levels(curve.how, curve.scales, n, np.stack(fid, axis=1), np.stack(clip, axis=1))


def common_fid(compared: Iterable[Levels]) -> Array:
    """The largest of the curves' lowest FIDs, plus a tenth, (1 + resamples,)."""
    return (1 + MORE_FID) * np.max([one.fid.min(axis=1) for one in compared], axis=0)


def common_clip(compared: Iterable[Levels]) -> Array:
    """The smallest of the curves' highest CLIP scores, less a hundredth of it, (1 + resamples,)."""
    least = np.min([one.clip.max(axis=1) for one in compared], axis=0)
    return least - LESS_CLIP * np.abs(least)


def highest_clip(fid_rk: Array, clip_rk: Array, at_most_r: Array) -> Array:
    """The highest CLIP score on curves where their FID is at most ``at_most_r``, (r,); -inf where it never is.

    On a segment both are linear, so the highest lies at a corner or where the segment crosses that FID.
    """
    bound = at_most_r[:, None]
    corners = np.where(fid_rk <= bound, clip_rk, -np.inf)
    first, second = fid_rk[:, :-1] - bound, fid_rk[:, 1:] - bound
    crosses = first * second < 0
    share = np.divide(first, first - second, out=np.zeros_like(first), where=crosses)
    crossed = np.where(crosses, clip_rk[:, :-1] + share * (clip_rk[:, 1:] - clip_rk[:, :-1]), -np.inf)
    return np.concatenate([corners, crossed], axis=1).max(axis=1)


def lowest_fid(fid_rk: Array, clip_rk: Array, at_least_r: Array) -> Array:
    """The lowest FID on curves where their CLIP score is at least ``at_least_r``, (r,); inf where it never is."""
    return -highest_clip(-clip_rk, -fid_rk, -at_least_r)


def compare(panel: Mapping[str, Levels]) -> dict[str, dict[str, Array]]:
    """The values of `COLUMNS` for each curve of a panel, as measured and in resamples, (1 + resamples,) each.

    Args:
        panel: the curves that are compared, by row.
    """
    fid, clip = common_fid(panel.values()), common_clip(panel.values())
    return {
        row: {
            BEST_FID: one.fid.min(axis=1),
            BEST_CLIP: one.clip.max(axis=1),
            CLIP_AT_FID: highest_clip(one.fid, one.clip, fid),
            FID_AT_CLIP: lowest_fid(one.fid, one.clip, clip),
        }
        for row, one in panel.items()
    }


def interval(values: Array, n: int) -> Interval:
    """A measured value and its resamples, (1 + resamples,), as a 95 % interval over n captions.

    Resamples are moved to have the measured one as their mean, as `frechet.distance_interval` does and says why.
    """
    found = frechet.centred_interval(float(values[0]), values[1:], n)
    return Interval(found.value, min(found.low, found.value), max(found.high, found.value), n)


def rows(panel: Mapping[str, Levels], scored: "Evaluation", against: Mapping[tuple[str, str], str]) -> list[Row]:
    """Cells of the curves of a panel: `COLUMNS`, and ratios, ``..._ratio``, of two curves in the same resamples.

    Args:
        panel: the curves that are compared, by row.
        scored: what scored.
        against: the row that a row and column is divided by, where both rows are of this panel.
    """
    fid, clip = common_fid(panel.values())[0], common_clip(panel.values())[0]
    others = ", ".join(panel)
    points = {
        BEST_FID: "lowest of the scales",
        BEST_CLIP: "highest of the scales",
        CLIP_AT_FID: f"where FID is at most {fid:.4g}, common to {others}",
        FID_AT_CLIP: f"where the CLIP score is at least {clip:.4g}, common to {others}",
    }
    measured, cells = compare(panel), []
    for row, one in panel.items():
        for column, values in measured[row].items():
            told = (
                f"{points[column]}; guidance {_listed(one.scales)}; {one.how}; {one.n} {scored.of}; "
                f"{scored.to}; {scored.words}; 95 % bootstrap over captions, {len(one.fid) - 1} resamples, the same of "
                "all curves"
            )
            cells.append(Row.measured(row, scored.column(column), interval(values, one.n), told))
            other = against.get((row, column))
            if other in measured:
                share = interval(values / measured[other][column], one.n)
                cells.append(
                    Row.measured(row, scored.column(f"{column}_ratio"), share, f"over that of row {other}; {told}")
                )
    return cells


def draw(axis: "Axes", panel: Mapping[str, Levels], title: str, of: str = "[shapes]") -> None:
    """The curves of a panel as in the paper: FID over CLIP score, a point a guidance scale."""
    import seaborn as sns

    colours = sns.color_palette("colorblind", len(panel))
    for colour, (row, one) in zip(colours, panel.items(), strict=True):
        axis.plot(one.clip[0], one.fid[0], marker="o", markersize=3.5, linewidth=1.4, color=colour, label=row)
        for index in (0, -1):
            point = (one.clip[0, index], one.fid[0, index])
            plotting.annotate(axis, f"{one.scales[index]:g}", point, (3, 3), fontsize=7, color=colour)
    plotting.title(axis, title)
    axis.locator_params(axis="x", nbins=5)
    axis.set(xlabel=f"CLIP score{of}", ylabel=f"FID{of}")
    axis.legend(fontsize=7, frameon=False)


def _listed(scales: Sequence[float]) -> str:
    return ", ".join(f"{scale:g}" for scale in scales)
