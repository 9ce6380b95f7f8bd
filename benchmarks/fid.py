"""FID of two folders of PNGs, from files to number: this package and the three others, with one file of weights.

    python -m benchmarks.fid --images 1000 --threads 1

All use the same folders, weights, batch size and threads in one process; imports and the loading of weights are not
counted, reading and preparing images are. Each number must be the other package's to 1e-4.
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.table import Ratio, cpu_with_children
from mdrepro.core.files import sha256
from mdrepro.metrics.image import encoders, sets
from tests.support import weight_files as makers

BATCH, WORKERS = 32, 2
PAIRS = {"torch-fidelity": "tf-exact", "clean-fid": "clean", "torchmetrics": "torchmetrics"}


def mdrepro(name, path):
    encoder = encoders.load(name, str(path), sha256=sha256(path))
    options = sets.Options(few=True, batch=BATCH, readers=WORKERS)

    def run(real, generated):
        return sets.evaluate(real, generated, ["fid"], encoder=encoder, options=options)[0].value

    return run


def torch_fidelity(path):
    import torch_fidelity as package

    def run(real, generated):
        options = {"cuda": False, "verbose": False, "cache": False, "batch_size": BATCH}
        found = package.calculate_metrics(
            input1=str(real), input2=str(generated), fid=True, feature_extractor_weights_path=str(path), **options
        )
        return found["frechet_inception_distance"]

    return run


def clean_fid(path):
    from cleanfid import fid
    from cleanfid.inception_torchscript import InceptionV3W

    with tempfile.TemporaryDirectory() as folder:
        makers.inception_script(torch.load(path), Path(folder) / "inception-2015-12-05.pt")
        model = InceptionV3W(folder, download=False)

    def run(real, generated):
        options = {"num_workers": WORKERS, "batch_size": BATCH, "device": torch.device("cpu"), "verbose": False}
        return float(fid.compute_fid(str(real), str(generated), mode="clean", custom_feat_extractor=model, **options))

    return run


def torchmetrics(path):
    from torch_fidelity.datasets import ImagesPathDataset
    from torchmetrics.image.fid import FrechetInceptionDistance

    from mdrepro.metrics.image import images

    def run(real, generated):
        metric = FrechetInceptionDistance(feature_extractor_weights_path=str(path))
        with torch.no_grad():
            for folder, is_real in ((real, True), (generated, False)):
                for batch in DataLoader(ImagesPathDataset(images.files(folder)), BATCH, num_workers=WORKERS):
                    metric.update(batch, real=is_real)
            return float(metric.compute())

    return run


def compare(real, generated, path, packages=PAIRS):
    """Rows of a package: its number and ours, their relative difference, seconds of both (wall; CPU with children)."""
    makes = {"torch-fidelity": torch_fidelity, "clean-fid": clean_fid, "torchmetrics": torchmetrics}
    for package in packages:
        ours, wall, cpu = timed(mdrepro(PAIRS[package], path), real, generated)
        theirs, their_wall, their_cpu = timed(makes[package](path), real, generated)
        yield {
            "package": package,
            "theirs": theirs,
            "ours": ours,
            "relative_difference": abs(ours - theirs) / abs(theirs),
            "their_seconds": their_wall,
            "our_seconds": wall,
            "their_cpu_seconds": their_cpu,
            "our_cpu_seconds": cpu,
        }


def timed(run, *arguments):
    wall, cpu = time.perf_counter(), cpu_with_children()
    value = run(*arguments)
    return value, time.perf_counter() - wall, cpu_with_children() - cpu


def measured(images, size, packages=PAIRS):
    """Rows of `compare` on so many photographs in each folder, on random weights."""
    warnings.simplefilter("ignore")
    np.random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        real, generated = makers.photos(folder, n=images, size=size)
        path = Path(folder) / "inception.pth"
        torch.save(makers.inception_weights(), path)
        yield from compare(real, generated, path, packages)


def run():
    """A ratio a package. Raises AssertionError where a number is not the package's to 1e-4."""
    torch.set_num_threads(1)
    rows = []
    for row in measured(100, 256):
        assert row["relative_difference"] < 1e-4, row
        seconds = row["our_cpu_seconds"], row["their_cpu_seconds"]
        rows.append(
            Ratio("FID of two folders of 100 PNGs", row["package"], *seconds, "CPU s", 0.9, "1 thread, once each")
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="in each of the two folders")
    parser.add_argument("--size", type=int, default=256, help="px")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--packages", default=",".join(PAIRS))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for row in measured(given.images, given.size, given.packages.split(",")):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
