"""Samplers by name, as schedulers of diffusers for the noise levels that a denoiser was trained with."""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from mdrepro.core.errors import BadInput, check
from mdrepro.diffusion.protocols import Scheduler
from mdrepro.diffusion.renoise import RenoisingScheduler

_DPM = {"solver_order": 2, "use_karras_sigmas": False}
SAMPLERS: Mapping[str, tuple[type, Mapping[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": True}),
    "dpm++": (DPMSolverMultistepScheduler, {**_DPM, "algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"}),
    # in terms of the noise, whose last step to none is not defined
    "dpm": (DPMSolverMultistepScheduler, {**_DPM, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    "euler": (EulerDiscreteScheduler, {"use_karras_sigmas": False, "final_sigmas_type": "zero"}),
    "renoise": (RenoisingScheduler, {}),
}
"""Samplers by name: the scheduler's class, and the arguments that replace those of the pipeline's own scheduler.

All have the trailing spacing too (Lin et al. 2023, arXiv 2305.08891): from T - 1 to the clean latent, or with ``dpm``
to the least noise level. ``dpm`` is DPM-Solver (arXiv 2206.00927), ``dpm++`` DPM-Solver++ (arXiv 2211.01095), both of
second order over past steps."""


def scheduler_for(name: str, scheduler: Scheduler) -> Scheduler:
    """A scheduler by name for the noise schedule and the prediction of another.

    It is made from the values of the other's configuration. diffusers' ``from_config`` is not used: values that are the
    other class's defaults it leaves to the new class, whose defaults may be another noise schedule. Raises BadInput for
    an unknown name, or a scheduler without betas that it can take over.
    """
    kind, fixed = SAMPLERS[check("sampler", name, SAMPLERS)]
    config, known = scheduler.config, inspect.signature(kind).parameters
    if "beta_start" not in config or (config.get("trained_betas") is not None and "trained_betas" not in known):
        raise BadInput(
            f"sampler {name} cannot take over the noise schedule of {type(scheduler).__name__}: name none, to use the "
            "pipeline's own"
        )
    taken = {key: value for key, value in config.items() if key in known}
    spacing = {"timestep_spacing": "trailing"} if "timestep_spacing" in known else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*algorithm_type dpmsolver is deprecated", FutureWarning)
        return kind(**{**taken, **spacing, **fixed})
