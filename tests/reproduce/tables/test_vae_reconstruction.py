"""The table's rows and figures, from networks with random weights on some of the held-out photographs."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from scipy import stats
from skimage import metrics

from mdrepro.core import paths
from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.metrics.image import frechet, reconstruction
from mdrepro.metrics.image.statistics import Convention, Statistics
from mdrepro.models.mobilediffusion import vae
from mdrepro.papers import ledger
from mdrepro.reproduce.tables import vae_figures, vae_networks
from mdrepro.reproduce.tables import vae_reconstruction as table
from mdrepro.reproduce.workflow.record import complete
from mdrepro.training.recipes.photos import autoencoders
from mdrepro.training.runs import model_folders, store
from mdrepro.training.runs.store import Run
from tests.support import weight_files as makers

TABLE = "mobilediffusion-vae-reconstruction"
SCENES = ("chelsea", "motorcycle", "astronaut", "camera")


@pytest.fixture(scope="module", autouse=True)
def _once():
    """A network sees a tile once: tests compute the table's numbers again from the same reconstructions."""
    known, reconstruct = {}, vae.reconstruct

    def once(model, tile):
        key = id(model), tile.numpy().tobytes()
        if key not in known:
            known[key] = model, reconstruct(model, tile)
        return known[key][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "reconstruct", once)
        yield


@pytest.fixture(scope="module")
def pictures():
    """The first tile of each of five photographs, two of which show one scene."""
    whole = vae_networks.pictures("quick")
    chosen = sorted((p for p in whole.pictures if p.scene in SCENES), key=lambda p: SCENES.index(p.scene))
    return replace(whole, pictures=tuple(replace(p, tiles=_first(p.tiles)) for p in chosen))


def _first(tiles):
    return lambda size: tiles(size)[:1]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Networks with random weights in the place of trained ones."""
    torch.manual_seed(0)
    runs = {}
    for row, recipe in autoencoders(width=8, steps=1, mixed=1, perceptual=1).items():
        folder = tmp_path_factory.mktemp(row)
        model_folders.save({"vae": vae.build(recipe.network["row"], 8)}, folder)
        curve = [{"step": step, f"{recipe.kind}/reconstruction": 1 / step} for step in (1, 2)]
        runs[recipe.name] = Run(recipe, folder, {"curve": curve})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "load_or_train", lambda recipe: runs[recipe.name])
        return vae_networks.networks("quick", autoencoders(width=8, steps=1, mixed=1, perceptual=1))


@pytest.fixture(scope="module")
def found(networks, pictures):
    with pytest.MonkeyPatch.context() as missing:
        missing.setattr(torch.hub, "get_dir", lambda: "nowhere")
        makers.no_package(missing, Path("nowhere"))
        some = {row: networks[row] for row in ("sd", "ours", "ours-lite")}
        return table.measure(some, pictures, (128, 256, 512), "quick")


@pytest.fixture(scope="module")
def cells(found):
    return {(row.row, row.column): row for row in table.rows(found)}


def test_rows_are_declared_and_complete(cells, found, networks):
    spec = ledger.find(TABLE)
    assert set(networks) == set(spec.rows)
    assert {column for _, column in cells} <= set(spec.columns)
    assert complete(spec, table.rows(found))
    assert ("ours", table.FID) not in cells


def test_quality_is_scikit_images_averaged_over_scenes(cells, found, pictures):
    for row, one in found.measured.items():
        by_scene = {}
        for picture in pictures.pictures:
            tiles = picture.tiles(256)
            again = table.reconstructed(one.network.model, tiles)
            by_scene.setdefault(picture.scene, []).extend(
                metrics.peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=255)
                for a, b in zip(tiles, again, strict=True)
            )
        means = [np.mean(values) for values in by_scene.values()]
        assert len(by_scene["motorcycle"]) == 2  # views
        assert cells[row, "psnr"].value == pytest.approx(np.mean(means), abs=1e-6)
        assert cells[row, "psnr"].n == len(means) == 4
        low, high = stats.t.interval(0.95, 3, np.mean(means), stats.sem(means))
        assert (cells[row, "psnr"].ci_low, cells[row, "psnr"].ci_high) == pytest.approx((low, high), rel=1e-6)


def test_other_sizes_are_compared_on_the_same_scenes(cells, found, pictures):
    large = [p for p in pictures.pictures if len(p.tiles(512))]
    assert {p.scene for p in large} == {"astronaut", "camera"}
    for row in ("sd", "ours", "ours-lite"):
        one, at_512, cut, at_128 = found.measured[row], [], [], []
        for p in large:
            for whole in p.tiles(512):
                again = table.reconstructed(one.network.model, whole[None])[0]
                quarters = [whole[:, y : y + 256, x : x + 256] for y in (0, 256) for x in (0, 256)]
                errors = [squared(one, quarter) for quarter in quarters]
                at_512.append(metrics.peak_signal_noise_ratio(whole.numpy(), again.numpy(), data_range=255))
                cut.append(10 * np.log10(255**2 / np.mean(errors)))
        for p in pictures.pictures[:1]:
            for whole in p.tiles(256):
                quarters = [whole[:, y : y + 128, x : x + 128] for y in (0, 128) for x in (0, 128)]
                at_128.append(10 * np.log10(255**2 / np.mean([squared(one, quarter) for quarter in quarters])))
        assert cells[row, "psnr_512"].value == pytest.approx(np.mean(at_512), abs=1e-9)
        assert cells[row, "psnr_512_minus_256"].value == pytest.approx(np.mean(at_512) - np.mean(cut), abs=1e-9)
        assert one.scores["psnr_128"][pictures.pictures[0].scene] == pytest.approx(at_128, abs=1e-9)
        change = cells[row, "psnr_128"].value - cells[row, "psnr"].value
        assert cells[row, "psnr_128_minus_256"].value == pytest.approx(change, abs=1e-9)
        assert cells[row, "psnr_512"].n == 2
        assert cells[row, "psnr_128"].n == 4
        assert "tiles of 128 px" in cells[row, "psnr_128"].protocol


def test_other_sizes_are_those_of_the_networks_before_lpips(found, networks):
    row = "ours-perceptual"
    also = replace(found, measured=found.measured | {row: table.Measured(networks[row])})
    (cell,) = table._of_size(also, row, 512)
    assert cell.value is None
    assert "before LPIPS" in cell.reason


def squared(one: table.Measured, tile: torch.Tensor) -> float:
    again = table.reconstructed(one.network.model, tile[None])[0]
    return float((again.double() - tile.double()).square().mean())


def test_a_network_that_ignores_size_is_as_good_at_all(pictures, monkeypatch):
    """Rounding to eight levels, pixel by pixel: quiet and busy tiles have errors that differ by far."""
    monkeypatch.setattr(table, "reconstructed", lambda model, tiles, *_: tiles // 32 * 32)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "nowhere")
    makers.no_package(monkeypatch, Path("nowhere"))
    one = vae_networks.Network("rounds", torch.nn.Identity(), "not trained")
    found = table.measure({"ours": one}, pictures, (128, 256, 512), "quick")
    for size in (128, 512):
        assert table._of_size(found, "ours", size)[1].value == pytest.approx(0, abs=1e-9)


def test_gains_are_paired_differences(cells):
    for row, other in table.GAINS:
        for column in ("psnr", "ssim"):
            assert table.DIFFERENCES[other][column] == f"{column}_gain_over_{other}"
            gain = cells[row, f"{column}_gain_over_{other}"]
            assert gain.value == pytest.approx(cells[row, column].value - cells[other, column].value, abs=1e-9)
            assert gain.ci_low <= gain.value <= gain.ci_high
            assert "minus" in gain.protocol


def test_lpips_is_compared_on_the_same_tiles(cells, found):
    assert "lpips" in cells["ours", "lpips_alex_minus_sd"].reason
    rng, measured = np.random.default_rng(0), {}
    for row, shift in (("sd", 0.1), ("ours", 0.0), ("ours-lite", 0.0)):
        scores = {**found.measured[row].scores}
        for column in ("lpips_alex", "lpips_vgg"):  # scenes differ by far more than rows do
            hardness = np.random.default_rng(1).uniform(0, 1, len(scores["psnr"]))
            scores[column] = {
                scene: (base + shift + 0.01 * rng.standard_normal(len(tiles))).tolist()
                for base, (scene, tiles) in zip(hardness, scores["psnr"].items(), strict=True)
            }
        measured[row] = replace(found.measured[row], scores=scores)
    again = {(row.row, row.column): row for row in table.rows(replace(found, measured=measured, reasons={}))}
    one, own = again["ours", "lpips_vgg_minus_sd"], again["ours", "lpips_vgg"]
    assert one.value == pytest.approx(own.value - again["sd", "lpips_vgg"].value, abs=1e-9)
    assert one.ci_low < one.value < one.ci_high < 0
    assert own.ci_high > again["sd", "lpips_vgg"].value


def test_parameters_and_names_are_those_of_the_measured_decoder(cells, networks):
    for row in ("sd", "ours", "ours-lite"):
        own = sum(p.numel() for p in networks[row].model.decoder.parameters()) / 1e6
        assert cells[row, "params"].value == pytest.approx(own)
        assert networks[row].name.endswith(f"channels, {own:.1f}M")
    assert networks["sd"].name.startswith("SD-like, 4 channels")
    assert networks["ours-perceptual"].name.endswith("M, LPIPS and GAN")
    assert not any("ours" in network.name.lower() for network in networks.values())


def test_lpips_without_weights_is_not_attempted(cells):
    for net in ("alex", "vgg"):
        cell = cells["ours", f"lpips_{net}"]
        assert cell.value is None
        assert reconstruction.BACKBONES[net].file in cell.reason


def test_lpips_with_weights_is_measured(monkeypatch, networks, pictures):
    class ToyLpips:
        protocol = "toy LPIPS"

        def __init__(self, net):
            self.net = net

        def __call__(self, x, y):
            return (x.double() - y.double()).abs().mean(dim=(1, 2, 3))

        def of_several(self, x, ys):
            return [self(x, y) for y in ys]

    monkeypatch.setattr(reconstruction, "Lpips", ToyLpips)
    two = replace(pictures, pictures=vae_networks.pictures("quick").pictures[:2])
    three = {row: networks[row] for row in ("sd", "ours", "ours-lite")}
    found = table.measure(three, two, (256,), "quick")
    rows = {(r.row, r.column): r for r in table.rows(found)}
    toy = ToyLpips("alex")
    for column, of in (("lpips_alex", slice(None)), ("lpips_vgg", slice(1))):
        of_pictures = []
        for picture in two.pictures:
            tiles = picture.tiles(256)[of]
            of_pictures.append(float(toy(tiles, table.reconstructed(networks["sd"].model, tiles)).mean()))
        assert rows["sd", column].value == pytest.approx(np.mean(of_pictures))
    assert rows["sd", "lpips_alex"].value != pytest.approx(rows["sd", "lpips_vgg"].value)
    assert "8 tiles of" in rows["sd", "lpips_alex"].protocol
    assert "2 tiles, the first of each picture, of" in rows["sd", "lpips_vgg"].protocol
    assert "toy LPIPS" in rows["sd", "lpips_vgg"].protocol


def test_protocol_says_how_it_was_measured(cells, found, networks):
    told = cells["ours-lite", "ssim"].protocol
    for part in (
        "4 scenes: 5 tiles of 256 px",
        "all natural scenes of Python packages held out",
        "sigma 1.5",
        "encoder of the full one fixed",
        "1 steps of 8 crops of 64 px (squared error, muon",
        "1 steps of crops of 64, 128, 192, 256 px with the area of 1 of the largest (squared error, muon",
        "from 37 photographs",
        "seed 0",
        "95 % interval of Student over scenes",
    ):
        assert part in told
    other = replace(found.measured["ours"], network=networks["ours-perceptual"])
    again = table.rows(replace(found, measured=found.measured | {"ours-perceptual": other}))
    (cell,) = (row for row in again if (row.row, row.column) == ("ours-perceptual", "psnr"))
    assert "LPIPS, patch-GAN and absolute error, KL" in cell.protocol


def test_figures_show_every_network_and_picture(found, networks, tmp_path):
    shown = vae_figures.reconstructions_figure(found)
    assert len(shown.axes) == 3 * 2 * 4
    original = shown.axes[0].images[0].get_array()
    assert any(np.array_equal(original, tile.permute(1, 2, 0).numpy()) for tile in found.originals[0])
    half = torch.full((3, 256, 256), 128, dtype=torch.uint8)
    half[:, 144:, 128:] = 255 * torch.randint(2, (1, 112, 128))
    left, top = vae_figures._busiest(half)
    assert left >= 128
    assert top >= 144
    for name, figure in {
        "r": shown,
        "q": vae_figures.quality_figure(found),
        "l": vae_figures.loss_figure(networks),
    }.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


# ------------------------------------------------------------------------------------------------------ larger tiers


@pytest.fixture
def larger(tmp_path, monkeypatch):
    """SD's autoencoder, small, as a folder of the hub's layout; runs of the tier's recipes; a folder of pictures."""
    home = tmp_path / "home"
    (home / "notebooks").mkdir(parents=True)
    monkeypatch.setenv("MDREPRO_ROOT", str(home))
    paths.root.cache_clear()
    arguments = {k: v for k, v in vae.configuration("sd", 8).items() if not k.startswith("decoder_")}
    AutoencoderKL(**arguments).save_pretrained(home / "data/weights/stable-diffusion-v1-5/vae")
    runs = {}
    for name, row in (("proxy-vae", "ours"), ("proxy-vae-lite", "ours-lite")):
        model_folders.save({"vae": vae.build(row, 8)}, tmp_path / name)
        runs[name] = tmp_path / name

    def trained(recipe):
        return Run(recipe, runs[recipe.name], {"curve": []})

    monkeypatch.setattr(store, "load_or_train", trained)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(values).resize((600, 400)).save(folder / f"{number}.jpg")
    yield folder
    paths.root.cache_clear()


def test_the_same_calls_measure_sd_itself_on_a_folder_at_a_larger_tier(larger, monkeypatch):
    encoder, reconstructed = Toy(), table.reconstructed
    levels = iter((16, 32, 64))
    monkeypatch.setattr(table.sets, "protocol", lambda encoder: "toy")
    monkeypatch.setattr(table.coco, "encoder", lambda name, on: encoder)
    networks = vae_networks.networks("proxy", {})
    pictures = vae_networks.pictures("proxy", str(larger))
    assert networks["sd"].name.startswith("SD-1.5, 4 channels")
    assert list(networks) == ["sd", "ours", "ours-lite"]
    assert set(vae_networks.checkpoints(networks)) == {"ours", "ours-lite"}
    by_model = {id(one.model): next(levels) for one in networks.values()}
    tile = pictures.pictures[0].tiles(256)[:, :, :64, :64]
    assert all(reconstructed(one.model, tile).shape == tile.shape for one in networks.values())
    monkeypatch.setattr(table, "reconstructed", lambda model, x, *_: x // by_model[id(model)] * by_model[id(model)])
    makers.no_package(monkeypatch, larger)
    found = table.measure(networks, pictures, vae_networks.SIZES["proxy"], "proxy")
    cells = {(row.row, row.column): row for row in table.rows(found)}
    assert cells["sd", "psnr"].n == cells["sd", "psnr_512"].n == 3
    x = pictures.pictures[1].tiles(256)
    with Image.open(larger / "1.jpg") as image:
        square = image.convert("RGB").resize((256, 256), Image.Resampling.LANCZOS, box=(100, 0, 500, 400))
    assert np.array_equal(x[0].permute(1, 2, 0).numpy(), np.asarray(square))
    originals, decoded = Statistics(encoder.convention), Statistics(encoder.convention)
    for picture in pictures.pictures:
        tiles = picture.tiles(256)
        originals.add(encoder(tiles / 255))
        decoded.add(encoder(table.reconstructed(networks["sd"].model, tiles) / 255))
    assert cells["sd", table.FID].value == pytest.approx(frechet.distance(originals, decoded, few=True).value, rel=1e-6)
    assert complete(ledger.find(TABLE), table.rows(found))
    assert vae_figures.quality_figure(found)
    assert vae_figures.reconstructions_figure(found)


class Toy:
    """Mean and spread of red, for two features of an image."""

    network = SimpleNamespace(width=2)

    def __init__(self):
        self.convention = Convention("toy", "0", "none")

    def prepare(self, image):
        return image / 255

    def __call__(self, images):
        return torch.stack([images[:, 0].mean(dim=(1, 2)), images[:, 0].std(dim=(1, 2))], dim=1)


def test_what_is_missing_at_a_larger_tier_says_how_to_get_it(larger, monkeypatch):
    with pytest.raises(NotAttempted, match=r"val2017\.zip"):
        vae_networks.pictures("paper", vae_networks.COCO)
    with pytest.raises(BadInput, match="larger tiers"):
        vae_networks.pictures("quick", vae_networks.COCO)
    (paths.root() / "data/weights/stable-diffusion-v1-5/vae/config.json").unlink()
    with pytest.raises(BadInput, match="holds no vae"):
        vae_networks.networks("proxy", {})
