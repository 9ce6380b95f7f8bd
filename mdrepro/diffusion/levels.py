"""Noise levels of recipes, as arguments of diffusers' DDIMScheduler."""

from collections.abc import Mapping
from typing import Any

SD_NOISE: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "timestep_spacing": "trailing",
}
"""The noise levels of Stable Diffusion 1.x, whose networks predict e."""
V: Mapping[str, Any] = {**SD_NOISE, "prediction_type": "v_prediction"}
V_FROM_PURE_NOISE: Mapping[str, Any] = {**V, "rescale_betas_zero_snr": True}
