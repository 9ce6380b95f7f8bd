"""The four FIDs against the packages that define them, with one and the same file of weights."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cleanfid import fid as clean_fid
from cleanfid.inception_torchscript import InceptionV3W
from scipy import linalg
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.fid import NoTrainInceptionV3
from torchmetrics.image.kid import poly_mmd

from benchmarks import fid as bench_fid
from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256
from mdrepro.metrics.image import encoders, frechet, images, kernel, protocols, sets
from mdrepro.metrics.image.features import extract
from mdrepro.metrics.image.peers import fid
from mdrepro.metrics.image.peers.comparison import compare
from mdrepro.metrics.image.reconstruction import undrawn
from mdrepro.metrics.image.scores import Score
from tests.support import weight_files as makers

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of the other packages

CONVENTIONS = ("tf-exact", "clean", "legacy-pytorch", "torchmetrics")
PRESETS = ("bk-sdm, snapfusion", "dmd2, gigagan", "text2image-benchmark")
SIZES = [(64, 97), (320, 300)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Mixed sizes: smaller and larger than the network's input."""
    return makers.photos(tmp_path_factory.mktemp("photos"), n=len(SIZES), sizes=SIZES)


@pytest.fixture(scope="module")
def script_file(inception_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "inception-2015-12-05.pt"
    makers.inception_script(torch.load(inception_file), path)
    return path


@pytest.fixture(scope="module")
def ours(inception_file, folders):
    """Feature sets by convention: real and generated."""
    network = encoders.network("tf-exact", str(inception_file), sha256=sha256(inception_file))
    ready = {name: encoders.Encoder(encoders.row(name), network, torch.device("cpu")) for name in CONVENTIONS}
    return [extract(images.files(folder), ready, keep=CONVENTIONS, batch=3) for folder in folders]


@pytest.fixture(scope="module")
def theirs(inception_file, script_file, folders):
    """Features by the packages' own code, reading included: (real, generated) by convention."""
    path = str(inception_file)
    with undrawn():
        fidelity = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=path)
        lightning = NoTrainInceptionV3("inception", ["2048"], feature_extractor_weights_path=path)
    scripted = InceptionV3W(str(script_file.parent), download=False)
    import cleanfid.inception_pytorch as legacy

    network = makers.legacy_inception(torch.load(inception_file), legacy)

    def single(extractor, folder):
        from torch_fidelity.datasets import ImagesPathDataset

        with torch.no_grad():
            return np.concatenate([extractor(x[None]).numpy() for x in ImagesPathDataset(images.files(folder))])

    def cleaned(model, folder, mode):
        options = {"num_workers": 0, "batch_size": 2, "device": torch.device("cpu"), "verbose": False}
        return clean_fid.get_folder_features(str(folder), model, mode=mode, **options)

    ways = {
        "tf-exact": lambda folder: single(lambda x: fidelity(x)[0], folder),
        "clean": lambda folder: cleaned(scripted, folder, "clean"),
        "legacy-pytorch": lambda folder: cleaned(lambda x: network(x / 255)[0].flatten(1), folder, "legacy_pytorch"),
        "torchmetrics": lambda folder: single(lightning, folder),
    }
    return {name: [way(folder) for folder in folders] for name, way in ways.items()}


def fid_by_singular_values(x, y):
    """Without covariances: for X and Y centred, tr (X^T X Y^T Y)^(1/2) is the sum of the singular values of X Y^T."""
    x, y = x.astype(float), y.astype(float)
    a, b = ((z - z.mean(axis=0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    gap = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
    return gap + np.square(a).sum() + np.square(b).sum() - 2 * linalg.svdvals(a @ b.T).sum()


def distances(ours):
    """By convention."""
    return {n: frechet.distance(*(side[n].statistics for side in ours), few=True).value for n in CONVENTIONS}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_features_fid_and_kid_are_the_package_s(name, ours, theirs):
    found = [side[name] for side in ours]
    for mine, yours in zip(found, theirs[name], strict=True):
        assert np.abs(mine.features.numpy() - yours).max() < 3e-5 * np.abs(yours).max()
    got = frechet.distance(*(one.statistics for one in found), few=True)
    assert got.biased
    assert got.value == pytest.approx(fid_by_singular_values(*theirs[name]), rel=1e-5)
    doubled = [torch.from_numpy(side).double() for side in theirs[name]]
    their_kid = kid_features_to_metric(*doubled, kid_subsets=3, kid_subset_size=2, verbose=False)
    theirs_too = clean_fid.kernel_distance(doubled[1].numpy(), doubled[0].numpy(), num_subsets=1), poly_mmd(*doubled)
    our_kid = kernel.block_kernel_distance(*(one.array() for one in found), subsets=3, size=2)
    for value in (their_kid["kernel_inception_distance_mean"], *map(float, theirs_too)):
        assert our_kid.mean == pytest.approx(value, rel=1e-5)


def test_conventions_are_different_numbers(ours):
    values = list(distances(ours).values())
    assert np.ptp(values) > 0.01 * min(values)
    assert len({round(value, 6) for value in values}) == 4
    with pytest.raises(BadInput, match="preprocessing"):
        frechet.distance(ours[0]["clean"].statistics, ours[1]["tf-exact"].statistics, few=True)


def test_clean_fid_s_own_file_runs_once_its_hash_is_known(script_file, folders, ours):
    with pytest.raises(BadInput, match=r"has SHA-256 .*: expected the published file, or .* --sha256"):
        encoders.load("clean", str(script_file))
    with pytest.raises(BadInput, match="TorchScript program: expected that of clean-fid, for the encoder clean"):
        encoders.load("tf-exact", str(script_file), sha256=sha256(script_file))
    encoder = encoders.load("clean", str(script_file), sha256=sha256(script_file))
    found = extract(images.files(folders[0])[:2], {"x": encoder}, keep=["x"])["x"]
    expected = ours[0]["clean"].features[:2]
    assert torch.allclose(found.features, expected, rtol=0, atol=3e-5 * expected.abs().max())
    assert "TorchScript" in encoder.convention.encoder


def test_torchvision_s_network_and_images_are_torchvision_s(folders, tmp_path):
    import torchvision
    from PIL import Image

    torch.manual_seed(0)
    weights = makers.inception_weights(3)
    path = tmp_path / "inception_v3_google-0cc3c7bd.pth"
    torch.save(weights, path)
    model = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False).eval()
    model.load_state_dict(weights)
    model.fc, model.transform_input = torch.nn.Identity(), True  # as with its published weights
    usual = torchvision.models.Inception_V3_Weights.IMAGENET1K_V1.transforms()
    files = images.files(folders[1])[:2]
    pictures = torch.stack([usual(Image.open(file).convert("RGB")) for file in files])
    encoder = encoders.load("torchvision", str(path), sha256=sha256(path))
    found = extract(files, {"x": encoder}, keep=["x"])["x"].features
    with torch.no_grad():
        assert torch.allclose(found, model(pictures), rtol=0, atol=1e-4 * float(found.abs().max()))


@pytest.mark.parametrize("fault", ["missing", "shape", "channels"])
def test_weights_of_another_network_are_refused(fault):
    from mdrepro.metrics.image.inception import Inception

    weights = makers.inception_weights()
    if fault == "missing":
        del weights["Mixed_6c.branch7x7_2.bn.running_mean"]
    else:
        name = "Mixed_5c.branch1x1.conv.weight"
        weights[name] = weights[name][:, :-1] if fault == "shape" else weights[name][:-1]
    with pytest.raises(BadInput, match="not the weights of an Inception v3"):
        Inception(weights)


def test_the_matrix_holds_the_single_numbers_and_their_differences(cli_run, folders, inception_file, ours, theirs):
    real, generated = folders
    weights = ["--weights", inception_file, "--sha256", sha256(inception_file)]
    code, out, error = cli_run("evaluate", "protocols", real, generated, *weights, "--few", "--json")
    assert code == 0, error
    every = json.loads(out)["rows"]
    rows = every[: len(CONVENTIONS)]
    assert [row["convention"] for row in rows] == list(CONVENTIONS)
    assert [row["convention"] for row in every[len(CONVENTIONS) :]] == list(PRESETS)
    values = list(distances(ours).values())
    assert [row["score"]["value"] for row in rows] == pytest.approx(values, rel=1e-6)
    assert [row["difference"] for row in rows] == pytest.approx(np.array(values) - values[0], rel=1e-6, abs=1e-5)
    assert rows[1]["percent"] == pytest.approx(100 * (values[1] / values[0] - 1), rel=1e-4)
    assert all(row["score"]["biased"] for row in every)
    variants = [protocols.Variant(**row | {"score": Score(**row["score"])}) for row in every]
    for name, sides in theirs.items():  # a published number, by the package's own code
        assert protocols.ranked(variants, fid_by_singular_values(*sides))[0].convention == name


@pytest.mark.slow
def test_fid_from_files_to_number_is_the_packages_own(inception_file, tmp_path):
    """By the packages' public functions; which of them is quicker is for ``make bench``."""
    real, generated = makers.photos(tmp_path / "photos", n=24, size=256)
    rows = list(bench_fid.compare(real, generated, inception_file))
    assert len(rows) == 3
    assert all(row["relative_difference"] < 1e-4 for row in rows)


PACKAGES = [
    pytest.param("clean-fid", "clean", marks=pytest.mark.slow),  # both take the root of singular 2,048 x 2,048 matrices
    pytest.param("torch-fidelity", "tf-exact", marks=pytest.mark.slow),
    ("torchmetrics", "torchmetrics"),
]


def of_small_rank(eigvals):
    """torch's eigenvalues, of a matrix in its own range: the others, which are zero, take ten seconds."""

    def found(matrix):
        start = torch.randn(len(matrix), 8, dtype=matrix.dtype, generator=torch.Generator().manual_seed(0))
        basis = torch.linalg.qr(matrix @ start).Q
        return eigvals(basis.T @ matrix @ basis)

    return found


@pytest.mark.parametrize(("package", "convention"), PACKAGES)
def test_the_resize_explains_the_difference(package, convention, folders, inception_file, ours, theirs, monkeypatch):
    monkeypatch.setattr(torch.linalg, "eigvals", of_small_rank(torch.linalg.eigvals))
    encoder = encoders.load("legacy-pytorch", str(inception_file), sha256=sha256(inception_file))
    one = fid.against(*folders, package, encoder, sets.Options(few=True, batch=3))
    values = distances(ours)
    assert one.theirs == pytest.approx(fid_by_singular_values(*theirs[convention]), rel=5e-5)
    assert one.ours == pytest.approx(values["legacy-pytorch"], rel=1e-5)
    assert one.under == pytest.approx(values[convention], rel=1e-5)
    assert one.under == pytest.approx(one.theirs, rel=1e-4)
    assert not one.agrees
    assert one.difference == one.theirs - one.ours
    (explanation,) = one.conventions
    assert explanation.startswith(f"the resize of encoder {convention} (")


@pytest.mark.slow
def test_the_command_says_that_two_packages_agree(cli_run, folders, inception_file):
    weights = ["--weights", inception_file, "--sha256", sha256(inception_file), "--few", "--against", "torchmetrics"]
    code, out, error = cli_run("evaluate", "images", *folders, *weights, "--encoder", "torchmetrics", "--json")
    assert code == 0, error
    (one,) = json.loads(out)["comparisons"]
    assert (one["metric"], one["agrees"], one["conventions"], one["under"]) == ("fid", True, [], None)
    assert one["package"].startswith("torchmetrics 1.")
    assert one["ours"] == pytest.approx(one["theirs"], rel=1e-4)


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--against", "pytorch-fid"], 2, "unknown value of --against 'pytorch-fid'"),
        (["--against", "clean-fid", "--encoder", "dinov2"], 2, "--encoder must be one of tf-exact, clean"),
        (["--against", "clean-fid", "--metrics", "fid,kid"], 2, "expected --metrics fid"),
        (["--against", "clean-fid"], 2, "fid of 2048 features needs at least 2049 images"),
    ],
)
def test_comparisons_that_cannot_be_are_refused(cli_run, folders, inception_file, monkeypatch, options, code, says):
    stand_in = SimpleNamespace(row=encoders.row("dinov2"))
    if "dinov2" in options:
        monkeypatch.setattr(encoders, "load", lambda *_, **__: stand_in)
    weights = ["--weights", inception_file, "--sha256", sha256(inception_file)]
    got, out, error = cli_run("evaluate", "images", *folders, *weights, *options)
    assert (got, out) == (code, "")
    assert says in error
    assert error.count("\n") == 1


def test_against_without_weights_is_one_message(cli_run, folders, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    code, out, error = cli_run("evaluate", "images", *folders, "--few", "--against", "torch-fidelity")
    assert (code, out) == (1, "")
    assert "get it with --download, or put https://" in error


def test_torchscript_weights_are_for_clean_fid_alone(script_file, folders):
    encoder = encoders.load("clean", str(script_file), sha256=sha256(script_file))
    with pytest.raises(BadInput, match="which clean-fid alone reads"):
        fid.against(*folders, "torch-fidelity", encoder, sets.Options(few=True))


def test_the_first_conventions_that_give_their_number_explain_it():
    numbers = {(): 1.0, ("a",): 2.0, ("b",): 3.0, ("a", "b"): 4.0}
    found = {theirs: compare("ssim", "lpips", numbers, theirs, 1e-3) for theirs in (1.0005, 3.001, 4.0, 5.0)}
    assert [one.agrees for one in found.values()] == [True, False, False, False]
    assert [one.conventions for one in found.values()] == [(), ("b",), ("a", "b"), ()]
    assert [one.under for one in found.values()] == [None, 3.0, 4.0, None]
    assert found[1.0005].verdict == "the two agree"
    assert found[4.0].verdict == "explained by a, and b; ours under it: 4"
    assert found[5.0].verdict == "not explained by any known convention"
