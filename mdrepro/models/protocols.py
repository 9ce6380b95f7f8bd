"""The parts of a text-to-image pipeline as types: what this package asks of each, whoever wrote it.

diffusers' and transformers' classes have these attributes and methods, and so have this project's.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, Self, overload

import torch
from torch import Tensor, nn

from mdrepro.diffusion.protocols import Config, Scheduler

__all__ = [
    "Autoencoder",
    "Config",
    "Decoded",
    "Denoiser",
    "Encoded",
    "Images",
    "Network",
    "Posterior",
    "Prediction",
    "Scheduler",
    "TextConfig",
    "TextEncoder",
    "TextFeatures",
    "TextToImage",
    "Tokenizer",
]


class Network(Protocol):
    """A torch module that knows its device and type, and can be saved."""

    training: bool

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Its weights."""

    def modules(self) -> Iterator[nn.Module]:
        """Itself and every module inside."""

    def state_dict(self) -> dict[str, Any]:
        """Its weights and buffers by name."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """Take weights and buffers by name."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Itself, moved."""

    def float(self) -> Self:
        """Itself, in float32."""

    def train(self, mode: bool = True) -> Self:
        """Itself, in training mode."""

    def eval(self) -> Self:
        """Itself, in evaluation mode."""

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Itself, trainable or fixed."""

    def save_pretrained(self, save_directory: Any, **options: Any) -> Any:
        """Write configuration and weights into a folder."""


class Prediction(Protocol):
    """What a denoiser returns."""

    sample: Tensor


class Denoiser(Network, Protocol):
    """A UNet that is called as diffusers' UNet2DConditionModel is.

    Its config has ``in_channels``, ``out_channels``, ``cross_attention_dim``, ``block_out_channels`` and
    ``sample_size``.
    """

    @property
    def config(self) -> Config:
        """Its arguments."""

    @overload
    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        /,
        *,
        return_dict: Literal[False],
        timestep_cond: Tensor | None = None,
    ) -> tuple[Tensor]: ...
    @overload
    def __call__(self, sample: Tensor, timestep: Tensor | float, encoder_hidden_states: Tensor, /) -> Prediction: ...


class Posterior(Protocol):
    """Distribution of the latent of an image, of shape (batch, latent channels, height / 8, width / 8)."""

    mean: Tensor
    std: Tensor
    logvar: Tensor

    def mode(self) -> Tensor:
        """The most probable latent."""

    def sample(self, generator: Any = None) -> Tensor:
        """A latent drawn from it."""

    def kl(self) -> Tensor:
        """Divergence from the standard normal distribution, (batch,)."""


class Encoded(Protocol):
    """What an autoencoder's encoder returns."""

    latent_dist: Posterior


class Decoded(Protocol):
    """What an autoencoder's decoder returns: ``sample``, pixels (batch, 3, height, width)."""

    sample: Tensor


class Autoencoder(Network, Protocol):
    """diffusers' AutoencoderKL.

    Its config has ``block_out_channels``, ``latent_channels``, ``scaling_factor``, and what `mdrepro.models.latents`
    reads.
    """

    encoder: nn.Module
    decoder: nn.Module
    quant_conv: nn.Module | None
    post_quant_conv: nn.Module | None

    @property
    def config(self) -> Config:
        """Its arguments."""

    def encode(self, x: Tensor, /) -> Encoded:
        """Pixels to the distribution of their latent, unscaled."""

    def decode(self, z: Tensor, /) -> Decoded:
        """Unscaled latents to pixels."""


class TextConfig(Protocol):
    """Configuration of CLIP's text model; ``registers`` may be there too, see `mdrepro.models.text`."""

    vocab_size: int
    hidden_size: int
    max_position_embeddings: int
    eos_token_id: Any

    def to_dict(self) -> dict[str, Any]:
        """All of it."""


class TextFeatures(Protocol):
    """What a text encoder returns."""

    last_hidden_state: Any
    """After the final norm, (batch, tokens, width)."""
    pooler_output: Any
    """At the end token, (batch, width)."""


class TextEncoder(Network, Protocol):
    """transformers' CLIPTextModel."""

    @property
    def config(self) -> TextConfig:
        """Its arguments."""

    def __call__(self, input_ids: Tensor, /) -> TextFeatures:
        """Token numbers, (batch, tokens), to features."""


class Tokenizer(Protocol):
    """A tokenizer of transformers."""

    model_max_length: int
    unk_token: Any
    unk_token_id: Any
    bos_token_id: Any
    eos_token_id: Any
    pad_token_id: Any

    def __call__(self, text: list[str], /, **options: Any) -> Any:
        """Token numbers of texts, as ``input_ids``."""

    def __len__(self) -> int:
        """Words in the vocabulary."""

    def get_vocab(self) -> dict[str, int]:
        """Numbers of the words."""

    def save_pretrained(self, save_directory: Any, **options: Any) -> Any:
        """Write it into a folder."""


class Images(Protocol):
    """What a pipeline returns: ``images``, of the output type that was asked for."""

    images: Any


class TextToImage(Protocol):
    """A text-to-image pipeline of diffusers that takes one generator per image."""

    unet: Denoiser
    vae: Autoencoder
    text_encoder: TextEncoder
    tokenizer: Tokenizer
    scheduler: Scheduler

    @property
    def config(self) -> Config:
        """Its modules' classes; ``default_steps`` and ``default_guidance`` of this project's."""

    @property
    def components(self) -> dict[str, Any]:
        """Its modules by name."""

    @property
    def device(self) -> torch.device:
        """Where its networks are."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its networks' weights."""

    def __call__(
        self,
        prompt: Any = None,
        /,
        *,
        num_inference_steps: int = ...,
        guidance_scale: float = ...,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = ...,
        **options: Any,
    ) -> Images:
        """Images of prompts."""

    def set_progress_bar_config(self, **options: Any) -> None:
        """Options of tqdm."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Itself, moved."""

    def save_pretrained(self, save_directory: Any, **options: Any) -> Any:
        """Write it into a folder."""
