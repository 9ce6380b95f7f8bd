"""Checkpoints of the small autoencoders: found again, never half-written, side by side the same bits."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from mdrepro.core.errors import BadInput
from mdrepro.data.photos import Photograph
from mdrepro.training.objectives.autoencoder import Autoencoding
from mdrepro.training.photos import checkpoints
from mdrepro.training.photos.autoencoders import train
from mdrepro.training.photos.checkpoints import load_or_train, load_or_train_all
from tests.training.photos.test_autoencoders import recipe, weights


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


def test_a_stored_run_is_taken_again(photographs, tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    full = load_or_train(recipe(), folder, photographs)
    lite = load_or_train(recipe("ours-lite"), folder, photographs, full)
    assert sorted(p.name for p in folder.iterdir()) == sorted([full.folder.name, lite.folder.name])
    told = json.loads((full.folder / "training.json").read_text())
    assert told["recipe"]["width"] == 8
    assert len(told["record"]["losses"]) == 3
    monkeypatch.setattr(checkpoints, "train", lambda *_: pytest.fail("trained again"))
    for row, before, encoder in (("ours", full, None), ("ours-lite", lite, full)):
        again = load_or_train(recipe(row), folder, photographs, encoder)
        assert torch.equal(weights(again), weights(before))
        assert again.record == before.record
        assert again.model.config.scaling_factor == before.model.config.scaling_factor


def test_recipe_data_and_code_are_in_the_key(photographs, monkeypatch):
    def key(**changes):
        return checkpoints._key(recipe(**changes), photographs, None)

    before = key()
    assert key() == before
    assert key(seed=1) != before
    assert checkpoints._key(recipe(), photographs[:1], None) != before
    monkeypatch.setattr(checkpoints.inspect, "getsource", lambda _: "other code")
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
        assert checkpoints._load(first.folder) is not None


def _run(folder, photographs):
    load_or_train(recipe(), folder, photographs)
    load_or_train(recipe("sd", steps=100_000), folder, photographs)


def test_a_killed_run_keeps_what_was_complete(photographs, tmp_path):
    folder = tmp_path / "checkpoints"
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(folder, photographs))
    process.start()
    until = time.monotonic() + 300
    while not list(folder.glob("ours-*")) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [p.name.split("-")[0] for p in folder.iterdir() if not p.name.startswith(".")] == ["ours"]
    complete = next(folder.glob("ours-*"))
    before = (complete / checkpoints.WEIGHTS).read_bytes()
    stored = load_or_train(recipe(), folder, photographs)
    assert stored.weights.read_bytes() == before
    assert torch.equal(weights(stored), weights(train(recipe(), [p.pixels() for p in photographs])))


def test_a_failure_while_storing_leaves_no_checkpoint_and_no_work_is_lost(photographs, tmp_path, monkeypatch):
    folder, replace = tmp_path / "checkpoints", os.replace

    def fail(source, target):
        if Path(target).name.startswith("ours-"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(checkpoints.os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        load_or_train(recipe(), folder, photographs)
    (left,) = folder.iterdir()
    assert left.name.startswith(".ours-")
    monkeypatch.undo()
    monkeypatch.setattr(Autoencoding, "losses", lambda *_: pytest.fail("trained again"))
    done = load_or_train(recipe(), folder, photographs)
    monkeypatch.undo()
    assert list(folder.iterdir()) == [done.folder]
    assert torch.equal(weights(done), weights(train(recipe(), [p.pixels() for p in photographs])))


def test_a_run_stopped_in_its_last_stage_goes_on_to_the_same_bits(photographs, tmp_path, monkeypatch):
    losses = Autoencoding.losses

    def fail(self, phase, batch, draws):
        if batch["pixels"].shape[-1] == 32:
            raise KeyboardInterrupt
        return losses(self, phase, batch, draws)

    monkeypatch.setattr(Autoencoding, "losses", fail)
    with pytest.raises(KeyboardInterrupt):
        load_or_train(recipe(), tmp_path / "a", photographs)
    monkeypatch.undo()
    done, undisturbed = (load_or_train(recipe(), tmp_path / name, photographs) for name in "ab")
    assert done.weights.read_bytes() == undisturbed.weights.read_bytes()
    assert done.record.losses == undisturbed.record.losses
    assert len(done.record.losses) == 3


def test_a_run_is_trained_by_one_process_at_a_time(photographs, tmp_path):
    place = checkpoints._place(recipe(), tmp_path, photographs, None)
    with checkpoints._alone(place), pytest.raises(BadInput, match="another process trains"):
        load_or_train(recipe(), tmp_path, photographs)
    assert load_or_train(recipe(), tmp_path, photographs).folder == place


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
