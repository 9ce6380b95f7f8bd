"""UFOGen's sampler (arXiv 2311.09257): predict the clean latent, add fresh noise for the next level, repeat.

MobileDiffusion's one-step model is the case of one step: the clean latent out of pure noise at t = T - 1.
"""

from typing import ClassVar

import torch
from diffusers import DDIMScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from mdrepro.core.errors import BadInput, check
from mdrepro.diffusion.noise import PREDICTIONS
from mdrepro.diffusion.protocols import Device, Generators, Timestep


class RenoisingScheduler(SchedulerMixin, ConfigMixin):
    """A diffusers scheduler for models that predict x0 well from any noise level.

    n steps run at T - 1, T - 1 - T/n, ..., T/n - 1 (T = 1000, n = 4: 999, 749, 499, 249), the levels of UFOGen's
    training jumps of T/n. At each, with a = sqrt(alpha-bar) and s = sqrt(1 - alpha-bar): x0 from the prediction, then
    x' = a' x0 + s' e with new noise e; after the last, x0.

    Arguments are as in diffusers, and their defaults SD-1.5's noise schedule. ``num_train_timesteps`` is T, and
    ``prediction_type`` ``epsilon``, ``v_prediction`` (a e - s x0) or ``sample`` (x0). Any scheduler with the same
    fields gives its schedule over: ``RenoisingScheduler.from_config(other.config)``. Raises BadInput for an unknown
    prediction type, or ``epsilon`` with a last level of pure noise.
    """

    order = 1
    init_noise_sigma = 1.0
    _compatibles: ClassVar = [each.name for each in KarrasDiffusionSchedulers]  # their fields are no surprise

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        prediction_type: str = "epsilon",
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        check("prediction_type", prediction_type, PREDICTIONS)
        if rescale_betas_zero_snr and prediction_type == "epsilon":
            raise BadInput("epsilon does not determine x0 at a level of pure noise: expected v_prediction or sample")
        self.alphas_cumprod: Tensor = DDIMScheduler(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
        ).alphas_cumprod
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self.num_inference_steps: int | None = None

    def set_timesteps(self, num_inference_steps: int, device: Device = None) -> None:
        """Choose the levels. Raises BadInput unless there are 1 to T steps."""
        total = self.config.num_train_timesteps
        if not 1 <= num_inference_steps <= total:
            raise BadInput(f"num_inference_steps is {num_inference_steps}: it must be 1 to {total}")
        self.num_inference_steps = num_inference_steps
        steps = [round(total - i * total / num_inference_steps) - 1 for i in range(num_inference_steps)]
        self.timesteps = torch.tensor(steps, device=device)

    def scale_model_input(self, sample: Tensor, timestep: Timestep | None = None) -> Tensor:
        """The sample itself: the noise levels keep the variance."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: Timestep,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """From the level ``timestep``, one of `timesteps`, to the next: ``prev_sample`` there and x0.

        ``model_output`` is the network's prediction for ``sample``, (batch, channels, height, width). ``generator``,
        one for the batch or a list of one each, draws the fresh noise.
        """
        now = int(timestep)
        x0 = self._clean(model_output, now, sample)
        later = self.timesteps[self.timesteps < now]
        previous = x0
        if len(later):
            noise = randn_tensor(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
            previous = self.add_noise(x0, noise, later[:1])
        return DDIMSchedulerOutput(previous, x0) if return_dict else (previous, x0)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """a x0 + s e at each sample's timestep, (batch,) or (1,)."""
        signal, spread = self._level(timesteps.cpu(), original_samples)
        return signal * original_samples + spread * noise

    def _clean(self, prediction: Tensor, timestep: int, sample: Tensor) -> Tensor:
        kind = self.config.prediction_type
        signal, spread = self._level(torch.tensor([timestep]), sample)
        if kind == "sample":
            return prediction
        if kind == "v_prediction":
            return signal * sample - spread * prediction
        return (sample - spread * prediction) / signal

    def _level(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.alphas_cumprod[timesteps.long()].reshape(-1, 1, 1, 1).to(like.device)
        return kept.sqrt().to(like.dtype), (1 - kept).sqrt().to(like.dtype)

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)
