"""A third target goes the same way as LiteRT and Core ML: checked, compared, gated, renamed into place."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mdrepro.cli import export as command_line
from mdrepro.cli import options
from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.core.files import sha256
from mdrepro.export import commands, components, parity
from mdrepro.export.components import Component
from mdrepro.export.parity import GateMissed, Parity
from mdrepro.export.stages import Stages
from mdrepro.export.target import Target, refusing
from tests.support.small_component import Fake, export, small


class TorchExport:
    """Files of ``torch.export``."""

    name, suffix, bundles = "pt2", ".pt2", False
    precisions: Mapping[str, int] = {"fp32": 4, "fp16": 2}
    fault = 0.0

    def check(self, component: Component, precision: str) -> int:
        return component.parameters * self.precisions[precision]

    def export(
        self,
        component: Component,
        precisions: Sequence[str],
        folder: Path,
        metadata: Mapping[str, Any],
        stages: Stages,
        *,
        plain: bool = False,
    ) -> Iterator[tuple[str, Path]]:
        with stages.stage("converting"):
            program = torch.export.export(component.module, (), kwargs=component.draw(0))
        for precision in precisions:
            file = folder / f"unfinished{self.suffix}"
            with stages.stage(f"writing {precision}"):
                torch.export.save(program, file, extra_files={"metadata": json.dumps(metadata)})
            yield precision, file

    def measure(self, file: Path, component: Component, threads: int | None = None) -> Parity:
        module = torch.export.load(file).module()

        def run(inputs: Mapping[str, Any]) -> Any:
            outputs = module(**{name: torch.from_numpy(value) for name, value in inputs.items()})
            return outputs[component.output].detach().numpy() + self.fault

        return parity.measure(component, run)

    def describe(self, file: Path) -> dict[str, Any]:
        nodes = len(torch.export.load(file).graph.nodes)
        return {
            "bytes": file.stat().st_size,
            "sha256": sha256(file),
            "inputs": ["sample", "scale"],
            "outputs": ["prediction"],
            "operations": {"nodes": nodes},
        }


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> TorchExport:
    added = TorchExport()
    monkeypatch.setitem(commands.TARGETS, added.name, added)
    return added


def test_a_third_target_exports(target: TorchExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = export(small(), tmp_path, monkeypatch, "fp32", "fp16", target="pt2")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["unet-fp16.pt2", "unet-fp32.pt2"]
    for entry in report["files"]:
        assert entry["sha256"] == sha256(tmp_path / entry["file"])
        assert entry["parity"]["psnr_db"] > 100
        assert entry["operations"]["nodes"] > 10
        assert list(entry["seconds"]) == [
            "converting", "writing fp32", "comparing fp32", "writing fp16", "comparing fp16"
        ]  # fmt: skip


def test_from_the_command_line(
    target: TorchExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_run: Any
) -> None:
    monkeypatch.setattr(components, "find", lambda *_: Fake(small()))
    monkeypatch.setattr(command_line, "check_model", lambda *_: None)
    monkeypatch.setitem(options.PRECISIONS, "pt2", tuple(target.precisions))
    asked = ("export", "small", "--out", tmp_path, "--component", "unet", "--target")
    code, out, _ = cli_run(*asked, "pt2")
    assert code == 0
    assert "unet-fp32.pt2" in out
    code, _, error = cli_run(*asked, "pt3")
    assert code == 2
    assert "did you mean pt2?" in error


def test_a_file_too_far_from_pytorch_is_not_written(
    target: TorchExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "fault", 0.1)
    with pytest.raises(GateMissed, match="unet in fp32"):
        export(small(), tmp_path, monkeypatch, "fp32", target="pt2")
    assert not list(tmp_path.iterdir())


def test_errors_of_a_converter_become_bad_input() -> None:
    with pytest.raises(BadInput, match=r"^unet cannot be converted: no such op$"), refusing("unet cannot be converted"):
        raise RuntimeError("\n no such op\n second line")
    for passed in (MemoryError(), NotAttempted("a package is missing"), OSError(28, "full")):
        with pytest.raises(type(passed)), refusing("unet cannot be converted"):
            raise passed


def test_every_target_has_a_gate_for_its_precisions() -> None:
    checked: dict[str, Target] = commands.TARGETS
    for name, each in checked.items():
        assert each.name == name
        assert each.suffix.startswith(".")
        assert set(each.precisions) <= set(parity.GATES)
