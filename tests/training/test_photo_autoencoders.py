"""Training of the small autoencoders: losses by closed form, the same bits twice, checkpoints that survive a kill."""

import json
import multiprocessing
import os
import signal
import time
from itertools import pairwise

import pytest
import torch

from mdrepro.data.photos import Photograph
from mdrepro.errors import BadInput
from mdrepro.models import vae
from mdrepro.training import photo_autoencoders as autoencoder
from mdrepro.training.photo_autoencoders import (
    Recipe,
    learning_rate,
    load_or_train,
    load_or_train_all,
    train,
)

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


@pytest.fixture
def photographs(tmp_path):
    from PIL import Image

    shades = torch.randint(256, (2, 260, 260, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = []
    for number, pixels in enumerate(shades):
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels.numpy()).save(path)
        made.append(Photograph(str(number), path.name, path))
    return made


def test_learning_rate_warms_up_and_ends_near_nothing():
    run = recipe(steps=100, learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(step, run) for step in range(100)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 1e-3
    assert all(a > b for a, b in pairwise(rates[10:]))


@pytest.mark.parametrize("precision", autoencoder.PRECISIONS)
def test_the_same_run_twice_gives_the_same_bits(images, precision):
    run = recipe(precision=precision, threads=2)
    first = train(run, images)
    torch.manual_seed(99)
    again = train(run, images)
    assert torch.equal(weights(first), weights(again))
    assert first.record.losses == again.record.losses
    assert not torch.equal(weights(first), weights(train(recipe(precision=precision, seed=1), images)))


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


def test_scaled_latents_have_unit_variance(images):
    trained = train(recipe(), images)
    crops = autoencoder.photos.random_crops(images, 16, 256, torch.Generator().manual_seed(7))
    with torch.inference_mode():
        latents = trained.model.encode(autoencoder.photos.to_network(crops)).latent_dist.mode()
    assert (latents * trained.model.config.scaling_factor).std().item() == pytest.approx(1, abs=0.15)


def test_nan_stops_with_a_clear_error(images):
    with pytest.raises(FloatingPointError, match=r"ours: the loss is (nan|inf) at step \d+; lower learning_rate"):
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


def test_the_last_crops_are_twice_as_large_and_half_as_many():
    run = recipe(steps=10, crop=16, batch=6, finish=0.3)
    assert [autoencoder.crops_at(step, run) for step in range(10)] == [(16, 6)] * 7 + [(32, 3)] * 3
    assert autoencoder.crops_at(9, recipe(steps=10, batch=1)) == (32, 1)
    assert autoencoder.crops_at(9, recipe(steps=10, finish=0.0)) == (16, 2)


def test_a_stored_run_is_taken_again(photographs, tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    full = load_or_train(recipe(), folder, photographs)
    lite = load_or_train(recipe("ours-lite"), folder, photographs, full)
    assert sorted(p.name for p in folder.iterdir()) == sorted([full.folder.name, lite.folder.name])
    told = json.loads((full.folder / "training.json").read_text())
    assert told["recipe"]["width"] == 8
    assert len(told["record"]["losses"]) == 3
    monkeypatch.setattr(autoencoder, "train", lambda *_: pytest.fail("trained again"))
    for row, before, encoder in (("ours", full, None), ("ours-lite", lite, full)):
        again = load_or_train(recipe(row), folder, photographs, encoder)
        assert torch.equal(weights(again), weights(before))
        assert again.record == before.record
        assert again.model.config.scaling_factor == before.model.config.scaling_factor


def test_recipe_data_and_code_are_in_the_key(photographs, monkeypatch):
    def key(**changes):
        return autoencoder._key(recipe(**changes), photographs, None)

    before = key()
    assert key() == before
    assert key(seed=1) != before
    assert autoencoder._key(recipe(), photographs[:1], None) != before
    monkeypatch.setattr(autoencoder.inspect, "getsource", lambda _: "other code")
    assert key() != before


def test_an_altered_or_incomplete_checkpoint_is_trained_again(photographs, tmp_path):
    folder = tmp_path / "checkpoints"
    first = load_or_train(recipe(), folder, photographs)
    altered = bytearray(first.weights.read_bytes())
    altered[-1] ^= 1
    for damage in (lambda: first.weights.write_bytes(altered), (first.folder / "training.json").unlink):
        damage()
        again = load_or_train(recipe(), folder, photographs)
        assert torch.equal(weights(again), weights(first))
        assert autoencoder._load(first.folder) is not None


def _run(folder, photographs):
    load_or_train(recipe(), folder, photographs)
    load_or_train(recipe("sd", steps=100_000), folder, photographs)


def test_a_killed_run_keeps_what_was_complete(photographs, tmp_path):
    folder = tmp_path / "checkpoints"
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(folder, photographs))
    process.start()
    until = time.monotonic() + 60
    while not list(folder.glob("ours-*")) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [p.name.split("-")[0] for p in folder.iterdir() if not p.name.startswith(".")] == ["ours"]
    complete = next(folder.glob("ours-*"))
    before = (complete / autoencoder.WEIGHTS).read_bytes()
    stored = load_or_train(recipe(), folder, photographs)
    assert stored.weights.read_bytes() == before
    assert torch.equal(weights(stored), weights(train(recipe(), [p.pixels() for p in photographs])))


def test_a_failure_while_storing_leaves_nothing(photographs, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(autoencoder.os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        load_or_train(recipe(), tmp_path / "checkpoints", photographs)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_side_by_side_training_gives_the_same_bits_as_one_after_the_other(tmp_path, photographs):
    recipes = {row: recipe(row=row) for row in ("sd", "ours", "ours-lite")}
    together = load_or_train_all(recipes, tmp_path / "a", photographs)
    ours = load_or_train(recipes["ours"], tmp_path / "b", photographs)
    lite = load_or_train(recipes["ours-lite"], tmp_path / "b", photographs, ours)
    for alone, row in ((ours, "ours"), (lite, "ours-lite")):
        assert alone.weights.read_bytes() == together[row].weights.read_bytes()
    begun = time.monotonic()
    again = load_or_train_all(recipes, tmp_path / "a", photographs)
    assert time.monotonic() - begun < 5
    assert again["sd"].folder == together["sd"].folder
