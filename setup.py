"""Puts the notebooks, the published results and what else commands read beside the package into wheels."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
SHIPPED = (
    "notebooks",
    "results",
    "workflow/Snakefile",
    "docs/underspecified.yaml",
    "papermill_runs/README.md",
    "environment.yml",
    "requirements.lock",
    "CITATION.cff",
)
"""What ``mdrepro/checkout`` of a wheel holds; see `mdrepro.core.paths`."""


class Build(build_py):
    """As setuptools'; a wheel gets a copy of `SHIPPED`, an editable install does not."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        checkout = Path(self.build_lib) / "mdrepro" / "checkout"
        shutil.rmtree(checkout, ignore_errors=True)
        for name in SHIPPED:
            source, copy = HERE / name, checkout / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".ipynb_checkpoints", ".*"))
            else:
                shutil.copy2(source, copy)


setup(cmdclass={"build_py": Build})
