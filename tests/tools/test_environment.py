"""pyproject.toml, requirements.lock and environment.yml say the same, and the lock can be trusted."""

import re
import tomllib

import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.support.checkout import REPOSITORY
from tools.environment import canonical, direct, environment, locked

LOCK = REPOSITORY / "requirements.lock"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
ASKED = {"jupyterlab", "papermill", "torch", "diffusers", "torchmetrics", "clean-fid", "lpips", "scikit-image"}


def test_environment_yml_is_what_the_lock_says() -> None:
    assert (REPOSITORY / "environment.yml").read_text() == environment(REPOSITORY)
    dependencies = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
    pins = [Requirement(line) for line in dependencies[-1]["pip"]]
    assert {canonical(pin.name) for pin in pins} == set(direct(REPOSITORY / "pyproject.toml"))
    assert ASKED | {"ai-edge-torch", "seaborn"} <= {canonical(pin.name) for pin in pins}
    assert f"python{PROJECT['requires-python']}" in dependencies


def test_every_requirement_of_the_project_is_locked_within_its_bounds() -> None:
    pins = locked(LOCK)
    extras = [item for extra in PROJECT["optional-dependencies"].values() for item in extra]
    for text in [*PROJECT["dependencies"], *extras]:
        wanted = Requirement(text)
        for version, marker in pins[canonical(wanted.name)]:
            assert wanted.specifier.contains(version), text
            assert not marker or Marker(marker)
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.11.0")


def test_the_lock_is_hashed_universal_and_names_no_index() -> None:
    text = LOCK.read_text()
    assert "://" not in text
    assert "index" not in text.split("==")[0]
    blocks = re.split(r"\n(?=[a-z0-9])", text)
    assert all("--hash=sha256:" in block for block in blocks if "==" in block.splitlines()[0])
    assert len(locked(LOCK)) > 150
    assert "sys_platform == 'darwin'" in text or "platform_system" in text or "sys_platform" in text
