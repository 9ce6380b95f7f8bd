"""Image sets: the same noise and pixels at any batch, shard and interruption; manifests; samplers; what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from mdrepro.core import distributed
from mdrepro.core.errors import BadInput
from mdrepro.core.files import HOST, sha256
from mdrepro.diffusion.renoise import RenoisingScheduler
from mdrepro.diffusion.samplers import SAMPLERS, scheduler_for
from mdrepro.models.pipeline import MobileDiffusionPipeline
from mdrepro.sampling import generate as module
from mdrepro.sampling import manifest
from mdrepro.sampling.generate import generate, images, seeds, weights_sha256
from mdrepro.sampling.manifest import Manifest
from tests.support import tiny_pipeline as tiny
from tests.support.checkout import REPOSITORY
from tests.support.tiny_pipeline import PROMPTS, SHORT
from tests.support.waiting import wait_until

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline()


@pytest.fixture(scope="module")
def whole(pipe, tmp_path_factory):
    """All prompts in one shard, undisturbed, at batch 3."""
    folder = tmp_path_factory.mktemp("whole")
    assert generate(pipe, PROMPTS, folder, batch=3, **SHORT).complete
    return folder


def pixels(folder):
    return np.stack([np.array(Image.open(file)) for file in Manifest.read(folder).files]).astype(int)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_manifest_says_what_made_which_image(pipe, whole):
    read = json.loads((whole / "manifest.json").read_text())
    assert [entry["prompt"] for entry in read["images"]] == PROMPTS
    assert [entry["index"] for entry in read["images"]] == list(range(12))
    for entry in read["images"]:
        assert entry["sha256"] == sha256(whole / entry["file"])
    facts = read["settings"]
    assert facts == json.loads((whole / "settings.json").read_text())
    assert (facts["pipeline"], facts["scheduler"]) == ("MobileDiffusionPipeline", "DDIMScheduler")
    assert (facts["steps"], facts["guidance"], facts["seed"], facts["batch"], facts["images"]) == (2, 2, 5, 3, 12)
    assert facts["scheduler_config"]["timestep_spacing"] == "trailing"
    assert facts["weights_sha256"] == weights_sha256(pipe)
    assert Manifest.read(whole).complete
    Manifest.read(whole).check()


@torch.no_grad()
def test_an_image_is_the_pipeline_s_own_rounded_once(pipe, tmp_path):
    made = generate(pipe, PROMPTS[:2], tmp_path / "set", batch=1, **SHORT)
    for entry, file in zip(made.images, made.files, strict=True):
        rng = torch.Generator().manual_seed(entry.seed)
        kept = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "np"}
        unit = pipe(entry.prompt, generator=rng, **kept).images[0]
        np.testing.assert_array_equal(np.array(Image.open(file)), np.rint(unit * 255).astype(np.uint8))


@pytest.mark.parametrize("name", ["ddim", "renoise"])
def test_at_any_batch_size_noise_is_equal_and_no_pixel_moves_by_more_than_one_level(pipe, name, monkeypatch):
    drawn, draw = [], MobileDiffusionPipeline._noise
    monkeypatch.setattr(
        MobileDiffusionPipeline, "_noise", lambda self, *a: drawn.append(draw(self, *a)) or drawn[-1].clone()
    )
    noise, made = {}, {}
    for batch in (1, 3, 8):
        drawn.clear()
        made[batch] = images(pipe, PROMPTS[:9], batch=batch, **(SHORT | {"sampler": name})).int()
        noise[batch] = torch.cat(drawn)
    assert torch.equal(noise[1], noise[3])
    assert torch.equal(noise[1], noise[8])
    assert noise[1].flatten(1).unique(dim=0).shape[0] == 9
    assert (made[1] - made[3]).abs().max() <= 1
    assert (made[1] - made[8]).abs().max() <= 1
    assert (made[1][0] - made[1][1]).abs().max() > 1


def test_images_in_memory_are_those_of_the_set(pipe, whole):
    made = images(pipe, PROMPTS, batch=3, **SHORT)
    assert (made.dtype, tuple(made.shape)) == (torch.uint8, (12, 3, 64, 64))
    np.testing.assert_array_equal(made.permute(0, 2, 3, 1).numpy(), pixels(whole))


@pytest.mark.parametrize("sampler", [None, "dpm++"])
def test_batches_side_by_side_are_those_one_after_the_other_and_leave_the_pipeline_as_it_was(pipe, sampler):
    short, before = SHORT | {"sampler": sampler, "steps": 4}, dict(vars(pipe))
    expected = images(pipe, PROMPTS, batch=1, **short)  # torch has one thread here
    torch.set_num_threads(3)
    try:
        together = images(pipe, PROMPTS, batch=1, **short)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(together, expected)
    assert vars(pipe) == before


def test_three_shards_killed_twice_on_the_way_are_byte_identical_to_one(pipe, whole, tmp_path, monkeypatch):
    folder, store = tmp_path / "set", module._store
    dead = subprocess.Popen(["true"])
    dead.wait()

    def killed_after(count):
        left = iter(range(count + 1))

        def die(path, pixels):
            if next(left) == count:
                path.with_name(f".{path.name}.{HOST}.{dead.pid}.0123abcd").write_bytes(b"half")  # as kill -9 leaves it
                raise KeyboardInterrupt
            store(path, pixels)

        monkeypatch.setattr(module, "_store", die)

    for shard, count in ((1, 2), (2, 1)):  # in the middle of a batch of three
        killed_after(count)
        with pytest.raises(KeyboardInterrupt):
            generate(pipe, PROMPTS, folder, batch=3, shard=(shard, 3), **SHORT)
    monkeypatch.setattr(module, "_store", store)
    assert len(list(folder.glob("*.png"))) == 3
    made = [generate(pipe, PROMPTS, folder, batch=3, shard=(shard, 3), **SHORT) for shard in (2, 0, 1)]
    assert [one.complete for one in made] == [False, False, True]
    assert [len(one.images) for one in made] == [5, 11, 12]
    assert contents(folder) == contents(whole)


def test_only_batches_with_a_missing_image_are_made_again(pipe, whole, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "set")
    (folder / manifest.name(4)).unlink()
    with pytest.raises(BadInput, match=r"000004.png is missing: delete it"):
        Manifest.read(folder).check()
    calls, make = [], module._make
    monkeypatch.setattr(module, "_make", lambda *a: calls.append(a[1]) or make(*a))
    assert generate(pipe, PROMPTS, folder, batch=3, **SHORT).complete
    assert calls == [PROMPTS[3:6]]
    assert contents(folder) == contents(whole)


@pytest.mark.parametrize("fault", ["empty", "cut", "flipped"])
@pytest.mark.parametrize("shard", [None, (0, 2)])
def test_an_unfinished_set_goes_on_without_its_damaged_images(pipe, whole, tmp_path, fault, shard):
    """The damaged one is of the second shard: the first alone does not complete the set."""
    folder = shutil.copytree(whole, tmp_path / "set")
    for lacking in ("manifest.json", manifest.name(0)):
        (folder / lacking).unlink()
    file = folder / manifest.name(4)
    content = file.read_bytes()
    flipped = bytes([content[len(content) // 2] ^ 1])
    half = content[: len(content) // 2]
    file.write_bytes({"empty": b"", "cut": half, "flipped": half + flipped + content[len(half) + 1 :]}[fault])
    made = generate(pipe, PROMPTS, folder, batch=3, shard=shard, **SHORT)
    assert made.complete == (shard is None)
    assert [entry.index for entry in made.images] == [i for i in range(12) if shard is None or i != 4]
    assert generate(pipe, PROMPTS, folder, batch=3, shard=(1, 2), **SHORT).complete
    assert contents(folder) == contents(whole)


def test_an_altered_image_is_found(pipe, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "set")
    shutil.copy(folder / manifest.name(1), folder / manifest.name(2))
    with pytest.raises(BadInput, match=r"000002.png is not the generated one"):
        Manifest.read(folder).check()
    with pytest.raises(BadInput, match=r"000002.png differs from manifest.json.* delete it to generate"):
        generate(pipe, PROMPTS, folder, batch=3, **SHORT)
    (folder / manifest.name(2)).unlink()
    generate(pipe, PROMPTS, folder, batch=3, **SHORT).check()
    assert contents(folder) == contents(whole)


def test_a_manifest_that_lacks_an_image_is_one_error(pipe, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "set")
    written = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(written | {"images": written["images"][:-1]}))
    with pytest.raises(BadInput, match=r"manifest.json is no manifest of 12 images"):
        generate(pipe, PROMPTS, folder, batch=3, **SHORT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 3}, "steps: there 2, now 3"),
        ({"guidance": 2.5}, "guidance: there 2.0, now 2.5"),
        ({"seed": 6}, "seed: there 5, now 6"),
        ({"batch": 4}, "batch: there 3, now 4"),
        ({"sampler": "euler"}, "scheduler: there 'DDIMScheduler', now 'EulerDiscreteScheduler'"),
        ({"prompts": [*PROMPTS[:-1], "a star"]}, "prompts_sha256: there"),
        ({"prompts": PROMPTS[:-1]}, "images: there 12, now 11"),
    ],
)
def test_a_set_goes_on_with_its_own_settings_alone(pipe, whole, change, message):
    options = SHORT | {"batch": 3, "prompts": PROMPTS, "folder": whole} | change
    with pytest.raises(BadInput, match=rf"holds images of other settings \(.*{message}.*another folder"):
        generate(pipe, **options)


def test_other_weights_do_not_go_on_with_a_set(whole):
    other = tiny.pipeline()
    with torch.no_grad():
        weight = next(other.unet.parameters()).flatten()
        weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))
    with pytest.raises(BadInput, match="weights_sha256: there"):
        generate(other, PROMPTS, whole, batch=3, **SHORT)


def test_folders_with_anything_else_are_refused(pipe, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"mine")
    with pytest.raises(BadInput, match=r"holds files but no settings.json: choose a new or an empty folder"):
        generate(pipe, PROMPTS, tmp_path, **SHORT)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(BadInput, match=r"settings.json cannot be read"):
        generate(pipe, PROMPTS, tmp_path, **SHORT)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_set_that_is_not_complete_has_no_manifest(pipe, tmp_path):
    with pytest.raises(BadInput, match=r"holds no manifest.json: generate"):
        Manifest.read(tmp_path)
    made = generate(pipe, PROMPTS[:4], tmp_path, batch=1, shard=(1, 2), **SHORT)
    assert [entry.index for entry in made.images] == [1, 3]
    with pytest.raises(BadInput, match=r"holds no manifest.json; 2 images are there"):
        Manifest.read(tmp_path)
    (tmp_path / "manifest.json").write_text('{"images": []}')
    with pytest.raises(BadInput, match="no manifest of images"):
        Manifest.read(tmp_path)


def test_arguments_that_make_no_images_are_refused(pipe, tmp_path):
    for change, message in (
        ({"prompts": []}, "prompts: must be a non-empty list"),
        ({"prompts": "a star"}, "prompts: must be a non-empty list"),
        ({"batch": 0}, "batch is 0"),
        ({"shard": (3, 3)}, "shard 3 of 3: must be from 0 to 2"),
        (
            {"sampler": "ddmi"},
            r"unknown sampler 'ddmi' \(did you mean ddim\?\); allowed: ddim, dpm\+\+, dpm, euler, renoise",
        ),
    ):
        with pytest.raises(BadInput, match=message):
            generate(pipe, **({"prompts": PROMPTS, "folder": tmp_path / "set"} | SHORT | change))
    assert not (tmp_path / "set").exists()


def test_seeds_of_a_set_are_all_different_and_of_another_set_others():
    first, second = seeds(0, 30_000), seeds(1, 30_000)
    assert len(set(first) | set(second)) == 60_000
    assert seeds(0, 5) == first[:5]
    assert all(0 <= seed < 2**32 for seed in first + second)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("own", ["ddim", "sd", "renoise"])
def test_in_one_step_every_sampler_gives_the_clean_latent_out_of_pure_noise(pipe, own, prediction, monkeypatch):
    schedule = {
        "ddim": tiny.scheduler(prediction_type=prediction),
        "sd": tiny.scheduler(
            prediction_type=prediction,
            timestep_spacing="leading",
            set_alpha_to_one=False,
            steps_offset=1,
            clip_sample=True,
        ),
        "renoise": RenoisingScheduler(prediction_type=prediction),
    }[own]
    monkeypatch.setattr(pipe, "scheduler", schedule)
    made = {}
    for name, (kind, _) in SAMPLERS.items():
        assert type(scheduler_for(name, schedule)) is kind
        with module.prepared(pipe, name):
            rng = torch.Generator().manual_seed(3)
            made[name] = pipe(
                PROMPTS[0], generator=rng, num_inference_steps=1, guidance_scale=1, output_type="latent"
            ).images
            assert float(pipe.scheduler.timesteps[0]) == 999
        assert pipe.scheduler is schedule
    for name, latent in made.items():  # Euler starts at sigma, not sqrt(sigma^2 + 1); dpm ends at the least noise
        error = (latent - made["renoise"]).norm() / made["renoise"].norm()
        assert error < {"euler": 0.02, "dpm": 0.1}.get(name, 1e-3), name
    assert made["renoise"].abs().max() > 1.1  # DDIM clips at 1 unless it is told not to


def test_defaults_of_one_class_are_not_taken_for_those_of_another():
    for scheduler in (DDIMScheduler(), DDIMScheduler(beta_end=0.015), RenoisingScheduler()):
        for name in SAMPLERS:
            made = scheduler_for(name, scheduler)
            torch.testing.assert_close(made.alphas_cumprod, scheduler.alphas_cumprod)


def test_a_noise_schedule_without_betas_or_with_betas_by_hand_is_refused():
    with pytest.raises(BadInput, match=r"dpm.. cannot take over the noise schedule of FlowMatchEuler.*name none"):
        scheduler_for("dpm++", FlowMatchEulerDiscreteScheduler())
    by_hand = tiny.scheduler(trained_betas=[0.001 * i for i in range(1, 101)], num_train_timesteps=100)
    assert scheduler_for("euler", by_hand).config.trained_betas is not None
    with pytest.raises(BadInput, match="renoise cannot take over"):
        scheduler_for("renoise", by_hand)


def test_without_names_the_checkpoint_s_own_way_is_taken(pipe, tmp_path):
    pipe.set_progress_bar_config(disable=True, desc="mine")
    made = generate(pipe, PROMPTS[:1], tmp_path, batch=1)
    assert pipe._progress_bar_config == {"disable": True, "desc": "mine"}
    pipe.set_progress_bar_config(disable=False)
    with pytest.raises(BadInput, match="unknown sampler"):
        images(pipe, PROMPTS, sampler="ddmi")
    assert pipe._progress_bar_config == {"disable": False}
    facts = made.settings
    assert (facts["sampler"], facts["steps"], facts["guidance"], facts["seed"]) == (None, 4, 3.0, 0)
    pipe.set_progress_bar_config(disable=True)


def test_the_hash_of_weights_knows_every_part_and_no_place(pipe, tmp_path):
    before = weights_sha256(pipe)
    pipe.save_pretrained(tmp_path)
    assert weights_sha256(MobileDiffusionPipeline.from_pretrained(tmp_path)) == before
    others = [
        tiny.pipeline(vae=tiny.autoencoder(0.6)),
        tiny.pipeline(unet=tiny.unet(attention_head_dim=8)),
        tiny.pipeline(),
    ]
    others[2].tokenizer.add_tokens(["green"])
    found = {weights_sha256(other) for other in others}
    assert len(found | {before}) == 4


def test_any_text_to_image_pipeline_of_diffusers_will_do(pipe, tmp_path):
    torch.manual_seed(0)
    small = {"block_out_channels": (32, 32), "norm_num_groups": 8}
    theirs = StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **small
        ).eval(),
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        unet=UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            cross_attention_dim=tiny.CROSS,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            **small,
        ).eval(),
        scheduler=tiny.scheduler(timestep_spacing="leading", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
    )
    theirs.safety_checker = torch.nn.Identity()
    with pytest.raises(BadInput, match=r"safety_checker=None, or write .* into its model_index\.json"):
        generate(theirs, PROMPTS[:3], tmp_path, steps=2, sampler="dpm++", batch=3)
    assert not list(tmp_path.iterdir())
    theirs.safety_checker = None
    made = generate(theirs, PROMPTS[:3], tmp_path, steps=2, sampler="dpm++", batch=3)
    assert (made.settings["guidance"], made.settings["pipeline"]) == (7.5, "StableDiffusionPipeline")
    theirs.scheduler = scheduler_for("dpm++", theirs.scheduler)
    theirs.set_progress_bar_config(disable=True)
    for entry, file in zip(made.images, made.files, strict=True):
        rng = torch.Generator().manual_seed(entry.seed)
        alone = theirs(entry.prompt, generator=rng, num_inference_steps=2, output_type="np").images[0]
        assert np.abs(np.array(Image.open(file)) - alone * 255).max() <= 1.5


SCRIPT = """
import sys, torch
from mdrepro.sampling.generate import generate
from tests.support import tiny_pipeline as tiny
torch.set_num_threads(1)
shard = tuple(map(int, sys.argv[2:4])) or None
generate(tiny.pipeline(), tiny.PROMPTS * 4, sys.argv[1], batch=3, shard=shard, **tiny.SHORT)
"""


def started(folder: Path, *shard: int, launcher: tuple[str, ...] = (), script: Path | None = None) -> subprocess.Popen:
    program = (str(script),) if script else ("-c", SCRIPT)
    command = [sys.executable, *launcher, *program, str(folder), *map(str, shard)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_three_processes_of_which_two_are_killed_give_the_bytes_of_one(tmp_path):
    one, three = tmp_path / "one", tmp_path / "three"
    assert started(one).wait() == 0
    for shard, count in ((0, 4), (2, 9)):
        process = started(three, shard, 3)
        wait_until(lambda: len(list(three.glob("*.png"))) >= count, lambda: process.poll() is None)  # noqa: B023
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (three / "manifest.json").exists()
    running = [started(three, shard, 3) for shard in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert contents(three) == contents(one)


def test_a_process_of_a_launcher_makes_every_nth_batch(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(distributed, "position", lambda: (1, 2))
    generate(pipe, PROMPTS, tmp_path / "set", batch=3, **SHORT)
    made = sorted(path.name for path in (tmp_path / "set").glob("*.png"))
    assert made == [manifest.name(row) for row in range(len(PROMPTS)) if row // 3 % 2 == 1]


@pytest.mark.slow
def test_a_launcher_spreads_a_set_over_its_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    one, two = tmp_path / "one", tmp_path / "two"
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29713")
    assert started(two, launcher=launcher, script=script).wait() == 0
    assert started(one).wait() == 0
    assert contents(one) == contents(two)
