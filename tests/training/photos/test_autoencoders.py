"""Training of the small autoencoders: crops and rates by other sources, the same bits twice, what stays fixed."""

from itertools import pairwise

import pytest
import torch

from mdrepro.core.errors import BadInput
from mdrepro.data import photos
from mdrepro.models.mobilediffusion import vae
from mdrepro.training.photos.autoencoders import PRECISIONS, Crops, Recipe, stages, train

SMALL = {"width": 8, "crop": 16, "batch": 2, "steps": 3, "learning_rate": 1e-3, "threads": 1}


def recipe(row="ours", **changes):
    return Recipe(**({"row": row} | SMALL | changes))


def weights(trained):
    return torch.cat([p.flatten() for p in trained.model.parameters()])


@pytest.fixture(scope="module")
def images():
    chance = torch.Generator().manual_seed(0)
    blocks = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8, generator=chance)
    return list(blocks.repeat_interleave(8, -1).repeat_interleave(8, -2))


def test_learning_rate_warms_up_and_ends_near_nothing():
    plan = stages(recipe(steps=100, learning_rate=1.0, warmup=0.1))
    rates = [stage.config.rate("autoencoder", step) for stage in plan for step in range(stage.config.steps)]
    assert len(rates) == 100
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert rates[10:71] == pytest.approx([1] * 61)
    assert rates[85] == pytest.approx(0.5)
    assert rates[-1] < 5e-3
    assert all(a > b for a, b in pairwise(rates[70:]))


def test_the_last_crops_are_twice_as_large_and_half_as_many():
    def plan(**changes):
        return [(s.crop, s.config.batch, s.config.steps) for s in stages(recipe(crop=16, batch=8, **changes))]

    assert plan(steps=10) == [(16, 8, 7), (32, 4, 3)]
    assert plan(steps=10, finish=0) == [(16, 8, 10)]
    assert plan(steps=10, finish=1) == [(32, 4, 10)]
    whole = stages(recipe(steps=10, finish=0, learning_rate=1.0))[0].config
    assert [whole.rate("autoencoder", step) for step in (0, 9)] == pytest.approx([1, 0.03], abs=0.01)
    assert {stage.config.seed for seed in (0, 1) for stage in stages(recipe(seed=seed))} == {0, 1, 2, 3}


def test_crops_are_those_of_the_photographs_and_a_function_of_index_size_and_seed(images):
    crops = Crops(images, 16, 500, seed=3)
    taken = crops.batch(range(500))["pixels"]
    assert taken.shape == (500, 3, 16, 16)
    assert torch.equal(crops.batch([7, 400])["pixels"], taken[[7, 400]])
    views = {
        window.contiguous().numpy().tobytes()
        for image in images
        for flipped in (image, image.flip(-1))
        for window in flipped.unfold(1, 16, 1).unfold(2, 16, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 16, 16)
    }
    seen = {crop.numpy().tobytes() for crop in taken}
    assert seen <= views
    assert len(seen) > 480  # of 2 x 2 x 49 x 49
    assert not torch.equal(Crops(images, 16, 500, seed=4).batch(range(500))["pixels"], taken)
    others = ((images, 16, 500, 4), (images, 8, 500, 3), (images[:1], 16, 500, 3), (images[::-1], 16, 500, 3))
    assert len({crops.fingerprint, *(Crops(*other).fingerprint for other in others)}) == 5
    assert Crops(images, 16, 500, 3).fingerprint == crops.fingerprint


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_run_twice_gives_the_same_bits(images, precision, threads):
    run = recipe(precision=precision, threads=threads)
    first = train(run, images)
    torch.manual_seed(99)
    again = train(run, images)
    assert torch.equal(weights(first), weights(again))
    assert first.record.losses == again.record.losses
    assert not torch.equal(weights(first), weights(train(recipe(precision=precision, threads=threads, seed=1), images)))


def test_torchs_own_state_is_left_alone(images):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    threads = torch.get_num_threads()
    train(recipe(threads=1), images)
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == threads


def test_training_learns(images):
    losses = train(recipe(steps=60, learning_rate=3e-3), images).record.losses
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_lite_trains_the_decoder_alone(images):
    full = train(recipe(), images)
    lite = train(recipe("ours-lite"), images, full.model)
    for mine, theirs in zip(vae.encoder_parts(lite.model), vae.encoder_parts(full.model), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    assert lite.record.parameters == vae.decoder_parameters(lite.model) + 8 * 8 + 8  # with the 1x1 on the latent
    assert lite.model.config.scaling_factor == full.model.config.scaling_factor
    assert lite.record.losses[-1] != lite.record.losses[0]
    for done in (full.model, lite.model):
        assert not done.training
        assert not any(p.requires_grad for p in done.parameters())


def test_scaled_latents_have_unit_variance(images):
    trained = train(recipe(), images)
    crops = photos.random_crops(images, 16, 256, torch.Generator().manual_seed(7))
    with torch.inference_mode():
        latents = trained.model.encode(photos.to_network(crops)).latent_dist.mode()
    assert (latents * trained.model.config.scaling_factor).std().item() == pytest.approx(1, abs=0.15)


def test_nan_stops_with_a_clear_error(images):
    message = r"ours: the loss of phase autoencoder is not finite at step \d+; .*lower learning_rate"
    with pytest.raises(FloatingPointError, match=message):
        train(recipe(steps=50, learning_rate=1e30, clip=1e30), images)


@pytest.mark.parametrize(
    "wrong", [{"crop": 12}, {"precision": "fp16"}, {"steps": 0}, {"width": 12}, {"row": "other"}, {"batch": 0}]
)
def test_bad_recipes(wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        recipe(**wrong)


def test_bad_combinations(images):
    with pytest.raises(BadInput, match="encoder"):
        train(recipe("ours-lite"), images)
    with pytest.raises(BadInput, match="encoder"):
        train(recipe(), images, vae.build("ours", 8))
    with pytest.raises(BadInput, match="crop 40: at most half"):
        train(recipe(crop=40), images)
