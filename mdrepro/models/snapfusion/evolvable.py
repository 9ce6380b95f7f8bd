"""SnapFusion's evolvable UNet (arXiv 2306.00980, section 3): SD-1.5's, its blocks can be skipped, removed or copied.

With nothing removed it is Stable Diffusion's UNet: same keys in the state dict, same output. Two presets are logs of
actions, `blocks.MEETS_TABLE_1` and `blocks.MEETS_TABLE_3`.

What the paper leaves out about skip connections, changes of width and copies is in `blocks`. For robust training it
gives no probability, nor whether all images of a batch skip the same blocks: here each forward pass draws once for each
block, for the whole batch, which also saves the block's time.
"""

import copy
import inspect
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import Transformer2DModel, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from torch import Tensor, nn
from torch.nn import functional as F

from mdrepro.core.errors import BadInput, check
from mdrepro.models import safe
from mdrepro.models.denoiser import BaseDenoiser
from mdrepro.models.mobilediffusion.layers import beside
from mdrepro.models.snapfusion.blocks import SHORTCUT, Block, Layout, sd_layout

SHARED_FIELDS = (
    *("sample_size", "in_channels", "out_channels", "cross_attention_dim"),
    *("block_out_channels", "layers_per_block", "norm_num_groups"),
)
"""Config fields that mean the same here and in diffusers' UNet2DConditionModel."""


class Shortcut(nn.Module):
    """What stays of a removed ResNet that is no identity without its residual branch: its 1x1 convolution, under its
    old key."""

    def __init__(self, conv_shortcut: nn.Module) -> None:
        super().__init__()
        self.conv_shortcut = conv_shortcut


class Stage(nn.Module):
    """The modules of one stage by their index, under diffusers' names; the layout says which run, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.resnets = nn.ModuleDict()
        self.attentions = nn.ModuleDict()

    def of_kind(self, kind: str) -> nn.ModuleDict:
        """The modules of a kind of block."""
        return self.attentions if kind == "cross-attention" else self.resnets


class EvolvableUNet(BaseDenoiser):
    """SD-1.5's UNet in which blocks can be skipped, removed and duplicated. The defaults are SD-1.5: 859.5M parameters.

    "Per level" values run from the outermost level (64x64 for a 512 px image) to the innermost (8x8).

    Args:
        sample_size: height and width of the latent, in latent pixels (64 for 512 px).
        cross_attention_dim: width of the text features (768: CLIP ViT-L/14).
        block_out_channels, cross_attention: width per level, and whether it has transformers; the middle always has.
        layers_per_block: ResNets per stage on the way down; the way up has one more, the middle two.
        attention_heads: heads of each attention layer (SD-1.5's config calls this ``attention_head_dim``).
        skip_probability: how likely a block is skipped in a training step (never in eval mode); 1 - p of the paper.
        actions: what was removed and duplicated since SD-1.5, in order; a saved network is rebuilt from that.

    ``skip_generator`` draws what is skipped, on the CPU, apart from torch's global generator. Its seed is 0 until
    `robust_training` gives another; a trainer that resumes restores its state.

    Raises BadInput for per-level values of different lengths, widths that the heads or groups do not divide, a
    probability outside 0 to 1, or an action that is not possible.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("ResnetBlock2D", "Transformer2DModel", "TimestepEmbedding")

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        in_channels: int = 4,
        out_channels: int = 4,
        cross_attention_dim: int = 768,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        cross_attention: Sequence[bool] = (True, True, True, False),
        layers_per_block: int = 2,
        attention_heads: int = 8,
        norm_num_groups: int = 32,
        skip_probability: float = 0.0,
        actions: Sequence[str] = (),
    ) -> None:
        super().__init__()
        widths = tuple(block_out_channels)
        if len(cross_attention) != len(widths):
            raise BadInput(f"cross_attention has {len(cross_attention)} values for {len(widths)} block_out_channels")
        for name, number in (("attention_heads", attention_heads), ("norm_num_groups", norm_num_groups)):
            if odd := [width for width in widths if width % number]:
                raise BadInput(f"block_out_channels: {odd[0]} is not a multiple of {name} ({number})")
        _check_probability(skip_probability)
        self.layout: Layout = sd_layout(widths, cross_attention, layers_per_block).replay(actions)
        self.skip_generator = torch.Generator().manual_seed(0)
        self.gradient_checkpointing = False
        self._left_out: frozenset[str] = frozenset()

        self.time_proj = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(widths[0], 4 * widths[0])
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(Stage() for _ in widths)
        self.mid_block = Stage()
        self.up_blocks = nn.ModuleList(Stage() for _ in widths)
        for block in self.layout.computed():
            self._stage(block.stage).of_kind(block.kind)[str(block.index)] = self._module(block)
        for level, width in enumerate(widths[:-1]):
            down = Downsample2D(width, use_conv=True, out_channels=width, name="op")
            self.down_blocks[level].downsamplers = nn.ModuleList([down])
        for index, width in enumerate(widths[:0:-1]):
            self.up_blocks[index].upsamplers = nn.ModuleList([Upsample2D(width, use_conv=True, out_channels=width)])
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, widths[0], eps=1e-5)
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def _stage(self, name: str) -> Stage:
        if name == "mid":
            return self.mid_block
        side, number = name.split("-")
        stage = self.down_blocks[int(number) - 1] if side == "down" else self.up_blocks[int(number)]
        assert isinstance(stage, Stage)
        return stage

    def _module(self, block: Block) -> nn.Module:
        """A module for ``block``, its weights drawn anew."""
        if block.kind == SHORTCUT:
            return Shortcut(nn.Conv2d(block.in_width + block.skip_width, block.out_width, 1))
        if block.kind == "resnet":
            return ResnetBlock2D(
                in_channels=block.in_width + block.skip_width,
                out_channels=block.out_width,
                temb_channels=4 * self.config.block_out_channels[0],
                groups=self.config.norm_num_groups,
                eps=1e-5,
            )
        return Transformer2DModel(
            num_attention_heads=self.config.attention_heads,
            attention_head_dim=block.out_width // self.config.attention_heads,
            in_channels=block.out_width,
            cross_attention_dim=self.config.cross_attention_dim,
            norm_num_groups=self.config.norm_num_groups,
        )

    @classmethod
    def from_sd15(cls, path: str | os.PathLike[str]) -> Self:
        """`from_diffusers` of a folder with ``config.json`` and safetensors, or a pipeline's with such a ``unet``
        inside.

        Raises BadInput for another folder, pickled weights alone, or a UNet of another build (SDXL, SD-2, BK-SDM, ...).
        """
        folder = Path(path)
        if (folder / "unet" / "config.json").is_file():
            folder = folder / "unet"
        if not (folder / "config.json").is_file():
            raise BadInput(f"{folder}: expected a folder with a diffusers UNet: config.json and *.safetensors")
        return cls.from_diffusers(safe.network(UNet2DConditionModel, folder), os.fspath(folder))

    @classmethod
    def from_diffusers(cls, theirs: UNet2DConditionModel, named: str = "it") -> Self:
        """The network with the weights of a Stable Diffusion 1.x UNet, which it takes over, in eval mode.

        Raises BadInput for a UNet of another build; the message calls it ``named``.
        """
        with torch.device("meta"):
            unet = cls(**_config_of(theirs.config, named))
        unet.load_state_dict(theirs.state_dict(), strict=True, assign=True)
        return unet.eval()

    def blocks(self) -> list[Block]:
        """All blocks that can be removed, in the order of computation."""
        return self.layout.blocks()

    def remove(self, stage: str, kind: str, index: int) -> str:
        """Take a block out, in place: the paper's action "-". An optimizer must be made anew afterwards.

        Returns the action's name, such as ``remove up-3 cross-attention 1``, for a log that `replay` understands.
        Raises BadInput where there is no such block.
        """
        return self._act(f"remove {stage} {kind} {index}")

    def duplicate(self, stage: str, kind: str, index: int) -> str:
        """Put a copy of a block, weights included, behind it, in place: the paper's action "+"; see `remove`.

        Its index is `layout.next_index`. Raises BadInput also for a block that changes the number of channels.
        """
        return self._act(f"duplicate {stage} {kind} {index}")

    def replay(self, actions: Iterable[str]) -> Self:
        """Do all ``actions`` of a log in place. Raises BadInput where one is not possible; then none is done."""
        listed = list(actions)
        self.layout.replay(listed)
        for action in listed:
            self._act(action)
        return self

    def _act(self, action: str) -> str:
        self.layout, block, new = self.layout.after(action)
        modules, key = self._stage(block.stage).of_kind(block.kind), str(block.index)
        if new is None:
            del modules[key]
        elif new.kind == SHORTCUT:
            modules[key] = Shortcut(modules[key].conv_shortcut)  # type: ignore[arg-type]
        else:
            modules[str(new.index)] = copy.deepcopy(modules[key])
        self.register_to_config(actions=[*self.config.actions, action])
        return action

    def robust_training(self, skip_probability: float, seed: int) -> None:
        """Skip blocks in training from now on (0 turns it off), drawn from ``seed``.

        Under data parallelism each process draws for itself: give each its own seed, and let the wrapper look for
        parameters without gradient (``find_unused_parameters=True``). Raises BadInput for a probability outside 0 to 1.
        """
        _check_probability(skip_probability)
        self.register_to_config(skip_probability=skip_probability)
        self.skip_generator.manual_seed(seed)

    @contextmanager
    def skipping(self, names: Iterable[str]) -> Iterator[None]:
        """``with unet.skipping(["up-3 resnet 1"]):`` forward passes compute what the network without it would.

        In training they are left out beside those drawn. Nothing of the network changes, and within another such
        ``with`` both leave out theirs. Raises BadInput where there is no such block.
        """
        before, names = self._left_out, frozenset(names)
        there = [block.name for block in self.blocks()]
        for name in sorted(names):
            check("block", name, there)
        self._left_out = before | names
        try:
            yield
        finally:
            self._left_out = before

    def _draw(self) -> frozenset[str]:
        """Names of the blocks that robust training skips in this pass."""
        if not self.training or not self.config.skip_probability:
            return frozenset()
        blocks = self.blocks()
        draws = torch.rand(len(blocks), generator=self.skip_generator, device="cpu").tolist()
        return frozenset(b.name for b, draw in zip(blocks, draws, strict=True) if draw < self.config.skip_probability)

    def denoise(self, x_bchw: Tensor, time_bt: Tensor, text_bmc: Tensor) -> Tensor:
        """See `BaseDenoiser.denoise`."""
        skipped = self._draw() | self._left_out

        x_bchw = self.conv_in(x_bchw)
        skips = [x_bchw]
        for name, positions in self.layout.stages.items():
            stage: Any = self._stage(name)
            for position in positions:
                skip = skips.pop() if name.startswith("up") else None
                for block in position:
                    x_bchw = self.run_block(block, x_bchw, skip, time_bt, text_bmc, block.name in skipped)
                if name.startswith("down"):
                    skips.append(x_bchw)
            if hasattr(stage, "downsamplers"):
                x_bchw = stage.downsamplers[0](x_bchw)
                skips.append(x_bchw)
            elif hasattr(stage, "upsamplers"):
                x_bchw = stage.upsamplers[0](x_bchw)
        return self.conv_out(F.silu(self.conv_norm_out(x_bchw)))

    def run_block(
        self, block: Block, x_bchw: Tensor, skip_bchw: Tensor | None, time_bt: Tensor, text_bmc: Tensor, skipped: bool
    ) -> Tensor:
        """What one of ``layout.computed()`` makes of its inputs.

        ``skip_bchw``: the skip connection, (batch, block.skip_width, height, width), or None off the way up.
        ``time_bt``: embedded time, (batch, 4 * block_out_channels[0]). ``skipped``: leave it out: x as it is, or its
        1x1 shortcut's output where it has one.
        """
        absent = skipped or block.kind == SHORTCUT
        if absent and not block.leaves_shortcut:
            return x_bchw
        module: Any = self._stage(block.stage).of_kind(block.kind)[str(block.index)]
        if block.kind == "cross-attention":
            return module(x_bchw, encoder_hidden_states=text_bmc, return_dict=False)[0]
        both = torch.cat([x_bchw, beside(skip_bchw, x_bchw)], dim=1) if skip_bchw is not None else x_bchw
        if absent:
            return module.conv_shortcut(both)
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(module, both, time_bt)
        return module(both, time_bt)


def _check_probability(skip_probability: float) -> None:
    if not 0 <= skip_probability <= 1:
        raise BadInput(f"skip_probability is {skip_probability}: it must be 0 to 1")


def _config_of(theirs: Any, named: str) -> dict[str, Any]:
    """Our config for a diffusers UNet's. Raises BadInput where it is no Stable Diffusion 1.x UNet."""
    cross = [kind == "CrossAttnDownBlock2D" for kind in theirs["down_block_types"]]
    own = ("attention_head_dim", *SHARED_FIELDS)
    expected = {
        name: parameter.default
        for name, parameter in inspect.signature(UNet2DConditionModel.__init__).parameters.items()
        if name not in ("self", *own)
    } | {
        "down_block_types": tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in cross),
        "up_block_types": tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(cross)),
    }
    other = [name for name, value in expected.items() if _plain(theirs.get(name, value)) != _plain(value)]
    other += [name for name in own if name != "block_out_channels" and isinstance(theirs[name], (list, tuple))]
    if other:
        settings = ", ".join(f"{name} = {theirs[name]!r}" for name in other)
        raise BadInput(f"{named} is no Stable Diffusion 1.x UNet: {settings}")
    ours = {name: theirs[name] for name in SHARED_FIELDS}
    return ours | {"cross_attention": cross, "attention_heads": theirs["attention_head_dim"]}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
