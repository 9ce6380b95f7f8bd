"""Table ``snapfusion-unet-table3``: blocks, parameters and MACs of each stage, counted in the built networks."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from diffusers import Transformer2DModel
from diffusers.models.resnet import ResnetBlock2D
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mdrepro.core import plotting
from mdrepro.evaluation.rows import Row
from mdrepro.models import presets
from mdrepro.reproduce.tables import unet_cost

NETWORKS = {"origin": "sd15", "ours": "snapfusion-table3", "table1": "snapfusion"}
"""Preset behind each group of columns. The baseline is diffusers' own class."""
STAGES = {
    **{f"down_blocks.{index}": f"down-{index + 1}" for index in range(3)},
    **dict.fromkeys(("down_blocks.3", "mid_block", "up_blocks.0"), "mid"),
    **{f"up_blocks.{index}": f"up-{index}" for index in range(1, 4)},
}
"""Table 3's stage for each stage of SD-1.5, by its name in diffusers: Mid holds three of them."""
GROUPS = [f"{stage}-{kind}" for stage in dict.fromkeys(STAGES.values()) for kind in ("cross-attention", "resnet")]
"""Rows of Table 3, in its order."""


@dataclass(frozen=True)
class Group:
    """The blocks of one kind in one stage of Table 3.

    ``side``, ``width``: of the feature map that they give for a 512 px image, and its channels. ``params``, ``macs``:
    of all of them, in one forward pass, attention products included.
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

    @property
    def rows(self) -> dict[str, Group]:
        """All of them by row."""
        return {**self.groups, "rest": self.rest, "whole": self.whole}


def count(name: str) -> Counted:
    """Count the blocks of a preset in one forward pass at batch 1, 512 px, on the meta device.

    What a block is, is asked of the modules that ran: diffusers' ResnetBlock2D and Transformer2DModel. Raises BadInput
    for an unknown name, and ValueError for a stage without blocks, a block outside the stages of Table 3, or blocks of
    two sizes in one group: not a network of this build.
    """
    preset = presets.get(name)
    with torch.device("meta"):
        network = preset.build()
    kinds = {Transformer2DModel: "cross-attention", ResnetBlock2D: "resnet"}
    blocks = {path: module for path, module in network.named_modules() if type(module) in kinds}
    shapes: dict[nn.Module, torch.Size] = {}

    def note(module: nn.Module, _: object, out: Tensor | tuple[Tensor]) -> None:
        shapes[module] = (out[0] if isinstance(out, tuple) else out).shape

    for module in blocks.values():
        module.register_forward_hook(note)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(**preset.example_inputs())
    macs = {path: sum(by.values()) // 2 for path, by in counter.get_flop_counts().items()}

    parents = {path: path.partition(".resnets")[0].partition(".attentions")[0] for path in blocks}
    if missing := set(STAGES) - set(parents.values()):
        raise ValueError(f"{name}: no block of Table 3 in {', '.join(sorted(missing))}")
    groups = dict.fromkeys(GROUPS, Group())
    for path, module in blocks.items():
        stage = STAGES.get(parents[path])
        if stage is None or module not in shapes:
            raise ValueError(f"{name}: {path} is no block of Table 3 that runs")
        row = f"{stage}-{kinds[type(module)]}"
        group, (_, width, side, _) = groups[row], shapes[module]
        if group.blocks and (group.side, group.width) != (side, width):
            raise ValueError(f"{name}: blocks of two sizes in {row}")
        params, spent = group.params + _params(module), group.macs + macs[f"{type(network).__name__}.{path}"]
        groups[row] = Group(group.blocks + 1, side, width, params, spent)
    whole = Group(blocks=len(blocks), params=_params(network), macs=counter.get_total_flops() // 2)
    params, spent = (sum(getattr(group, field) for group in groups.values()) for field in ("params", "macs"))
    return Counted(groups, Group(params=whole.params - params, macs=whole.macs - spent), whole)


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def rows(counted: Mapping[str, Counted]) -> list[Row]:
    """Table 3's cells, and parameters and MACs of each row, of what is no block, and of the whole.

    ``counted``: what `count` gave for each of `NETWORKS`, by the ending of the columns.
    """
    table = []
    protocols = {ending: unet_cost.protocol(presets.get(name), 512) for ending, name in NETWORKS.items()}
    for row, group in counted["origin"].groups.items():
        how = f"output of the blocks that ran; {protocols['origin']}"
        table += [Row(row, "resolution", group.side, how), Row(row, "dimension", group.width, how)]
    for ending, network in counted.items():
        for row, group in network.rows.items():
            cells: list[tuple[str, float, str]] = [
                ("params", group.params / 1e6, "all parameters"),
                ("macs", group.macs / 1e9, "torch's dispatcher counter, attention products included"),
            ]
            if row in GROUPS:
                cells.append(("blocks", group.blocks, "modules of the built network that ran"))
            built = protocols[ending]
            table += [Row(row, f"{column}_{ending}", value, f"{how}; {built}") for column, value, how in cells]
    return table


def frame(counted: Mapping[str, Counted]) -> pd.DataFrame:
    """The table to look at: a line for each group, ``rest`` and ``whole``; parameters in millions, MACs in billions."""
    lines: dict[str, dict[str, object]] = {}
    for ending, network in counted.items():
        for row, group in network.rows.items():
            line = lines.setdefault(row, {"row": row, "resolution": group.side or "", "dimension": group.width or ""})
            line[f"blocks_{ending}"] = group.blocks if row != "rest" else ""
            line[f"params_{ending}"] = round(group.params / 1e6, 1)
            line[f"macs_{ending}"] = round(group.macs / 1e9, 1)
    return pd.DataFrame(lines.values()).set_index("row")


def figure(counted: Mapping[str, Counted]) -> Figure:
    """Blocks, parameters and MACs of each row of Table 3, one bar for each network; ``counted`` as for `rows`."""
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
        labels = [row.capitalize().replace("-cross", ", cross").replace("-resnet", ", ResNet") for row in GROUPS]
        axes[0].set_yticks(range(len(GROUPS)), labels)
        axes[0].invert_yaxis()
        drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return drawn
