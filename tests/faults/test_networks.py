"""A folder that does not exactly hold a network is refused by name of weight and file, wherever networks are read."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from mdrepro.core.errors import BadInput
from mdrepro.models import text
from mdrepro.models.pipeline import MobileDiffusionPipeline
from mdrepro.models.snapfusion.evolvable import EvolvableUNet
from mdrepro.training.runs import model_folders
from mdrepro.training.runs.commands import pipeline
from tests.support import tiny_pipeline as tiny

torch.set_num_threads(1)
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 3438\n".format("0" * 64)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    tiny.pipeline().save_pretrained(folder)
    AutoencoderKL(norm_num_groups=8, block_out_channels=(8,)).save_pretrained(folder / "plain")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "pipeline")


def weights(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor], str], Any]) -> str:
    """Change the weights of a saved network, and return the name of the one in the middle."""
    file = weights(folder)
    tensors = load_file(file)
    name = sorted(tensors)[len(tensors) // 2]
    change(tensors, name)
    save_file(tensors, file, metadata={"format": "pt"})
    return name


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "pipeline, unet": ("unet", lambda folder: pipeline(str(folder))),
    "pipeline, vae": ("vae", MobileDiffusionPipeline.from_pretrained),
    "pipeline, text": ("text_encoder", MobileDiffusionPipeline.from_pretrained),
    "part of a run": ("unet", lambda folder: model_folders.load(folder / "unet", "unet")),
    "text of a run": ("text_encoder", lambda folder: model_folders.load(folder / "text_encoder", "text_encoder")),
    "pretrained": ("vae", lambda folder: model_folders.Pretrained(str(folder)).load("vae")),
    "pretrained text": ("text_encoder", lambda folder: model_folders.Pretrained(str(folder)).load("text_encoder")),
    "a class of diffusers": ("plain", lambda folder: model_folders.load(folder / "plain", "vae")),
    "text encoder": ("text_encoder", text.load),
}
CHANGES: dict[str, Callable[[dict[str, torch.Tensor], str], Any]] = {
    "missing": lambda tensors, name: tensors.pop(name),
    "unexpected": lambda tensors, name: tensors.update({"another.weight": tensors[name].clone()}),
    "shape": lambda tensors, name: tensors.update({name: torch.zeros(3, 5)}),
    "nan": lambda tensors, name: tensors[name].view(-1)[0:1].fill_(torch.nan),
    "infinite": lambda tensors, name: tensors[name].view(-1)[-1:].fill_(-torch.inf),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_weight_that_is_not_as_it_should_be_is_named_with_its_file(folder: Path, reader: str, change: str) -> None:
    part, read = READERS[reader]
    name = rewrite(folder / part, CHANGES[change])
    with pytest.raises(BadInput) as error:
        read(folder)
    assert str(folder / part) in str(error.value)
    named = {"unexpected": "another.weight"}.get(change, name)
    assert named in str(error.value)


def test_folders_without_a_fault_are_read(folder: Path) -> None:
    for _, read in READERS.values():
        read(folder)
    made = pipeline(str(folder))
    original = tiny.pipeline().unet.state_dict()
    assert all(torch.equal(value, original[key]) for key, value in made.unet.state_dict().items())
    assert not made.unet.training
    assert not made.text_encoder.training


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pointer": (lambda file: file.write_text(LFS), "git lfs pull"),
    "cut": (cut, "no whole safetensors file"),
    "empty": (lambda file: file.write_bytes(b""), "no whole safetensors file"),
    "longer": (lambda file: file.write_bytes(file.read_bytes() + b"\0"), "no whole safetensors file"),
    "text": (lambda file: file.write_text("not tensors" * 9), "no whole safetensors file"),
    "gone": (lambda file: file.unlink(), "get or save the whole folder again"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_of_weights_is_named(folder: Path, reader: str, damage: str) -> None:
    part, read = READERS[reader]
    harm, says = DAMAGE[damage]
    harm(weights(folder / part))
    with pytest.raises(BadInput, match=re.escape(says)) as error:
        read(folder)
    assert str(folder / part) in str(error.value)


@pytest.mark.parametrize("reader", ["pipeline, unet", "part of a run", "a class of diffusers", "text encoder"])
@pytest.mark.parametrize(
    "content", ["", "[]", LFS, '{"a": ' * 3000, '{"a": NaN}', '{"a": 1e999}', b"\xff\xfe", '{"a": "\\ud800"}']
)
def test_a_damaged_config_is_named(folder: Path, reader: str, content: str | bytes) -> None:
    part, read = READERS[reader]
    (folder / part / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=re.escape(f"{part}/config.json")):
        read(folder)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("unet", "block_out_channels", [1 << 40, 32, 32]),
        ("unet", "mid_transformer_blocks", 10**9),
        ("text_encoder", "num_hidden_layers", 10**6),
        ("text_encoder", "vocab_size", 10**12),
        ("scheduler", "num_train_timesteps", 10**10),
        ("vae", "layers_per_block", 10**8),
    ],
)
def test_immense_networks_are_refused_before_they_are_built(folder: Path, part: str, field: str, value: Any) -> None:
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(BadInput, match=f"{field} is .*: expected at most"):
        MobileDiffusionPipeline.from_pretrained(folder)


def test_a_large_network_takes_no_memory_where_its_weights_are_small(folder: Path) -> None:
    """Within the bounds of a config, 10^12 weights: they are compared with the file's before any is made."""
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"block_out_channels": [1 << 18, 1 << 19, 1 << 20]}))
    with pytest.raises(BadInput, match="unet"):
        MobileDiffusionPipeline.from_pretrained(folder)
    with pytest.raises(BadInput, match="its config describes"):
        model_folders.load(folder / "unet", "unet")


@pytest.mark.parametrize("part", ["scheduler", "tokenizer", "text_encoder", "unet", "vae"])
def test_a_pipeline_without_one_of_its_folders_says_which(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    with pytest.raises(BadInput, match=f"has no folder {part}"):
        pipeline(str(folder))
    (folder / part).mkdir()
    with pytest.raises(BadInput, match=re.escape(str(folder))):
        pipeline(str(folder))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "[]", "{}", LFS])
def test_a_broken_tokenizer_is_bad_input(folder: Path, name: str, content: str) -> None:
    (folder / "tokenizer" / name).write_text(content)
    for read in (lambda: pipeline(str(folder)), lambda: model_folders.load(folder / "tokenizer", "tokenizer")):
        if (name, content) == ("tokenizer_config.json", "{}"):  # all that it says has defaults
            continue
        with pytest.raises(BadInput, match=re.escape(str(folder))):
            read()


@pytest.mark.parametrize(
    "entry", [["os", "path"], ["mdrepro.core.paths", "root"], ["nowhere", "Net"], ["diffusers", 3], ["diffusers"], 7]
)
def test_a_pipeline_of_other_classes_is_refused(folder: Path, entry: Any) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"unet": entry}))
    with pytest.raises(BadInput, match=re.escape(str(folder))):
        pipeline(str(folder))


def test_names_in_an_index_stay_inside_the_folder(folder: Path, tmp_path: Path) -> None:
    index = folder / "model_index.json"
    values = json.loads(index.read_text())
    shutil.copytree(folder / "unet", tmp_path / "outside")
    index.write_text(json.dumps(values | {"../outside": values["unet"]}))
    with pytest.raises(BadInput, match=r"\.\./outside"):
        pipeline(str(folder))
    index.write_text(json.dumps(values))
    shards = weights(folder / "unet")
    shutil.move(shards, tmp_path / "shard.safetensors")
    listed = {
        "metadata": {},
        "weight_map": dict.fromkeys(load_file(tmp_path / "shard.safetensors"), "../../shard.safetensors"),
    }
    (folder / "unet" / f"{shards.name}.index.json").write_text(json.dumps(listed))
    with pytest.raises(BadInput, match=r"\.\./\.\./shard"):
        pipeline(str(folder))


@pytest.mark.parametrize("reader", ["pipeline, unet", "part of a run", "a class of diffusers", "text encoder"])
def test_weights_of_another_library_do_not_open_a_pickle(folder: Path, reader: str) -> None:
    """``model.safetensors`` beside ``diffusion_pytorch_model.bin``, and the other way round."""
    part, read = READERS[reader]
    file = weights(folder / part)
    decoy = "diffusion_pytorch_model" if file.stem == "model" else "model"
    pickled = "pytorch_model" if file.stem == "model" else file.stem
    torch.save(load_file(file), folder / part / f"{pickled}.bin")
    shutil.move(file, folder / part / f"{decoy}.safetensors")
    with pytest.raises(BadInput, match="can run code when loaded"):
        read(folder)


def test_another_networks_folder_is_refused_by_the_evolvable_network(folder: Path) -> None:
    unet = tiny.sd_unet()
    unet.save_pretrained(folder / "sd")
    name = rewrite(folder / "sd", CHANGES["missing"])
    with pytest.raises(BadInput, match=re.escape(name)):
        EvolvableUNet.from_sd15(folder / "sd")


def test_a_published_run_that_shares_weights_is_whole(folder: Path, tmp_path: Path) -> None:
    rest = shutil.copytree(folder / "unet", tmp_path / "parent")
    own = weights(folder / "unet")
    tensors = load_file(own)
    half = sorted(tensors)[::2]
    save_file({key: tensors[key] for key in half}, own)
    made = model_folders.load(folder / "unet", "unet", rest)
    assert all(torch.equal(value, tensors[key]) for key, value in made.state_dict().items())
    name = sorted(tensors)[1]
    save_file({key: value for key, value in tensors.items() if key != name}, weights(rest))
    with pytest.raises(BadInput, match=re.escape(name)):
        model_folders.load(folder / "unet", "unet", rest)
