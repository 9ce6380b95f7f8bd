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


@pytest.fixture
def cli_run(capsys):
    """``mdrepro`` in this process: exit code, standard output and standard error."""
    from mdrepro.cli.app import main

    def run(*arguments):
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
        out, error = capsys.readouterr()
        return code, out, error

    return run
