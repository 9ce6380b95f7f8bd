"""FID-CLIP curves over guidance: models compared at equal FID, or at equal CLIP score, on the same captions and noise.

A curve is the broken line through a model's points (CLIP score, FID) in the order of their guidance scales. Between two
neighbouring scales both are interpolated linearly. Of each training seed, and where a group of captions is left out,
the curves that are compared have a common FID and a common CLIP score of their own.
"""

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from mdrepro.core import plotting
from mdrepro.core.errors import BadInput
from mdrepro.evaluation import estimators
from mdrepro.evaluation.protocol import Evaluation, Replicas, Scored
from mdrepro.evaluation.rows import Row
from mdrepro.metrics.image.statistics import Array
from mdrepro.metrics.jackknife import Estimate
from mdrepro.papers import ledger
from mdrepro.papers.schema import Derived

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Key = TypeVar("Key", bound=Hashable)
MORE_FID, LESS_CLIP = 0.1, 0.01
"""How far beyond the worst of the curves' best points the common ones lie, so that every curve reaches them."""
BEST_FID, BEST_CLIP = "best_fid_shapes", "best_clip_shapes"
CLIP_AT_FID, FID_AT_CLIP = "clip_at_common_fid", "fid_at_common_clip"
COLUMNS = (BEST_FID, BEST_CLIP, CLIP_AT_FID, FID_AT_CLIP)


@dataclass(frozen=True)
class Curve(Generic[Scored]):
    """One model at rising guidance scales w, with scored images of each training seed at each.

    Image i is always of the same caption and noise.

    ``description``: how its images are made, without the guidance. Raises BadInput for scales that do not rise, fewer
    than two of them, or points that are not one per scale.
    """

    description: str
    scales: tuple[float, ...]
    points: tuple[Replicas[Scored], ...]

    def __post_init__(self) -> None:
        rising = all(first < second for first, second in itertools.pairwise(self.scales))
        if not rising or len(self.scales) < 2 or len(self.points) != len(self.scales):
            raise BadInput(
                f"{len(self.points)} points at guidance {self.scales}: expected two scales or more, each larger than "
                "the one before, with a point each"
            )

    def point(self, scale: float) -> Replicas[Scored]:
        """The images at a guidance scale. Raises BadInput where the curve has none."""
        if scale not in self.scales:
            raise BadInput(f"guidance {scale:g} is no point of this curve: expected one of {_listed(self.scales)}")
        return self.points[self.scales.index(scale)]


@dataclass(frozen=True)
class Levels:
    """FID and CLIP score of a curve's points on n captions, as measured and without each group: (seeds, 1 + G, scales).

    ``protocol``: how FID was measured; ``column``: the column that it is, as the tables name it.
    """

    description: str
    scales: tuple[float, ...]
    n: int
    fid: Array
    clip: Array
    protocol: str = ""
    column: str = "fid"


def levels(curves: Mapping[Key, Curve[Scored]], scored: Evaluation[Scored]) -> dict[Key, Levels]:
    """FID and CLIP score of all points of all curves, as measured and without each group of captions.

    A curve that stands under several names is measured once. Raises BadInput for another number of captions in one of
    them, or where the distance cannot be measured.
    """
    n = len(scored.captions)
    sizes = {len(images.similarity) for curve in curves.values() for point in curve.points for images in point}
    if sizes != {n}:
        raise BadInput(f"curves of {sorted(sizes)} captions: expected {n}, those of the evaluation")
    fid, clip = scored.measures[scored.distance], scored.measures[scored.column("clip_shapes")]
    if fid.reason:
        raise BadInput(fid.reason)
    measured: dict[int, Levels] = {}
    for curve in curves.values():
        if id(curve) not in measured:
            both = [
                np.stack([estimators.estimate(one, point).values for point in curve.points], axis=-1)
                for one in (fid, clip)
            ]
            more = fid.protocol, scored.distance
            measured[id(curve)] = Levels(curve.description, curve.scales, n, both[0], both[1], *more)
    return {name: measured[id(curve)] for name, curve in curves.items()}


def common_fid(compared: Iterable[Levels]) -> Array:
    """The largest of the curves' lowest FIDs, plus a tenth: of values (..., scales), (...)."""
    return (1 + MORE_FID) * np.max([one.fid.min(axis=-1) for one in compared], axis=0)


def common_clip(compared: Iterable[Levels]) -> Array:
    """The smallest of the curves' highest CLIP scores, less a hundredth of it: of values (..., scales), (...)."""
    least = np.min([one.clip.max(axis=-1) for one in compared], axis=0)
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


def compare(panel: Mapping[str, Levels]) -> dict[str, dict[str, Estimate]]:
    """The values of `COLUMNS` for each curve that is compared, by the training seeds that all of them have."""
    seeds = min(len(one.fid) for one in panel.values())
    panel = {row: replace(one, fid=one.fid[:seeds], clip=one.clip[:seeds]) for row, one in panel.items()}
    fid, clip = common_fid(panel.values()), common_clip(panel.values())

    def read(at: Callable[[Array, Array, Array], Array], one: Levels, bound: Array) -> Array:
        fid_rk, clip_rk = (values.reshape(-1, values.shape[-1]) for values in (one.fid, one.clip))
        return at(fid_rk, clip_rk, bound.ravel()).reshape(bound.shape)

    return {
        row: {
            BEST_FID: Estimate(one.fid.min(axis=-1), one.n),
            BEST_CLIP: Estimate(one.clip.max(axis=-1), one.n),
            CLIP_AT_FID: Estimate(read(highest_clip, one, fid), one.n),
            FID_AT_CLIP: Estimate(read(lowest_fid, one, clip), one.n),
        }
        for row, one in panel.items()
    }


def rows(panel: Mapping[str, Levels], scored: Evaluation[Scored], controls: Mapping[str, str]) -> list[Row]:
    """Cells of the curves of a panel: `COLUMNS`, and ratios, ``..._ratio``, of two curves in pairs.

    ``controls``: of the table; a ratio is of two rows of this panel.
    """
    fid, clip = (float(common(panel.values())[:, 0].mean()) for common in (common_fid, common_clip))
    others = ", ".join(panel)
    points = {
        BEST_FID: "lowest of the scales",
        BEST_CLIP: "highest of the scales",
        CLIP_AT_FID: f"where FID is at most {fid:.4g}, common to {others}",
        FID_AT_CLIP: f"where the CLIP score is at least {clip:.4g}, common to {others}",
    }
    measured, cells = compare(panel), []
    for row, one in panel.items():
        for column, value in measured[row].items():
            protocol = (
                f"{points[column]}; guidance {_listed(one.scales)}; {one.description}; {one.n} {scored.caption_set}; "
                f"{one.protocol}; {scored.scoring}"
            )
            found = value.distance() if column in (BEST_FID, FID_AT_CLIP) else value.mean()
            cells.append(estimators.cell(row, scored.column(column), found, protocol))
            other = controls.get(f"{row}/{column}_ratio")
            if other in measured:
                how, pair = Derived(by="ratio", to=other), (value, measured[other][column])
                ratio = scored.column(f"{column}_ratio")
                cells.append(estimators.derived(row, ratio, how, pair, other, protocol))
    return cells


def draw(
    axis: "Axes",
    panel: Mapping[str, Levels],
    title: str,
    label: str = "[shapes]",
    names: Mapping[str, str] | None = None,
) -> None:
    """The curves of a panel as in the paper: distance over CLIP score, one point per guidance scale.

    Curves of fewer training seeds than the others' are dashed and say so. ``names``: of the curves, by row.
    """
    import seaborn as sns

    colours = sns.color_palette("colorblind", len(panel))
    fewer, labels, points = estimators.fewer_seeds({row: len(one.fid) for row, one in panel.items()}), [], []
    for colour, (row, one) in zip(colours, panel.items(), strict=True):
        clip, fid = (values[:, 0].mean(axis=0) for values in (one.clip, one.fid))
        name, line = (names or {}).get(row, row) + fewer[row], "--" if fewer[row] else "-"
        axis.plot(clip, fid, marker="o", markersize=3.5, linewidth=1.4, linestyle=line, color=colour, label=name)
        points += list(zip(clip, fid, strict=True))
        labels += [(f"{one.scales[index]:g}", (clip[index], fid[index]), colour) for index in (0, -1)]
    plotting.title(axis, title)
    axis.locator_params(axis="x", nbins=5)
    distance = _title(next(iter(panel.values())).column)
    axis.set(xlabel=f"CLIP score{label}, higher is better", ylabel=f"{distance}, lower is better")
    axis.legend(fontsize=7, frameon=False)
    plotting.label_points(axis, labels, avoid=points, fontsize=7)


def _title(column: str) -> str:
    """The title that the papers' tables give a column."""
    return next(table.columns[column].title for table in ledger.tables().values() if column in table.columns)


def _listed(scales: Sequence[float]) -> str:
    return ", ".join(f"{scale:g}" for scale in scales)
