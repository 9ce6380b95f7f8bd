"""Models for others: a complete diffusers folder, whose card says what was measured and works as it stands."""

import json
import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from mdrepro.cli import app
from mdrepro.core import paths
from mdrepro.core.errors import BadInput
from mdrepro.models.pipeline import MobileDiffusionPipeline
from mdrepro.reproduce import model_card
from mdrepro.training.runs import pipelines

NAME = "shapes-1-gan"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_card.write(NAME, tmp_path_factory.mktemp("models") / "one-step")


def image(pipeline: MobileDiffusionPipeline) -> Any:
    options: dict[str, Any] = {"num_inference_steps": 1, "output_type": "pt"}
    return pipeline("a red star", generator=torch.Generator().manual_seed(0), **options).images


def test_what_is_loaded_makes_the_recipe_s_images(folder: Path) -> None:
    loaded = MobileDiffusionPipeline.from_pretrained(folder)
    assert torch.equal(image(loaded), image(pipelines.load(NAME)))
    assert loaded.config.default_steps == 1


def test_the_hub_reads_the_card_and_its_code_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (
        "apache-2.0",
        "diffusers",
        "text-to-image",
    )
    assert "Apache License" in (folder / "LICENSE").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("path or name of this model", str(folder)), names)
    assert names["image"].size == (64, 64)


def test_the_card_has_the_published_numbers(folder: Path) -> None:
    published = json.loads((paths.published("quick") / "mobilediffusion-steps.json").read_text())
    text = (folder / "README.md").read_text()
    assert published["provenance"]["commit"][:9] in text
    (accuracy,) = (row for row in published["rows"] if (row["row"], row["column"]) == ("1", "attribute_accuracy"))
    (line,) = re.findall(r"\| Attribute accuracy \| ([\d.]+) \| \[([\d.]+), ([\d.]+)\] \|", text)
    assert [float(part) for part in line] == pytest.approx(
        [accuracy[part] for part in ("value", "ci_low", "ci_high")], rel=1e-3
    )
    assert "here in 1 step, renoise" in text
    assert "neither the paper's network" in text
    assert "DDIM" not in text.partition("## Measured")[2].partition("## Training")[0].partition("\n\n|")[0]


def test_a_folder_of_something_else_is_refused_and_left(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(BadInput, match="holds no model card"):
        model_card.write(NAME, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "README.md").write_text("of a checkout")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(BadInput, match="holds no model card"):
        model_card.write(NAME, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "mine"
    for wrong, why in (("shapes-9", "shapes-8"), ("shapes-vae", "of a denoiser")):
        with pytest.raises(BadInput, match=why):
            model_card.write(wrong, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_it_is_uploaded_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []

    class Hub:
        def create_repo(self, name: str, *, exist_ok: bool) -> str:
            calls.append((name, exist_ok))
            return f"https://hub/{name}"

        def upload_folder(self, *, folder_path: Path, repo_id: str) -> None:
            calls.append((repo_id, sorted(file.name for file in Path(folder_path).iterdir())))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    with pytest.raises(SystemExit) as ended:
        app.main(["publish-model", NAME, "--to", str(folder), "--hub", "me/one-step"])
    assert not ended.value.code
    assert capsys.readouterr().out.splitlines() == [str(folder), "https://hub/me/one-step"]
    assert calls[0] == ("me/one-step", True)
    assert {"README.md", "LICENSE", "model_index.json", "unet", "vae", "tokenizer"} <= set(calls[1][1])
