"""Pipelines of rows: what is made with one leaves it as it was."""

import torch

from mdrepro.evaluation import networks
from tests.support import tiny_pipeline as tiny


def test_latents_leave_the_pipeline_as_it_was() -> None:
    pipeline = tiny.pipeline()
    scheduler = pipeline.scheduler
    made = [
        networks.latents(pipeline, tiny.PROMPTS[:3], steps=2, guidance=2.0, seed=5, sampler=sampler)
        for sampler in ("ddim", "dpm++", None)
    ]
    assert pipeline.scheduler is scheduler
    assert not torch.equal(made[0], made[1])
    assert torch.equal(made[0], networks.latents(pipeline, tiny.PROMPTS[:3], steps=2, guidance=2.0, seed=5))
