"""``mdrepro train`` and ``mdrepro generate``: what they say, how they end, and ``reproduce`` with checkpoints."""

import json
import re
import subprocess
from pathlib import Path

import nbformat
import pytest

from mdrepro.cli.app import main
from mdrepro.core import paths
from mdrepro.core.errors import BadInput
from mdrepro.export import components
from mdrepro.papers import ledger
from mdrepro.papers.schema import TierRun
from mdrepro.reproduce.workflow import execute, plan, results
from mdrepro.reproduce.workflow.fingerprint import MAKERS, changes, code, fingerprint
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import commands, pipelines, publish, scratch, store
from tests.support.checkout import NOTEBOOK, TABLE, notebook
from tests.support.recipe_rows import put, put_in_package, tiny


@pytest.fixture
def rows(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Recipe]:
    """The tiny recipes in place of all others."""
    monkeypatch.setenv(scratch.VARIABLE, "")
    return put(tiny(), monkeypatch)


def run(*arguments: str) -> int:
    """The exit code of the command."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name recipes, or give --all, or --list"),
        (("t-vae", "--list"), "name recipes, or give --all, or --list"),
        (("t-vea",), "did you mean t-vae"),
        (("t-vae", "--set", "loop.step=1"), "did you mean loop.steps"),
        (("t-vae", "--set", "network.row=mine"), "ours-lite"),
        (("--all", "--set", "loop.steps=1"), "leave them out"),
        (("t-vae", "t-text", "--max-seconds", "1"), "leave them out"),
        (("t-vae", "t-txt"), "did you mean t-text"),
        (("t-vae", "--executor", "slurm", "--snakemake", "x='"), "--snakemake x='"),
        (("--all", "--tier", "quik"), "did you mean quick"),
        (("t-vea", "--seeds", "2"), "did you mean t-vae"),
        (("t-1", "t-1-seed1", "--seeds", "3"), "t-1-seed1 is of one training seed: expected t-1"),
        (("t-1", "--seeds", "3", "--set", "loop.steps=1"), "leave them out"),
        (("--list", "--seeds", "3"), "leave --seeds out"),
    ],
)
def test_wrong_train_commands_end_with_one_message_and_code_2(
    rows: dict[str, Recipe], arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", *arguments) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.startswith("error: ")
    assert captured.out == ""
    assert not paths.runs().exists()


def test_train_list_and_generate(rows: dict[str, Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "t-reader", "--set", "data.source=folder") == 2
    assert "error: this run needs captioned pictures" in capsys.readouterr().err
    assert run("train", "t-reader", "--max-seconds", "0", "--json") == 0
    assert '"finished": false' in capsys.readouterr().out
    assert run("train", "t-1") == 0
    output = capsys.readouterr().out
    assert [line.split(":")[0] for line in output.splitlines()] == ["t-vae", "t-text", "t-base", "t-1", "t-1"]
    assert run("train", "t-1", "--set", "loop.steps=3", "--json") == 0
    record = json.loads(capsys.readouterr().out.split("\n", 2)[2])
    assert (record["finished"], record["steps"]) == (True, 3)
    assert record["folder"] != paths.relative(store.folder(rows["t-1"]))
    assert run("train", "--list", "--json") == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(listed) == set(rows)
    assert (listed["t-1"]["state"], listed["t-lcm"]["state"]) == ("trained", "missing")
    assert listed["t-1"]["folder"] == paths.relative(store.folder(rows["t-1"]))
    assert listed["t-1"]["parents"] == {"vae": "t-vae", "text": "t-text", "unet": "t-base"}
    assert (listed["t-1"]["seconds"], listed["t-1"]["other_seeds"]) == (pytest.approx(0, abs=60), {})
    _generate(tmp_path, capsys)


def _generate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "prompts.txt").write_text("a red star\n\ntwo blue circles\na green square\n")
    prompts = ("--prompts", str(folder / "prompts.txt"))
    assert run("generate", "t-lcm", *prompts, "--out", str(folder / "no")) == 1
    assert "not attempted: there is no checkpoint of t-lcm: mdrepro train t-lcm" in capsys.readouterr().err
    for wrong, says in (
        (("t-11", *prompts, "--out", "x"), "did you mean t-1"),
        ((str(folder), *prompts, "--out", "x"), "model_index.json"),
        (("t-1", *prompts, "--out", "x", "--shard", "1of2"), "expected I/N"),
        (("t-1", *prompts, "--out", "x", "--shard", "2/2"), "shard 2 of 2"),
        (("t-1", *prompts, "--out", "x", "--sampler", "dim"), "did you mean ddim"),
        (("t-1", "--prompts", str(folder / "none.txt"), "--out", "x"), "is no file here"),
    ):
        assert run("generate", *wrong) == 2
        assert says in capsys.readouterr().err
    out = folder / "images"
    assert run("generate", "t-1", *prompts, "--out", str(out), "--shard", "0/2", "--batch", "2") == 0
    assert "2 of 3 images" in capsys.readouterr().out
    assert run("generate", "t-1", *prompts, "--out", str(out), "--batch", "2", "--json") == 0
    manifest = json.loads(capsys.readouterr().out)
    assert [image["prompt"] for image in manifest["images"]] == ["a red star", "two blue circles", "a green square"]
    assert (manifest["settings"]["steps"], manifest["settings"]["guidance"]) == (1, 1.0)
    pipelines.load("t-1").save_pretrained(folder / "saved")
    same = folder / "same"
    assert run("generate", str(folder / "saved"), *prompts, "--out", str(same), "--batch", "2") == 0
    for image in out.glob("*.png"):
        assert (same / image.name).read_bytes() == image.read_bytes()
    assert (
        run("generate", "t-base", *prompts, "--out", str(folder / "three"), "--steps", "3", "--sampler", "dpm++") == 0
    )
    assert json.loads((folder / "three/manifest.json").read_text())["settings"]["steps"] == 3


PARAMETERS = """\
tier: str = "quick"  # in {quick, proxy, paper}: size of the run
"""
WORK = """\
from mdrepro.reproduce.workflow.record import record
from mdrepro.evaluation.rows import Row
from mdrepro.papers import ledger
from mdrepro.training.runs import store

found = {name: store.load_or_train(name) for name in ledger.find("mobilediffusion-unet-cost").recipes(tier)}
print("taken", {name: run.folder.name for name, run in found.items()})
size = sum(run.record["parameters"] for run in found.values())
rows = [Row("sd15", "params", size / 1e6, "toy")]
"""


def _rests_on(recipe: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The toy's table declares a recipe, here and in the module that is returned, for other processes."""
    table = ledger.find(TABLE)
    declared = table.model_copy(update={"tiers": table.tiers | {"quick": TierRun(scorers=(recipe,))}})
    monkeypatch.setattr(ledger, "tables", lambda *, planned=False: {TABLE: declared})
    papers = (Path(ledger.__file__).parent / "mobilediffusion.yaml").read_text()
    return {"papers/mobilediffusion.yaml": papers.replace("quick: {}", f"quick: {{scorers: [{recipe}]}}", 1)}


def _notebook(home: Path) -> None:
    ending = f'record("{TABLE}", rows, checkpoints={{name: run.file for name, run in found.items()}})'
    nbformat.write(notebook(PARAMETERS, WORK, ending), home / NOTEBOOK)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "commit", "-qam", "recipes"], cwd=home, check=True)


def _fingerprint(*recipes: str) -> dict:
    table = ledger.find(TABLE).model_copy(update={"tiers": {"quick": TierRun(scorers=recipes)}})
    return fingerprint(table, {"tier": "quick"})


def test_a_table_rests_on_its_recipes_and_not_on_the_code_that_trains(
    rows: dict[str, Recipe], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    _notebook(workspace)
    before = _fingerprint("t-lite")
    assert set(before["recipes"]) == {"t-lite"}
    followed = before["code"]
    assert "mdrepro/training/runs/store.py" in followed
    assert not {
        "mdrepro/training/recipes/registry.py",
        "mdrepro/training/runs/build.py",
        "mdrepro/training/engine/loop.py",
    } & set(followed)
    assert "mdrepro/training/recipes/registry.py" in _fingerprint()["code"]
    for change, says in (
        ({"t-vae": {"version": 2}}, ["recipes changed: t-lite"]),
        ({"t-lite": {"sampling": {"steps": 3}}}, ["recipes changed: t-lite"]),
        ({"t-1": {"version": 2}}, []),
    ):
        put([replace(row, **change.get(row.name, {})) for row in tiny()], monkeypatch)  # type: ignore[attr-defined]
        assert changes(before, _fingerprint("t-lite")) == says
    words = changes(before, _fingerprint("t-reader"))
    assert [w for w in words if w.startswith("recipes ")] == ["recipes gone: t-lite", "recipes new: t-reader"]
    assert (
        code(["import mdrepro.training.runs.dependencies"], MAKERS).keys()
        < code(["import mdrepro.training.runs.dependencies"]).keys()
    )


def test_checkpoints_come_before_the_tables_that_need_them(
    rows: dict[str, Recipe], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _notebook(workspace)
    _rests_on("t-lite", monkeypatch)
    jobs = plan.plan([TABLE], "quick")
    needed = plan.checkpoints(plan.recipes(jobs))
    assert [(each.recipe, each.parents) for each in needed] == [("t-vae", ()), ("t-lite", ("t-vae",))]
    assert needed[0].explain() == "t-vae: trains: it is not trained on this machine or published"
    table, vae, lite = json.loads(execute.write_plan(jobs, needed, workspace / "plan").read_text())["rules"]
    assert table["inputs"] == ["plan/marks/t-vae", "plan/marks/t-lite"]
    assert (vae["inputs"], lite["inputs"]) == ([], ["plan/marks/t-vae"])
    assert lite["output"] == "plan/marks/t-lite"
    store.load_or_train("t-vae")
    assert [each.recipe for each in plan.checkpoints(plan.recipes(jobs))] == ["t-lite"]
    with pytest.raises(BadInput, match="did you mean t-lite"):
        plan.checkpoints(["t-light"])


def _commit(home: Path) -> None:
    subprocess.run(["git", "add", "-A"], cwd=home, check=True)
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "x"], cwd=home, check=True
    )


@pytest.mark.slow
def test_reproduce_takes_published_checkpoints_and_trains_from_scratch(
    rows: dict[str, Recipe], workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Published: taken. From scratch: trained by the workflow, and only once."""
    _notebook(workspace)
    put_in_package(workspace, replaced=_rests_on("t-reader", monkeypatch))
    _commit(workspace)
    reproduce = ("reproduce", TABLE, "--no-report")
    store.load_or_train("t-reader")
    publish.publish(["t-reader"])
    (workspace / "papermill_runs").rename(workspace / "gone")
    capsys.readouterr()
    assert run(*reproduce) == 0, capsys.readouterr().err
    assert "trains" not in capsys.readouterr().out
    origin = results.run_result("quick", TABLE)["provenance"]  # type: ignore[index]
    assert origin["checkpoints"]["t-reader"]["path"] == "results/quick/checkpoints/t-reader/training.json"
    assert origin["from_scratch"] is False
    assert not (workspace / "papermill_runs/quick/checkpoints").exists()
    assert run(*reproduce) == 0
    assert "up to date" in capsys.readouterr().out
    assert run(*reproduce, "--from-scratch") == 0, capsys.readouterr().err
    captured = capsys.readouterr()
    assert "t-reader: trains: it is not trained on this machine\n" in captured.out
    assert "[t-reader] t-reader: 4 steps" in captured.err
    place = f"papermill_runs/quick/checkpoints/t-reader-{store.key(rows['t-reader'])}"
    origin = results.run_result("quick", TABLE)["provenance"]  # type: ignore[index]
    assert origin["checkpoints"]["t-reader"]["path"] == f"{place}/training.json"
    assert origin["from_scratch"] is True
    assert run(*reproduce, "--from-scratch") == 0
    assert "up to date" in capsys.readouterr().out
    assert run("verify", "--tier", "quick") == 0


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_trained_is_named(
    rows: dict[str, Recipe], workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _notebook(workspace)
    broken = {"training/objectives/reader.py": "raise FloatingPointError('the loss is not finite')\n"}
    put_in_package(workspace, replaced=broken | _rests_on("t-reader", monkeypatch))
    assert run("reproduce", TABLE, "--no-report") == 1
    output = capsys.readouterr().err
    assert f"error: {TABLE}: NotTrained: its checkpoint t-reader was not trained" in output
    assert "[t-reader] error: the loss is not finite" in output


def test_rows_by_several_seeds(rows: dict[str, Recipe], workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.by_seeds(["t-vae", "t-1"], 3) == [
        "t-vae",
        "t-1",
        *(f"t-{n}-seed{s}" for s in "12" for n in ("vae", "1")),
    ]
    every = commands.by_seeds(list(rows), 2, denoisers=True)
    assert every[: len(rows)] == list(rows)
    assert [name for name in rows if f"{name}-seed1" not in every] == ["t-reader", "t-vae", "t-lite", "t-text"]
    assert commands.by_seeds(["t-1-seed1"], 1) == ["t-1-seed1"]
    store.load_or_train("t-1-seed1")
    store.folder(registry.get("t-1-seed2")).mkdir()
    assert run("train", "--list") == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("t-1 "))
    assert re.search(r"missing +1 trained +t-vae", line)
    (workspace / "prompts.txt").write_text("a red star\n")
    arguments = ("--prompts", str(workspace / "prompts.txt"), "--out", str(workspace / "images"))
    assert run("generate", "t-1-seed1", *arguments) == 0
    assert components.find("t-1-seed1").weights == "recipe t-1-seed1"


@pytest.mark.slow
def test_a_recipe_is_trained_by_several_seeds(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = put([row for row in tiny() if row.name == "t-reader"], monkeypatch)["t-reader"]
    put_in_package(workspace, ["t-reader"])
    assert run("train", "t-reader", "--seeds", "2", "--json") == 0, capsys.readouterr()
    output = capsys.readouterr().out
    assert output.startswith("2 to train: t-reader, t-reader-seed1\n")
    made = {name: store.find(name) for name in ("t-reader", "t-reader-seed1")}
    assert [one["name"] for one in json.loads(output[output.index("\n[\n") :])] == list(made)
    assert [found.record["seed"] for found in made.values() if found] == [row.loop.seed, row.loop.seed + 1]
    assert (
        len({found.record["files"]["reader/diffusion_pytorch_model.safetensors"] for found in made.values() if found})
        == 2
    )
    assert run("train", "t-reader", "--seeds", "2") == 0
    assert capsys.readouterr().out == "nothing to train\n"


@pytest.mark.slow
def test_all_that_are_missing_are_trained(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two recipes, one the other's parent: all kinds train in `tests/training/test_runs.py`, in one process."""
    names = ["t-vae", "t-lite"]
    rows = put([row for row in tiny() if row.name in names], monkeypatch)
    put_in_package(workspace, names)
    assert run("train", "--all") == 0, capsys.readouterr()
    assert capsys.readouterr().out.startswith("2 to train: t-vae, t-lite\n[t-vae] ")
    assert all(store.find(row) for row in rows.values())
    for again in (("--all",), ("t-lite", "t-vae", "--jobs", "1")):
        assert run("train", *again) == 0
        assert capsys.readouterr().out == "nothing to train\n"
