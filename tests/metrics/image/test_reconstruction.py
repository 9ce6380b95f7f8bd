"""Reconstruction metrics against scikit-image, torchmetrics, the lpips package, and closed forms."""

import hashlib
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from skimage import data, metrics
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from mdrepro.core.errors import NotAttempted
from mdrepro.metrics.image.catalogue import BACKBONES
from mdrepro.metrics.image.reconstruction import Lpips, ms_ssim, psnr, ssim
from tests.support.weight_files import backbone, small_classifiers


@pytest.fixture(scope="module")
def pairs():
    """Three originals and their degraded copies, uint8 (3, 3, 192, 208): noise, blur and a shift in brightness."""
    cut = (slice(40, 232), slice(30, 238))
    x = torch.stack([torch.from_numpy(image[cut].copy()) for image in (data.cat(), data.coffee(), data.astronaut())])
    x = x.permute(0, 3, 1, 2).contiguous()
    rng = torch.Generator().manual_seed(0)
    noisy = x[0] + 20 * torch.randn(x[0].shape, generator=rng)
    blurred = torch.nn.functional.avg_pool2d(x[1].float(), 5, stride=1, padding=2, count_include_pad=False)
    y = torch.stack([noisy, blurred, x[2].float() + 25]).round().clamp(0, 255).to(torch.uint8)
    return x, y


def arrays(pairs):
    return [[image.permute(1, 2, 0).numpy() for image in images] for images in pairs]


def test_psnr_equals_scikit_image(pairs):
    theirs = [metrics.peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(*arrays(pairs), strict=True)]
    assert psnr(*pairs).numpy() == pytest.approx(theirs, abs=1e-6)


def test_psnr_of_a_known_error():
    x = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    assert psnr(x, x + 10).item() == pytest.approx(20 * np.log10(25.5), abs=1e-9)
    assert psnr(x, x).item() == float("inf")


def test_ssim_equals_scikit_image_as_published(pairs):
    published = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    theirs = [
        metrics.structural_similarity(a, b, channel_axis=-1, **published) for a, b in zip(*arrays(pairs), strict=True)
    ]
    assert ssim(*pairs).numpy() == pytest.approx(theirs, abs=1e-6)


def test_ms_ssim_equals_torchmetrics_with_its_border(pairs):
    theirs = multiscale_structural_similarity_index_measure(
        *(image.double() for image in pairs), data_range=255.0, reduction="none"
    )
    assert ms_ssim(*pairs, mirror_last_scale=True).numpy() == pytest.approx(theirs.numpy(), abs=1e-5)


def test_ms_ssim_has_only_windows_inside(pairs):
    """torchmetrics with its last factor, SSIM on mirrored borders, exchanged for scikit-image's SSIM inside."""
    theirs = multiscale_structural_similarity_index_measure(
        *(image.double() for image in pairs), data_range=255.0, reduction="none"
    )
    coarse = [torch.nn.functional.avg_pool2d(image.double(), 16) for image in pairs]
    published = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = []
    for total, a, b in zip(theirs, *coarse, strict=True):
        inside = metrics.structural_similarity(a.numpy(), b.numpy(), channel_axis=0, **published)
        wider = (np.pad(image.numpy(), ((0, 0), (5, 5), (5, 5)), mode="reflect") for image in (a, b))
        mirrored = metrics.structural_similarity(*wider, channel_axis=0, **published)
        expected.append(total.item() * (inside / mirrored) ** 0.1333)
    assert ms_ssim(*pairs).numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("metric", [psnr, ssim, ms_ssim])
def test_more_noise_is_worse_and_images_do_not_mix(metric, pairs):
    x = pairs[0][:1].float()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    worse = torch.cat([(x + s * noise).round().clamp(0, 255).to(torch.uint8) for s in (2, 10, 40)])
    scores = metric(pairs[0][:1].expand(3, -1, -1, -1), worse)
    assert scores[0] > scores[1] > scores[2]
    assert metric(pairs[0][:1], worse[1:2]).item() == pytest.approx(scores[1].item(), abs=1e-12)


def test_equal_images_are_perfect(pairs):
    assert ssim(pairs[0], pairs[0]).numpy() == pytest.approx(1, abs=1e-12)
    assert ms_ssim(pairs[0], pairs[0]).numpy() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("metric", "x", "y", "message"),
    [
        (psnr, torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), "uint8"),
        (psnr, torch.zeros(1, 1, 8, 8).byte(), torch.zeros(1, 1, 8, 8).byte(), "uint8"),
        (psnr, torch.zeros(1, 3, 8, 8).byte(), torch.zeros(1, 3, 8, 9).byte(), "differ"),
        (ssim, torch.zeros(1, 3, 10, 64).byte(), torch.zeros(1, 3, 10, 64).byte(), "11 px"),
        (ms_ssim, torch.zeros(1, 3, 175, 200).byte(), torch.zeros(1, 3, 175, 200).byte(), "176 px"),
    ],
)
def test_refuses_what_it_cannot_measure(metric, x, y, message):
    with pytest.raises(ValueError, match=message):
        metric(x, y)


@pytest.fixture
def cache(cache):
    cache.mkdir(parents=True)
    return cache


def test_published_file_names_are_torchvisions():
    for net, weights in {"alex": torchvision.models.AlexNet_Weights, "vgg": torchvision.models.VGG16_Weights}.items():
        assert weights.IMAGENET1K_V1.url.endswith("/" + BACKBONES[net].file)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_without_weights_is_not_attempted(cache, net):
    with pytest.raises(NotAttempted) as caught:
        Lpips(net)
    model, file = BACKBONES[net].model, BACKBONES[net].file
    for part in (file, str(cache), f"torchvision.models.{model}(weights='IMAGENET1K_V1')"):
        assert part in str(caught.value)
    assert not list(cache.iterdir())


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_equals_the_package_with_the_same_file(cache, net, pairs):
    import lpips

    file = backbone(cache, net)
    ours = Lpips(net)
    with small_classifiers():
        direct = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    saved = torch.load(file)
    for part in range(1, 6):  # the package's slices are torchvision's layers under their own indices
        for index, layer in getattr(direct.net, f"slice{part}").named_children():
            layer.load_state_dict({k: saved[f"features.{index}.{k}"] for k in layer.state_dict()})
    x, y = (images[:, :, 32:128, 32:128] for images in pairs)
    with torch.no_grad():
        theirs = direct(x.float() / 127.5 - 1, y.float() / 127.5 - 1).flatten()
    assert ours(x, y).numpy() == pytest.approx(theirs.numpy(), abs=1e-6)
    assert ours(x, x).numpy() == pytest.approx(0, abs=1e-7)
    several = torch.stack(ours.of_several(x, [y, x])).numpy()
    assert several == pytest.approx(np.stack([theirs.numpy(), np.zeros(3)]), abs=1e-6)
    assert (ours(x, y) > 1e-3).all()
    assert hashlib.sha256(file.read_bytes()).hexdigest() in ours.protocol
    assert "NOT torchvision's published file" in ours.protocol


def test_lpips_with_the_published_hash_says_nothing_more(cache, monkeypatch):
    file = backbone(cache, "alex")
    named = f"alexnet-owt-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    file.rename(cache / named)
    monkeypatch.setitem(BACKBONES, "alex", replace(BACKBONES["alex"], file=named))
    assert "NOT" not in Lpips("alex").protocol


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), b"", b"not weights", pickle.dumps([1])])
def test_lpips_never_unpickles_and_names_a_bad_file(cache, content, capsys):
    (cache / BACKBONES["alex"].file).write_bytes(content)
    with pytest.raises(NotAttempted, match="does not hold the weights of alexnet"):
        Lpips("alex")
    assert "unpickled" not in capsys.readouterr().out
