"""Reconstruction metrics of folders against scikit-image and lpips, and the folders that are refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from skimage import metrics as skimage

from mdrepro.core.errors import BadInput
from mdrepro.metrics.image import pairs, reconstruction
from tests.support import weight_files as makers
from tests.support.weight_files import backbone

PUBLISHED = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}


@pytest.fixture(autouse=True)
def cache(cache):
    cache.mkdir(parents=True)
    return cache


@pytest.fixture
def folders(tmp_path):
    """Originals, and reconstructions with other suffixes; pairs differ in size among themselves."""
    reference, _ = makers.photos(tmp_path / "photos", n=4, sizes=[(40, 52), (64, 33)])
    folder = tmp_path / "out"
    folder.mkdir()
    for i, file in enumerate(sorted(reference.iterdir())):
        Image.open(file).save(folder / f"{file.stem}.{'webp' if i % 2 else 'jpg'}", quality=60 + 10 * i)
    return reference, folder


def arrays(folders):
    sides = [[np.asarray(Image.open(file)) for file in sorted(folder.iterdir())] for folder in folders]
    return list(zip(*sides, strict=True))


def test_psnr_and_ssim_are_scikit_image_s(folders, cli_run):
    code, out, error = cli_run("evaluate", "reconstruction", *folders, "--metrics", "psnr,ssim", "--json")
    assert code == 0, error
    told = json.loads(out)
    psnr = [skimage.peak_signal_noise_ratio(a, b, data_range=255) for a, b in arrays(folders)]
    ssim = [skimage.structural_similarity(a, b, channel_axis=-1, **PUBLISHED) for a, b in arrays(folders)]
    assert told["pairs"] == 4
    assert [score["metric"] for score in told["metrics"]] == ["psnr", "ssim"]
    for score, values in zip(told["metrics"], (psnr, ssim), strict=True):
        assert score["value"] == pytest.approx(np.mean(values), abs=1e-6)
        student = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (score["low"], score["high"]) == pytest.approx((student.low, student.high), abs=1e-5)
        assert score["n"] == 4
    assert "population covariance" in told["metrics"][1]["protocol"]


def test_lpips_is_the_package_s_with_the_same_file(folders, cache):
    import lpips

    backbone(cache, "alex")
    (score,) = pairs.evaluate(*folders, ["lpips-alex"])
    with torch.no_grad(), makers.small_classifiers():
        model = lpips.LPIPS(net="alex", verbose=False)
        images = [
            [torch.from_numpy(side.copy()).permute(2, 0, 1)[None] / 127.5 - 1 for side in pair]
            for pair in arrays(folders)
        ]
        expected = np.mean([model(a, b).item() for a, b in images])
    assert score.value == pytest.approx(expected, rel=1e-5)
    assert 1e-5 < expected < 0.1  # so that the difference is below 1e-6
    assert "NOT torchvision's published file" in score.protocol


def test_all_metrics_go_on_without_what_is_missing(folders, cli_run):
    code, out, _ = cli_run("evaluate", "reconstruction", *folders)
    assert code == 0
    assert "MS-SSIM needs at least 176 px" in out
    assert "LPIPS (vgg) needs vgg16" in out
    scores = {score.metric: score for score in pairs.evaluate(*folders)}
    assert list(scores) == list(pairs.METRICS)
    assert [name for name, score in scores.items() if score.value is None] == ["ms-ssim", "lpips-alex", "lpips-vgg"]


def test_what_was_asked_for_by_name_and_is_missing_is_no_success(folders, cli_run):
    code, out, _ = cli_run("evaluate", "reconstruction", *folders, "--metrics", "psnr,lpips-vgg", "--json")
    assert code == 1
    assert [score["value"] is None for score in json.loads(out)["metrics"]] == [False, True]
    code, _, error = cli_run("evaluate", "reconstruction", *folders, "--metrics", "ms-ssim")
    assert code == 2
    assert "0000.png: MS-SSIM needs at least 176 px" in error


def test_ms_ssim_of_large_images(tmp_path):
    reference, folder = makers.photos(tmp_path / "large", n=2, size=176)
    (score,) = pairs.evaluate(reference, folder, ["ms-ssim"])
    x, y = (torch.stack([pairs.images.read(file) for file in sorted(side.iterdir())]) for side in (reference, folder))
    assert score.value == pytest.approx(reconstruction.ms_ssim(x, y).mean().item(), abs=1e-12)
    small = makers.photos(tmp_path / "small", n=1, size=175)
    with pytest.raises(BadInput, match=r"0000.png: MS-SSIM needs at least 176 px, got 175 x 175"):
        pairs.evaluate(*small, ["ms-ssim"])


def test_identical_pairs_have_no_psnr_and_are_told(folders, cli_run):
    reference, folder = folders
    next(folder.glob("0000.*")).unlink()
    (folder / "0000.png").write_bytes((reference / "0000.png").read_bytes())
    (score,) = pairs.evaluate(reference, folder, ["psnr"])
    rest = [skimage.peak_signal_noise_ratio(a, b, data_range=255) for a, b in arrays(folders)[1:]]
    assert (score.value, score.n) == (pytest.approx(np.mean(rest), abs=1e-6), 3)
    assert "1 of 4 pairs are identical and left out" in score.protocol
    code, out, _ = cli_run("evaluate", "reconstruction", reference, reference, "--metrics", "psnr,ssim", "--json")
    told = json.loads(out)["metrics"]
    assert code == 1
    assert told[0]["reason"] == "all pairs are identical: PSNR is infinite"
    assert told[1]["value"] == pytest.approx(1)


def test_one_pair_has_no_interval(tmp_path):
    (score,) = pairs.evaluate(*makers.photos(tmp_path / "one", n=1, size=32), ["ssim"])
    assert (score.n, score.low, score.high) == (1, None, None)


@pytest.mark.parametrize(
    "fault", ["missing", "other name", "size", "twice", "empty", "nowhere", "cut", "metric", "none"]
)
def test_folders_that_make_no_pairs_are_refused(folders, cli_run, tmp_path, fault):
    reference, folder = folders
    metrics = {"metric": "pnsr", "none": ","}.get(fault, "psnr")
    file = next(folder.glob("0003.*"))
    if fault == "missing":
        file.unlink()
    elif fault == "other name":
        file.rename(folder / "0009.webp")
    elif fault == "size":
        Image.open(file).resize((30, 30)).save(file)
    elif fault == "twice":
        Image.open(file).save(folder / "0003.png")
    elif fault == "cut":
        file.write_bytes(file.read_bytes()[:200])
    elif fault in ("empty", "nowhere"):
        folder = tmp_path / fault
        if fault == "empty":
            folder.mkdir()
    says = {
        "missing": "holds 4 images and",
        "other name": "have no partner, such as",
        "size": "expected pairs of one size",
        "twice": "expected one of a name",
        "empty": "holds no images",
        "nowhere": "no such folder or file",
        "cut": "cannot read",
        "metric": "did you mean psnr?",
        "none": "--metrics is empty",
    }[fault]
    code, out, error = cli_run("evaluate", "reconstruction", reference, folder, "--metrics", metrics)
    assert (code, out) == (2, "")
    assert says in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_read_errors_are_bad_input(folders):
    with pytest.raises(BadInput, match="did you mean psnr"):
        pairs.evaluate(*folders, ["pnsr"])


def test_the_first_metric_named_is_the_one_that_an_error_is_about(tmp_path):
    """Whatever the seed of hashes: both refuse images of 8 px."""
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / folder / "0.png")
    for metrics, said in ((["ssim", "ms-ssim"], "SSIM needs at least 11 px"), (["ms-ssim", "ssim"], "MS-SSIM needs")):
        with pytest.raises(BadInput, match=f"png: {said}"):
            pairs.evaluate(tmp_path / "x", tmp_path / "y", metrics)


@pytest.mark.parametrize(("net", "least"), [("alex", 31), ("vgg", 16)])
def test_lpips_of_images_that_are_too_small_is_absent_with_its_reason(tmp_path, cache, cli_run, net, least):
    """The package itself fails at one pixel less, and gives a number at the least."""
    import lpips

    with makers.small_classifiers():
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    with pytest.raises(RuntimeError), torch.no_grad():
        model(*torch.zeros(2, 1, 3, least - 1, least + 9))
    with torch.no_grad():
        assert model(*torch.zeros(2, 1, 3, least, least + 9)).isfinite().all()
    backbone(cache, net)
    small = makers.photos(tmp_path / "small", n=2, sizes=[(least + 9, least - 1)] * 2)
    scores = {score.metric: score for score in pairs.evaluate(*small)}
    assert f"LPIPS ({net}) needs at least {least} px" in scores[f"lpips-{net}"].reason
    assert scores["psnr"].value is not None
    code, _, error = cli_run("evaluate", "reconstruction", *small, "--metrics", f"lpips-{net}")
    assert (code, error.count("\n")) == (2, 1)
    large = makers.photos(tmp_path / "large", n=2, sizes=[(least + 9, least)] * 2)
    assert pairs.evaluate(*large, [f"lpips-{net}"])[0].value is not None


def test_no_more_pairs_are_in_memory_of_many_than_of_few(tmp_path, monkeypatch):
    """Counted where they are made and where they end, while readers are given all the time they want."""
    import threading
    import weakref

    alive, most, read = set(), [0], pairs.read

    def counted(pair):
        x, y = read(pair)
        alive.add(pair)
        weakref.finalize(x, alive.discard, pair)
        most[0] = max(most[0], len(alive))
        return x, y

    monkeypatch.setattr(pairs, "read", counted)
    peaks = {}
    for n in (2, 60):
        most[0] = 0
        folders = makers.photos(tmp_path / str(n), n=n, size=8)
        pairs.run(pairs.paired(*folders), ["slow"], lambda *_: threading.Event().wait(0.005), {}, strict=True)
        peaks[n] = most[0]
    assert peaks[60] <= 5, peaks
