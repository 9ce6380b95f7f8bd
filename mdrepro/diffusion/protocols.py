"""What this package asks of a scheduler and of the configuration of diffusers' objects, as types."""

from collections.abc import ItemsView, KeysView, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Device = torch.device | str | None
Generators = torch.Generator | Sequence[torch.Generator] | None
"""One for all images, or one per image."""
Timestep = Tensor | float


class Config(Protocol):
    """The configuration of a diffusers object: values by key, and by attribute."""

    def __getitem__(self, name: str, /) -> Any: ...
    def __getattr__(self, name: str, /) -> Any: ...
    def __contains__(self, name: object, /) -> bool: ...
    def get(self, name: str, default: Any = None, /) -> Any: ...
    def keys(self) -> KeysView[str]: ...
    def items(self) -> ItemsView[str, Any]: ...


class Configured(Protocol):
    """Whatever has a configuration of diffusers."""

    @property
    def config(self) -> Config: ...


class Scheduler(Configured, Protocol):
    """A diffusers scheduler, with ``num_train_timesteps`` and ``prediction_type`` in its config.

    ``timesteps`` are those of the next image, the noisiest first; ``alphas_cumprod`` is alpha-bar of every training
    timestep, (T,); ``init_noise_sigma`` the standard deviation of the noise that an image starts from. ``step`` returns
    a tuple, the latents first, for ``return_dict=False``.
    """

    timesteps: Tensor
    alphas_cumprod: Tensor

    @property
    def init_noise_sigma(self) -> float: ...
    def set_timesteps(self, num_inference_steps: int, /, device: Device = None) -> None: ...
    def scale_model_input(self, sample: Tensor, timestep: Timestep, /) -> Tensor: ...
    def step(
        self, model_output: Tensor, timestep: Timestep, sample: Tensor, /, *, return_dict: bool = True, **options: Any
    ) -> Any: ...
