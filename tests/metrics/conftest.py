"""Files that several tests of metrics share."""

import pytest
import torch

from tests.support import weight_files as makers


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory):
    """FID's Inception as torch-fidelity's file holds it, with random weights."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(makers.inception_weights(), path)
    return path
