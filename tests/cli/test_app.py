"""The command line: quick to start, one clear message for bad input, JSON where a program wants it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mdrepro.core import paths
from mdrepro.papers import ledger
from tests.support.checkout import REPOSITORY, TABLE, Cli, make_run


def _run(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which takes half a second and more."""
    command = [sys.executable, "-m", "mdrepro", *arguments]
    environment = os.environ | {"MDREPRO_ROOT": str(cwd)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, cli_run: Any) -> Iterator[Cli]:
    """As `_run`, in this process."""

    def run(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("MDREPRO_ROOT", str(cwd))
        monkeypatch.chdir(cwd)
        paths.root.cache_clear()
        return subprocess.CompletedProcess(arguments, *cli_run(*arguments))

    yield run
    paths.root.cache_clear()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["list"], ["cost", "sd15"]])
def test_start_up_imports_nothing_heavy(arguments: list[str]) -> None:
    heavy = ("torch", "diffusers", "transformers", "numpy", "pandas", "matplotlib", "snakemake", "papermill", "sphinx")
    heavy += ("pydantic", "yaml", "rich") if arguments[0].startswith("--") else ("rich",)
    program = (
        "import sys; from mdrepro.cli.app import main\n"
        f"try: main({arguments})\n"
        "except SystemExit: pass\n"
        f"found = sorted(set({heavy}) & set(sys.modules)); sys.exit(','.join(found) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_list_json(here: Cli) -> None:
    found = json.loads(here("list", "--json").stdout)
    assert {entry["table"] for entry in found} == set(ledger.tables())
    for entry in found:
        assert {"table", "paper", "notebook", "title"} <= set(entry)
        assert (REPOSITORY / entry["notebook"]).is_file()
        assert entry["table"].startswith(entry["paper"] + "-")
    planned = json.loads(here("list", "--json", "--planned").stdout)
    assert {entry["table"] for entry in planned} == set(ledger.tables(planned=True))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "mobilediffusion-unet"), "did you mean mobilediffusion-unet-cost"),
        (("reproduce", "nothing-at-all"), f"allowed: {TABLE}"),
        (("reproduce", "--tier", "fast"), "allowed: quick, proxy, paper"),
        (("reproduce", TABLE, "--set", "modles=sd15"), "did you mean models"),
        (("reproduce", TABLE, "--set", "models=sd99"), "sd15"),
        (("reproduce", "mobilediffusion-vae-reconstruction", "--set", "steps=many"), "int in ["),
        (
            ("reproduce", "mobilediffusion-vae-reconstruction", "--set", "photos=nowhere/here"),
            "existing file or folder",
        ),
        (("publish", "nothing"), "allowed:"),
        (("verify", "--tier", "fast"), "allowed: quick, proxy, paper"),
        (("cost", "sd99"), "sd15"),
        (("cost", "sd15", "--resolution", "500"), "multiple"),
        (("cost", "sd-decoder", "--resolution", "0"), "multiple"),
        (("reproduce", "mobilediffusion-vae-reconstruction", "--set", "photos="), "existing file or folder"),
        (("cost",), "--system with one of sd15"),
        (("cost", "sd15", "--system", "sd15"), "name either"),
        (("cost", "--system", "sd99"), "allowed: sd15, snapfusion, mobilediffusion"),
        (("cost", "--system", "sd15", "--details"), "leave them out"),
        (("report", "--nonsense"), "No such option"),
        (("reproduce", "--cores", "0"), "greater than or equal to 1"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    here: Cli, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    _is_refused(here, tmp_path, arguments, says)


def test_bad_input_ends_a_process_with_code_2(tmp_path: Path) -> None:
    _is_refused(_run, tmp_path, ("reproduce", "--tier", "fast"), "quick, proxy, paper")


def _is_refused(run: Cli, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    for name in ("notebooks", "mdrepro"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "papermill_runs").exists()


def test_cost_json_is_a_list_for_one_model_too(here: Cli) -> None:
    done = json.loads(here("cost", "sd15", "sd-decoder", "--json").stdout)
    assert [entry["model"] for entry in done] == ["sd15", "sd-decoder"]
    assert set(done[0]) == {"model", "params", "macs", "macs_without_attention", "flops", "resolution"}
    assert done[0]["params"] == 859_520_964
    assert round(done[0]["macs"] / 1e9, 1) == 401.6
    assert round(done[1]["params"] / 1e6, 2) == 49.49
    assert json.loads(here("cost", "sd-decoder", "--json").stdout) == done[1:]


def test_cost_of_a_system(here: Cli) -> None:
    eight, one = json.loads(here("cost", "--system", "mobilediffusion", "--json").stdout)
    assert (eight["steps"], eight["branches"], one["steps"], one["branches"]) == (8, 2, 1, 1)
    assert one["params"] == 517_800_595
    assert [part["model"] for part in one["parts"]] == [
        "text-encoder",
        "mobilediffusion",
        "mobilediffusion-decoder-lite",
    ]
    shown = here("cost", "--system", "sd15", "--system", "mobilediffusion").stdout
    assert shown.count("together") == 3
    assert "50 steps, 2 guidance branches" in shown
    assert "1 step, no guidance" in shown


def test_cost_with_details_only_adds_keys(here: Cli) -> None:
    [plain] = json.loads(here("cost", "mobilediffusion-decoder-lite", "--json").stdout)
    [found] = json.loads(here("cost", "mobilediffusion-decoder-lite", "--details", "--json").stdout)
    assert {name: found[name] for name in plain} == plain
    assert len(set(found["counters"].values())) == 1
    assert set(found["counters"]) == {"closed form", "dispatcher", "hooks"}
    assert "GMAC hooks" in here("cost", "mobilediffusion-decoder-lite", "--details").stdout


def test_verify_says_which_file_was_edited(workspace: Path, monkeypatch: pytest.MonkeyPatch, here: Cli) -> None:
    empty = here("verify", "--tier", "quick", "--json", cwd=workspace)
    assert (empty.returncode, json.loads(empty.stdout)) == (0, {"ok": True, "tables": {}, "problems": []})
    folder = make_run(monkeypatch)
    good = here("verify", "--tier", "quick", "--json", cwd=workspace)
    assert good.returncode == 0
    assert json.loads(good.stdout)["tables"][TABLE]["verdicts"]["reproduced"] == 1
    text = (folder / "result.json").read_text()
    (folder / "result.json").write_text(text.replace("859.52", "860.00"))
    bad = here("verify", "--tier", "quick", cwd=workspace)
    for command in (["show", TABLE], ["report"]):
        refused = here(*command, cwd=workspace)
        assert refused.returncode == 2
        assert f"papermill_runs/quick/{TABLE}/{folder.name}/result.json" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert bad.returncode == 1
    assert f"papermill_runs/quick/{TABLE}/{folder.name}/result.json" in bad.stderr
    assert "Traceback" not in bad.stderr


def test_show_and_doctor(workspace: Path, monkeypatch: pytest.MonkeyPatch, here: Cli) -> None:
    shown = here("show", TABLE, cwd=workspace)
    assert "recalled" in shown.stdout
    assert "no run at tier quick" in shown.stdout
    make_run(monkeypatch)
    assert re.search(r"\bparams +859\.5 +M +860 +reproduced\b", here("show", TABLE, cwd=workspace).stdout)
    assert json.loads(here("show", TABLE, "--json", cwd=workspace).stdout)["run"]["table"] == TABLE
    found = json.loads(here("doctor", "--json", cwd=workspace).stdout)["tiers"]
    assert set(found) == {"quick", "proxy", "paper"}
    assert found["quick"]["ready"]
    names = {finding["name"] for tier in found.values() for finding in tier["findings"]}
    assert {
        "cores",
        "gpu",
        "coco-2014",
        "coco-2017",
        "fid-weights",
        "data",
        "clip-weights",
        "sd15-weights",
        "android",
        "browser",
        "lpips-alex",
    } <= names
    for tier in found.values():
        assert all(finding["remedy"] for finding in tier["findings"] if not finding["found"])


def test_doctor_finds_weights_where_torch_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from mdrepro.reproduce.doctor import hub_checkpoints

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert os.fspath(hub_checkpoints()) == os.path.join(torch.hub.get_dir(), "checkpoints")


def test_a_terminal_without_unicode_still_gets_its_answer() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "mdrepro", "show", TABLE]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
