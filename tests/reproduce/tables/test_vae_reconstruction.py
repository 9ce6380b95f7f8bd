"""The table's rows and figures, from networks with random weights on two of the held-out photographs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import metrics

from mdrepro.data import photos
from mdrepro.metrics.image import reconstruction
from mdrepro.models.mobilediffusion import vae
from mdrepro.papers import ledger
from mdrepro.reproduce.tables import vae_reconstruction as table
from mdrepro.reproduce.workflow.record import complete
from mdrepro.training.recipes.photos import autoencoders
from mdrepro.training.runs import model_folders
from mdrepro.training.runs.store import Run
from tests.support.weight_files import no_package


@pytest.fixture(scope="module")
def split():
    chosen = photos.split()
    return photos.Split(train=chosen.train, held_out=chosen.held_out[1:3], rule=chosen.rule)


@pytest.fixture(scope="module")
def tiles(split):
    return table.originals(split.held_out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Networks with random weights in the place of trained ones."""
    torch.manual_seed(0)
    trained = {}
    for row, recipe in autoencoders(width=8, crop=16, batch=1, steps=1).items():
        folder = tmp_path_factory.mktemp(row)
        model_folders.save({"vae": vae.build(row, 8)}, folder)
        curve = [{"step": step, f"{recipe.kind}/reconstruction": 1 / step} for step in (1, 2)]
        trained[row] = Run(recipe, folder, {"curve": curve})
    return trained


@pytest.fixture(scope="module")
def measured(runs, tiles):
    missing = pytest.MonkeyPatch()
    missing.setattr(torch.hub, "get_dir", lambda: "nowhere")
    no_package(missing, Path("nowhere"))
    yield table.measure(runs, tiles)
    missing.undo()


@pytest.fixture(scope="module")
def cells(measured, split):
    return {(row.row, row.column): row for row in table.rows(measured, split)}


def test_rows_are_the_declared_ones(cells, measured, split):
    spec = ledger.find("mobilediffusion-vae-reconstruction")
    assert set(table.NAMES) == set(spec.rows)
    assert complete(spec, table.rows(measured, split))
    assert len(cells) == 3 * 6 + 6


def test_quality_is_scikit_images_averaged_over_photographs(cells, measured, tiles):
    for row, images in ((name, ours.images) for name, ours in measured.items()):
        means = [
            np.mean(
                [
                    metrics.peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=255)
                    for a, b in zip(x, y, strict=True)
                ]
            )
            for x, y in zip(tiles, images, strict=True)
        ]
        assert cells[row, "psnr"].value == pytest.approx(np.mean(means), abs=1e-6)
        assert cells[row, "psnr"].n == len(tiles)
        half = 12.706 * abs(means[0] - means[1]) / 2  # Student's, of two photographs
        assert cells[row, "psnr"].ci_low == pytest.approx(np.mean(means) - half, rel=1e-4)


def test_gains_are_paired_differences(cells):
    for row, other in table.GAINS:
        for column in ("psnr", "ssim"):
            gain = cells[row, f"{column}_gain_over_{other}"]
            assert gain.value == pytest.approx(cells[row, column].value - cells[other, column].value, abs=1e-9)
            assert gain.ci_low <= gain.value <= gain.ci_high
            assert "minus" in gain.protocol
    assert ("sd", "psnr_gain_over_ours") not in cells


def test_parameters_are_those_of_the_measured_decoder(cells, runs):
    for row, run in runs.items():
        own = sum(p.numel() for p in run.load("vae").decoder.parameters()) / 1e6
        assert cells[row, "params"].value == pytest.approx(own)
        assert cells[row, "params"].n is None


def test_lpips_without_weights_is_not_attempted(cells):
    for net in ("alex", "vgg"):
        cell = cells["ours", f"lpips_{net}"]
        assert cell.value is None
        assert reconstruction.BACKBONES[net].file in cell.reason


def test_lpips_with_weights_is_measured(monkeypatch, runs, tiles, split):
    class Toy:
        protocol = "toy LPIPS"

        def __init__(self, net):
            self.net = net

        def __call__(self, x, y):
            return (x.double() - y.double()).abs().mean(dim=(1, 2, 3))

    monkeypatch.setattr(reconstruction, "Lpips", Toy)
    rows = {(r.row, r.column): r for r in table.rows(table.measure(runs, tiles), split)}
    assert rows["sd", "lpips_vgg"].value > 0
    assert "toy LPIPS" in rows["sd", "lpips_vgg"].protocol


def test_protocol_says_how_it_was_measured(cells):
    told = cells["ours-lite", "ssim"].protocol
    for part in (
        "3 tiles of 256 px",
        "2 held-out photographs",
        "sigma 1.5",
        "encoder of ours fixed",
        "1 steps of 1 crops of 32 px from 13 photographs",
        "seed 0",
        "over photographs",
    ):
        assert part in told


def test_figures_show_every_network_and_photograph(measured, runs, split, tiles, tmp_path):
    shown = table.reconstructions_figure(measured, split, tiles)
    assert len(shown.axes) == 2 * 2 * 4
    original = shown.axes[0].images[0].get_array()
    assert any(np.array_equal(original, tile.permute(1, 2, 0).numpy()) for tile in tiles[0])
    half = torch.full((3, 256, 256), 128, dtype=torch.uint8)
    half[:, 144:, 128:] = 255 * torch.randint(2, (1, 112, 128))
    left, top = table._busiest(half)
    assert left >= 128
    assert top >= 144
    for name, figure in {
        "r": shown,
        "q": table.quality_figure(measured, split),
        "l": table.loss_figure(runs),
    }.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
