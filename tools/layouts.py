"""The layouts that MobileDiffusion's rules leave open, scored against the published size and cost.

Fixed by what was read: three levels, 11 ResNets (one a level down, two in the middle, two a level up), no transformer
at 64x64, keys and values shared in self-attention (T3), feed-forward ratio 3 (T6). Open: how many blocks of
self-attention, cross-attention and feed-forward ("full") stand at 16x16 and in the middle, how many without
self-attention stand at the outer 16x16 and at 32x32 (T2), which levels have separable convolutions (C1), whether
cross-attention shares keys and values too, and whether stacks have SD's norm and projections around them. Counts depend
on the numbers of blocks alone, not on where at a resolution they stand, so each candidate is a sum of parts that the
closed form (`mdrepro.metrics.cost.closed_form`) gives; where the UNet can be built so, ``--json`` gives its config too.

    python -m tools.layouts [--lite] [--top N] [--json]

No torch is imported; the search takes about a second.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mdrepro.metrics.cost.closed_form import Tally, mobilediffusion_unet

Counts = tuple[int, int]
"""Parameters and MACs."""

FULL, OUTER, MIDDLE_LEVEL = range(5, 23), range(0, 7), range(0, 13)
"""How many blocks are tried: full ones at 16x16, cross-attention ones at 16x16 and at 32x32."""

CONVOLUTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "every level but the outermost": {"separable_conv": (False, True, True), "mid_separable_conv": True},
        "these and the resamplers": {
            "separable_conv": (False, True, True),
            "mid_separable_conv": True,
            "separable_resampling": True,
        },
        "innermost level and middle": {"separable_conv": (False, False, True), "mid_separable_conv": True},
        "innermost level": {"separable_conv": (False, False, True), "mid_separable_conv": False},
    }
)
"""Readings of rule C1. The last leaves the middle dense, which the rule does not allow; it is tried all the same."""

LITERAL = ("every level but the outermost", "these and the resamplers")
KEPT = (*LITERAL, "innermost level and middle")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a layout is scored against.

    Args:
        widths: channels a level.
        params, macs: published, with the tolerance as a fraction.
        self_attention, cross_attention: layers, recalled only.
    """

    widths: tuple[int, int, int]
    params: float
    params_tolerance: float
    macs: float
    macs_tolerance: float
    self_attention: int
    cross_attention: int


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "mobilediffusion": Target(
            widths=(320, 640, 1024),
            params=386e6,
            params_tolerance=0.01,
            macs=182e9,
            macs_tolerance=0.02,
            self_attention=15,
            cross_attention=18,
        ),
        "mobilediffusion-lite": Target(
            widths=(320, 640, 896),
            params=278e6,
            params_tolerance=0.02,
            macs=117e9,
            macs_tolerance=0.03,
            self_attention=12,
            cross_attention=15,
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One candidate.

    Args:
        full: blocks with self-attention, in the middle and the inner 16x16.
        outer: blocks without self-attention at the outer 16x16.
        middle_level: blocks without self-attention at 32x32.
        convolutions: a reading of rule C1, of `CONVOLUTIONS`.
        shared_key_value: ``self``, or ``both`` where cross-attention shares too.
        projection: norm and projections around each stack.
        params, macs: size and cost.
        error: the larger of both distances from the target, in tolerances; up to 1 the published figures are met.
    """

    full: int
    outer: int
    middle_level: int
    convolutions: str
    shared_key_value: str
    projection: bool
    params: int
    macs: int
    error: float

    @property
    def cross_attention(self) -> int:
        """Cross-attention layers; the self-attention layers are ``full``."""
        return self.full + self.outer + self.middle_level

    @property
    def keeps_t2(self) -> bool:
        """T2: cross-attention alone after each ResNet of 32x32 and at the outer 16x16 (at least the one going down)."""
        return self.middle_level >= 3 and self.outer >= 1

    @property
    def keeps_c1(self) -> bool:
        """No dense 3x3 convolution in a ResNet of the innermost level and middle, the outermost level dense."""
        return self.convolutions in KEPT

    @property
    def literal_c1(self) -> bool:
        """Every level but the outermost is separable."""
        return self.convolutions in LITERAL

    def has_layers(self, target: Target) -> bool:
        """Whether it has the recalled numbers of attention layers."""
        return (self.full, self.cross_attention) == (target.self_attention, target.cross_attention)

    @property
    def config(self) -> dict[str, Any] | None:
        """What to give `MobileDiffusionUNet` beside the widths; None where it cannot be built so.

        The UNet places as many blocks after each ResNet of a level, so numbers outside the middle are multiples of 3.
        """
        if self.outer % 3 or self.middle_level % 3:
            return None
        return {
            "transformer_blocks": (0, self.middle_level // 3, self.outer // 3),
            "mid_transformer_blocks": self.full,
            "shared_key_value": self.shared_key_value,
            "transformer_projection": self.projection,
            **CONVOLUTIONS[self.convolutions],
        }


def search(target: Target) -> list[Layout]:
    """All candidates, the one nearest to the published figures first."""
    found = [
        layout
        for name in CONVOLUTIONS
        for shared in ("self", "both")
        for projection in (False, True)
        for layout in _of_kind(target, name, shared, projection)
    ]
    return sorted(found, key=lambda layout: layout.error)


def _of_kind(target: Target, name: str, shared: str, projection: bool) -> Iterator[Layout]:
    fixed = {
        "block_out_channels": target.widths,
        "shared_key_value": shared,
        "transformer_projection": projection,
        **CONVOLUTIONS[name],
    }

    def counts(middle_level: int, outer: int, full: int) -> Tally:
        changes = {"transformer_blocks": (0, middle_level, outer), "mid_transformer_blocks": full}
        return mobilediffusion_unet(fixed | changes)

    base, low, middle = counts(0, 0, 0), counts(1, 0, 0), counts(0, 1, 0)
    block_32, stack_32 = _block_and_stack(base, low, counts(2, 0, 0), 3)
    block_16, stack_16 = _block_and_stack(base, middle, counts(0, 2, 0), 3)
    block_full, stack_full = _block_and_stack(base, counts(0, 0, 1), counts(0, 0, 2), 1)
    for full in FULL:
        for outer in OUTER:
            for middle_level in MIDDLE_LEVEL:
                params, macs = (
                    start
                    + middle_level * block_32[index]
                    + min(middle_level, 3) * stack_32[index]
                    + outer * block_16[index]
                    + min(outer, 3) * stack_16[index]
                    + full * block_full[index]
                    + stack_full[index]
                    for index, start in enumerate((base.params, base.macs))
                )
                error = max(
                    abs(params / target.params - 1) / target.params_tolerance,
                    abs(macs / target.macs - 1) / target.macs_tolerance,
                )
                yield Layout(
                    full=full,
                    outer=outer,
                    middle_level=middle_level,
                    convolutions=name,
                    shared_key_value=shared,
                    projection=projection,
                    params=params,
                    macs=macs,
                    error=error,
                )


def _block_and_stack(base: Tally, one: Tally, two: Tally, stacks: int) -> tuple[Counts, Counts]:
    """What one block adds, and what one stack of blocks adds besides (its norm and projections)."""
    block = (two.params - one.params) // stacks, (two.macs - one.macs) // stacks
    stack = (one.params - base.params) // stacks - block[0], (one.macs - base.macs) // stacks - block[1]
    return block, stack


def rank(layouts: Sequence[Layout], target: Target) -> list[Layout]:
    """Those that meet the published figures; first by rules kept, then by attention layers, then by figures.

    Order: T2 and C1 kept, the recalled layers met, the recalled number of self-attention layers met, can be built with
    the UNet's configuration, nearest to the published figures.
    """
    return sorted(
        (layout for layout in layouts if layout.error <= 1),
        key=lambda layout: (
            not (layout.keeps_t2 and layout.keeps_c1),
            not layout.has_layers(target),
            layout.full != target.self_attention,
            layout.config is None,
            layout.error,
        ),
    )


def conclusion(layouts: Sequence[Layout], target: Target) -> str:
    """What the search says about the recalled numbers of layers, in words."""
    good = rank(layouts, target)
    recalled = f"{target.self_attention} + {target.cross_attention}"
    with_layers = [layout for layout in layouts if layout.has_layers(target)]
    kept = [layout for layout in with_layers if layout.keeps_t2 and layout.keeps_c1]
    separable = [layout for layout in with_layers if layout.keeps_c1]
    meeting = [layout for layout in with_layers if layout.error <= 1]
    lines = [f"{len(good)} of {len(layouts)} layouts meet {target.params / 1e6:.0f}M and {target.macs / 1e9:.0f} GMAC."]
    if kept and kept[0].error <= 1:
        lines.append(f"With the recalled {recalled} layers and rules T2 and C1 kept: {describe(kept[0])}.")
        return "\n".join(lines)
    lines.append(f"None of them has the recalled {recalled} layers and keeps T2 and C1.")
    if separable:
        lines.append(
            f"With those layers and C1 kept, but not T2, the nearest lies {separable[0].error:.1f} tolerances off:"
        )
        lines.append(f"  {describe(separable[0])}.")
    if meeting:
        lines.append("With those layers, but against C1, the figures are met by:")
        lines.append(f"  {describe(meeting[0])}.")
    return "\n".join(lines)


def describe(layout: Layout) -> str:
    """A layout in one line."""
    parts = [
        f"{layout.params / 1e6:.2f}M, {layout.macs / 1e9:.2f} GMAC",
        f"{layout.full} full at 16x16 and in the middle",
        f"{layout.outer} cross at 16x16",
        f"{layout.middle_level} cross at 32x32",
        f"separable: {layout.convolutions}",
        f"shared: {layout.shared_key_value}",
        "projections" if layout.projection else "no projections",
    ]
    return ", ".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the candidates that meet the published figures, best first, and what follows from them."""
    parser = argparse.ArgumentParser(description="Layouts of MobileDiffusion's UNet that meet the published figures.")
    parser.add_argument("--lite", action="store_true", help="search MobileDiffusion-Lite's layout")
    parser.add_argument("--top", type=int, default=20, help="candidates to print (20)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    options = parser.parse_args(arguments)
    target = TARGETS["mobilediffusion-lite" if options.lite else "mobilediffusion"]
    layouts = search(target)
    shown = rank(layouts, target)[: options.top]
    if options.json:
        keys = ("full", "outer", "middle_level", "convolutions", "shared_key_value", "projection", "params", "macs")
        lines = [
            {key: getattr(layout, key) for key in (*keys, "error", "cross_attention", "config")} for layout in shown
        ]
        print(json.dumps({"candidates": lines, "conclusion": conclusion(layouts, target)}, indent=1))
        return
    print("params M  GMAC    error  SA  CA  16x16  32x32  T2 C1  separable convolutions          shared  proj.  config")
    for layout in shown:
        print(
            f"{layout.params / 1e6:8.2f}  {layout.macs / 1e9:6.2f}  {layout.error:5.2f}  {layout.full:2}  "
            f"{layout.cross_attention:2}  {layout.outer:5}  {layout.middle_level:5}  {_mark(layout.keeps_t2)}  "
            f"{_mark(layout.keeps_c1)}  {layout.convolutions:30}  {layout.shared_key_value:6}  "
            f"{_mark(layout.projection):5}  {_mark(layout.config is not None)}"
        )
    print(f"\n{conclusion(layouts, target)}")


def _mark(value: bool) -> str:
    return "yes" if value else "no"


if __name__ == "__main__":
    main()
