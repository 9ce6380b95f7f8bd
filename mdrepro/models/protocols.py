"""The parts of a text-to-image pipeline as types: what this package asks of each, whoever wrote it.

diffusers' and transformers' classes have these attributes and methods, and so have this project's.
"""

from os import PathLike
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from mdrepro.diffusion.protocols import Configured, Generators, Scheduler, Timestep


class Saved(Protocol):
    """What can be written into a folder."""

    def save_pretrained(self, save_directory: str | PathLike[str], **options: Any) -> Any: ...


class TorchModule(Saved, Protocol):
    """A torch module that knows its device and type, and can be saved."""

    training: bool

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def state_dict(self) -> dict[str, Any]: ...
    def to(self, *args: Any, **kwargs: Any) -> Self: ...
    def float(self) -> Self: ...
    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...


class Prediction(Protocol):
    """What an autoencoder's decoder returns: pixels, (batch, 3, height, width)."""

    sample: Tensor


class Denoiser(TorchModule, Configured, Protocol):
    """A UNet that is called as diffusers' UNet2DConditionModel is, and whose config has what `BaseDenoiser`'s has."""

    def __call__(
        self,
        sample: Tensor,
        timestep: Timestep,
        encoder_hidden_states: Tensor,
        /,
        *,
        return_dict: Literal[False],
        timestep_cond: Tensor | None = None,
    ) -> tuple[Tensor]: ...


class Posterior(Protocol):
    """Distribution of the latent of an image, (batch, latent channels, height / 8, width / 8)."""

    std: Tensor

    def mode(self) -> Tensor: ...


class Encoded(Protocol):
    """What an autoencoder's encoder returns."""

    latent_dist: Posterior


class Autoencoder(TorchModule, Configured, Protocol):
    """diffusers' AutoencoderKL: between pixels and unscaled latents; see `mdrepro.models.latents` for its config."""

    decoder: nn.Module
    post_quant_conv: nn.Module | None

    def encode(self, x: Tensor, /) -> Encoded: ...
    def decode(self, z: Tensor, /) -> Prediction: ...


class TextConfig(Protocol):
    """Configuration of CLIP's text model; ``registers`` may be there too, see `mdrepro.models.text`."""

    vocab_size: int
    hidden_size: int
    max_position_embeddings: int
    eos_token_id: Any

    def to_dict(self) -> dict[str, Any]: ...


class TextEncoder(TorchModule, Protocol):
    """transformers' CLIPTextModel: token numbers, (batch, tokens), to ``last_hidden_state``, (batch, tokens, width)."""

    @property
    def config(self) -> TextConfig: ...
    def __call__(self, input_ids: Tensor, /) -> Any: ...


class Tokenizer(Saved, Protocol):
    """A tokenizer of transformers: called with texts, it returns their token numbers as ``input_ids``."""

    model_max_length: int
    unk_token: Any
    unk_token_id: Any
    bos_token_id: Any
    eos_token_id: Any
    pad_token_id: Any

    def __call__(self, text: list[str], /, **options: Any) -> Any: ...
    def __len__(self) -> int: ...
    def get_vocab(self) -> dict[str, int]: ...


class TextToImage(Configured, Saved, Protocol):
    """A text-to-image pipeline of diffusers, called for ``images`` of the output type that was asked for.

    This project's config has ``default_steps`` and ``default_guidance``.
    """

    unet: Denoiser
    vae: Autoencoder
    text_encoder: TextEncoder
    tokenizer: Tokenizer
    scheduler: Scheduler

    @property
    def components(self) -> dict[str, Any]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def __call__(
        self,
        prompt: Any = None,
        /,
        *,
        num_inference_steps: int = ...,
        guidance_scale: float = ...,
        generator: Generators = None,
        output_type: str = ...,
        **options: Any,
    ) -> Any: ...
    def set_progress_bar_config(self, **options: Any) -> None: ...
    def to(self, *args: Any, **kwargs: Any) -> Self: ...
