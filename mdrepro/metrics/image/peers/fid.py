"""FID of two folders by clean-fid, torch-fidelity and torchmetrics, beside ours with the same file of weights."""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mdrepro.core.errors import BadInput, check
from mdrepro.metrics.image import features, frechet, images, sets, weights
from mdrepro.metrics.image.catalogue import ENCODERS
from mdrepro.metrics.image.encoders import Encoder
from mdrepro.metrics.image.peers.comparison import Comparison, compare
from mdrepro.metrics.image.resizing import RESIZES

if TYPE_CHECKING:
    from torch.utils.data import Dataset

TOLERANCE = 1e-4
"""Relative difference of two FIDs that counts as none: float32 features, and a matrix root by another method."""


def against(real: Path, generated: Path, package: str, encoder: Encoder, options: sets.Options) -> Comparison:
    """FID of two folders here, by FID's Inception under one convention of resizing, and in a package of `PACKAGES`.

    Both take one file of weights. Raises BadInput for an unknown package, no folders, another network than FID's,
    weights in a format that the package does not read, or too few images.
    """
    check("package", package, PACKAGES)
    rows = [row for row in ENCODERS.values() if row.family == "inception"]
    if encoder.row not in rows:
        names = ", ".join(row.name for row in rows)
        raise BadInput(f"--against compares FID: --encoder must be one of {names}, not {encoder.row.name}")
    files = [images.files(folder) for folder in (real, generated)]
    sets.check_numbers(["fid"], encoder, len(files[0]), len(files[1]), options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's, of its own code and of small sets
        theirs = PACKAGES[package](real, generated, encoder, options.batch)
    encoders = {row.name: replace(encoder, row=row) for row in rows}
    sides = [features.extract(side, encoders, batch=options.batch, readers=options.readers) for side in files]
    numbers: dict[tuple[str, ...], float] = {}
    for row in rows:
        distance = frechet.distance(*(side[row.name].statistics for side in sides), few=options.few)
        what = f"the resize of encoder {row.name} ({RESIZES[row.resize].what})"
        numbers[() if row == encoder.row else (what,)] = distance.value
    return compare("fid", package, numbers, theirs, TOLERANCE)


def _torch_fidelity(real: Path, generated: Path, encoder: Encoder, batch: int) -> float:
    import torch_fidelity

    with _state_dict(encoder) as path:
        numbers = torch_fidelity.calculate_metrics(
            input1=_dataset(real),
            input2=_dataset(generated),
            fid=True,
            feature_extractor_weights_path=str(path),
            cuda=encoder.device.type == "cuda",
            batch_size=1 if _mixed(real) or _mixed(generated) else batch,
            cache=False,
            verbose=False,
        )
    return float(numbers["frechet_inception_distance"])


def _torchmetrics(real: Path, generated: Path, encoder: Encoder, batch: int) -> float:
    from torch.utils.data import DataLoader
    from torchmetrics.image.fid import FrechetInceptionDistance

    with _state_dict(encoder) as path, torch.inference_mode():
        metric = FrechetInceptionDistance(feature_extractor_weights_path=str(path)).to(encoder.device)
        for folder, is_real in ((real, True), (generated, False)):
            for x_bchw in DataLoader(_dataset(folder), 1 if _mixed(folder) else batch):
                metric.update(x_bchw.to(encoder.device), real=is_real)
        return float(metric.compute())


def _clean_fid(real: Path, generated: Path, encoder: Encoder, batch: int) -> float:
    from cleanfid import fid, inception_pytorch
    from cleanfid.inception_torchscript import InceptionV3W

    network: Callable[[Tensor], Tensor]
    path = encoder.network.weights.path
    with tempfile.TemporaryDirectory() as folder:
        if weights.is_script(path):
            (Path(folder) / "inception-2015-12-05.pt").symlink_to(path.resolve())
            network = InceptionV3W(folder, download=False).to(encoder.device)
        else:
            load = inception_pytorch.load_state_dict_from_url
            inception_pytorch.load_state_dict_from_url = lambda *_, **__: weights.state_dict(path)
            try:
                model = inception_pytorch.InceptionV3([3], resize_input=False, normalize_input=False)
            finally:
                inception_pytorch.load_state_dict_from_url = load
            model.eval().to(encoder.device)

            def network(x_bchw: Tensor) -> Tensor:
                return model((x_bchw - 128) / 128)[0].flatten(1)  # as its TorchScript network does within

        options = {"batch_size": batch, "device": encoder.device, "num_workers": 0, "verbose": False}
        return float(fid.compute_fid(str(real), str(generated), mode="clean", custom_feat_extractor=network, **options))


PACKAGES: Mapping[str, Callable[[Path, Path, Encoder, int], float]] = {
    "clean-fid": _clean_fid,
    "torch-fidelity": _torch_fidelity,
    "torchmetrics": _torchmetrics,
}


def _dataset(folder: Path) -> "Dataset[Tensor]":
    from torch_fidelity.datasets import ImagesPathDataset

    return ImagesPathDataset(images.files(folder))


def _mixed(folder: Path) -> bool:
    """Whether images differ in size, so that they make no batch."""
    from PIL import Image

    def size(file: Path) -> tuple[int, int]:
        with Image.open(file) as picture:
            return picture.size

    return len({size(file) for file in images.files(folder)}) > 1


@contextmanager
def _state_dict(encoder: Encoder) -> Iterator[Path]:
    """The encoder's weights as a file that ``torch.load`` reads. Raises BadInput for a TorchScript program."""
    path = encoder.network.weights.path
    if weights.is_script(path):
        raise BadInput(f"{path} is a TorchScript program, which clean-fid alone reads: --weights must be a state dict")
    if path.suffix != ".safetensors":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(weights.state_dict(path), Path(folder) / "weights.pth")
        yield Path(folder) / "weights.pth"
