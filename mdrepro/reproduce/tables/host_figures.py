"""Figures of latencies on this machine: time against work, and what an image's time is spent on."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mdrepro.core import plotting
from mdrepro.models import presets
from mdrepro.reproduce.tables.host_latency import Image, Measurements, combine, parts

KINDS = {
    "denoiser": ("Denoiser", "o", plotting.RED),
    "decoder": ("Image decoder", "s", plotting.BLUE),
    "text encoder": ("Text encoder", "D", plotting.GREEN),
}
"""Title, marker and colour."""


def against_work(measurements: Measurements) -> Figure:
    """Latency over multiply-accumulates, both logarithmic, each network a point.

    The lines are the peak of a matrix product on the same cores, the most that any process saw, a half and a quarter.
    """
    with plotting.figure(size=(7.2, 5)) as (drawn, (axis,)):
        shown = sorted(measurements.values(), key=lambda one: one.ms)
        labels = []
        for one in shown:
            preset = presets.get(one.piece.network)
            _, marker, colour = KINDS[preset.kind]
            times = one.record.times
            spread = one.ms, min(times.p10_ms or one.ms, one.ms), max(times.p90_ms or one.ms, one.ms)
            plotting.estimate(axis, one.gmacs, spread, colour=colour, marker=marker)
            title = "CLIP ViT-L/14" if preset.kind == "text encoder" else preset.title
            batch = f", batch {one.piece.branches}" if one.piece.branches > 1 else ""
            labels.append((f"{title}{batch}", (one.gmacs, one.ms), colour))
        axis.set(xscale="log", yscale="log", xlabel="GMAC of one run, attention products included")
        axis.set_ylabel("ms of one run")
        axis.margins(0.16, 0.12)
        drawn.canvas.draw()  # fixes the limits
        for title, marker, colour in KINDS.values():
            axis.plot([], [], marker, color=colour, ms=7, mec="white", label=title)
        peak = max(one.state["peak_gmacs"] for one in shown)
        limits = {"xlim": axis.get_xlim(), "ylim": axis.get_ylim()}
        work = np.asarray(limits["xlim"])
        lines = {"-": f"a matrix product's {peak:.0f} GMAC/s", "--": "half", ":": "a quarter"}
        for part, (style, title) in zip((1, 2, 4), lines.items(), strict=True):
            axis.plot(work, 1000 * part * work / peak, ls=style, color="0.55", lw=1.1, zorder=0, label=title)
        axis.set(**limits)
        axis.legend(loc="upper left", frameon=True, framealpha=0.9, edgecolor="0.9")
        plotting.plain_log(axis.xaxis)
        plotting.plain_log(axis.yaxis)
        plotting.title(axis, "Time against work: lower is better")
        plotting.label_points(axis, labels)
    return drawn


def of_an_image(images: Mapping[str, Image], measurements: Measurements) -> Figure:
    """What one image's time is spent on, in per cent (left), and how long it takes (right, logarithmic).

    Images of which a part was not measured are left out.
    """
    shown = [(image, t, combine(t).value) for image in images.values() if (t := parts(image, measurements))]
    shown.sort(key=lambda each: each[2])
    size = (9, 1.5 + 0.5 * max(len(shown), 1))
    with plotting.figure(1, 2, size=size, grid="x", sharey=True, width_ratios=[3, 2]) as (drawn, (left, right)):
        for place, (_, terms, whole) in enumerate(shown):
            start = 0.0
            for factor, one in terms:
                share = 100 * factor * one.ms / whole
                colour = KINDS[presets.get(one.piece.network).kind][2]
                edge = "white" if share > 2 else colour
                left.barh(place, share, left=start, color=colour, height=0.62, edgecolor=edge)
                if share >= 9:
                    plotting.annotate(left, f"{share:.0f} %", (start + share / 2, place), (0, 0), color="white")
                start += share
            right.plot(whole / 1000, place, "o", color="0.3", ms=8, mec="white")
            seconds = f"{whole / 1000:,.{0 if whole > 99_950 else 1}f} s"
            plotting.annotate(right, seconds, (whole / 1000, place), (8, 0))
        kinds = (KINDS[name] for name in ("text encoder", "denoiser", "decoder"))
        handles = [Patch(color=colour, label=title) for title, _, colour in kinds]
        left.set(xlim=(0, 100), xlabel="% of one image's time")
        left.set_yticks(range(len(shown)), [image.title for image, *_ in shown])
        left.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0.2)
        right.set(xscale="log", xlabel="seconds for one image, lower is better")
        if shown:
            right.set_xlim(shown[0][2] / 1000 / 3, shown[-1][2] / 1000 * 4)
            left.invert_yaxis()
        plotting.plain_log(right.xaxis)
    return drawn
