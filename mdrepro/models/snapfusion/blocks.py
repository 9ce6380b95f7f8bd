"""SD-1.5's UNet as a list of named blocks, and what SnapFusion's actions make of it (arXiv 2306.00980, section 3).

Plain data, no torch: `mdrepro.models.snapfusion.evolvable` builds the network that a `Layout` describes.

Names. A block is called by stage, kind and index, such as ``up-3 cross-attention 1``. Kinds are ``resnet`` and
``cross-attention``, which is SD's whole transformer block with its projections (self-attention, cross-attention and
feed-forward layer). Stages are those of the paper's Table 3, which folds three of SD's into its "Mid":

| stage | in diffusers | side of a 512 px image's map | in Table 3 |
| --- | --- | --- | --- |
| down-1, down-2, down-3 | down_blocks.0 to .2 | 64, 32, 16 | Down-1, Down-2, Down-3 |
| down-4, mid, up-0 | down_blocks.3, mid_block, up_blocks.0 | 8 | Mid |
| up-1, up-2, up-3 | up_blocks.1 to .3 | 16, 32, 64 | Up-1, Up-2, Up-3 |

With L levels the stages are down-1 to down-L, mid, up-0 to up-(L-1); down-L, mid and up-0 are the "Mid".

What the paper does not state, and what is done here:

- *Skip connections when block numbers differ.* They are not rewired: each of SD's leaves and ends where it did (behind
  a ResNet and its transformer, before a ResNet of the way up). Where every block on the way down is gone it passes on
  what came in. So a network without a block computes exactly what the network with it computes while that block is
  skipped in robust training, as the score of an action assumes.
- *What is removed of a ResNet* is its residual branch. Its shortcut stays: the identity or, where it merges the skip
  connection (on the way up) or changes the number of channels (down-2/0 and down-3/0 in SD-1.5), its 1x1 convolution,
  with its weights and no longer counted as a block. So no removal cuts a skip connection, but for that of the shortcut
  itself (``remove up-1 shortcut 0``), which leaves x as it is, is possible where the width stays, and which Algorithm 1
  never does. A ResNet that changes the width of x cannot be duplicated: a copy would not fit behind it.
- *A copy* stands right behind its original and starts from its weights; a copied ResNet of the way up takes the same
  skip connection again. It gets the next unused index of its stage and kind; an index is never given twice.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mdrepro.core.errors import BadInput, check

KINDS = ("resnet", "cross-attention")
SHORTCUT = "shortcut"
"""Kind of what stays of a removed ResNet."""
ACTIONS = ("remove", "duplicate")

MEETS_TABLE_1: tuple[str, ...] = (
    *(f"remove down-1 cross-attention {index}" for index in range(2)),
    *(f"remove up-3 cross-attention {index}" for index in range(3)),
)
"""From SD-1.5 to the 848M of SnapFusion's Table 1: 846.8M, by the one change of Table 3 that alone meets Table 1."""

MEETS_TABLE_3: tuple[str, ...] = (
    *MEETS_TABLE_1,
    *(f"remove {stage} resnet 1" for stage in ("down-3", "down-4", "mid")),
    *(f"remove {stage} {kind} 0" for stage in ("up-0", "up-1") for kind in ("resnet", SHORTCUT)),
    *(f"duplicate up-1 cross-attention {index}" for index in range(3)),
)
"""From SD-1.5 to the block counts of SnapFusion's Table 3: 759.3M, not the 848M of its Table 1. Both cannot be met.

Table 3 gives counts only. They are those of a UNet with one ResNet less on its two innermost levels, so that each skip
connection that is left still has its ResNet on both sides: where one goes on the way down, its skip connection and the
ResNet that took it go, too. Ours are: which ResNets go (never one that changes the number of channels; of two the
second); that Mid loses one each in down-4, mid and up-0; that each of Up-1's transformers is copied once. Other choices
give 723 to 786M. (With six ResNets in Mid, where Table 3 prints four, 822 to 848M.)
"""


@dataclass(frozen=True)
class Block:
    """One block.

    Args:
        stage, kind, index: its name; kind `SHORTCUT` is what stays of a removed ResNet.
        level: how many times height and width of the latent were halved.
        in_width, out_width: channels of x that it takes and gives.
        skip_width: channels of the skip connection that it takes beside x; 0 off the way up and for transformers.
    """

    stage: str
    kind: str
    index: int
    level: int
    in_width: int
    skip_width: int
    out_width: int

    @property
    def name(self) -> str:
        """Stage, kind and index, as in actions."""
        return f"{self.stage} {self.kind} {self.index}"

    @property
    def changes_width(self) -> bool:
        """Whether an identity cannot stand in its place, nor a copy behind it."""
        return self.in_width != self.out_width

    @property
    def leaves_shortcut(self) -> bool:
        """Whether a 1x1 convolution stays where it is skipped or removed: it takes other channels than it gives."""
        return self.in_width + self.skip_width != self.out_width


Positions = tuple[tuple[Block, ...], ...]
"""The blocks of a stage, one tuple for each skip connection that leaves or enters it; in the middle a single one."""


@dataclass(frozen=True)
class Layout:
    """All blocks in the order of computation. Immutable: `after` gives the next one."""

    stages: Mapping[str, Positions]
    next_index: Mapping[tuple[str, str], int]
    """The index that the next copy gets, by stage and kind."""

    def blocks(self) -> list[Block]:
        """All blocks that can be acted on, in the order of computation."""
        return [block for block in self.computed() if block.kind in KINDS]

    def computed(self) -> list[Block]:
        """All blocks and the shortcuts that removed ones left, in the order of computation."""
        return [block for positions in self.stages.values() for position in positions for block in position]

    def find(self, stage: str, kind: str, index: int) -> Block:
        """The block or shortcut of this name. Raises BadInput that names what is there."""
        check("stage", stage, self.stages)
        check("kind of block", kind, (*KINDS, SHORTCUT))
        there = {block.index: block for block in self.computed() if (block.stage, block.kind) == (stage, kind)}
        if index not in there:
            listed = ", ".join(map(str, there)) or "none is left"
            raise BadInput(f"there is no {kind} {index} in {stage}: expected one of {listed}")
        return there[index]

    def after(self, action: str) -> "tuple[Layout, Block, Block | None]":
        """What one action makes of the layout, such as ``remove up-3 cross-attention 1``.

        Returns the layout, the block acted on, and what is new: the copy, the shortcut left in its place, or None.
        Raises BadInput for another form, a block that is not there, a copy that cannot fit, or a shortcut that changes
        the number of channels.
        """
        fields = action.split()
        if len(fields) != 4 or fields[0] not in ACTIONS or not fields[3].isdecimal():
            raise BadInput(
                f"action {action!r}: expected {' or '.join(ACTIONS)}, then stage, kind and index, "
                "such as 'remove up-3 cross-attention 1'"
            )
        block = self.find(fields[1], fields[2], int(fields[3]))
        next_index = dict(self.next_index)
        new: Block | None
        turns = f"{block.name} turns {block.in_width} channels into {block.out_width}"
        if block.kind == SHORTCUT and (block.changes_width or fields[0] == "duplicate"):
            raise BadInput(f"{turns}: expected the removal of a shortcut between as many channels")
        if fields[0] == "duplicate":
            if block.changes_width:
                raise BadInput(f"{turns}, so a copy would not fit behind it: duplicate another block of {block.stage}")
            new = replace(block, index=next_index[block.stage, block.kind])
            next_index[block.stage, block.kind] += 1
            standing: tuple[Block, ...] = (block, new)
        else:
            new = replace(block, kind=SHORTCUT) if block.leaves_shortcut and block.kind != SHORTCUT else None
            standing = (new,) if new else ()
        positions = tuple(
            tuple(now for old in position for now in (standing if old == block else (old,)))
            for position in self.stages[block.stage]
        )
        return Layout({**self.stages, block.stage: positions}, next_index), block, new

    def replay(self, actions: Iterable[str]) -> "Layout":
        """The layout after all ``actions``. Raises BadInput where one is not possible."""
        layout = self
        for action in actions:
            layout, _, _ = layout.after(action)
        return layout


def sd_layout(widths: Sequence[int], cross_attention: Sequence[bool], layers: int) -> Layout:
    """The layout of a Stable Diffusion UNet, nothing removed.

    ``widths``, ``cross_attention``: channels of each level, outermost first, and whether it has transformers.
    ``layers``: ResNets of a stage on the way down; one more on the way up.
    """
    stages: dict[str, Positions] = {}
    last = len(widths) - 1
    skips, width = [widths[0]], widths[0]

    def pair(stage: str, level: int, index: int, from_width: int, skip_width: int) -> tuple[Block, ...]:
        out = widths[level]
        resnet = Block(stage, "resnet", index, level, from_width, skip_width, out)
        transformer = Block(stage, "cross-attention", index, level, out, 0, out)
        return (resnet, transformer) if cross_attention[level] else (resnet,)

    for level, out in enumerate(widths):
        stage, positions = f"down-{level + 1}", []
        for index in range(layers):
            positions.append(pair(stage, level, index, width, 0))
            width = out
            skips.append(out)
        if level < last:
            skips.append(out)
        stages[stage] = tuple(positions)
    first, second = (Block("mid", "resnet", index, last, width, 0, width) for index in (0, 1))
    stages["mid"] = ((first, Block("mid", "cross-attention", 0, last, width, 0, width), second),)
    for level in reversed(range(len(widths))):
        stage, positions = f"up-{last - level}", []
        for index in range(layers + 1):
            positions.append(pair(stage, level, index, width, skips.pop()))
            width = widths[level]
        stages[stage] = tuple(positions)
    layout = Layout(stages, {})
    return replace(layout, next_index=Counter((block.stage, block.kind) for block in layout.blocks()))
