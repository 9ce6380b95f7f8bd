"""Samplers by name on the exact denoiser of a mixture: each is of the order that its paper claims."""

import warnings

import pytest

from mdrepro.diffusion.noise import NoiseSchedule
from mdrepro.diffusion.samplers import scheduler_for
from tests.support import bed, testbed


def test_dpm_solver_leads_where_ddim_does_in_fewer_steps_also_out_of_pure_noise() -> None:
    """In 32 steps it ends within 0.03 of DDIM's 1,000, where DDIM and DPM-Solver++ are 0.05 away, and warns of nothing.

    The other two take a last step of first order to no noise at all; it ends at the least noise.
    """
    own = bed.scheduler(rescale_betas_zero_snr=True)
    net = testbed.ExactDenoiser(bed.RING, NoiseSchedule.from_scheduler(own)).double()
    noise, text, _ = (part.double() for part in bed.questions(200))

    def ends(name: str, steps: int) -> testbed.Tensor:
        return testbed.sample(net, scheduler_for(name, own), noise, text, steps, guidance=2.0)

    goal = ends("ddim", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        away = {name: testbed.pair_distance(ends(name, 32), goal) for name in ("ddim", "dpm", "dpm++")}
    assert away["dpm"] < 0.03 < 0.04 < away["dpm++"] < away["ddim"]
    kinds = {name: scheduler_for(name, own).config for name in ("dpm", "dpm++")}
    assert {name: kind.algorithm_type for name, kind in kinds.items()} == {"dpm": "dpmsolver", "dpm++": "dpmsolver++"}
    assert testbed.pair_distance(ends("ddim", 500), goal) == pytest.approx(0, abs=0.02)
