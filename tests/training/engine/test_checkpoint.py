"""Checkpoints: whole or not there, two kept, and a clear word about anything else."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mdrepro.core.errors import BadInput
from mdrepro.training.engine import checkpoint
from tests.support.toys import run

FILES = {"unet": {"w": torch.arange(6.0).view(2, 3), "step": torch.tensor(3.0)}, "unet.ema": {"w": torch.ones(2, 3)}}


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def saved(root: Path, *steps: int) -> None:
    for step in steps:
        checkpoint.save(root, step, FILES, {"seconds": 1.5})


def test_what_is_saved_is_read_by_safetensors_and_by_us(tmp_path):
    saved(tmp_path, 7)
    found = checkpoint.latest(tmp_path)
    assert (found.step, found.state) == (7, {"seconds": 1.5})
    assert found.folder == checkpoint.place(tmp_path, 7)
    with safe_open(found.folder / "unet.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("w"), FILES["unet"]["w"])
        assert file.get_tensor("step").shape == ()
    for name, tensors in FILES.items():
        read = found.tensors(name)
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[key], tensors[key]) for key in tensors)
    assert names(found.folder) == ["state.json", "unet.ema.safetensors", "unet.safetensors"]


def test_shared_and_turned_tensors(tmp_path):
    w = torch.randn(3, 4)
    checkpoint.save(tmp_path, 1, {"net": {"a": w, "b": w, "c": w.T, "d": w[1:]}}, {})
    read = checkpoint.latest(tmp_path).tensors("net")
    assert all(torch.equal(read[key], value) for key, value in {"a": w, "b": w, "c": w.T, "d": w[1:]}.items())


def test_the_last_two_are_kept(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "nowhere") is None
    saved(tmp_path, 9, 10, 100)
    assert names(tmp_path) == ["step-00000010", "step-00000100"]
    assert checkpoint.latest(tmp_path).step == 100
    saved(tmp_path, 100)
    assert names(tmp_path) == ["step-00000010", "step-00000100"]


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_failure_while_saving_leaves_nothing_behind(tmp_path, monkeypatch, broken):
    saved(tmp_path, 1, 2)

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="disk full"):
        saved(tmp_path, 3)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    assert checkpoint.latest(tmp_path).step == 2


def test_what_a_kill_leaves_is_passed_over_and_swept(tmp_path):
    saved(tmp_path, 1)
    half = tmp_path / ".step-00000002-abc"
    half.mkdir()
    (half / "unet.safetensors").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    assert checkpoint.latest(tmp_path).step == 1
    checkpoint.sweep(tmp_path)
    assert names(tmp_path) == ["notes.txt", "step-00000001"]


def cut(folder):
    file = folder / "unet.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def exchange(folder):
    save_file({"w": torch.zeros(2, 3), "step": torch.tensor(3.0)}, folder / "unet.safetensors")


def pickled(folder):
    (folder / "unet.safetensors").write_bytes(b"\x80\x04K\x01.")


def no_file(folder):
    (folder / "unet.ema.safetensors").unlink()


def no_state(folder):
    (folder / "state.json").unlink()


def cut_state(folder):
    (folder / "state.json").write_text((folder / "state.json").read_text()[:40])


def foreign_state(folder):
    (folder / "state.json").write_text("[1, 2]")


def state_of_others(folder):
    (folder / "state.json").write_text(json.dumps({"epoch": 3}))


def other_step(folder):
    record = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(record | {"step": 7}))


def other_field(folder):
    (folder / "state.json").write_text((folder / "state.json").read_text().replace('"seal"', '"other"'))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (other_step, "state.json is not what was written"),
        (other_field, "state.json is not what was written"),
        (cut, "unet.safetensors is not what was written"),
        (exchange, "unet.safetensors is not what was written"),
        (pickled, "unet.safetensors is not what was written"),
        (no_file, "unet.ema.safetensors is missing"),
        (no_state, "state.json is no file here"),
        (cut_state, "state.json cannot be read as JSON"),
        (foreign_state, "state.json: its content: Input should be a valid dictionary"),
        (state_of_others, "state.json is not what was written"),
    ],
)
def test_damage_is_one_clear_word(tmp_path, damage, what):
    saved(tmp_path, 1, 2)
    damage(tmp_path / "step-00000002")
    with pytest.raises(BadInput, match=re.escape(what)) as caught:
        checkpoint.latest(tmp_path)
    assert "step-00000002 is no whole checkpoint" in str(caught.value)
    assert "remove that folder to go on from step-00000001" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_a_version_without_the_hash_of_its_state_is_read(tmp_path):
    saved(tmp_path, 2)
    file = tmp_path / "step-00000002" / "state.json"
    record = json.loads(file.read_text())
    del record["seal"]
    before = checkpoint.latest(tmp_path)
    file.write_text(json.dumps(record))
    assert checkpoint.latest(tmp_path) == before


def test_damage_of_the_only_checkpoint(tmp_path):
    saved(tmp_path, 2)
    cut(tmp_path / "step-00000002")
    with pytest.raises(BadInput, match="remove that folder to begin anew"):
        checkpoint.latest(tmp_path)


def test_a_file_that_is_no_safetensors(tmp_path):
    saved(tmp_path, 2)
    pickled(tmp_path / "step-00000002")
    found = checkpoint.Checkpoint(tmp_path / "step-00000002", 2, {})
    with pytest.raises(BadInput, match=r"unet\.safetensors: "):
        found.tensors("unet")
    with pytest.raises(BadInput, match=r"vae\.safetensors: "):
        found.tensors("vae")


def test_a_run_says_so_too_and_goes_on_once_the_folder_is_gone(tmp_path):
    whole = run("denoiser", tmp_path)
    folder = checkpoint.place(tmp_path / "checkpoints", 8)
    cut(folder)
    with pytest.raises(BadInput, match="go on from step-00000006"):
        run("denoiser", tmp_path)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    again = run("denoiser", tmp_path)
    assert [row["unet/loss"] for row in again.losses] == [row["unet/loss"] for row in whole.losses]


def test_a_run_whose_saving_fails_stops_and_is_resumed(tmp_path, monkeypatch):
    whole = run("denoiser", tmp_path / "whole")
    replace, count = os.replace, []

    def fail_late(source, target):
        if "step-00000006" in str(target):
            count.append(target)
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_late)
    with pytest.raises(OSError, match="disk full"):
        run("denoiser", tmp_path / "parts")
    monkeypatch.undo()
    assert len(count) == 1
    assert names(tmp_path / "parts/checkpoints") == ["step-00000003"]
    parts = run("denoiser", tmp_path / "parts")
    pairs = zip(whole.networks["unet"].parameters(), parts.networks["unet"].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
