"""SceneClip: the towers' own features, their cosine, storage, and what a trained pair prefers."""

from pathlib import Path

import pytest
import torch

from mdrepro.core.errors import BadInput
from mdrepro.data.shapes import TOKENS, Shapes, caption
from mdrepro.metrics.image.scenes import clip_cosines
from mdrepro.models import text
from mdrepro.models.scenes.clip import SceneClip
from mdrepro.training.runs import model_folders, store

SMALL = {"features": 16, "image_width": 8, "width": 32, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def clip() -> SceneClip:
    torch.manual_seed(0)
    return SceneClip(**SMALL).eval()


def test_similarity_is_the_cosine_of_both_towers(clip: SceneClip) -> None:
    batch = Shapes("validation", 6).batch(range(6))
    ids = text.tokenize(clip.tokenizer, batch["caption"], TOKENS)
    with torch.no_grad():
        image, words = clip.image(batch["pixels"] / 127.5 - 1), clip.text(ids)[0]
    wanted = torch.nn.functional.cosine_similarity(image, words)
    found = clip_cosines(clip, batch["pixels"], batch["caption"])
    assert torch.allclose(torch.from_numpy(found).float(), wanted, atol=1e-6)


def test_batches_do_not_matter(clip: SceneClip) -> None:
    batch = Shapes("validation", 5).batch(range(5))
    whole, parted = clip.image_features(batch["pixels"]), clip.image_features(batch["pixels"], batch=2)
    assert torch.allclose(whole, parted, atol=1e-6)
    assert torch.allclose(clip.text_features(batch["caption"]), clip.text_features(batch["caption"], 2), atol=1e-6)


def test_other_images_and_counts_are_refused(clip: SceneClip) -> None:
    with pytest.raises(BadInput, match=r"expected uint8 \(n, 3, 64, 64\)"):
        clip.image_features(torch.zeros(1, 3, 64, 64))
    with pytest.raises(BadInput, match="make no pairs"):
        clip_cosines(clip, torch.zeros(2, 3, 64, 64, dtype=torch.uint8), ["a red star"])


def test_it_is_stored_and_found_again(clip: SceneClip, tmp_path: Path) -> None:
    model_folders.save({"clip": clip}, tmp_path)
    again = model_folders.load(tmp_path / "clip", "clip")
    assert {file.name for file in (tmp_path / "clip").iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    assert not again.training
    one, two = (net.text_features(["a red star"]) for net in (clip, again))
    assert torch.allclose(one, two, atol=1e-6)


def test_the_published_pair_prefers_the_right_caption() -> None:
    run = store.find("shapes-clip")
    assert run is not None
    scenes = Shapes("validation", 64).scenes(range(64))
    batch = Shapes("validation", 64).batch(range(64))
    clip = run.load("clip")
    image, words = clip.image_features(batch["pixels"]), clip.text_features([caption(scene) for scene in scenes])
    first = (image @ words.T).argmax(dim=1) == torch.arange(64)
    assert first.float().mean() >= 0.85
    own = clip_cosines(clip, batch["pixels"], batch["caption"])
    other = clip_cosines(clip, batch["pixels"], [*batch["caption"][1:], batch["caption"][0]])
    assert own.mean() > other.mean() + 0.3
