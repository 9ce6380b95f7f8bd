"""Table ``mobilediffusion-ablation-cost``: what each design rule saves in the final network, rows and figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from matplotlib.figure import Figure

from mdrepro.core import plotting
from mdrepro.core.errors import select_all
from mdrepro.evaluation.rows import Row
from mdrepro.metrics.cost import closed_form
from mdrepro.metrics.cost.measure import measure_module
from mdrepro.metrics.cost.quantities import Cost
from mdrepro.models import presets
from mdrepro.models.mobilediffusion.unet import SD_VALUES, MobileDiffusionUNet
from mdrepro.papers import ledger

MODEL = "mobilediffusion"
TABLE = "mobilediffusion-ablation-cost"

LEVEL_T1 = {"block_out_channels": (320, 640, 1280), "transformer_blocks": (3, 3, 3), "mid_transformer_blocks": 1}
"""T1 turned back with the parameters level (371M), as the paper says: ``md-t1-before`` in docs/underspecified.yaml."""


@dataclass(frozen=True)
class Rule:
    """One row: a rule in a few words, and the fields of the final network's configuration that are changed for it.

    An ``adopted`` rule is turned back, so the change is of the final network against this one; what the paper did not
    adopt is added, so the change is of this one against the final network.
    """

    title: str
    changes: Mapping[str, Any]
    adopted: bool = True


RULES: Mapping[str, Rule] = {
    "t1": Rule("transformers to the middle", LEVEL_T1),
    "t2": Rule("no self-attention at high resolution", SD_VALUES["T2"]),
    "t2-no-cross-attention": Rule(
        "no attention at high resolution (not adopted)", {"cross_attention": (False, False, False)}, adopted=False
    ),
    "t3": Rule("key and value shared", SD_VALUES["T3"]),
    "t4": Rule("swish for GELU", SD_VALUES["T4"]),
    "t5": Rule("ReLU for softmax", SD_VALUES["T5"]),
    "t6": Rule("feed-forward ratio 3 for 4", SD_VALUES["T6"]),
    "c1": Rule("separable convolutions", SD_VALUES["C1"]),
    "c2": Rule("one ResNet a level", SD_VALUES["C2"]),
}
PATH = ("t1", "t2", "t3", "t6", "c1", "c2")
"""The rules that change size or cost, in the paper's order."""


@dataclass(frozen=True)
class Change:
    """Size and cost of the networks before and after one rule."""

    rule: str
    before: Cost | closed_form.Tally
    after: Cost | closed_form.Tally

    @property
    def params(self) -> float:
        """Change in parameters, %."""
        return 100 * (self.after.params / self.before.params - 1)

    @property
    def macs(self) -> float:
        """Change in multiply-accumulates, attention products included, %."""
        return 100 * (self.after.macs / self.before.macs - 1)


def select(wanted: Sequence[str]) -> list[str]:
    """Names of rules, ``all`` among them standing for every one; in table order. Raises BadInput for an unknown one."""
    return select_all("rule", wanted, RULES)


def measure(names: Sequence[str]) -> list[Change]:
    """Build, run and count the networks on either side of each of these rules, on the meta device."""
    preset = presets.get(MODEL)
    inputs = preset.example_inputs()

    def cost(changes: Mapping[str, Any]) -> Cost:
        with torch.device("meta"):
            network = MobileDiffusionUNet(**({"attention": "relu"} | dict(changes)))
        return measure_module(network, inputs, name=MODEL, resolution=preset.resolution)

    ours, found = cost({}), []
    for name in names:
        other = cost(RULES[name].changes)
        found.append(Change(name, *((other, ours) if RULES[name].adopted else (ours, other))))
    return found


def along_a_path() -> dict[str, tuple[float, float]]:
    """Change in parameters and in MACs, %, where the rules of `PATH` are adopted in turn, all turned back at first.

    By the closed form, so the same counts as `measure`'s. No row of the table rests on it: which network the paper
    started from is not published.
    """
    networks = []
    for adopted in range(len(PATH) + 1):
        changes = {field: value for name in PATH[adopted:] for field, value in RULES[name].changes.items()}
        networks.append(closed_form.mobilediffusion_unet(changes))
    steps = [Change(name, *pair) for name, pair in zip(PATH, pairwise(networks), strict=True)]
    return {step.rule: (step.params, step.macs) for step in steps}


def rows(changes: Sequence[Change]) -> list[Row]:
    """Change in parameters and compute of each rule; ResNets before (SD-1.5) and after C2; why no run time is given."""
    found = []
    for change in changes:
        how = protocol(RULES[change.rule])
        found.append(Row(change.rule, "compute_change", change.macs, f"MACs; {how}"))
        found.append(Row(change.rule, "params_change", change.params, f"parameters; {how}"))
        if change.rule in ("t1", "t2"):
            reason = (
                "the paper's device is not stated and run time is not counted here: MACs stand in the next column, "
                "run times of whole networks in mobilediffusion-device-latency"
            )
            found.append(Row.absent(change.rule, "runtime_change", reason))
        if change.rule == "c2":
            for row, preset, title in (("base", "sd15", "SD-1.5's UNet"), ("c2", MODEL, MODEL)):
                tally = closed_form.tally(presets.get(preset))
                assert tally
                found.append(Row(row, "conv_blocks", tally.resnets, f"ResNet blocks of the full-size network: {title}"))
    return found


def protocol(rule: Rule) -> str:
    """Which two networks are compared, in one sentence."""
    changed = ", ".join(f"{field} {value}" for field, value in rule.changes.items())
    against = f"{MODEL} against the same with {changed}" if rule.adopted else f"{MODEL} with {changed} against itself"
    return (
        f"{against}; mdrepro MobileDiffusionUNet, full size, on the meta device, torch's dispatcher counter, attention "
        "products included, one forward pass, batch 1, 64x64x8 latent, 77 text tokens"
    )


def figure(changes: Sequence[Change]) -> Figure:
    """Change of each rule in parameters (left) and compute (right); black ticks are the paper's figures."""
    table = ledger.find(TABLE)
    names = [f"{change.rule.upper()[:2]}  {RULES[change.rule].title}" for change in changes]
    colours = [plotting.RED if RULES[change.rule].adopted else plotting.GREY for change in changes]
    panels = {
        "params_change": ("Parameters: left saves", [change.params for change in changes]),
        "compute_change": ("Multiply-accumulates: left saves", [change.macs for change in changes]),
    }
    with plotting.figure(1, 2, size=(9, 1.3 + 0.36 * len(changes)), grid="x", sharey=True) as (drawn, axes):
        for axis, (column, (title, values)) in zip(axes, panels.items(), strict=True):
            axis.barh(names, values, color=colours, height=0.62)
            for place, (change, value) in enumerate(zip(changes, values, strict=True)):
                cell = table.cell(change.rule, column)
                end = value
                if cell and cell.value is not None:
                    axis.plot([cell.value] * 2, [place - 0.42, place + 0.42], color="black", lw=2.2, label="paper")
                    end = min(value, cell.value)  # the number stands beyond bar and tick
                number = f"{value:+.1f}".replace("-", "−") if value else "0"
                plotting.annotate(axis, number, (end, place), (5 if end > 0 else -5, 0))
            axis.axvline(0, color="0.4", lw=0.8)
            axis.margins(x=0.22)
            plotting.title(axis, title)
            axis.set_xlabel("change by the rule, %")
        axes[0].invert_yaxis()
    return drawn
