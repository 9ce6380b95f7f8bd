"""Autoencoders on photographs as ordinary runs: the same bits again, after a stop too, and what stays fixed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mdrepro.core import paths
from mdrepro.core.errors import BadInput
from mdrepro.data import photos
from mdrepro.models.mobilediffusion import vae
from mdrepro.training.engine.draws import Draws
from mdrepro.training.objectives.autoencoder import Autoencoding
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.photos import autoencoders
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import store

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photographs of blocks of 8 px; two of them are held out, and one is for validation."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(4):
        blocks = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(8, axis=0).repeat(8, axis=1)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def small(pictures: Path) -> dict[str, Any]:
    return {"photos": str(pictures), "width": 8, "crop": 16, "batch": 2, "steps": 2, "mixed": 2, "perceptual": 0}


@pytest.fixture(scope="module")
def trained(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, store.Run]]:
    """The table's three networks, in a checkout of their own."""
    with pytest.MonkeyPatch.context() as patch:
        _enter(tmp_path_factory.mktemp("first"), patch)
        runs = {row: store.load_or_train(recipe) for row, recipe in autoencoders(**small).items()}
    paths.root.cache_clear()
    yield runs
    paths.root.cache_clear()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty checkout."""
    _enter(tmp_path, monkeypatch)
    yield tmp_path
    paths.root.cache_clear()


def _enter(home: Path, patch: pytest.MonkeyPatch) -> None:
    (home / "notebooks").mkdir()
    patch.setenv("MDREPRO_ROOT", str(home))
    paths.root.cache_clear()


def weights(run: store.Run) -> bytes:
    return (run.folder / WEIGHTS).read_bytes()


@pytest.mark.parametrize("changes", [{"seed": 1}, {"precision": "bf16"}])
def test_the_same_run_twice_gives_the_same_bits_and_another_one_others(
    trained: dict[str, store.Run], small: dict[str, Any], elsewhere: Path, changes: dict[str, Any]
) -> None:
    first = store.load_or_train(autoencoders(**small | changes)["ours"])
    assert weights(first) != weights(trained["ours"])
    first.folder.rename(elsewhere / "first")
    torch.manual_seed(99)
    again = store.load_or_train(first.recipe)
    assert load_file(again.folder / WEIGHTS).keys() == load_file(elsewhere / "first" / WEIGHTS).keys()
    assert weights(again) == (elsewhere / "first" / WEIGHTS).read_bytes()


def test_a_run_stopped_among_the_mixed_crops_goes_on_to_the_same_bits(
    trained: dict[str, store.Run], small: dict[str, Any], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run is whole by then and is not trained again."""
    losses, sizes = Autoencoding.losses, []

    def interrupted(self: Autoencoding, phase: str, batch: dict[str, Any], draws: Draws) -> dict[str, torch.Tensor]:
        sizes.append(batch["pixels"].shape[-1])
        if len(sizes) == 4:
            raise KeyboardInterrupt
        return losses(self, phase, batch, draws)

    monkeypatch.setattr(Autoencoding, "losses", interrupted)
    recipe = autoencoders(**small)["ours"]
    with pytest.raises(KeyboardInterrupt):
        store.load_or_train(recipe)
    assert store.find(recipe) is None
    assert weights(store.load_or_train(recipe)) == weights(trained["ours"])
    assert sizes[:2] == [16, 16]
    assert max(sizes[2:]) > 16
    assert sizes[4:] == sizes[2:4]  # the same sizes again


def test_an_altered_first_run_is_trained_again_and_a_finished_one_needs_it_no_more(
    trained: dict[str, store.Run], small: dict[str, Any], elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = autoencoders(**small)["ours"]
    first = store.load_or_train(recipe.parents["start"])
    whole = weights(first)
    (first.folder / WEIGHTS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert weights(store.load_or_train(recipe)) == weights(trained["ours"])
    assert "is not what was written" in capsys.readouterr().err
    assert weights(first) == whole
    (first.folder / WEIGHTS).unlink()
    store.load_or_train(recipe)
    assert not (first.folder / WEIGHTS).exists()


def test_lite_trains_the_decoder_alone(trained: dict[str, store.Run]) -> None:
    full, lite = (trained[row].load("vae") for row in ("ours", "ours-lite"))
    for mine, theirs in zip(vae.encoder_parts(lite), vae.encoder_parts(full), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    assert trained["ours-lite"].record["parameters"] == vae.decoder_parameters(lite) + 8 * 8 + 8  # with its 1x1
    assert lite.config.scaling_factor == full.config.scaling_factor
    assert trained["ours-lite"].record["curve"][-1]["decoder/norm"] > 0


def test_scaled_latents_have_unit_variance(trained: dict[str, store.Run], pictures: Path) -> None:
    crops = photos.Crops(photos.split(str(pictures)).train, [16], 256, seed=7)
    model = trained["ours"].load("vae")
    with torch.inference_mode():
        latents = model.encode(photos.to_network(crops.batch(range(256))["pixels"])).latent_dist.mode()
    assert (latents * model.config.scaling_factor).std().item() == pytest.approx(1, abs=0.15)


def test_records_name_no_path_of_this_machine(trained: dict[str, store.Run], pictures: Path) -> None:
    record = trained["ours-lite"].record
    assert str(pictures) not in trained["ours-lite"].file.read_text()
    assert record["row"]["parents"] == {"vae": "photos-ours", "start": "photos-ours-lite-start"}
    assert record["parents"]["vae"] == trained["ours"].record["key"]


def test_training_learns(small: dict[str, Any], elsewhere: Path) -> None:
    start = autoencoders(**small | {"steps": 36, "learning_rate": 0.01})["ours"].parents["start"]
    errors = [row["autoencoder/reconstruction"] for row in store.load_or_train(start).record["curve"]]
    assert sum(errors[-5:]) < 0.7 * sum(errors[:5])


def test_nan_stops_with_a_clear_error(small: dict[str, Any], elsewhere: Path) -> None:
    recipe = autoencoders(**small | {"steps": 50, "learning_rate": 1e30})["sd"]
    with pytest.raises(
        FloatingPointError,
        match=r"photos-sd-start: the loss of phase autoencoder is not finite at step \d+; .*lower learning_rate",
    ):
        store.load_or_train(recipe)


def test_an_autoencoder_of_another_shape_is_no_start(small: dict[str, Any], elsewhere: Path) -> None:
    fields = vars(autoencoders(**small)["ours"])
    other = autoencoders(**small | {"width": 16})["ours"].parents["start"]
    with pytest.raises(BadInput, match="photos-ours begins with an autoencoder of another shape"):
        store.load_or_train(Recipe(**(fields | {"parents": {"start": other}})))


def test_registered_rows_are_those_of_the_table() -> None:
    assert {row: registry.get(f"photos-{row}").network["row"] for row in vae.FAMILY} == {row: row for row in vae.FAMILY}
