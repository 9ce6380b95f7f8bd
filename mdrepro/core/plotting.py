"""One style for all figures: grid, spines, colours, intervals, labels that do not overlap, grids of images.

Matplotlib and seaborn are imported when a figure is drawn.
"""

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from numpy.typing import ArrayLike

BLUE, ORANGE, GREEN, RED, GREY = "#4c72b0", "#dd8452", "#55a868", "#c44e52", "#7f868f"
"""Seaborn's "deep", with a darker grey: blue for the network a figure is about, grey for what it is compared with."""
Grid = Literal["both", "x", "none"]
Along = Literal["x", "y"]
Estimate = tuple[float | None, float | None, float | None]
"""A value and the two ends of its interval."""
STYLE = {"grid.color": "0.92", "axes.edgecolor": "0.6", "figure.dpi": 100}
LABEL_OFFSETS = (
    *((7, 0), (-7, 0), (0, 6), (0, -6), (6, 6), (6, -6), (-6, 6), (-6, -6)),
    *((6, 16), (6, -16), (-6, 16), (-6, -16), (0, 18), (0, -18)),
    *((24, 18), (24, -18), (-24, 18), (-24, -18), (0, 30), (0, -30), (34, 30), (34, -30), (-34, 30), (-34, -30)),
    *((0, 44), (0, -44), (52, 44), (52, -44), (-52, 44), (-52, -44)),
)
"""Where a point's name may stand, in points (1/72 inch) from it, the best first; beyond `FAR` on a thin line."""
FAR = 20


@contextmanager
def figure(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float], grid: Grid = "both", **options: Any
) -> "Iterator[tuple[Figure, list[Axes]]]":
    """A new figure in the common style and its axes, row by row; closed at the end, so that a notebook shows it once.

    ``size``: width and height, inches. ``grid``: "x" for horizontal bars (no left spine), "none" for images.
    ``options``: more of ``pyplot.subplots``.
    """
    import seaborn as sns
    from matplotlib import pyplot as plt

    with sns.axes_style("whitegrid", STYLE), sns.plotting_context("notebook", font_scale=0.85):
        options = {"layout": "constrained"} | options
        drawn, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
        try:
            for axis in axes.flat:
                axis.grid(visible=grid != "none", axis="both")
                axis.grid(visible=grid == "both", axis="y")
                axis.spines[["top", "right"] if grid == "both" else ["top", "right", "left"]].set_visible(False)
            yield drawn, list(axes.flat)
        finally:
            plt.close(drawn)


def save(drawn: "Figure", stem: Path) -> list[Path]:
    """Write ``stem``.png and ``stem``.svg, the SVG with the same bytes for the same figure; returns both paths."""
    from matplotlib import rc_context

    png, svg = (stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "svg"))
    with rc_context({"svg.hashsalt": "mdrepro"}):
        drawn.savefig(png, dpi=130, bbox_inches="tight")
        drawn.savefig(svg, bbox_inches="tight", metadata={"Date": None})
    return [png, svg]


def title(axis: "Axes", text: str) -> None:
    """A panel's title, above its left end."""
    axis.set_title(text, loc="left", fontweight="bold")


def estimate(
    axis: "Axes",
    position: float,
    measured: Estimate,
    *,
    colour: Any,
    along: Along = "y",
    marker: str = "o",
    hollow: bool = False,
) -> None:
    """A measured value at ``position`` of the other axis, with its interval where it has one; nothing for None.

    ``hollow``: what rests on less than the others, such as fewer training seeds.
    """
    value, low, high = measured
    if value is None:
        return
    spread = None if low is None or high is None else [[value - low], [high - value]]
    point = (position, value) if along == "y" else (value, position)
    error: dict[str, Any] = {f"{along}err": spread}
    error |= {"mfc": "white", "mec": colour, "mew": 1.5} if hollow else {"mec": "white", "mew": 0.7}
    axis.errorbar(*point, **error, fmt=marker, color=colour, capsize=3, ms=7)


def annotate(
    axis: "Axes", text: str, point: tuple[float, float], offset: tuple[float, float], **options: Any
) -> "Annotation":
    """Text beside a point in data, aligned to the side on which it stands.

    ``offset``: right and up, points (1/72 inch). ``options``: of matplotlib's ``Text``.
    """
    options = {"fontsize": "small", **_alignment(*offset), **options}
    return axis.annotate(text, point, offset, textcoords="offset points", **options)


def _alignment(right: float, up: float) -> dict[str, str]:
    return {
        "ha": "left" if right > 0 else "right" if right < 0 else "center",
        "va": "bottom" if up > 0 else "top" if up < 0 else "center",
    }


def label_points(
    axis: "Axes",
    labels: Sequence[tuple[str, tuple[float, float], Any]],
    *,
    avoid: Sequence[tuple[float, float]] = (),
    **options: Any,
) -> None:
    """Write each point's name beside it, at the first place where it meets no point, no name, no legend, no border.

    The axis is finished but for the names: its limits stay. ``labels``: name, point in data, and colour of each.
    ``avoid``: further points, without names. ``options``: of matplotlib's ``Text``.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    if figure := axis.get_figure(root=True):
        figure.draw_without_rendering()  # fixes the layout, so that labels can be placed in pixels
    points = axis.transData.transform([*(at for _, at, _ in labels), *avoid])
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in points]
    if legend := axis.get_legend():
        taken.append(legend.get_window_extent())
    for name, point, colour in labels:
        text = annotate(axis, name, point, (0, 0), color=colour, **options)

        def met(offset: tuple[int, int], text: "Annotation" = text) -> int:
            text.set(position=offset, **_alignment(*offset))
            box = text.get_window_extent()
            inside = all(axis.bbox.contains(*corner) for corner in ((box.x0, box.y0), (box.x1, box.y1)))
            return int(box.padded(2).count_overlaps(taken)) + 100 * (not inside)

        best = next((offset for offset in LABEL_OFFSETS if not met(offset)), None) or min(LABEL_OFFSETS, key=met)
        text.remove()
        line = {"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.6, "shrinkA": 0, "shrinkB": 3}
        far = {"arrowprops": line} if math.hypot(*best) >= FAR else {}
        text = annotate(axis, name, point, best, color=colour, **options, **far)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        text.get_window_extent()  # moves it to its place
        taken.append(Text.get_window_extent(text))  # without its line


def apart(positions: Sequence[float], gap: float) -> list[float]:
    """Positions for labels near rising ones, each at least ``gap`` above the one before, together as near as can be.

    Labels that would touch are moved as one group about the middle of what they name.
    """
    groups: list[list[float]] = []  # of a group: the mean of (position - index x gap) of its members, and their number
    for position in positions:
        groups.append([position, 1])
        while len(groups) > 1 and groups[-1][0] < groups[-2][0] + gap * groups[-2][1]:
            (low, many), (high, more) = groups[-2:]
            groups[-2:] = [[(low * many + (high - gap * many) * more) / (many + more), many + more]]
    return [low + gap * index for low, many in groups for index in range(int(many))]


def plain_log(axis: "Axis") -> None:
    """Ticks of a logarithmic axis as plain numbers: 1, 2, 5, 10 ..., or powers of ten alone over a long range."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def image_grid(
    rows: "Mapping[str, Iterable[ArrayLike]]",
    captions: Sequence[str],
    framed: Mapping[str, Sequence[bool]] | None = None,
) -> "Figure":
    """Images (height, width, 3) in a row per name and a column per caption; ``framed``: which of them get a frame."""
    size = (1.45 * len(captions), 1.45 * len(rows) + 0.8)
    with figure(len(rows), len(captions), size=size, grid="none") as (drawn, axes):
        for line, (name, images) in enumerate(rows.items()):
            there = axes[line * len(captions) : (line + 1) * len(captions)]
            for column, (axis, image) in enumerate(zip(there, images, strict=True)):
                axis.imshow(image, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(bool(framed and framed[name][column]))
                axis.spines[:].set(color=ORANGE, linewidth=2.5)
            there[0].set_ylabel(wrapped(name), rotation=0, ha="right", va="center", fontsize=11)
        for axis, caption in zip(axes, captions, strict=False):
            axis.set_title(wrapped(caption), fontsize=7)
    return drawn


def wrapped(text: str, width: int = 22) -> str:
    """A text in lines of so many characters, with nothing in it that matplotlib would read as a formula."""
    return "\n".join(textwrap.wrap(text, width)).replace("$", r"\$")
