"""Table ``snapfusion-unet-table3``: blocks, parameters and MACs of each stage, counted in the built networks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mdrepro.core import plotting
from mdrepro.evaluation.rows import Row
from mdrepro.models import presets

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import nn

NETWORKS = {"origin": "sd15", "ours": "snapfusion-table3", "table1": "snapfusion"}
"""Preset behind each group of columns. The baseline is diffusers' own class."""

STAGES = {
    "down_blocks.0": "down-1",
    "down_blocks.1": "down-2",
    "down_blocks.2": "down-3",
    "down_blocks.3": "mid",
    "mid_block": "mid",
    "up_blocks.0": "mid",
    "up_blocks.1": "up-1",
    "up_blocks.2": "up-2",
    "up_blocks.3": "up-3",
}
"""Table 3's stage for each stage of SD-1.5, by its name in diffusers: Mid holds three of them."""

GROUPS = [f"{stage}-{kind}" for stage in dict.fromkeys(STAGES.values()) for kind in ("cross-attention", "resnet")]
"""Rows of Table 3, in its order."""


@dataclass(frozen=True)
class Group:
    """The blocks of one kind in one stage of Table 3.

    Args:
        blocks: how many.
        side: height and width of the feature map that they give, for a 512 px image.
        width: channels of that map.
        params: parameters of all of them.
        macs: multiply-accumulates of all of them in one forward pass, attention products included.
    """

    blocks: int = 0
    side: int = 0
    width: int = 0
    params: int = 0
    macs: int = 0


@dataclass(frozen=True)
class Counted:
    """A network: its groups by row of Table 3, what is no block (``rest``), and the whole."""

    groups: Mapping[str, Group]
    rest: Group
    whole: Group


def count(name: str) -> Counted:
    """Count the blocks of a preset in one forward pass at batch 1, 512 px, on the meta device.

    What a block is, is asked of the modules that ran: diffusers' ResnetBlock2D and Transformer2DModel.

    Args:
        name: a preset of SD-1.5's build.

    Raises:
        BadInput: an unknown name.
        ValueError: a stage without blocks, a block outside the stages of Table 3, or blocks of two sizes in one group:
            not a network of this build.
    """
    import torch
    from diffusers import Transformer2DModel
    from diffusers.models.resnet import ResnetBlock2D
    from torch import Tensor, nn
    from torch.utils.flop_counter import FlopCounterMode

    preset = presets.get(name)
    with torch.device("meta"):
        network = preset.build()
    kinds = {Transformer2DModel: "cross-attention", ResnetBlock2D: "resnet"}
    blocks = [(path, module) for path, module in network.named_modules() if type(module) in kinds]
    given: dict[str, torch.Size] = {}

    def watch(path: str, module: nn.Module) -> None:
        def note(_: nn.Module, __: object, out: Tensor | tuple[Tensor]) -> None:
            given[path] = (out[0] if isinstance(out, tuple) else out).shape

        module.register_forward_hook(note)

    for path, module in blocks:
        watch(path, module)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(**preset.example_inputs())
    macs = {path: sum(by.values()) // 2 for path, by in counter.get_flop_counts().items()}

    groups = dict.fromkeys(GROUPS, Group())
    parents = {path: path.partition(".resnets")[0].partition(".attentions")[0] for path, _ in blocks}
    if missing := set(STAGES) - set(parents.values()):
        raise ValueError(f"{name}: no block of Table 3 in {', '.join(sorted(missing))}")
    for path, module in blocks:
        stage = STAGES.get(parents[path])
        if stage is None or path not in given:
            raise ValueError(f"{name}: {path} is no block of Table 3 that runs")
        row = f"{stage}-{kinds[type(module)]}"
        _, width, side, _ = given[path]
        if groups[row].blocks and (groups[row].side, groups[row].width) != (side, width):
            raise ValueError(f"{name}: blocks of two sizes in {row}")
        groups[row] = Group(
            blocks=groups[row].blocks + 1,
            side=side,
            width=width,
            params=groups[row].params + _params(module),
            macs=groups[row].macs + macs[f"{type(network).__name__}.{path}"],
        )
    whole = Group(blocks=len(blocks), params=_params(network), macs=counter.get_total_flops() // 2)
    rest = replace(
        whole,
        blocks=0,
        params=whole.params - sum(group.params for group in groups.values()),
        macs=whole.macs - sum(group.macs for group in groups.values()),
    )
    return Counted(groups, rest, whole)


def _params(module: "nn.Module") -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def rows(counted: Mapping[str, Counted]) -> list[Row]:
    """Table 3's cells, and parameters and MACs of each row, of what is no block, and of the whole.

    Args:
        counted: what `count` gave for each of `NETWORKS`, by the ending of the columns (``origin``, ``ours``,
            ``table1``).
    """
    table = []
    for row, group in counted["origin"].groups.items():
        how = f"output of the blocks that ran; {_protocol('origin')}"
        table += [
            Row(row, column, value, how) for column, value in (("resolution", group.side), ("dimension", group.width))
        ]
    for ending, network in counted.items():
        shared = _protocol(ending)
        for row, group in [*network.groups.items(), ("rest", network.rest), ("whole", network.whole)]:
            cells: list[tuple[str, float, str]] = [
                ("params", group.params / 1e6, "all parameters"),
                ("macs", group.macs / 1e9, "torch's dispatcher counter, attention products included"),
            ]
            if row not in ("rest", "whole"):
                cells.append(("blocks", group.blocks, "modules of the built network that ran"))
            table += [Row(row, f"{column}_{ending}", value, f"{how}; {shared}") for column, value, how in cells]
    return table


def _protocol(ending: str) -> str:
    preset = presets.get(NETWORKS[ending])
    return (
        f"{preset.network}, full size, on the meta device, one forward pass in eval mode without guidance, batch 1, "
        f"512 px (64x64x4 latent), 77 text tokens of width 768; {preset.source}"
    )


def frame(counted: Mapping[str, Counted]) -> "pd.DataFrame":
    """The table to look at: a line for each group, ``rest`` and ``whole``; parameters in millions, MACs in billions."""
    import pandas as pd

    lines = []
    for row in [*GROUPS, "rest", "whole"]:
        line: dict[str, Any] = {"row": row}
        for ending, network in counted.items():
            group = {**network.groups, "rest": network.rest, "whole": network.whole}[row]
            if ending == "origin":
                line |= {"resolution": group.side or "", "dimension": group.width or ""}
            line |= {
                f"blocks_{ending}": group.blocks if row != "rest" else "",
                f"params_{ending}": round(group.params / 1e6, 1),
                f"macs_{ending}": round(group.macs / 1e9, 1),
            }
        lines.append(line)
    return pd.DataFrame(lines).set_index("row")


def figure(counted: Mapping[str, Counted]) -> "Figure":
    """Blocks, parameters and MACs of each row of Table 3, one bar for each network.

    Args:
        counted: as for `rows`.
    """
    from matplotlib.ticker import MaxNLocator

    titles = {"origin": "SD-1.5", "ours": "SnapFusion, Table 3", "table1": "variant that meets Table 1"}
    colours = {"origin": plotting.GREY, "ours": plotting.RED, "table1": (plotting.RED, 0.35)}
    panels = {"blocks": ("Blocks", 1.0), "params": ("Parameters, million", 1e6), "macs": ("GMAC, one evaluation", 1e9)}
    height = 0.8 / len(counted)
    with plotting.figure(1, 3, size=(10, 6.4), grid="x", sharey=True) as (drawn, axes):
        for axis, (field, (title, unit)) in zip(axes, panels.items(), strict=True):
            for place, (ending, network) in enumerate(counted.items()):
                values = [getattr(network.groups[row], field) / unit for row in GROUPS]
                heights = [index + (place - (len(counted) - 1) / 2) * height for index in range(len(GROUPS))]
                axis.barh(heights, values, height=height, color=colours[ending], label=titles[ending], linewidth=0)
            plotting.title(axis, title)
            axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=field == "blocks"))
            axis.margins(y=0.02)
        axes[0].set_yticks(range(len(GROUPS)), [_label(row) for row in GROUPS])
        axes[0].invert_yaxis()
        drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return drawn


def _label(row: str) -> str:
    kind = "ResNet" if row.endswith("-resnet") else "cross-attention"
    return f"{row.removesuffix('-resnet').removesuffix('-cross-attention').capitalize()}, {kind}"
