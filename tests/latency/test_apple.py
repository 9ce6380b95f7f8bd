"""Core ML on a Mac, with a stand-in for the framework; and what is said elsewhere."""

import importlib
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.latency import apple
from mdrepro.latency.file_metadata import FileMetadata


class Model:
    """Takes what a package takes, and remembers it."""

    seen: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, path: str, compute_units: str) -> None:
        self.path, self.units = path, compute_units
        Model.seen = []

    def get_spec(self) -> Any:
        def port(name: str, shape: tuple[int, ...], kind: str) -> Any:
            names = types.SimpleNamespace(Name=lambda _: kind)
            array = types.SimpleNamespace(shape=shape, dataType=0, ArrayDataType=names)
            return types.SimpleNamespace(name=name, type=types.SimpleNamespace(multiArrayType=array))

        ports = [port("ids", (1, 34), "INT32"), port("sample", (1, 8, 8, 8), "FLOAT32")]
        return types.SimpleNamespace(description=types.SimpleNamespace(input=ports))

    def predict(self, inputs: dict[str, Any]) -> None:
        Model.seen.append(inputs)


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    units = types.SimpleNamespace(ALL="ALL", CPU_ONLY="CPU_ONLY", CPU_AND_GPU="GPU", CPU_AND_NE="NE")
    fake = types.SimpleNamespace(models=types.SimpleNamespace(MLModel=Model), ComputeUnit=units, __version__="9.0")
    monkeypatch.setattr(sys, "platform", "darwin")
    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: fake if name == "coremltools" else real(name))


def test_predict_is_timed_after_a_warm_up(mac: None, tmp_path: Path) -> None:
    (tmp_path / "unet.mlpackage").mkdir()
    record = apple.measure(tmp_path / "unet.mlpackage", "ane", metadata=FileMetadata("unet"), runs=12, seconds=0)
    assert (record.times.runs, record.accelerator, record.model) == (12, "CPU and Neural Engine", "unet")
    assert len(Model.seen) == apple.WARM_UP + 12
    inputs = Model.seen[0]
    assert (inputs["ids"].dtype, inputs["ids"].shape) == (np.int32, (1, 34))
    assert (inputs["sample"].dtype, inputs["sample"].shape) == (np.float32, (1, 8, 8, 8))
    assert record.times.load_ms is not None


@pytest.mark.skipif(sys.platform == "darwin", reason="this is a Mac")
def test_elsewhere_the_commands_for_later_are_told(tmp_path: Path) -> None:
    (tmp_path / "unet.mlpackage").mkdir()
    with pytest.raises(NotAttempted, match=r"--on apple[\s\S]*--import xcode"):
        apple.measure(tmp_path / "unet.mlpackage")


def test_other_units_and_packages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean ane"):
        apple.measure(tmp_path, "anee")
    with pytest.raises(BadInput, match="no such package"):
        apple.measure(tmp_path / "x.mlpackage")
