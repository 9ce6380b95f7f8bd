"""Warnings of libraries: those that are left out, each seen to be warned of otherwise; none in a normal run."""

import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import nbformat
import pytest

from mdrepro.core import library_warnings
from mdrepro.core.library_warnings import LOGGERS, MESSAGES, leave_out
from tests.support.checkout import REPOSITORY

WARNED = ("warn", "deprecat", "will be ignored", "unable to import")


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_are_left_out_and_others_are_not(message: str) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        leave_out()
        warnings.warn(f"{message} since 0.13", UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
    assert [str(one.message) for one in seen] == ["something else"]


def test_the_package_leaves_them_out_when_it_is_imported() -> None:
    program = f"""
import json, logging, warnings
import mdrepro
for message in {list(MESSAGES)}:
    warnings.warn(message, UserWarning)
print(json.dumps([logging.getLogger(name).isEnabledFor(logging.WARNING) for name in {list(LOGGERS)}]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stderr, json.loads(done.stdout)) == ("", [False] * len(LOGGERS))


def test_each_has_its_reason() -> None:
    assert all({**MESSAGES, **LOGGERS}.values())
    assert library_warnings.__doc__


def test_another_schedulers_fields_are_no_surprise(caplog: pytest.LogCaptureFixture) -> None:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    from mdrepro.diffusion.renoise import RenoisingScheduler

    logging.getLogger("diffusers").addHandler(caplog.handler)
    for kind in (DDIMScheduler, DPMSolverMultistepScheduler):
        config = dict(kind(beta_start=0.001, prediction_type="v_prediction").config)
        del config["_use_default_values"]  # as of a file, whose values are all given
        made = RenoisingScheduler.from_config(config)
        assert (made.config.beta_start, made.config.prediction_type) == (0.001, "v_prediction")
        assert made.config["trained_betas"] is None  # kept for the way back
        assert kind.from_config(made.config).config.prediction_type == "v_prediction"
    logging.getLogger("diffusers").removeHandler(caplog.handler)
    assert caplog.text == ""


def test_cells_of_notebooks_have_ids_of_their_own() -> None:
    for file in REPOSITORY.glob("notebooks/**/*.ipynb"):
        ids = [cell.get("id") for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]]
        assert len(set(ids)) == len(ids), file
        assert None not in ids
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            nbformat.read(file, as_version=4)


@pytest.mark.slow
def test_normal_runs_are_quiet(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red star\n")
    (tmp_path / "settings").mkdir()
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONWARNINGS": ""}
    mdrepro = [sys.executable, "-m", "mdrepro"]
    prompts = ("--prompts", str(tmp_path / "prompts.txt"))
    notebook = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-output"]
    for command in (
        [*mdrepro, "generate", "shapes-1-gan", *prompts, "--out", str(tmp_path / "images")],
        [*mdrepro, "export", "shapes-1-gan", "--component", "decoder", "--out", str(tmp_path / "files")],
        [*notebook, "notebooks/playground.ipynb", str(tmp_path / "playground.ipynb")],
        [*notebook, "notebooks/snapfusion/unet_table3.ipynb", str(tmp_path / "table.ipynb")],
    ):
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
        assert done.returncode == 0, done.stderr
        assert [line for line in done.stderr.splitlines() if any(word in line.lower() for word in WARNED)] == []


def test_notebooks_are_read_and_checked_without_the_grammars_of_other_formats() -> None:
    program = """
import sys
from mdrepro.core.library_warnings import leave_out_grammars
leave_out_grammars()
import jsonschema, nbformat
jsonschema.validate("2026-11-30", {"format": "date"}, format_checker=jsonschema.FormatChecker())
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
nbformat.validate(notebook)
notebook.cells[0].source = 1
try:
    nbformat.validate(notebook)
except nbformat.ValidationError:
    print("refused", "lark" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "refused False\n", done.stderr
