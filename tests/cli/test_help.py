"""Help, completion and refusals: examples that parse, the package's choices, nothing heavy for a typing error."""

import json
import re
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from mdrepro.cli import options
from mdrepro.cli.app import app
from mdrepro.cli.examples import EXAMPLES
from mdrepro.core import console
from mdrepro.core.errors import nearest
from mdrepro.papers import ledger
from mdrepro.reproduce.report import build
from mdrepro.reproduce.workflow import execute
from tests.support.checkout import REPOSITORY, TABLE

ROOT: Any = typer.main.get_command(app)


def commands() -> dict[str, Any]:
    """All commands by their words."""
    found = {}
    for name, command in ROOT.commands.items():
        parts = getattr(command, "commands", None)
        found |= {f"{name} {part}": one for part, one in parts.items()} if parts else {name: command}
    return found


def test_every_command_has_examples_and_each_of_them_parses() -> None:
    found = commands()
    assert set(EXAMPLES) == set(found)
    for name, examples in EXAMPLES.items():
        for example in examples:
            words = example.split()
            own = len(name.split())
            assert words[: own + 1] == ["mdrepro", *name.split()]
            found[name].make_context(name, words[own + 1 :])
            for word in words:
                table = word.startswith(("mobilediffusion-", "snapfusion-"))
                assert not table or word in ledger.tables(), word


@pytest.mark.parametrize("words", [(), ("evaluate",), ("audit",)])
def test_summaries_are_whole(cli_run: Any, words: tuple[str, ...]) -> None:
    code, out, _ = cli_run(*words, "--help")
    listed = out.partition("Commands:\n")[2]
    assert (code, "..." in listed) == (0, False)
    shown = " ".join(listed.split())
    for name, command in commands().items():
        if name.split()[: len(words)] == list(words) and len(name.split()) == len(words) + 1:
            summary = " ".join(command.help.partition("\n\n")[0].split())
            assert summary.endswith(".")
            assert f"{name.split()[-1]} {summary}" in shown


def test_help_has_choices_and_examples(cli_run: Any) -> None:
    out = cli_run("export", "--help")[1]
    assert "<litert|coreml|executorch>" in out
    assert "fp32|fp16|int8|int8-dynamic|palette8" in out
    assert out.partition("Examples:\n")[2].split("\n")[0] == f"  {EXAMPLES['export'][0]}"


SOURCES: tuple[tuple[Any, str], ...] = (
    (options.Tier, "mdrepro.papers.schema:TIERS"),
    (options.Component, "mdrepro.export.components:COMPONENTS"),
    (options.Sampler, "mdrepro.diffusion.samplers:SAMPLERS"),
    (options.Encoder, "mdrepro.metrics.image.catalogue:ENCODERS"),
    (options.Protocol, "mdrepro.metrics.image.presets:PRESETS"),
    (options.ClipScale, "mdrepro.metrics.image.clip_score:SCALES"),
    (options.PairsPackage, "mdrepro.metrics.image.peers.reconstruction:PACKAGES"),
    (options.FidPackage, "mdrepro.metrics.image.peers.fid:PACKAGES"),
    (options.ReportKind, "mdrepro.latency.imports:KINDS"),
    (options.Part, "mdrepro.latency.records:Component"),
    (options.TextFormat, "mdrepro.reproduce.export_table:Format"),
    (options.IMAGE_METRICS, "mdrepro.metrics.image.sets:METRICS"),
    (options.PAIR_METRICS, "mdrepro.metrics.image.pairs:METRICS"),
)


@pytest.mark.parametrize(("here", "source"), SOURCES, ids=lambda value: value if isinstance(value, str) else "")
def test_choices_are_those_of_the_package(here: Any, source: str) -> None:
    module, name = source.split(":")
    there = getattr(import_module(module), name)
    assert set(map(str, get_args(here) or here)) == set(get_args(there) or there)


def test_precisions_and_units_are_those_of_the_targets() -> None:
    from mdrepro.export.commands import TARGETS
    from mdrepro.latency import android, apple

    assert {name: tuple(target.precisions) for name, target in TARGETS.items()} == options.PRECISIONS
    assert set(get_args(options.Accelerator)) == set(apple.UNITS) | set(android.ACCELERATED)


REFUSED = {
    "export sd15 --out x --precision fp8": "unknown precision of litert 'fp8'; allowed: fp32, fp16, int8, int8-dynamic",
    "export sd15 --out x --precision palette8": "allowed: fp32, fp16, int8, int8-dynamic",
    "export sd15 --out x --target onnx": "allowed: litert, coreml, executorch",
    "export sd15 --out x --component vae": "allowed: text-encoder, unet, decoder",
    "export shapes-one --out x": "did you mean shapes-",
    "export zzz --out x": "mobilediffusion-lite, a folder of a diffusers pipeline, or the recipes of mdrepro train --l",
    "generate shapes-one --prompts Makefile --out x": "did you mean shapes-",
    "generate shapes-1 --prompts nowhere.txt --out x": "nowhere.txt is no file here",
    "generate shapes-1 --prompts Makefile --out x --sampler dim": "did you mean ddim",
    "generate shapes-1 --prompts Makefile --out x --shard 1of2": "expected I/N",
    "evaluate images tests docs --metrics fid,fod": "did you mean fid",
    "evaluate images tests docs --scale percent": "allowed: cosine, hessel, torchmetrics",
    "evaluate images tests docs --device tpu": "allowed: auto, cpu, cuda",
    "evaluate images tests docs --against cleanfid": "did you mean clean-fid",
    "evaluate images tests nowhere": "nowhere: no such folder",
    "evaluate statistics tests --out x.pt": "ends in .safetensors or .npz",
    "latency --on phone x.tflite": "allowed: host, android, apple",
    "cost sd99": "sd15",
    "train shapes-one": "did you mean shapes-",
    "train zzz": "unknown recipe 'zzz'; allowed: the recipes of mdrepro train --list",
    "show steps": "did you mean mobilediffusion-steps?",
    "show mobilediffusion-vae": "did you mean mobilediffusion-vae-reconstruction?",
    "reproduce --tier fast": "allowed: quick, proxy, paper",
    "rep": "did you mean reproduce or report?",
    "evaluate im": "did you mean images?",
}


def test_what_is_mistyped_is_refused_before_anything_heavy_is_imported() -> None:
    program = f"""
import io, json, sys
from contextlib import redirect_stderr
from mdrepro.cli.app import main
found = {{}}
for line in {list(REFUSED)}:
    with redirect_stderr(io.StringIO()) as error:
        try: main(line.split())
        except SystemExit as end: code = end.code
    heavy = sorted({{"torch", "numpy", "diffusers", "transformers", "pandas", "snakemake"}} & set(sys.modules))
    found[line] = [code, error.getvalue(), heavy]
json.dump(found, sys.stdout)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for line, (code, error, heavy) in json.loads(done.stdout).items():
        assert (line, code, heavy) == (line, 2, [])
        assert REFUSED[line] in error
        assert error.startswith("error: ")
        assert len(error) < 500  # not the names of all recipes


@pytest.mark.parametrize(
    ("name", "choices", "expected"),
    [
        ("steps", ["md-steps", "md-vae-full", "sf-step"], ["md-steps"]),
        ("md-vae", ["md-steps", "md-vae-full", "sf-step"], ["md-vae-full"]),
        ("MD_Vae", ["md-steps", "md-vae-full"], ["md-vae-full"]),
        ("md", ["md-first", "md-second", "md-third", "md-4"], ["md-4"]),
        ("re", ["show", "report", "reproduce", "core"], ["report", "reproduce"]),
        ("stpes", ["steps", "seed"], ["steps"]),
        ("", ["steps", "seed"], []),
        ("x", ["proxy", "paper"], []),
        ("zzz", ["steps", "seed"], []),
    ],
)
def test_the_nearest_choices(name: str, choices: list[str], expected: list[str]) -> None:
    assert nearest(name, choices) == expected


def test_version_is_the_packages(cli_run: Any) -> None:
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert cli_run("--version") == (0, f"mdrepro {declared}\n", "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mdrepro show mobilediffusion-s", ["mobilediffusion-steps"]),
        ("mdrepro train shapes-v", ["shapes-vae", "shapes-vae-lite"]),
        ("mdrepro export --target ", ["litert", "coreml", "executorch"]),
        ("mdrepro export --precision int", ["int8", "int8-dynamic"]),
        ("mdrepro export snap", ["snapfusion"]),
        ("mdrepro export shapes-v", ["shapes-vae", "shapes-vae-lite"]),
        ("mdrepro cost mobilediffusion-l", ["mobilediffusion-lite"]),
        ("mdrepro cost --system snap", ["snapfusion"]),
        ("mdrepro rep", ["reproduce", "report"]),
    ],
)
def test_completion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, expected: list[str]
) -> None:
    monkeypatch.setenv("_MDREPRO_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    with pytest.raises(SystemExit):
        app(prog_name="mdrepro")
    assert capsys.readouterr().out.split() == expected


def test_quiet_leaves_progress_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, cli_run: Any
) -> None:
    times = iter(range(0, 1000, 20))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(times)))
    job = [sys.executable, "-c", "import os; print('[job] step', bool(os.environ.get('MDREPRO_QUIET')))"]
    for quiet in (False, True):
        with console.quietly() if quiet else nullcontext():
            list(console.track([1, 2], "images"))
            execute._run(job, ["job"], tmp_path / "log", False, sys.stderr)
        assert (tmp_path / "log").read_text() == f"[job] step {quiet}\n"
        assert (capsys.readouterr().err == "") == quiet
    seen: list[bool] = []
    monkeypatch.setattr(build, "build", lambda *_, **__: seen.append(console.quiet()) or tmp_path)
    for words in (("report",), ("report", "--quiet"), ("--quiet", "report")):
        cli_run(*words)
    assert (seen, console.quiet()) == ([False, True, True], False)


def test_report_takes_a_folder_and_a_tier(monkeypatch: pytest.MonkeyPatch, cli_run: Any, tmp_path: Path) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(build, "build", lambda out=None, *, tier=None: asked.append((out, tier)) or tmp_path / "x")
    assert cli_run("report", "--out", tmp_path, "--tier", "proxy")[0] == 0
    assert cli_run("report")[0] == 0
    assert asked == [(tmp_path, "proxy"), (None, None)]
    assert cli_run("report", "--tier", "fast")[0] == 2


def test_a_dry_run_shows_reasons_and_resolved_parameters(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, cli_run: Any
) -> None:
    shown: list[bool] = []
    monkeypatch.setattr(execute, "call", lambda *_, show, **__: shown.append(show) or (False, ""))
    code, out, _ = cli_run("reproduce", TABLE, "--dry-run", "--set", "steps=7,9")
    assert (code, shown) == (0, [False])
    assert len(re.findall(r"runs: it has no run yet\n  parameters: tier=quick, factor=1.0, steps=[79], ", out)) == 2
    assert "2 of 2 runs and 0 trainings are due; nothing was started" in out
    cli_run("reproduce", TABLE, "--dry-run", "--verbose")
    assert shown == [False, True]


def test_bare_make_prints_targets_that_exist() -> None:
    done = subprocess.run(["make", "--no-print-directory"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("make reproduce ")
    declared = re.search(r"^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert declared
    named = {
        word for line in done.stdout.splitlines() for word in line[5:].split("  ")[0].partition(":")[0].split(", ")
    }
    assert named <= set(declared[1].split())
    assert {"reproduce", "test", "report"} <= named
