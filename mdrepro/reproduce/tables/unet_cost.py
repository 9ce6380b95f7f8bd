"""Table ``mobilediffusion-unet-cost``: rows and figure from measured costs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdrepro.evaluation.rows import Row
from mdrepro.metrics.cost.measure import Blocks, count_blocks
from mdrepro.metrics.cost.quantities import Cost
from mdrepro.models import presets
from mdrepro.models.presets import LATENT_FACTOR, Preset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPERS = ("MobileDiffusion", "MobileDiffusion-Lite", "SnapFusion", "SnapFusion (Table 3)")
"""Titles of the two papers' own networks, drawn in colour."""

SYSTEM = ("text-encoder", "mobilediffusion", "mobilediffusion-decoder-lite")
"""What MobileDiffusion deploys: the 520M of the blog."""

# Where a label may stand: points right and up of its dot, and how it is aligned; tried in this order.
LABEL_OFFSETS: tuple[tuple[int, int, str, str], ...] = (
    (7, 0, "left", "center"),
    (-7, 0, "right", "center"),
    (0, 6, "center", "bottom"),
    (0, -6, "center", "top"),
    (6, 6, "left", "bottom"),
    (6, -6, "left", "top"),
    (-6, 6, "right", "bottom"),
    (-6, -6, "right", "top"),
    (6, 16, "left", "bottom"),
    (6, -16, "left", "top"),
    (-6, 16, "right", "bottom"),
    (-6, -16, "right", "top"),
    (0, 18, "center", "bottom"),
    (0, -18, "center", "top"),
)


def rows(costs: Sequence[Cost]) -> list[Row]:
    """Parameters, MACs, FLOPs and attention share of each network; for denoisers also block counts and share of SD-1.5.

    Args:
        costs: what `mdrepro.metrics.cost.measure.measure` gave, one for each preset.

    Raises:
        BadInput: a cost of a network that is no preset.
    """
    by_name = {cost.model: cost for cost in costs}
    found = [row for cost in costs for row in _rows(cost, presets.get(cost.model), by_name.get("sd15"))]
    if set(SYSTEM) <= set(by_name):
        whole = sum(by_name[name].params for name in SYSTEM) / 1e6
        how = f"sum of the parameters of {', '.join(SYSTEM)}"
        found.append(Row("mobilediffusion-system", "params", whole, how))
    return found


def _rows(cost: Cost, preset: Preset, sd15: Cost | None) -> list[Row]:
    count = "torch's dispatcher counter (FlopCounterMode's formulas): convolutions and matrix products"
    cells: list[tuple[str, float, str]] = [
        ("params", cost.params / 1e6, "all parameters"),
        ("macs", cost.macs / 1e9, f"{count}, attention products included"),
        ("macs_without_attention", cost.macs_without_attention / 1e9, f"{count} that have a weight"),
        ("flops", cost.flops / 1e9, "2 x MACs, attention products included"),
        ("attention_share", 100 * cost.attention_share, "attention products / MACs"),
    ]
    if preset.kind == "denoiser":
        blocks = _blocks(preset)
        cells += [
            ("conv_blocks", blocks.resnets, "ResNet blocks of the built network"),
            ("self_attention_layers", blocks.self_attention, "self-attention layers of the built network"),
            ("cross_attention_layers", blocks.cross_attention, "cross-attention layers of the built network"),
        ]
        if sd15 and sd15 is not cost:
            share = 100 * cost.macs / sd15.macs
            cells += [("share_of_sd15", share, f"MACs / MACs of SD-1.5 at {sd15.resolution} px")]
    shared = protocol(cost, preset)
    return [Row(cost.model, column, value, f"{how}; {shared}") for column, value, how in cells]


def protocol(cost: Cost, preset: Preset) -> str:
    """How a network was built and run, in one sentence."""
    side = cost.resolution // LATENT_FACTOR
    text = f"{preset.context_tokens} text tokens of width {preset.context_width}"
    latent = f"{cost.resolution} px ({side}x{side}x{preset.latent_channels} latent)"
    given = {"text encoder": text, "decoder": latent, "denoiser": f"{latent}, {text}"}[preset.kind]
    return (
        f"{preset.network}, full size, on the meta device, one forward pass in eval mode without guidance, batch 1, "
        f"{given}; {preset.source}"
    )


def _blocks(preset: Preset) -> Blocks:
    import torch

    with torch.device("meta"):
        return count_blocks(preset.build())


def figure(costs: Sequence[Cost]) -> "Figure":
    """MACs against parameters: denoisers left, image decoders right, the two papers' networks in colour.

    Args:
        costs: as for `rows`; a panel without networks stays empty.
    """
    import seaborn as sns
    from matplotlib import pyplot as plt

    style = {"grid.color": "0.92", "axes.edgecolor": "0.6", "svg.hashsalt": "mdrepro"}
    with sns.axes_style("whitegrid", style), sns.plotting_context("notebook", font_scale=0.85):
        drawn, axes = plt.subplots(
            1, 2, figsize=(9, 4.6), dpi=100, layout="constrained", gridspec_kw={"width_ratios": [4, 3]}
        )
        panels = {"denoiser": "Denoiser, one evaluation", "decoder": "Image decoder, one image"}
        shown = {kind: [cost for cost in costs if presets.get(cost.model).kind == kind] for kind in panels}
        for ax, (kind, title) in zip(axes, panels.items(), strict=True):
            shown[kind].sort(key=lambda cost: presets.get(cost.model).title not in PAPERS)  # placed first
            _scatter(ax, shown[kind])
            ax.set_title(title, loc="left", fontweight="bold")
        drawn.canvas.draw()  # fixes the layout, so that labels can be placed in pixels
        for ax, kind in zip(axes, panels, strict=True):
            _label(ax, shown[kind])
    plt.close(drawn)  # shown by the notebook as a value, once
    return drawn


def _scatter(ax: "Axes", costs: Sequence[Cost]) -> None:
    import seaborn as sns
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    colours = {True: sns.color_palette("deep")[3], False: "0.45"}
    for cost in costs:
        ours = presets.get(cost.model).title in PAPERS
        ax.plot(*_point(cost), "o", ms=7.5, mec="white", color=colours[ours], label=_name(cost))
    ax.set(xscale="log", yscale="log", xlabel="parameters, million", ylabel="GMAC, attention products included")
    ax.margins(0.22, 0.1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    sns.despine(ax=ax)


def _point(cost: Cost) -> tuple[float, float]:
    return cost.params / 1e6, cost.macs / 1e9


def _name(cost: Cost) -> str:
    title = presets.get(cost.model).title
    place = f" ({cost.resolution} px)" if cost.resolution != 512 else ""
    numbers = f"  {cost.params / 1e6:.3g}M, {cost.macs / 1e9:.0f} GMAC" if title in PAPERS else ""
    return f"{title}{place}{numbers}"


def _label(ax: "Axes", costs: Sequence[Cost]) -> None:
    """Write each point's name beside it, at the first place where it hits no point, no name and no border."""
    from matplotlib.transforms import Bbox

    points = [_point(cost) for cost in costs]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in ax.transData.transform(points)]
    for line, point in zip(ax.lines, points, strict=True):
        text = ax.annotate(
            str(line.get_label()), point, (0, 0), textcoords="offset points", color=line.get_color(), fontsize="small"
        )
        for dx, dy, ha, va in LABEL_OFFSETS:
            text.set(position=(dx, dy), ha=ha, va=va)
            box = text.get_window_extent()
            if ax.bbox.containsx(box.x0) and ax.bbox.containsx(box.x1) and not box.padded(2).count_overlaps(taken):
                break
        taken.append(box)
