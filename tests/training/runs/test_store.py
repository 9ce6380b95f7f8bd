"""Runs: whole or not at all, the same bits after a stop, found by key, published in float16, made into pipelines."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mdrepro.core import paths
from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.core.files import sha256
from mdrepro.core.replicas import split
from mdrepro.data.shapes import Shapes
from mdrepro.models import latents
from mdrepro.papers import ledger
from mdrepro.training.engine import latent_cache
from mdrepro.training.objectives.reader import Reading
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import build, model_folders, pipelines, publish, scratch, store
from mdrepro.training.runs.session import Unfinished
from tests.support.killed import between_two_renames
from tests.support.recipe_rows import put, put_in_package, tiny
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def _no_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(scratch.VARIABLE, "")


def weights(run: store.Run, part: str) -> dict[str, torch.Tensor]:
    return load_file(next((run.folder / part).glob("*.safetensors")))


def test_a_run_is_stored_with_its_record_and_taken_the_next_time(rows: dict[str, Recipe], workspace: Path) -> None:
    run = store.load_or_train("t-reader")
    record = json.loads((run.folder / "training.json").read_text())
    assert run.folder == workspace / f"papermill_runs/quick/checkpoints/t-reader-{store.key(rows['t-reader'])}"
    assert sorted(path.name for path in run.folder.iterdir()) == ["reader", "training.json"]
    for name, digest in record["files"].items():
        assert sha256(run.folder / name) == digest
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=workspace, capture_output=True, text=True, check=True)
    assert (record["commit"], record["dirty"]) == (head.stdout.strip(), False)
    assert record["row"] == rows["t-reader"].plain()
    assert record["data"] == Shapes("train", 12).fingerprint
    assert [row["step"] for row in record["curve"]] == [1, 2, 3, 4]
    assert all("reader/loss" in row for row in record["curve"])
    assert record["parameters"] == sum(p.numel() for p in run.load("reader").parameters())
    assert 0 < record["loop_seconds"] <= record["seconds"]
    assert record["cpu_seconds"] > 0
    assert record["images_per_second"] == pytest.approx(8 / record["loop_seconds"], rel=0.01)
    assert str(workspace) not in run.file.read_text()
    made = run.file.stat().st_mtime_ns
    again = store.load_or_train("t-reader")
    assert again.file.stat().st_mtime_ns == made
    assert not again.load("reader").training
    with pytest.raises(BadInput, match=r"unknown part of t-reader 'unet'.*allowed: reader"):
        again.load("unet")


def test_a_stopped_run_goes_on_to_the_same_bits(rows: dict[str, Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also: it is no run until it is whole, and its time is that of all sessions."""
    whole = weights(store.load_or_train("t-reader"), "reader")
    store.folder(rows["t-reader"]).rename(paths.runs() / "undisturbed")
    with pytest.raises(Unfinished, match="time ran out before it began"):
        store.load_or_train("t-reader", max_seconds=0)
    whole_run = build.run
    with monkeypatch.context() as short:
        short.setattr(build, "run", lambda *given, **more: whole_run(*given, **(more | {"max_seconds": 0.0})))
        for step in (1, 2, 3):
            with pytest.raises(Unfinished, match=f"stopped after step {step} of 4; the same command goes on"):
                store.load_or_train("t-reader")
            assert store.find("t-reader") is None
    work = store.folder(rows["t-reader"]) / "work"
    spent = json.loads((work / "spent.json").read_text())
    run = store.load_or_train("t-reader")
    stopped = weights(run, "reader")
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    assert run.record["seconds"] > spent["seconds"] > 0
    assert run.record["cpu_seconds"] > spent["cpu_seconds"] > 0
    assert not work.exists()


def test_a_failure_while_a_run_is_stored_loses_no_step(
    rows: dict[str, Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next command trains nothing again, and stores the bits of a run without the failure."""
    whole = weights(store.load_or_train("t-reader"), "reader")
    store.folder(rows["t-reader"]).rename(paths.runs() / "undisturbed")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(model_folders, "save", full)
        with pytest.raises(OSError, match="No space left"):
            store.load_or_train("t-reader")
    assert store.find("t-reader") is None
    steps = []
    losses = Reading.losses
    monkeypatch.setattr(Reading, "losses", lambda self, *args, **more: steps.append(1) or losses(self, *args, **more))
    stored = weights(store.load_or_train("t-reader"), "reader")
    assert not steps
    assert all(torch.equal(stored[name], whole[name]) for name in whole)


def test_a_kill_between_two_renames_loses_no_run(
    reader: store.Run, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = reader.file.read_text()
    between_two_renames(reader.folder)
    assert store.find("t-reader") is None
    with monkeypatch.context() as patched:
        patched.setattr(build, "run", lambda *_, **__: pytest.fail("it was trained again"))
        assert store.load_or_train("t-reader").file.read_text() == before
    publish.publish(["t-reader"])
    (published := store.published_folder(reader.recipe)).joinpath("mine").touch()
    between_two_renames(published)
    reader.folder.rename(workspace / "gone")
    with pytest.raises(BadInput, match="no finished run"):
        publish.publish(["t-reader"])
    assert (published / "mine").exists()
    assert [path.name for path in published.parent.iterdir()] == ["t-reader"]


def test_threads_of_a_recipe_are_its_own(rows: dict[str, Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    """While it trains there are as many as its row says; afterwards as many as before, after an error too."""
    seen = []
    build_run = build.run

    def run(*args: Any, **more: Any) -> Any:
        seen.append(torch.get_num_threads())
        return build_run(*args, **more)

    monkeypatch.setattr(build, "run", run)
    before = torch.get_num_threads()
    row = rows["t-reader"]
    try:
        torch.set_num_threads(3)
        store.load_or_train(replace(row, loop=replace(row.loop, threads=2)))
        with pytest.raises(FloatingPointError):
            store.load_or_train(replace(row, loop=replace(row.loop, threads=2, learning_rate=1e30, steps=50)))
        assert (seen, torch.get_num_threads()) == ([2, 2], 3)
    finally:
        torch.set_num_threads(before)


def test_begun_anew_a_run_forgets_what_was_there(rows: dict[str, Recipe]) -> None:
    first = store.load_or_train("t-reader")
    first.file.write_text(json.dumps(first.record | {"results": {"scenes": 0.5}}))
    same = store.train(rows["t-reader"])
    assert same.record["results"] == {"scenes": 0.5}
    anew = store.train(rows["t-reader"], resume=False)
    assert anew.record["results"] == {}
    assert anew.record["files"] == first.record["files"]


def test_a_damaged_run_is_not_taken(rows: dict[str, Recipe], capsys: pytest.CaptureFixture[str]) -> None:
    run = store.load_or_train("t-reader")
    file = run.folder / "reader/diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert store.find("t-reader") is None
    assert "reader/diffusion_pytorch_model.safetensors is not what was written" in capsys.readouterr().err
    assert store.load_or_train("t-reader").record["files"] == run.record["files"]


def _parts(run: store.Run) -> set[str]:
    return {path.name for path in run.folder.iterdir() if path.is_dir()}


def test_pipelines_are_made_of_runs_that_hold_their_own_part_alone(rows: dict[str, Recipe]) -> None:
    one, lite = store.load_or_train("t-1"), store.load_or_train("t-lite")
    assert one.record["parents"] == {role: store.key(rows[name]) for role, name in rows["t-1"].parents.items()}
    assert _parts(one) == {"unet", "scheduler"}
    text, full = store.find("t-text"), store.find("t-vae")
    assert text is not None
    assert full is not None
    assert (_parts(text), _parts(full), _parts(lite)) == ({"text_encoder", "tokenizer"}, {"vae"}, {"vae"})
    _make_images("t-base", "DDIMScheduler")
    _make_images("t-1", "RenoisingScheduler")
    base = pipelines.load("t-base")
    assert (base.config.default_steps, base.config.default_guidance) == (2, 2.0)
    trained = text.load("text_encoder").state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in base.text_encoder.state_dict().items())
    _is_light(pipelines.load("t-base", vae="t-lite").vae, full.load("vae"))
    with pytest.raises(BadInput, match="t-text decodes other latents"):
        pipelines.load("t-base", vae="t-text")
    with pytest.raises(BadInput, match="kind text"):
        pipelines.load("t-text")
    (folder,) = (paths.runs() / "quick/latents").iterdir()
    _holds_latents(folder, full.load("vae"))


def _make_images(name: str, scheduler: str) -> None:
    pipeline = pipelines.load(name)
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline.scheduler).__name__ == scheduler
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.scheduler.config.rescale_betas_zero_snr
    images = pipeline(["a red star", "two blue circles"], output_type="pt").images
    assert images.shape == (2, 3, 64, 64)
    assert images.isfinite().all()


def _is_light(lite: Any, full: Any) -> None:
    """Half the decoder, the same encoder and convention."""
    assert lite.config.decoder_block_out_channels[0] == 4
    assert lite.config.scaling_factor == full.config.scaling_factor != 1
    theirs, ours = full.state_dict(), lite.state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs if name.startswith("encoder"))


def _holds_latents(folder: Path, vae: Any) -> None:
    """What the autoencoder gives, in float16."""
    held = latent_cache.load(folder).batch(range(12))["latent"]
    with torch.no_grad():
        expected = latents.to_latent(vae, Shapes("train", 12).batch(range(12))["pixels"], "uint8")
    torch.testing.assert_close(held, expected, atol=2e-3, rtol=2e-3)


@pytest.mark.slow
def test_every_kind_trains_from_its_parents(rows: dict[str, Recipe]) -> None:
    made = {name: store.load_or_train(name) for name in rows}
    for name, row in rows.items():
        assert made[name].record["parents"] == {role: store.key(rows[parent]) for role, parent in row.parents.items()}
        assert str(paths.root()) not in "".join(file.read_text() for file in made[name].folder.rglob("*.json"))
        if "text" in row.parents:
            assert _parts(made[name]) == {"unet", "scheduler"}
    assert made["t-relu"].load("unet").config.attention == "relu"
    evolved = made["t-evolved"]
    log = [json.loads(line) for line in (evolved.folder / "evolution.jsonl").read_text().splitlines()]
    assert evolved.load("unet").config.actions == [action for entry in log for action in entry["actions"]] != []
    assert {"evolution.jsonl", "latency.json"} <= set(evolved.record["files"])
    assert made["t-w-4"].load("unet").config.time_cond_proj_dim == 256
    _make_images("t-w-4", "DDIMScheduler")
    _make_images("t-lcm", "LCMScheduler")
    _make_images("t-evolved", "DDIMScheduler")
    held = [len(latent_cache.load(folder)) for folder in sorted((paths.runs() / "quick/latents").iterdir())]
    assert held == [12, 4], "one cache for all, one more for the evolution's held-out scenes"


def test_a_pipeline_of_missing_runs_says_how_to_get_them(rows: dict[str, Recipe]) -> None:
    with pytest.raises(NotAttempted, match="there is no checkpoint of t-base: mdrepro train t-base"):
        pipelines.load("t-base")


@pytest.fixture
def reader(rows: dict[str, Recipe]) -> store.Run:
    """A trained run that may be published."""
    return store.load_or_train("t-reader")


def test_published_runs_are_halved_and_found_where_there_is_none_here(reader: store.Run, workspace: Path) -> None:
    exact = reader.load("reader").state_dict()
    (place,) = publish.publish(["t-reader"])
    assert place == workspace / "results/quick/checkpoints/t-reader"
    assert all(
        value.dtype == torch.float16 or not value.is_floating_point()
        for value in load_file(place / "reader/diffusion_pytorch_model.safetensors").values()
    )
    reader.folder.rename(workspace / "gone")
    found = store.find("t-reader")
    assert found
    assert found.folder == place
    loaded = found.load("reader").state_dict()
    for name, value in exact.items():
        assert loaded[name].dtype == value.dtype
        expected = value.half().float() if value.is_floating_point() else value
        assert torch.equal(loaded[name], expected)
    assert found.record["trained_files"] == reader.record["files"]
    assert found.record["commit"] == reader.record["commit"]
    assert (reader.local, found.local) == (True, False)


def test_published_runs_are_taken_only_if_they_are_of_the_recipe_as_it_stands(
    reader: store.Run, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place,) = publish.publish(["t-reader"])
    reader.folder.rename(workspace / "gone")
    scratch.ignore_published()
    assert store.find("t-reader") is None
    scratch.ignore_published(False)
    with monkeypatch.context() as other:
        put([replace(tiny()[0], version=2)], other)
        assert store.find("t-reader") is None
    assert store.find("t-reader") is not None
    config = place / "reader/config.json"
    config.write_text(config.read_text().replace("8", "16"))
    with pytest.raises(BadInput, match=r"results/quick/checkpoints/t-reader/reader/config.json was changed"):
        store.find("t-reader")


def test_what_may_not_be_published(
    reader: store.Run, rows: dict[str, Recipe], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = workspace / "results/quick/checkpoints"
    with pytest.raises(BadInput, match="t-vae has no finished run of the recipe as it stands"):
        publish.publish(["t-reader", "t-vae"])
    size = sum(file.stat().st_size for file in publish.publish(["t-reader"])[0].rglob("*") if file.is_file())
    with pytest.raises(BadInput, match=r"would have 0\.0 MB \(t-reader"):
        publish.publish(["t-reader"], limit=size - 1)
    (home / "other").mkdir()
    (home / "other/weights.safetensors").write_bytes(bytes(1000))
    publish.publish(["t-reader"], limit=size + 1000 + 100)
    with pytest.raises(BadInput, match=r"t-reader .*, other 0\.0"):
        publish.publish(["t-reader"], limit=size + 900)
    assert sorted(path.name for path in home.iterdir()) == ["other", "t-reader"]
    record = json.loads(reader.file.read_text())
    reader.file.write_text(json.dumps(record | {"dirty": True, "changed_files": ["mdrepro/cli/app.py"]}))
    with pytest.raises(BadInput, match=r"not trained from a clean commit \(mdrepro/cli/app.py\)"):
        publish.publish(["t-reader"])
    put([replace(tiny()[0], version=2)], monkeypatch)
    with pytest.raises(BadInput, match="no finished run"):
        publish.publish(["t-reader"])


def test_other_seeds_are_published_where_a_table_takes_them(
    rows: dict[str, Recipe], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("t-relu-seed1", "t-relu"):
        store.load_or_train(name)
    assert (store.other_seeds(rows["t-relu"]), store.other_seeds(rows["t-1"])) == ([1], [])
    with pytest.raises(BadInput, match="t-relu-seed1: of other training seeds only checkpoints that tables take"):
        publish.publish(["t-relu-seed1"])
    monkeypatch.setattr(ledger, "default_recipes", lambda tier: ["t-base-seed1", "t-relu-seed1"])
    names = ["t-relu-seed1", "t-base-seed1", "t-text", "t-vae", "t-base", "t-relu"]
    assert [place.name for place in publish.publish(names)] == names
    (workspace / "papermill_runs").rename(workspace / "gone")
    assert store.other_seeds(rows["t-relu"]) == [1]
    found = [store.find(name) for name in names]
    assert not any(run is None or run.local for run in found)
    first, second = (pipelines.load(name).unet.state_dict() for name in ("t-relu", "t-relu-seed1"))
    assert any(not torch.equal(value, second[name]) for name, value in first.items())


def test_the_limit_holds_all_seeds_of_the_default_tables() -> None:
    """From the published sizes, those of three seeds of what the default tables measure, with their records."""
    home = Path(publish.__file__).parents[3] / "results/quick/checkpoints"
    sizes = {
        place.name: sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) for place in home.iterdir()
    }
    denoisers = {split(name)[0] for name in ledger.default_recipes("quick") if split(name)[1]} | {"shapes-1-gan"}
    assert {"shapes-base", "shapes-4"} <= denoisers
    needed = sum(size for name, size in sizes.items() if not split(name)[1]) + 2 * sum(sizes[n] for n in denoisers)
    assert 0.9 * publish.LIMIT <= needed <= publish.LIMIT


def test_weights_that_a_published_parent_has_too_are_stored_once(workspace: Path, rows: dict[str, Recipe]) -> None:
    exact = store.load_or_train("t-lite").load("vae").state_dict()
    whole, alone = publish.publish(["t-vae"]), publish.publish(["t-lite"])[0]
    parent, file = whole[0] / "vae" / model_folders.WEIGHTS, alone / "vae" / model_folders.WEIGHTS
    assert not [name for name in load_file(file) if name.startswith(("encoder.", "quant_conv."))]
    assert [name for name in load_file(file) if name.startswith("decoder.")]
    for name in ("t-vae", "t-lite"):
        store.folder(rows[name]).rename(workspace / f"gone-{name}")
    found = store.find("t-lite")
    assert found is not None
    assert found.folder == alone
    loaded = found.load("vae").state_dict()
    assert all(torch.equal(loaded[name], value.half().float()) for name, value in exact.items())
    other = load_file(parent)
    other["encoder.conv_in.weight"][0] += 1
    save_file(other, parent, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"results/quick/checkpoints/t-vae/vae/.*safetensors was changed"):
        store.find("t-lite")


def test_a_parent_that_changes_is_published_with_what_shares_its_weights(
    workspace: Path, rows: dict[str, Recipe]
) -> None:
    exact = store.load_or_train("t-lite").load("vae").state_dict()
    for name in ("t-vae", "t-lite"):
        publish.publish([name])
    parent, file = store.load_or_train("t-vae"), f"vae/{model_folders.WEIGHTS}"
    other = load_file(parent.folder / file)
    other["encoder.conv_in.weight"][0] += 1
    save_file(other, parent.folder / file, metadata={"format": "pt"})
    files = parent.record["files"] | {file: sha256(parent.folder / file)}
    parent.file.write_text(json.dumps(parent.record | {"files": files}))
    with pytest.raises(BadInput, match="t-lite shares weights with the published t-vae, which would change"):
        publish.publish(["t-vae"])
    both = ["t-lite", "t-vae"]
    assert publish.publish(both) == [store.published_folder(rows[name]) for name in both]
    store.folder(rows["t-lite"]).rename(workspace / "gone")
    found = store.find("t-lite")
    assert found is not None
    assert found.record["shared"]["vae"]["recipe"] == "t-vae"
    loaded = found.load("vae").state_dict()
    assert all(torch.equal(loaded[name], value.half().float()) for name, value in exact.items())


def test_a_parent_that_is_not_published_as_it_stands_shares_nothing(
    workspace: Path, rows: dict[str, Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.load_or_train("t-lite")
    (alone,) = publish.publish(["t-lite"])
    assert [name for name in load_file(alone / "vae" / model_folders.WEIGHTS) if name.startswith("encoder.")]
    assert "shared" not in json.loads((alone / "training.json").read_text())


def test_weights_too_large_for_float16_are_not_published(reader: store.Run) -> None:
    file = "reader/diffusion_pytorch_model.safetensors"
    large = load_file(reader.folder / file)
    large["background.bias"][0] = 1e5
    save_file(large, reader.folder / file)
    record = reader.record | {"files": reader.record["files"] | {file: sha256(reader.folder / file)}}
    reader.file.write_text(json.dumps(record))
    with pytest.raises(BadInput, match=r"background\.bias is not finite in float16"):
        publish.publish(["t-reader"])
    assert list((paths.published("quick") / "checkpoints").iterdir()) == []


@pytest.mark.slow
def test_kill_9_and_the_same_command_make_the_same_bits(rows: dict[str, Recipe], workspace: Path) -> None:
    """Killed among its steps; a second process waits for the first that holds the run."""
    put_in_package(workspace)
    command = [sys.executable, "-m", "mdrepro", "train", "t-reader", "--set", "loop.steps=60"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=workspace, env=environment, check=True)
    (place,) = (paths.runs() / "quick/checkpoints").glob("t-reader-*")
    whole = json.loads((place / "training.json").read_text())["files"]
    place.rename(workspace / "undisturbed")
    killed = 0
    while killed < 3:
        known = set(place.glob("work/checkpoints/step-*/state.json"))
        process = subprocess.Popen(command, cwd=workspace, env=environment)
        wait_until(
            lambda: process.poll() is not None or set(place.glob("work/checkpoints/step-*/state.json")) - known  # noqa: B023
        )
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        killed += 1
    assert killed > 0
    assert not (place / "training.json").exists() or killed < 3
    first = subprocess.Popen(command, cwd=workspace, env=environment)
    second = subprocess.run(command, cwd=workspace, env=environment, check=True, capture_output=True, text=True)
    assert first.wait() == 0
    assert json.loads((place / "training.json").read_text())["files"] == whole
    assert "t-reader: " in second.stdout
