"""The cache: the same as diffusers' own encoding, made once, resumed after kill -9, and never taken for another's."""

import copy
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save

from mdrepro.core.errors import BadInput
from mdrepro.data import hashes
from mdrepro.models import text
from mdrepro.models.pipeline import MobileDiffusionPipeline
from mdrepro.training.engine import latent_cache
from tests.support import tiny_pipeline as tiny

SAYINGS = ["a red star", "a blue circle", "red star left of blue circle", ""]


class Pictures:
    """``count`` samples: three different pictures after one another, four captions."""

    def __init__(self, count=10, fingerprint="data-1"):
        self.count, self.fingerprint = count, fingerprint
        noise = np.random.default_rng(0).integers(0, 256, (1 + count // 3, 16, 16, 3))
        self.pixels = torch.from_numpy(noise.astype(np.uint8)).permute(0, 3, 1, 2)
        self.read = []

    def __len__(self):
        return self.count

    def batch(self, indices):
        self.read += list(indices)
        return {
            "pixels": self.pixels[[i // 3 for i in indices]],
            "caption": [SAYINGS[i % 4] for i in indices],
        }


def counting(vae, dies_at=None):
    """A copy that counts the pictures that it encodes (``seen``), and dies as it sees number ``dies_at``."""
    vae = copy.deepcopy(vae)
    vae.seen, real = 0, vae.encode

    def encode(x):
        vae.seen += len(x)
        if dies_at and vae.seen >= dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(x)

    vae.encode = encode
    return vae


@pytest.fixture(scope="module")
def parts():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # OpenMP's others do not live on in the processes that the tests fork
    made = tiny.pipeline()
    yield made.vae, made.tokenizer, made.text_encoder
    torch.set_num_threads(threads)


def build(parts, folder, examples=None, **options):
    options = {"batch": 2, "shard": 4, "dtype": "float32"} | options
    return latent_cache.build(Pictures() if examples is None else examples, *parts, folder, **options)


def hashes_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".lock"}


# -- what it holds ----------------------------------------------------------------------------------------------------


def test_it_holds_what_diffusers_and_transformers_give(parts, tmp_path):
    vae, tokenizer, encoder = parts
    examples = Pictures()
    made = build(parts, tmp_path)
    chosen = [9, 0, 4, 4, 1]
    batch = made.batch(chosen)
    given = examples.batch(chosen)
    pictures = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in given["pixels"]]
    with torch.no_grad():
        latent = vae.encode(VaeImageProcessor().preprocess(pictures)).latent_dist.mean * vae.config.scaling_factor
        ids = tokenizer(given["caption"], padding="max_length", max_length=10, return_tensors="pt").input_ids
        features = encoder(ids).last_hidden_state
        null = encoder(torch.tensor([[0] + [1] * 9])).last_hidden_state[0]  # start, then end to the full length
    assert len(made) == 10
    assert batch["caption"] == given["caption"]
    assert batch["latent"].dtype == batch["text"].dtype == made.null_text.dtype == torch.float32
    torch.testing.assert_close(batch["latent"], latent, rtol=0, atol=1e-5)
    torch.testing.assert_close(batch["text"], features, rtol=0, atol=1e-5)
    torch.testing.assert_close(made.null_text, null, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "digits"), [("float16", 11), ("bfloat16", 8)])
def test_half_precision_rounds_what_is_stored_and_nothing_else(parts, tmp_path, dtype, digits):
    exact, rounded = build(parts, tmp_path / "a"), build(parts, tmp_path / "b", dtype=dtype)
    for name in ("latent", "text"):
        truth, ours = exact.batch(range(10))[name], rounded.batch(range(10))[name]
        error = ((ours - truth).abs() / truth.abs().clamp(min=1e-3)).max()
        assert 0 < error <= 2**-digits
        assert load_file(tmp_path / "b" / f"{name}s-00000.safetensors")[name].dtype == getattr(torch, dtype)


def test_what_is_the_same_is_stored_and_encoded_once(parts, tmp_path):
    counted = counting(parts[0])
    build((counted, *parts[1:]), tmp_path)
    # shards 0-3, 4-7, 8-9 hold pictures 0 1, 1 2, 2 3
    sizes = [len(load_file(tmp_path / f"latents-{i:05d}.safetensors")["latent"]) for i in range(3)]
    assert sizes == [2, 2, 2]
    assert counted.seen == 6
    assert len(load_file(tmp_path / "texts-00000.safetensors")["text"]) == 4
    assert not (tmp_path / "texts-00001.safetensors").exists()


def test_every_picture_is_read_once_in_order(parts, tmp_path):
    examples = Pictures(11)
    build(parts, tmp_path, examples)
    assert examples.read == list(range(11))


def test_files_are_mapped_not_loaded(parts, tmp_path):
    made = build(parts, tmp_path)
    made.batch(range(10))
    maps = Path("/proc/self/maps").read_text()
    for name in ("latents-00000", "latents-00002", "texts-00000"):
        assert f"{tmp_path}/{name}.safetensors" in maps


def test_statistics_per_channel_are_applied(parts, tmp_path):
    vae = tiny.autoencoder()
    vae.register_to_config(latents_mean=[3.0] * 8, latents_std=[4.0] * 8)
    build((vae, *parts[1:]), tmp_path)
    with torch.no_grad():
        mean = vae.encode(Pictures().pixels[:1].float() / 127.5 - 1).latent_dist.mean
    stored = load_file(tmp_path / "latents-00000.safetensors")
    torch.testing.assert_close(stored["latent"][:1], (mean - 3) / 4 * 0.5, rtol=0, atol=1e-5)


# -- resumed, rebuilt, damaged ----------------------------------------------------------------------------------------


def killed(parts, folder, dies_at, patch=lambda: None):
    """A build that ends by kill -9: as the autoencoder sees its picture number ``dies_at``, or as ``patch`` says."""
    child = os.fork()
    if child == 0:
        patch()
        build((counting(parts[0], dies_at), *parts[1:]), folder)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize(("dies_at", "left"), [(2, 0), (4, 1), (6, 2)])
def test_after_kill_only_missing_shards_are_made(parts, tmp_path, dies_at, left):
    build(parts, tmp_path / "whole")
    killed(parts, tmp_path / "killed", dies_at)
    assert len(list((tmp_path / "killed").glob("latents-*"))) == left
    with pytest.raises(BadInput, match="no complete cache"):
        latent_cache.load(tmp_path / "killed")
    counted, examples = counting(parts[0]), Pictures()
    build((counted, *parts[1:]), tmp_path / "killed", examples)
    assert counted.seen == 2 * (3 - left)
    assert examples.read == list(range(4 * left, 10))
    assert hashes_of(tmp_path / "killed") == hashes_of(tmp_path / "whole")


@pytest.mark.parametrize("how", ["a value", "a caption"])
def test_a_build_that_goes_on_takes_no_damaged_shard(parts, tmp_path, how):
    build(parts, tmp_path / "whole")
    killed(parts, tmp_path / "killed", 6)
    file = tmp_path / "killed" / "latents-00001.safetensors"
    content = bytearray(file.read_bytes())
    length = int.from_bytes(content[:8], "little")
    caption = content.index(b"captions") + len(b"captions") + 10
    content[8 + length + 3 if how == "a value" else caption] ^= 1
    file.write_bytes(content)
    counted = counting(parts[0])
    build((counted, *parts[1:]), tmp_path / "killed")
    assert counted.seen == 4
    assert hashes_of(tmp_path / "killed") == hashes_of(tmp_path / "whole")


def test_half_a_shard_never_has_its_name(parts, tmp_path):
    def half(tensors, file, metadata):
        Path(file).write_bytes(save(tensors, metadata)[:-9])
        os.kill(os.getpid(), signal.SIGKILL)

    killed(parts, tmp_path, None, lambda: setattr(latent_cache, "save_file", half))
    left = {file.name for file in tmp_path.iterdir()} - {".lock"}
    assert [name.startswith(".latents-00000.safetensors.") for name in left] == [True]
    build(parts, tmp_path)
    assert {file.name for file in tmp_path.glob(".*")} == {".lock"}


def test_a_complete_cache_is_used_as_it_is(parts, tmp_path):
    first = build(parts, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir() if file.name != ".lock"}
    examples = Pictures()
    second = build(parts, tmp_path, examples)
    assert not examples.read
    assert second.fingerprint == first.fingerprint == latent_cache.load(tmp_path).fingerprint
    assert before == {file: file.stat().st_mtime_ns for file in before}


def changed_vae(parts):
    vae = tiny.autoencoder()
    with torch.no_grad():
        vae.encoder.conv_in.bias[0] += 1e-3
    return vae, *parts[1:]


def changed_encoder(parts):
    torch.manual_seed(9)
    return *parts[:2], text.small_encoder(parts[1], width=tiny.CROSS, layers=2, heads=2)


def changed_words(parts):
    words = [*tiny.WORDS[1:], tiny.WORDS[0]]
    return parts[0], text.word_tokenizer(words, 10), parts[2]


@pytest.mark.parametrize(
    ("change", "options", "what"),
    [
        (changed_vae, {}, "vae"),
        (lambda parts: (tiny.autoencoder(scaling_factor=0.25), *parts[1:]), {}, "vae"),
        (changed_encoder, {}, "text_encoder"),
        (changed_words, {}, "tokenizer"),
        (lambda parts: parts, {"examples": Pictures(10, "data-2")}, "data"),
        (lambda parts: parts, {"examples": Pictures(9)}, "samples"),
        (lambda parts: parts, {"dtype": "float16"}, "dtype"),
        (lambda parts: parts, {"shard": 5}, "shard"),
    ],
)
def test_a_cache_of_something_else_is_made_again(parts, tmp_path, caplog, change, options, what):
    first = build(parts, tmp_path)
    with caplog.at_level("INFO"):
        second = build(change(parts), tmp_path, **options)
    assert f"rebuilt, because {what} changed" in caplog.text
    assert second.fingerprint != first.fingerprint
    build(change(parts), tmp_path.with_name("fresh"), **options)
    assert hashes_of(tmp_path) == hashes_of(tmp_path.with_name("fresh"))
    shutil.rmtree(tmp_path.with_name("fresh"))


def test_shards_of_another_cache_are_not_taken_for_ones_own(parts, tmp_path):
    """Killed while it replaces a cache: shards of both lie there."""
    build(parts, tmp_path)
    changed = changed_vae(parts)
    killed(changed, tmp_path, 4)
    counted = counting(changed[0])
    build((counted, *changed[1:]), tmp_path)
    assert counted.seen == 4, "one of three shards was made before"
    build(changed, tmp_path / "fresh")
    assert latent_cache.load(tmp_path).fingerprint == latent_cache.load(tmp_path / "fresh").fingerprint
    for i in range(10):
        assert torch.equal(
            latent_cache.load(tmp_path).batch([i])["latent"], latent_cache.load(tmp_path / "fresh").batch([i])["latent"]
        )


def test_the_key_survives_saving_loading_and_use(parts, tmp_path):
    pipe = tiny.pipeline()
    before = hashes.network(pipe.vae), hashes.network(pipe.text_encoder), hashes.tokenizer(pipe.tokenizer, 10)
    pipe.encode_prompt(["a red star"])
    pipe.save_pretrained(tmp_path)
    again = MobileDiffusionPipeline.from_pretrained(tmp_path)
    for one in (pipe, again):
        assert before == (
            hashes.network(one.vae),
            hashes.network(one.text_encoder),
            hashes.tokenizer(one.tokenizer, 10),
        )
    assert hashes.network(again.vae.half()) != before[0]
    assert hashes.tokenizer(pipe.tokenizer, 9) != before[2]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, how) for name in ("latents-00001", "texts-00000", "index") for how in ("cut", "flipped")),
        ("latents-00001", "gone"),
        ("texts-00000", "empty"),
    ],
)
def test_a_damaged_file_is_one_error_and_mended_alone(parts, tmp_path, name, how):
    whole = build(parts, tmp_path).batch(range(10))
    file = tmp_path / f"{name}.safetensors"
    content = file.read_bytes()
    changed = {
        "cut": content[:-7],
        "empty": b"",
        "flipped": content[:-9] + bytes([content[-9] ^ 64]) + content[-8:],
    }
    file.unlink() if how == "gone" else file.write_bytes(changed[how])
    with pytest.raises(BadInput, match=f"{name}.safetensors is missing or damaged: remove it and build"):
        latent_cache.load(tmp_path).batch(range(10))
    file.unlink(missing_ok=True)
    counted = counting(parts[0])
    mended = build((counted, *parts[1:]), tmp_path).batch(range(10))
    assert counted.seen == (2 if name.startswith("latents") else 0)
    assert torch.equal(mended["latent"], whole["latent"])
    assert torch.equal(mended["text"], whole["text"])


def test_damage_elsewhere_does_not_stop_a_batch_that_does_not_need_it(parts, tmp_path):
    build(parts, tmp_path)
    file = tmp_path / "latents-00002.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    made = latent_cache.load(tmp_path)
    made.batch(range(8))
    with pytest.raises(BadInput, match="latents-00002"):
        made.batch([8])


def test_several_processes_build_it_once(parts, tmp_path):
    """The others wait for the one that came first, and find it complete."""

    class Noted(Pictures):
        def batch(self, indices):
            with open(tmp_path / "read", "a") as file:
                file.write("".join(f"{i}\n" for i in indices))
            return super().batch(indices)

    together = multiprocessing.get_context("fork").Barrier(3)
    children = []
    for _ in range(3):
        if (child := os.fork()) == 0:
            together.wait()
            build(parts, tmp_path / "cache", Noted())
            os._exit(7)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [7] * 3
    assert (tmp_path / "read").read_text().split() == [str(i) for i in range(10)]


def test_files_carry_the_key_and_nothing_pickled(parts, tmp_path):
    made = build(parts, tmp_path)
    names = {file.name for file in tmp_path.iterdir()} - {".lock"}
    latents = {f"latents-{i:05d}.safetensors" for i in range(3)}
    assert names == latents | {"texts-00000.safetensors", "index.safetensors", "captions.json", "cache.json"}
    for name in latents:
        with safe_open(tmp_path / name, "pt") as file:
            assert json.loads(file.metadata()["cache"])["key"] == made.fingerprint
    assert json.loads((tmp_path / "cache.json").read_text())["key"] == made.fingerprint


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "fp16"}, "unknown dtype 'fp16'.*allowed: float16, bfloat16, float32"),
        ({"batch": 0}, "batch 0"),
        ({"shard": 0}, "shard 0"),
        ({"examples": Pictures(0)}, "0 samples: each must be 1 or more"),
    ],
)
def test_bad_options_are_one_error(parts, tmp_path, options, message):
    with pytest.raises(BadInput, match=message):
        build(parts, tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


def test_values_that_overflow_are_not_stored(parts, tmp_path):
    with pytest.raises(BadInput, match="values of latent are not finite in float16"):
        build((tiny.autoencoder(scaling_factor=1e7), *parts[1:]), tmp_path, dtype="float16")
    assert not list(tmp_path.glob("*.safetensors"))


def test_places_that_are_no_cache_are_named(tmp_path):
    for content in (None, "{", "[]", '{"parts": {"format": 0}}', '{"parts": 3}'):
        if content is not None:
            (tmp_path / "cache.json").write_text(content)
        with pytest.raises(BadInput, match="holds no complete cache of this version"):
            latent_cache.load(tmp_path)
