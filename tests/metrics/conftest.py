"""Files that several tests of metrics share."""

import pytest
import torch

from tests.support import weight_files as makers


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of an empty torch.hub cache, not made yet, no package with weights, and no way to download."""

    def refuse(*_, **__):
        raise AssertionError("tried to download")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    makers.no_package(monkeypatch, tmp_path)
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory):
    """FID's Inception as torch-fidelity's file holds it, with random weights."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(makers.inception_weights(), path)
    return path
