"""The walk-throughs of CONTRIBUTING.md, executed: each block in the file that its first line names."""

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import nbformat
import numpy as np
import pytest
from PIL import Image

from mdrepro.cli import options
from mdrepro.export import commands
from mdrepro.metrics.image import pairs, reconstruction
from mdrepro.models import systems
from mdrepro.training.objectives import kinds
from mdrepro.training.recipes import quick, registry
from mdrepro.training.runs import scratch
from tests.support.checkout import REPOSITORY, Cli, notebook
from tests.support.recipe_rows import mirror
from tests.support.tiny_pipeline import pipeline


class Block(NamedTuple):
    """A fenced block: its language, the file that its first line names ("" for commands), and its text."""

    language: str
    file: str
    text: str


def blocks(title: str) -> list[Block]:
    """The blocks of a section, in order."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, title
    found = re.findall(r"^```(\w+)\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    heads = [re.match(r"# (\S+\.(?:py|yaml|ipynb)(?:, parameters)?)\n", body) for _, body in found]
    return [
        Block(language, head[1] if head else "", body[head.end() :] if head else body)
        for (language, body), head in zip(found, heads, strict=True)
    ]


def put(block: Block, module: ModuleType) -> Any:
    """The block as a part of a module of the package; the value of a block that is one expression."""
    code = compile(block.text, block.file, "exec")
    try:
        return eval(compile(block.text.strip(), block.file, "eval"), vars(module))
    except SyntaxError:
        exec(code, vars(module))
        return None


def new_module(block: Block, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The block as a module of its own, importable by the name that its file gives it."""
    name = block.file.removesuffix(".py").replace("/", ".")
    assert not (REPOSITORY / block.file).exists()
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys.modules[name.rpartition(".")[0]], name.rpartition(".")[2], module, raising=False)
    exec(compile(block.text, block.file, "exec"), vars(module))
    return module


def test_block(block: Block) -> None:
    """Run the tests that a block defines."""
    names: dict[str, Any] = {}
    exec(compile(block.text, block.file, "exec"), names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()


test_block.__test__ = False  # type: ignore[attr-defined]


def lines(block: Block) -> Iterator[list[str]]:
    """Arguments of ``mdrepro`` in the block's commands."""
    assert block.language == "sh"
    for line in block.text.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "mdrepro"
        yield arguments


def test_a_preset(monkeypatch: pytest.MonkeyPatch, cli_run: Any) -> None:
    row, test, shell = blocks("Add a preset")
    monkeypatch.setattr(systems, "SYSTEMS", dict(systems.SYSTEMS))
    system = put(row, systems)
    systems.SYSTEMS[system.name] = system
    test_block(test)
    network, image = (cli_run(*arguments) for arguments in lines(shell))
    assert network[0] == image[0] == 0
    assert "sd15-narrow" in network[1]
    assert "25" in image[1]


def test_an_objective(workspace: Path, monkeypatch: pytest.MonkeyPatch, cli_run: Any) -> None:
    objective, row, test, shell = blocks("Add an objective")
    monkeypatch.setenv(scratch.VARIABLE, "")
    monkeypatch.setattr(kinds, "_KINDS", dict(kinds._KINDS))
    new_module(objective, monkeypatch)
    monkeypatch.setattr(registry, "RECIPES", registry._table([*registry.RECIPES.values(), put(row, quick)]))
    test_block(test)
    for arguments in lines(shell):
        code, out, error = cli_run(*arguments, "--json")
        assert code == 0, error
        record = json.loads(out[out.index("{") :])
        assert record["row"]["options"] == {"noise": 20.0}
        assert record["steps"] == 2


def test_a_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_run: Any) -> None:
    function, rows, choice, test, shell = blocks("Add a metric")
    for name in ("SIMPLE", "NAMES", "PROTOCOLS"):
        monkeypatch.setattr(pairs, name, dict(getattr(pairs, name)))
    monkeypatch.setattr(reconstruction, "mae", None, raising=False)
    put(function, reconstruction)
    put(rows, pairs)
    monkeypatch.setattr(options, "PAIR_METRICS", [*options.PAIR_METRICS])
    put(choice, options)
    monkeypatch.setattr(pairs, "METRICS", tuple(pairs.NAMES))
    test_block(test)
    monkeypatch.chdir(tmp_path)
    for folder, level in (("originals", 100), ("decoded", 104)):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(tmp_path / folder / "a.png")
    for arguments in lines(shell):
        code, out, error = cli_run(*arguments)
        assert code == 0, error
        assert json.loads(out)["metrics"][0]["value"] == 4.0


@pytest.mark.slow
def test_a_table(workspace: Path, cli: Cli) -> None:
    data, parameters, work, shell = blocks("Add a table")
    (workspace / "mdrepro").unlink()
    text = (REPOSITORY / data.file).read_text(encoding="utf-8")
    mirror(REPOSITORY / "mdrepro", workspace / "mdrepro", {data.file.removeprefix("mdrepro/"): f"{text}\n{data.text}"})
    nbformat.write(notebook(parameters.text, work.text), workspace / work.file)
    audited, reproduced, shown, verified = (cli(*arguments) for arguments in lines(shell))
    assert "a-fifth" in audited.stdout
    for done in (audited, reproduced, shown, verified):
        assert done.returncode == 0, done.stdout + done.stderr
    assert shown.stdout.count("reproduced") >= 2
    assert "a-fifth" not in verified.stderr
    assert "all verified" in verified.stdout


def test_an_export_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_run: Any) -> None:
    target, name, precisions, shell = blocks("Add an export target")
    monkeypatch.setattr(commands, "TARGETS", dict(commands.TARGETS))
    new_module(target, monkeypatch)
    monkeypatch.setattr(commands, "TorchExport", None, raising=False)
    put(name, commands)
    monkeypatch.setattr(options, "PRECISIONS", dict(options.PRECISIONS))
    put(precisions, options)
    monkeypatch.chdir(tmp_path)
    pipeline().save_pretrained(tmp_path / "FOLDER")
    for arguments in lines(shell):
        code, out, error = cli_run(*arguments)
        assert code == 0, error
        assert "decoder-fp32.pt2" in out
    assert (tmp_path / "out" / "decoder-fp32.pt2").is_file()


def test_a_block_is_read_with_its_file() -> None:
    found = blocks("Add a table")
    assert [(block.language, block.file.rpartition("/")[2]) for block in found] == [
        ("yaml", "mobilediffusion.yaml"),
        ("python", "decoder_size.ipynb, parameters"),
        ("python", "decoder_size.ipynb"),
        ("sh", ""),
    ]
