"""Table ``mobilediffusion-unet-cost``: rows and figure from measured costs."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from mdrepro.core import plotting
from mdrepro.evaluation.rows import Row
from mdrepro.metrics.cost.measure import count_blocks
from mdrepro.metrics.cost.quantities import Cost
from mdrepro.models import presets, systems
from mdrepro.models.network import LATENT_FACTOR, Preset

PAPERS = ("MobileDiffusion", "MobileDiffusion-Lite", "SnapFusion", "SnapFusion (Table 3)")
"""Titles of the two papers' own networks, drawn in colour."""
SYSTEM = systems.get("mobilediffusion").parts  # what MobileDiffusion deploys: the 520M of the blog


def rows(costs: Sequence[Cost]) -> list[Row]:
    """Parameters, MACs, FLOPs and attention share of each network; for denoisers also block counts and share of SD-1.5.

    Raises BadInput for a cost of a network that is no preset.
    """
    by_name = {cost.model: cost for cost in costs}
    table = [row for cost in costs for row in _rows(cost, presets.get(cost.model), by_name.get("sd15"))]
    if by_name.keys() >= set(SYSTEM):
        whole = sum(by_name[name].params for name in SYSTEM) / 1e6
        table.append(Row("mobilediffusion-system", "params", whole, f"sum of the parameters of {', '.join(SYSTEM)}"))
    return table


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
        with torch.device("meta"):
            blocks = count_blocks(preset.build())
        cells += [
            ("conv_blocks", blocks.resnets, "ResNet blocks of the built network"),
            ("self_attention_layers", blocks.self_attention, "self-attention layers of the built network"),
            ("cross_attention_layers", blocks.cross_attention, "cross-attention layers of the built network"),
        ]
        if sd15 and sd15 is not cost:
            how = f"MACs / MACs of SD-1.5 at {sd15.resolution} px"
            cells.append(("share_of_sd15", 100 * cost.macs / sd15.macs, how))
    shared = protocol(preset, cost.resolution)
    return [Row(cost.model, column, value, f"{how}; {shared}") for column, value, how in cells]


def protocol(preset: Preset, resolution: int) -> str:
    """How a network was built and run, in one sentence."""
    side = resolution // LATENT_FACTOR
    text = f"{preset.context_tokens} text tokens of width {preset.context_width}"
    latent = f"{resolution} px ({side}x{side}x{preset.latent_channels} latent)"
    given = {"text encoder": text, "decoder": latent, "denoiser": f"{latent}, {text}"}[preset.kind]
    return (
        f"{preset.network}, full size, on the meta device, one forward pass in eval mode without guidance, batch 1, "
        f"{given}; {preset.source}"
    )


def figure(costs: Sequence[Cost]) -> Figure:
    """MACs against parameters: denoisers left, image decoders right, the two papers' networks in colour."""
    panels = {"denoiser": "Denoiser, one evaluation: lower is better", "decoder": "Image decoder: lower is better"}
    with plotting.figure(1, 2, size=(9, 4.6), width_ratios=[4, 3]) as (drawn, axes):
        for axis, (kind, title) in zip(axes, panels.items(), strict=True):
            shown = [cost for cost in costs if presets.get(cost.model).kind == kind]
            shown.sort(key=lambda cost: presets.get(cost.model).title not in PAPERS)  # their labels are placed first
            labels = [_label(cost) for cost in shown]
            for _, point, colour in labels:
                axis.plot(*point, "o", ms=7.5, mec="white", color=colour)
            axis.set(xscale="log", yscale="log", xlabel="parameters, million")
            axis.set_ylabel("GMAC, attention products included")
            axis.margins(0.22, 0.1)
            plotting.plain_log(axis.xaxis)
            plotting.plain_log(axis.yaxis)
            plotting.title(axis, title)
            plotting.label_points(axis, labels)
    return drawn


def _label(cost: Cost) -> tuple[str, tuple[float, float], str]:
    """Text, position and colour of a network."""
    title, params, gmacs = presets.get(cost.model).title, cost.params / 1e6, cost.macs / 1e9
    text = f"{title} ({cost.resolution} px)" if cost.resolution != 512 else title
    if title in PAPERS:
        return f"{text}  {params:.3g}M, {gmacs:.0f} GMAC", (params, gmacs), plotting.RED
    return text, (params, gmacs), plotting.GREY
