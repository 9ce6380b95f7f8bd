"""Reconstruction metrics beside those of other packages: their numbers by direct calls, and what explains the rest."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import metrics as skimage
from torchmetrics import image as torchmetrics

from mdrepro.core.errors import BadInput
from mdrepro.metrics.image import pairs
from mdrepro.metrics.image.peers import reconstruction as peers
from tests.support import weight_files as makers

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of the other packages


@pytest.fixture(autouse=True)
def cache(cache):
    cache.mkdir(parents=True)
    return cache


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Photographs of two sizes, with little contrast so that their range is not 255, and noisy copies."""
    real, generated = makers.photos(tmp_path_factory.mktemp("photos"), n=3, sizes=[(180, 177), (200, 176)])
    for file in [*real.iterdir(), *generated.iterdir()]:
        makers.save(60 + 0.4 * np.asarray(Image.open(file), float), file)
    return real, generated


def arrays(folders):
    sides = [[np.asarray(Image.open(file)) for file in sorted(folder.iterdir())] for folder in folders]
    return list(zip(*sides, strict=True))


def tensors(folders, scale):
    for a, b in arrays(folders):
        yield tuple(torch.from_numpy(side.copy()).permute(2, 0, 1)[None].float() / scale for side in (b, a))


def by_metric(compared):
    return {one.metric: one for one in compared}


def ours(folders, metric):
    return pairs.evaluate(*folders, [metric])[0].value


def test_scikit_image_s_window_and_covariance_explain_its_ssim(folders):
    compared, missing = peers.against(*folders, "scikit-image")
    found = by_metric(compared)
    assert missing == {}
    psnr = np.mean([skimage.peak_signal_noise_ratio(a, b) for a, b in arrays(folders)])
    ssim = np.mean([skimage.structural_similarity(a, b, channel_axis=-1) for a, b in arrays(folders)])
    assert found["psnr"].theirs == pytest.approx(psnr, abs=1e-9)
    assert found["ssim"].theirs == pytest.approx(ssim, abs=1e-9)
    assert found["ssim"].ours == pytest.approx(ours(folders, "ssim"), abs=1e-12)
    assert found["psnr"].agrees
    assert not found["ssim"].agrees
    assert [text.partition(" (")[0] for text in found["ssim"].conventions] == [
        "a uniform window of 7 px",
        "covariances over n - 1 of a window's n pixels",
    ]
    assert found["ssim"].under == pytest.approx(ssim, abs=1e-7)


def test_border_range_and_pooling_explain_torchmetrics(folders):
    compared, missing = peers.against(*folders, "torchmetrics")
    found = by_metric(compared)
    assert "LPIPS (alex) needs" in missing["lpips-alex"]
    direct = {
        "psnr": torchmetrics.PeakSignalNoiseRatio(data_range=1.0),
        "ssim": torchmetrics.StructuralSimilarityIndexMeasure(),
        "ms-ssim": torchmetrics.MultiScaleStructuralSimilarityIndexMeasure(),
    }
    begins = {
        "psnr": ["the PSNR of the mean squared error over all pairs"],
        "ssim": ["windows beyond the border", "the data range found in each pair"],
        "ms-ssim": ["windows beyond the border of the coarsest scale", "the data range found in each pair"],
    }
    for name, metric in direct.items():
        exact = metric.clone().set_dtype(torch.float64)
        for x, y in tensors(folders, 255):
            metric.update(x, y)
            exact.update(*(torch.round(255 * image).double() / 255 for image in (x, y)))
        one, exact = found[name], float(exact.compute())
        assert one.theirs == pytest.approx(float(metric.compute()), rel=1e-6)
        if abs(one.theirs / exact - 1) > 1e-5:
            begins[name].append(f"rounding in float32 (in float64 it gives {exact:.7g})")
        assert one.ours == pytest.approx(ours(folders, name), rel=1e-9)
        assert not one.agrees
        assert len(one.conventions) == len(begins[name])
        assert all(text.startswith(begin) for text, begin in zip(one.conventions, begins[name], strict=True))
        assert one.under == pytest.approx(exact, rel=1e-6)
        assert abs(one.difference) > 1e-4


@pytest.mark.parametrize("package", ["lpips", "torchmetrics"])
def test_lpips_agrees_with_the_same_weights(package, folders, cache, cli_run):
    import lpips

    makers.backbone(cache, "alex")
    code, out, error = cli_run(
        "evaluate", "reconstruction", *folders, "--against", package, "--metrics", "lpips-alex", "--json"
    )
    assert code == 0, error
    (one,) = json.loads(out)["comparisons"]
    with torch.no_grad(), makers.small_classifiers():
        model = lpips.LPIPS(net="alex", verbose=False)
        expected = np.mean([model(x - 1, y - 1).item() for x, y in tensors(folders, 127.5)])
    assert one["theirs"] == pytest.approx(expected, rel=1e-5)
    assert one["ours"] == pytest.approx(expected, rel=1e-4)
    assert (one["agrees"], one["verdict"]) == (True, "the two agree")


def test_identical_pairs_explain_an_infinite_psnr(folders, tmp_path, cli_run):
    copy = tmp_path / "copy"
    shutil.copytree(folders[1], copy)
    shutil.copy(folders[0] / "0000.png", copy / "0000.png")
    (one,), _ = peers.against(folders[0], copy, "scikit-image", ["psnr"])
    assert (one.theirs, one.difference, one.under, one.agrees) == (None, None, None, False)
    assert one.verdict == "explained by identical pairs counted as infinite (ours: left out)"
    code, out, _ = cli_run(
        "evaluate", "reconstruction", folders[0], copy, "--against", "scikit-image", "--metrics", "psnr"
    )
    assert code == 0
    assert "infinite" in out.splitlines()[1]
    assert out.splitlines()[2] == f"  psnr: {one.verdict}"
    with pytest.raises(BadInput, match="all pairs are identical"):
        peers.against(folders[0], folders[0], "scikit-image", ["psnr"])


def test_images_too_small_for_ms_ssim_are_left_out_or_refused(tmp_path):
    small = makers.photos(tmp_path / "small", n=2, size=40)
    compared, missing = peers.against(*small, "torchmetrics")
    assert [one.metric for one in compared] == ["psnr", "ssim"]
    assert missing["ms-ssim"] == "0000.png: MS-SSIM needs at least 176 px, got 40 x 40"
    with pytest.raises(BadInput, match=r"0000.png: MS-SSIM needs"):
        peers.against(*small, "torchmetrics", ["ms-ssim"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--against", "skimage"], "unknown value of --against 'skimage' (did you mean scikit-image?)"),
        (
            ["--against", "scikit-image", "--metrics", "ms-ssim"],
            "has no ms-ssim to compare: expected psnr",
        ),
        (["--against", "lpips", "--metrics", "lpips-vgg"], "LPIPS (vgg) needs vgg16"),
        (["--against", "lpips"], "LPIPS (alex) needs alexnet"),
    ],
)
def test_what_a_package_does_not_have_is_refused(cli_run, folders, options, says):
    code, out, error = cli_run("evaluate", "reconstruction", *folders, *options)
    assert (code, out) == (1 if "lpips" in options else 2, "")
    assert says in error
    assert error.count("\n") == 1
