"""A whole system, exported and run without torch, against its torch pipeline."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdrepro.core.errors import BadInput
from mdrepro.diffusion.renoise import RenoisingScheduler
from mdrepro.export import bundle, commands, components, parity
from mdrepro.export.runner import Runner
from mdrepro.export.stages import quiet
from mdrepro.models import text
from tests.support.checkout import REPOSITORY

pytestmark = pytest.mark.slow

PROMPTS = ["a red star", "a blue circle left of a red star", "", "a star of a circle of a red red blue star left of a"]
Exported = tuple[Path, dict[str, Any]]


def runner(folder: Path, precision: str = "fp32") -> Runner:
    with quiet():
        return Runner(folder / f"bundle-{precision}.json", threads=1)


def test_every_component_passes_in_every_precision(exported: Exported) -> None:
    entries = exported[1]["files"]
    assert len(entries) == 9
    for entry in entries:
        assert entry["parity"]["psnr_db"] >= parity.GATES[entry["precision"]]
        assert entry["peak_memory_gb"] > 0
        assert "converting" in entry["seconds"]
    for entry in exported[1]["bundles"]:
        assert entry["image"]["psnr_db"] >= parity.IMAGE_GATES[entry["precision"]]
        assert len(entry["steps"]) == 3
        assert min(step["psnr_db"] for step in entry["steps"]) >= parity.GATES[entry["precision"]]


def test_tokens_and_text_are_torchs(exported: Exported, tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = components.find(str(tiny)).pipeline
    ours = runner(exported[0])
    with torch.inference_mode():
        wanted = pipeline.encode_prompt(PROMPTS).numpy()
    ids = text.tokenize(pipeline.tokenizer, PROMPTS, 9).numpy()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(np.concatenate([ours.tokens(prompt) for prompt in PROMPTS]), ids)
    assert ["left out" in record.message for record in caplog.records] == [True] * 2
    found = np.concatenate([ours.encode(prompt) for prompt in PROMPTS])
    assert found.shape == (4, 2, 16)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    caplog.clear()
    ours.tokens("a green star")
    assert "outside the vocabulary" in caplog.text


PROGRAM = """
import sys
import numpy as np
from mdrepro.export.runner import Runner
folder, noise, out = sys.argv[1:]
images = Runner(folder + "/bundle-fp32.json", threads=1).images(["a red star", "a blue circle"], noise=np.load(noise))
np.save(out, images)
found = sorted({"torch", "transformers", "diffusers", "litert_torch", "tensorflow", "jax"} & set(sys.modules))
sys.exit(",".join(found) or 0)
"""


def test_images_without_torch_are_those_of_torch(exported: Exported, tiny: Path, tmp_path: Path) -> None:
    pipeline = components.find(str(tiny)).pipeline
    noise = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    np.save(tmp_path / "noise.npy", noise.numpy())
    arguments = [str(exported[0]), str(tmp_path / "noise.npy"), str(tmp_path / "images.npy")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "images.npy")
    wanted = pipeline(["a red star", "a blue circle"], latents=noise[:, 0], output_type="np").images
    assert (found.dtype, found.shape) == (np.uint8, wanted.shape)
    assert parity.compare([wanted], [found / 255], span=1.0).psnr_db >= 40
    assert wanted.std() > 0.02
    assert np.abs(wanted[0] - wanted[1]).max() > 0.02


def test_renoising_without_guidance_is_torchs(exported: Exported, tiny: Path, tmp_path: Path) -> None:
    model = components.find(str(tiny))
    model.pipeline.scheduler = RenoisingScheduler(prediction_type="v_prediction")
    model.pipeline.register_to_config(default_guidance=1.0, default_steps=2)
    files = {one: Path(shutil.copy(exported[0] / f"{one}-fp32.tflite", tmp_path)) for one in components.COMPONENTS}
    with quiet():
        file = bundle.write(components.find_pipeline(model.pipeline, "tiny"), files, tmp_path, "fp32", {})
        found = bundle.compare_images(components.find_pipeline(model.pipeline, "tiny"), file, threads=1)
    assert json.loads(file.read_text())["schedule"]["sampler"] == "renoise"
    assert len(found["steps"]) == 2
    assert found["image"]["psnr_db"] > 60


def test_one_branch_run_twice_is_two_branches(exported: Exported, tiny: Path, tmp_path: Path) -> None:
    both = runner(exported[0])
    with quiet():
        commands.export(str(tiny), tmp_path, wanted=["unet"], branches=1, threads=1)
    shutil.copytree(exported[0], tmp_path / "one")
    shutil.copy(tmp_path / "unet-fp32.tflite", tmp_path / "one")
    told = json.loads((tmp_path / "one" / "bundle-fp32.json").read_text())
    told["sha256"]["unet"] = bundle.sha256(tmp_path / "one" / "unet-fp32.tflite")
    (tmp_path / "one" / "bundle-fp32.json").write_text(json.dumps(told))
    one = runner(tmp_path / "one")
    assert (both.branches, one.branches) == (2, 1)
    for guidance in (1.0, 4.0):
        left, right = (r.images(["a red star"], guidance=guidance, seed=1) for r in (both, one))
        assert np.abs(left.astype(int) - right).max() <= 1
    assert np.abs(left.astype(int) - both.images(["a red star"], guidance=1, seed=1)).max() > 1


def test_noise_is_of_seed_and_place_alone(exported: Exported) -> None:
    ours = runner(exported[0])
    three = ours.images(["a red star"] * 3, seed=5)
    assert np.array_equal(ours.images(["a red star"], seed=5), three[:1])
    assert not np.array_equal(three[0], three[1])
    assert not np.array_equal(ours.images(["a red star"], seed=6), three[:1])


def test_bad_arguments_and_bundles_are_named(exported: Exported, tmp_path: Path) -> None:
    ours = runner(exported[0])
    for options, says in (
        ({"prompts": "a red star"}, "list of texts"),
        ({"prompts": []}, "list of texts"),
        ({"guidance": 0.5}, "guidance is 0.5"),
        ({"steps": 0}, "1 to 1000"),
        ({"noise": np.zeros((1, 4, 4, 4), np.float32)}, r"expected \(1, 1, 4, 4, 4\)"),
    ):
        with pytest.raises(BadInput, match=says):
            ours.images(**{"prompts": ["a red star"]} | options)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"bundle-fp16\.json, bundle-fp32\.json, bundle-int8\.json"):
        Runner(exported[0])
    with pytest.raises(BadInput, match="holds none"):
        Runner(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(exported[0], broken)
    with open(broken / "unet-fp32.tflite", "r+b") as file:
        file.truncate(5000)
    with pytest.raises(BadInput, match="not what was exported"):
        Runner(broken / "bundle-fp32.json")
    (broken / "unet-fp32.tflite").unlink()
    with pytest.raises(BadInput, match="missing"):
        Runner(broken / "bundle-fp32.json")
    for content in ("[]", "{", '{"format": 0, "files": {}, "sha256": {}}'):
        (broken / "bundle-fp32.json").write_text(content)
        with pytest.raises(BadInput, match=r"bundle-fp32\.json|another version"):
            Runner(broken / "bundle-fp32.json")
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="no tokenizer"):
        Runner(broken / "bundle-int8.json")
