"""What this package asks of a scheduler and of the configuration of diffusers' objects, as types."""

from collections.abc import ItemsView, KeysView
from typing import Any, Protocol

from torch import Tensor


class Config(Protocol):
    """The configuration of a diffusers object: values by key, and by attribute."""

    def __getitem__(self, name: str, /) -> Any:
        """The value of a key."""

    def __getattr__(self, name: str, /) -> Any:
        """The value of a key."""

    def __contains__(self, name: object, /) -> bool:
        """Whether there is such a key."""

    def get(self, name: str, default: Any = None, /) -> Any:
        """The value of a key, or ``default`` where there is none."""

    def keys(self) -> KeysView[str]:
        """The keys."""

    def items(self) -> ItemsView[str, Any]:
        """Keys and values."""


class Configured(Protocol):
    """Whatever has a configuration of diffusers."""

    @property
    def config(self) -> Config:
        """Its arguments."""


class Scheduler(Protocol):
    """A diffusers scheduler: noise levels, and the step from one to the next."""

    timesteps: Tensor
    """Those of the next image, (steps,), the noisiest first."""
    alphas_cumprod: Tensor
    """alpha-bar of every training timestep, (T,)."""

    @property
    def config(self) -> Config:
        """Its arguments; ``num_train_timesteps`` and ``prediction_type`` among them."""

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the noise that an image starts from."""

    def set_timesteps(self, num_inference_steps: int, /, device: Any = None) -> None:
        """Choose the levels of so many steps."""

    def scale_model_input(self, sample: Tensor, timestep: Any = None, /) -> Tensor:
        """The noisy latents as the denoiser takes them."""

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, /, *, return_dict: bool = True, **options: Any
    ) -> Any:
        """From one noise level to the next; a tuple, the latents first, for ``return_dict=False``."""
