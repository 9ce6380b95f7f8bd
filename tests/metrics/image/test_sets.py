"""One pass for all metrics of a set: what is read, what is kept, numbers as their own functions give them."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mdrepro.core import distributed
from mdrepro.core.errors import BadInput
from mdrepro.metrics.image import features, frechet, images, kernel, manifold, sets
from mdrepro.metrics.image.catalogue import EncoderRow
from mdrepro.metrics.image.encoders import Encoder
from mdrepro.metrics.image.features import extract
from mdrepro.metrics.image.networks import Network, Texts
from mdrepro.metrics.image.statistics import Statistics
from mdrepro.metrics.image.weights import Checked
from mdrepro.metrics.jackknife import Estimate
from tests.support import weight_files as makers

WIDTH, CPU = 5, torch.device("cpu")


def tiny(name="tiny", label="FD-tiny", seed=0, poison=None, runs=None):
    """An encoder of five features of 8 x 8 px means, with texts; ``poison`` is the mean of an image that gives NaN."""
    mix = torch.randn(12, WIDTH, generator=torch.Generator().manual_seed(seed))

    def prepare(x):
        return torch.nn.functional.adaptive_avg_pool2d(x.float(), 2)

    def encode(x):
        if runs is not None:
            runs.append(len(x))
        out = x.flatten(1) @ mix / 255
        return torch.where((x.mean(dim=(1, 2, 3)) == poison)[:, None], torch.nan, out) if poison else out

    def texts(lines):
        cut = sum(len(line.split()) > 75 for line in lines)
        return Texts(torch.tensor([[float(len(line)), 1, 2, -1, 0] for line in lines]), cut, 77)

    network = Network("tiny", Checked(CPU, f"{seed:064}", None, "tiny.pth"), 2, WIDTH, encode, (prepare, "2 px"), texts)
    return Encoder(EncoderRow(name, "tiny", label, "own", "a test", "none"), network, CPU)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return makers.photos(tmp_path_factory.mktemp("photos"), n=14, size=24)


def by_hand(folder, encoder):
    pixels = [images.read(file) for file in sorted(folder.glob("*.png"))]
    return torch.cat([encoder(encoder.prepare(x)[None]) for x in pixels])


@pytest.mark.parametrize("batch", [1, 4, 32])
def test_features_and_statistics_are_those_of_each_image_alone(folders, batch, monkeypatch):
    monkeypatch.setattr(features, "BLOCK", 6)
    encoder = tiny()
    found = extract(images.files(folders[0]), {"one": encoder, "two": tiny(seed=1)}, keep=["one"], batch=batch)
    expected = by_hand(folders[0], encoder)
    assert torch.allclose(found["one"].features, expected, atol=1e-5)
    np.testing.assert_allclose(found["one"].statistics.covariance, np.cov(expected.double().T), rtol=1e-5)
    assert found["two"].features is None
    assert found["two"].statistics.n == 14
    assert found["one"].statistics.convention == encoder.convention


def test_each_image_is_read_once_whatever_the_metrics_and_encoders(folders, monkeypatch):
    read, count = images.read, []
    monkeypatch.setattr(images, "read", lambda file: (count.append(file), read(file))[1])
    every = ["fid", "kid", "fd-infinity", "precision", "recall", "clip-score"]
    sets.evaluate(
        *folders, every, encoder=tiny(), clip=tiny(seed=2), captions=["a b"] * 14, options=sets.Options(few=True)
    )
    assert sorted(count) == sorted([*images.files(folders[0]), *images.files(folders[1])])


def test_a_clip_that_is_also_the_encoder_runs_once(folders):
    runs = []
    encoder = tiny(runs=runs)
    sets.evaluate(*folders, ["fid", "clip-score"], encoder=encoder, clip=encoder, captions=["a b"] * 14)
    assert sum(runs) == 28


def test_numbers_are_those_of_the_metrics_own_functions(folders):
    encoder, clip = tiny(), tiny(seed=2)
    captions = ["word " * (i + 1) for i in range(13)] + ["word " * 80]
    options = sets.Options(few=True, interval=True, seed=3)
    names = ["kid", "fid", "recall", "precision", "fd-infinity", "clip-score"]
    found = sets.evaluate(*folders, names, encoder=encoder, clip=clip, captions=captions, options=options)
    assert [score.metric for score in found] == names
    x, y = (by_hand(folder, encoder).double().numpy() for folder in folders)
    both, reference = manifold.precision_recall(x, y), Statistics.of(x)
    interval = Estimate.of([frechet.distances_without(reference, y)], len(y)).distance()
    line = frechet.infinity(reference, y, seed=3)
    one, two = by_hand(folders[1], clip).double(), clip.network.texts(captions).features.double()
    cosine = torch.nn.functional.cosine_similarity(one, two).mean().item()
    expected = [kernel.kernel_distance(x, y), interval.value, both.recall, both.precision, line.value, cosine]
    assert [score.value for score in found] == pytest.approx(expected, rel=1e-4)
    assert (found[1].low, found[1].high) == pytest.approx((interval.low, interval.high), rel=1e-4)
    assert found[1].name == "FD-tiny"
    assert found[0].name == "KID (tiny)"
    assert not found[1].biased
    assert found[0].biased
    assert "1 captions cut to 77 tokens, end token kept" in found[5].protocol
    assert "scale 1, no clamping" in found[5].protocol
    assert all("2 px, weights tiny.pth with SHA-256 000" in score.protocol for score in found)
    json.dumps([score.record() for score in found], allow_nan=False)


def test_the_published_way_of_kid_is_taken_where_there_are_images_enough(folders, monkeypatch):
    monkeypatch.setattr(kernel, "SUBSET_SIZE", 10)
    monkeypatch.setattr(
        kernel, "block_kernel_distance", lambda x, y: kernel.BlockEstimate(float(len(x) + len(y)), 0.5, 100, 10)
    )
    (score,) = sets.evaluate(*folders, ["kid"], encoder=tiny())
    assert (score.value, score.biased) == (28, False)
    assert "100 subsets of 10, standard deviation 0.5" in score.protocol


@pytest.mark.parametrize(
    ("metric", "n", "says"),
    [
        ("fid", 5, "fid of 5 features needs at least 6 images in each set, got 14 real and 5 generated; --few takes"),
        ("kid", 14, "kid of 5 features needs at least 1000 images in each set, got 14 real and 14 generated; --few"),
        ("fd-infinity", 11, "fd-infinity of 5 features needs at least 12 images, got 14 real and 11 generated$"),
        ("recall", 3, "recall of 5 features needs at least 4 images in each set, got 14 real and 3 generated$"),
        ("clip-score", 13, "holds 13 images, and there are 14 captions"),
    ],
)
def test_too_few_is_an_error_before_anything_runs(folders, tmp_path, metric, n, says):
    for file in images.files(folders[1])[:n]:
        (tmp_path / file.name).symlink_to(file)
    runs = []
    encoder = tiny(runs=runs)
    with pytest.raises(BadInput, match=says):
        sets.evaluate(folders[0], tmp_path, [metric], encoder=encoder, clip=encoder, captions=["a"] * 14)
    assert not runs


def test_the_override_marks_the_number(folders, tmp_path):
    for file in images.files(folders[1])[:5]:
        (tmp_path / file.name).symlink_to(file)
    found = sets.evaluate(folders[0], tmp_path, ["fid"], encoder=tiny(), options=sets.Options(few=True))[0]
    assert (found.biased, found.n_reference, found.n) == (True, 14, 5)
    assert "BIASED" in found.cells()[2]


def test_the_file_whose_features_are_not_finite_is_named(folders):
    file = images.files(folders[0])[9]
    encoder = tiny(poison=torch.nn.functional.adaptive_avg_pool2d(images.read(file).float(), 2).mean().item())
    with pytest.raises(BadInput, match=f"tiny gives features that are not finite for .*{file.name}: look at"):
        extract(images.files(folders[0]), {"x": encoder}, batch=4)


def test_statistics_stand_for_real_images_where_that_is_enough(folders, tmp_path):
    encoder, path = tiny(), tmp_path / "real.safetensors"
    extract(images.files(folders[0]), {"x": encoder})["x"].statistics.save(path)
    names = ["fid", "fd-infinity"]
    from_file = sets.evaluate(path, folders[1], names, encoder=encoder)
    from_folder = sets.evaluate(folders[0], folders[1], names, encoder=encoder)
    assert [a.value for a in from_file] == pytest.approx([b.value for b in from_folder], rel=1e-10)
    with pytest.raises(BadInput, match="kid, precision: the real images themselves are needed"):
        sets.evaluate(path, folders[1], ["kid", "precision"], encoder=encoder, options=sets.Options(few=True))
    with pytest.raises(BadInput, match="weights_sha256"):
        sets.evaluate(path, folders[1], ["fid"], encoder=tiny(seed=7))


def test_what_is_missing_is_named(folders):
    with pytest.raises(BadInput, match=r"unknown metric 'fud' \(did you mean fid\?\)"):
        sets.evaluate(*folders, ["fud"])
    with pytest.raises(BadInput, match="fid: an encoder and real images are needed"):
        sets.evaluate(None, folders[1], ["fid"], encoder=tiny())
    with pytest.raises(BadInput, match="a CLIP encoder is needed: expected clip and open-clip"):
        sets.evaluate(None, folders[1], ["clip-score"], captions=["a"] * 14)
    with pytest.raises(BadInput, match="captions are needed, one for each"):
        sets.evaluate(None, folders[1], ["clip-score"], clip=tiny())


class Together:
    """Threads in place of a launcher's processes: each has its index, and sums wait for all."""

    def __init__(self, count, monkeypatch):
        self.count, self.here, self.barrier, self.slots = (
            count,
            threading.local(),
            threading.Barrier(count, timeout=60),
            {},
        )
        monkeypatch.setattr(distributed, "position", lambda: (self.here.index, count))
        monkeypatch.setattr(distributed, "total", self.total)

    def total(self, tensor):
        self.slots[self.here.index] = tensor
        self.barrier.wait()
        summed = sum(self.slots[index] for index in range(self.count))
        self.barrier.wait()
        return summed

    def run(self, work):
        def one(index):
            self.here.index = index
            return work()

        with ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(one, range(self.count)))


@pytest.mark.parametrize(("count", "batch"), [(2, 4), (3, 4), (3, 32)])
def test_several_processes_have_the_numbers_of_one(folders, monkeypatch, count, batch):
    wanted, runs = ["fid", "kid", "precision", "clip-score"], []
    encoder, captions = tiny(runs=runs), [f"caption {'x' * i}" for i in range(14)]

    def scores(spread):
        how = sets.Options(few=True, batch=batch, spread=spread)
        return sets.evaluate(*folders, wanted, encoder=encoder, clip=encoder, captions=captions, options=how)

    alone, seen = scores(False), sum(runs)
    runs.clear()
    for each in Together(count, monkeypatch).run(lambda: scores(True)):
        for one, other in zip(alone, each, strict=True):
            same = pytest.approx(other.value, rel=1e-9) if one.metric == "fid" else other.value
            assert (one.metric, one.value, one.n) == (other.metric, same, other.n)
    assert sum(runs) == seen
