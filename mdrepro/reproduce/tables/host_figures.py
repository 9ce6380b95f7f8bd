"""Figures of latencies on this machine: time against work, and what an image's time is spent on."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mdrepro.models import presets
from mdrepro.reproduce.tables.host_latency import Found, Image, Measured, combine, parts
from mdrepro.reproduce.tables.unet_cost import LABEL_OFFSETS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {
    "denoiser": ("Denoiser", "o", 3),
    "decoder": ("Image decoder", "s", 0),
    "text encoder": ("Text encoder", "D", 2),
}
"""In print, marker, and place in seaborn's palette "deep"."""
STYLE = {"grid.color": "0.92", "axes.edgecolor": "0.6", "svg.hashsalt": "mdrepro"}


def against_work(found: Found) -> "Figure":
    """Latency over multiply-accumulates, both logarithmic, each network a point.

    The lines are the peak of a matrix product on the same cores, the most that any process saw, and half of it.
    """
    import seaborn as sns
    from matplotlib import pyplot as plt

    with sns.axes_style("whitegrid", STYLE), sns.plotting_context("notebook", font_scale=0.85):
        drawn, ax = plt.subplots(figsize=(7.2, 5), dpi=100, layout="constrained")
        colours = sns.color_palette("deep")
        shown = sorted(found.values(), key=lambda one: one.ms)
        for one in shown:
            _, marker, place = KINDS[presets.get(one.piece.network).kind]
            times = one.record.times
            spread = [[max(one.ms - (times.p10_ms or one.ms), 0)], [max((times.p90_ms or one.ms) - one.ms, 0)]]
            ax.errorbar(one.gmacs, one.ms, yerr=spread, color=colours[place], elinewidth=1, capsize=2)
            ax.plot(one.gmacs, one.ms, marker, color=colours[place], ms=8, mec="white")
        ax.set(
            xscale="log", yscale="log", xlabel="GMAC of one run, attention products included", ylabel="ms of one run"
        )
        ax.margins(0.16, 0.12)
        drawn.canvas.draw()  # fixes the limits
        for name, marker, place in KINDS.values():
            ax.plot([], [], marker, color=colours[place], ms=7, mec="white", label=name)
        _peaks(ax, max(one.state["peak_gmacs"] for one in shown))
        ax.legend(loc="upper left", frameon=True, framealpha=0.9, edgecolor="0.9")
        _plain(ax.xaxis)
        _plain(ax.yaxis)
        ax.set_title("Time against work", loc="left", fontweight="bold")
        sns.despine(ax=ax)
        drawn.canvas.draw()
        _label(ax, shown)
    plt.close(drawn)  # shown by the notebook as a value, once
    return drawn


def _peaks(ax: "Axes", peak: float) -> None:
    """Lines of constant speed: the product's peak, a half and a quarter of it."""
    limits = ax.get_xlim(), ax.get_ylim()
    work = np.asarray(limits[0])
    for part, style, words in (
        (1, "-", f"a matrix product's {peak:.0f} GMAC/s"),
        (2, "--", "half"),
        (4, ":", "a quarter"),
    ):
        ax.plot(work, 1000 * part * work / peak, ls=style, color="0.55", lw=1.1, zorder=0, label=words)
    ax.set(xlim=limits[0], ylim=limits[1])


def _plain(axis: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _label(ax: "Axes", shown: Sequence[Measured]) -> None:
    """Write each point's name beside it, at the first place where it hits no point, no name and no border."""
    import seaborn as sns
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    colours = sns.color_palette("dark")
    at = [(one.gmacs, one.ms) for one in shown]
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in ax.transData.transform(at)]
    if legend := ax.get_legend():
        taken.append(legend.get_window_extent())
    for one, point in zip(shown, at, strict=True):
        preset = presets.get(one.piece.network)
        short = "CLIP ViT-L/14" if preset.kind == "text encoder" else preset.title
        batch = f", batch {one.piece.branches}" if one.piece.branches > 1 else ""
        text = ax.annotate(f"{short}{batch}", point, (0, 0), textcoords="offset points", fontsize="small")
        text.set(color=colours[KINDS[preset.kind][2]], path_effects=[withStroke(linewidth=2.5, foreground="white")])
        for dx, dy, ha, va in LABEL_OFFSETS:
            text.set(position=(dx, dy), ha=ha, va=va)
            box = text.get_window_extent()
            if ax.bbox.containsx(box.x0) and ax.bbox.containsx(box.x1) and not box.padded(1).count_overlaps(taken):
                break
        taken.append(box)


def of_an_image(images: Mapping[str, Image], found: Found) -> "Figure":
    """What one image's time is spent on, in per cent (left), and how long it takes (right, logarithmic).

    Args:
        images: by name; those of which a part was not measured are left out.
        found: as measured.
    """
    import seaborn as sns
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    made = [(image, terms) for image in images.values() if (terms := parts(image, found))]
    made.sort(key=lambda each: combine(each[1]).value)
    with sns.axes_style("whitegrid", STYLE), sns.plotting_context("notebook", font_scale=0.85):
        height = 1.5 + 0.5 * max(len(made), 1)
        drawn, (left, right) = plt.subplots(
            1, 2, figsize=(9, height), dpi=100, layout="constrained", sharey=True, gridspec_kw={"width_ratios": [3, 2]}
        )
        colours = sns.color_palette("deep")
        for place, (_, terms) in enumerate(made):
            whole, start = combine(terms).value, 0.0
            for factor, one in terms:
                share = 100 * factor * one.ms / whole
                colour = colours[KINDS[presets.get(one.piece.network).kind][2]]
                edge = "white" if share > 2 else colour
                left.barh(place, share, left=start, color=colour, height=0.62, edgecolor=edge)
                if share >= 9:
                    words = f"{share:.0f} %"
                    left.text(
                        start + share / 2, place, words, ha="center", va="center", color="white", fontsize="small"
                    )
                start += share
            right.plot(whole / 1000, place, "o", color="0.3", ms=8, mec="white")
            right.annotate(
                f"{whole / 1000:,.{0 if whole > 99_950 else 1}f} s",
                (whole / 1000, place),
                (8, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
            )
        kinds = [KINDS[name] for name in ("text encoder", "denoiser", "decoder")]
        handles = [Patch(color=colours[place], label=name) for name, _, place in kinds]
        left.set(xlim=(0, 100), xlabel="% of one image's time", yticks=range(len(made)))
        left.set_yticklabels([image.title for image, _ in made])
        left.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0.2)
        right.set(xscale="log", xlabel="seconds for one image")
        right.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        right.xaxis.set_minor_formatter(NullFormatter())
        if made:
            totals = [combine(terms).value / 1000 for _, terms in made]
            right.set_xlim(min(totals) / 3, max(totals) * 4)
            left.invert_yaxis()
        for ax in (left, right):
            ax.grid(axis="y", visible=False)
            sns.despine(ax=ax, left=True)
    plt.close(drawn)  # shown by the notebook as a value, once
    return drawn
