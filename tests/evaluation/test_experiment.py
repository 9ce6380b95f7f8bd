"""Which network makes a row: the papers' YAML against recipes and notebooks; wrong checkpoints are refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mdrepro.core import paths
from mdrepro.core.errors import BadInput
from mdrepro.diffusion.samplers import SAMPLERS
from mdrepro.evaluation import networks
from mdrepro.evaluation.experiment import OWN, Experiment, references, rows_of
from mdrepro.evaluation.rows import Row
from mdrepro.papers import ledger
from mdrepro.papers.schema import PUBLISHED
from mdrepro.reproduce.workflow import results, verify
from mdrepro.reproduce.workflow.folders import run_folder
from mdrepro.reproduce.workflow.parameters import declared
from mdrepro.reproduce.workflow.record import record
from mdrepro.training.recipes import registry
from mdrepro.training.runs import loaded, store
from tests.support.checkout import REPOSITORY
from tests.support.experiments import VALUES, Denoiser, N, execute, experiment, plant, resolved

QUALITY = [table.id for table in ledger.tables().values() if table.networks("quick")]
STEPS, LATENT = "mobilediffusion-steps", "1-latent-gan"


def test_every_table_of_quality_declares_its_networks() -> None:
    wanted = [f"mobilediffusion-{name}" for name in ("steps", "ablation-quality")]
    wanted += [f"snapfusion-{name}" for name in ("step-distillation", "distillation-ablations", "evolution", "decoder")]
    assert wanted == QUALITY


@pytest.mark.parametrize(("table", "tier"), [(name, tier) for name in QUALITY for tier in ledger.find(name).tiers])
def test_rows_name_recipes_of_their_tier_samplers_and_parameters_of_the_notebook(table: str, tier: Any) -> None:
    spec = ledger.find(table)
    for name in spec.recipes(tier):
        assert registry.get(name).tier == tier
    for row, network in spec.networks(tier).items():
        assert network.recipe == PUBLISHED or network.recipe in registry.RECIPES, row
        assert network.sampler in (*SAMPLERS, OWN), row
        assert network.removed in networks.REMOVALS, row
    parameters = declared(REPOSITORY / str(spec.notebook))
    assert "recipes" not in parameters
    assert references(spec, tier) == {"guidance", "steps", "scales"} & set(parameters), "each reaches a row"
    assert spec.tiers[tier].scorers == (("shapes-reader", "shapes-clip") if tier == "quick" else ())


def test_a_row_of_an_unknown_recipe_sampler_or_removal_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    table = ledger.find(STEPS)
    quick = table.tiers["quick"]
    for field, value, message in (
        ("recipe", "shapes-bas", r"unknown recipe 'shapes-bas' \(did you mean shapes-base\?\)"),
        ("sampler", "dpm+", r"unknown sampler of mobilediffusion-steps, row 50 'dpm\+'"),
        ("removed", "the roof", "unknown removal of mobilediffusion-steps, row 50 'the roof'"),
    ):
        row = quick.networks["50"].model_copy(update={field: value})
        run = quick.model_copy(update={"networks": quick.networks | {"50": row}})
        changed = table.model_copy(update={"tiers": {"quick": run}})
        monkeypatch.setattr(ledger, "find", lambda _, changed=changed: changed)
        with pytest.raises(BadInput, match=message):
            experiment(STEPS)


def test_parameters_are_the_ones_that_rows_refer_to() -> None:
    assert rows_of(STEPS, "quick", guidance=4.0).setups["8"].guidance == 4.0
    with pytest.raises(BadInput, match="row 50 needs the notebook's parameter guidance"):
        rows_of(STEPS, "quick")
    with pytest.raises(BadInput, match="no row of mobilediffusion-steps at tier quick refers to steps"):
        rows_of(STEPS, "quick", guidance=4.0, steps=5)
    with pytest.raises(BadInput, match="mobilediffusion-unet-cost declares no networks at tier quick"):
        rows_of("mobilediffusion-unet-cost", "quick")


def needing(made: Experiment, recipe: str) -> set[str]:
    """The rows that rest on a recipe, by whichever training seed."""
    own = {row for row in made.setups for setup in made.replicas(row) if recipe in (setup.recipe, setup.decoder)}
    return set(made.setups) if recipe in made.scorers else own


@pytest.mark.parametrize("table", QUALITY)
def test_a_wrong_checkpoint_is_refused_in_every_row_that_it_stands_for(
    table: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for recipe in ledger.find(table).recipes("quick"):
        with pytest.MonkeyPatch.context() as patch:
            plant(patch, tmp_path, recipe)
            made = experiment(table)
            assert needing(made, recipe)
            evaluation = made.evaluation("shapes", N)
            patch.setattr(type(evaluation), "images", lambda *_: None)
            for row in made.setups:
                if row in needing(made, recipe):
                    with pytest.raises(BadInput, match=rf"of shapes-sd-8 \(key_of_shapes-sd-8\): expected {recipe} "):
                        made.images(row, evaluation, seed=0)
                else:
                    made.images(row, evaluation, seed=0)


@pytest.mark.parametrize("table", QUALITY)
def test_a_notebook_with_a_wrong_checkpoint_writes_nothing(
    table: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(iter(ledger.find(table).networks("quick").values()))
    plant(monkeypatch, workspace / "runs", first.decoder or first.recipe)
    if table == "snapfusion-evolution":
        from mdrepro.reproduce.tables import evolution

        for name in ("logs", "log_table", "log_figure"):
            monkeypatch.setattr(evolution, name, lambda *_: {"with robust training": []})
    out = workspace / "out"
    with pytest.raises(
        BadInput, match=f"{table}, row .* is of shapes-sd-8 .*: expected {first.decoder or first.recipe}"
    ):
        execute(table, "quick", out, monkeypatch, images=N)
    assert list(out.iterdir()) == []


def test_a_network_that_is_replaced_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plant(monkeypatch, tmp_path, "none")
    made = experiment(STEPS)
    evaluation = made.evaluation("shapes", N)
    made.images("50", evaluation, seed=0)
    made.pipeline("8").components["unet"] = made.pipeline("50").unet
    with pytest.raises(BadInput, match=r"row 8 .* denoiser is of shapes-base .*: expected shapes-4 "):
        made.images("8", evaluation, seed=0)


def test_blocks_are_removed_whatever_the_decoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    replayed: list[Any] = []
    plant(monkeypatch, tmp_path, "none")
    monkeypatch.setattr(Denoiser, "replay", lambda unet, actions: replayed.append((unet, *actions)))
    made = experiment("snapfusion-decoder")
    monkeypatch.setattr(networks, "REMOVALS", {"a block": lambda _: ["mid 1"]})
    half = made.setups["half-width"]
    made.setups |= {
        "half-width": replace(half, removed="a block"),
        "third": replace(half, removed="a block", decoder=""),
        "fourth": half,
    }
    unets = {row: made.pipeline(row).unet for row in made.setups}
    assert replayed == [(unets["half-width"], "remove mid 1"), (unets["third"], "remove mid 1")]
    assert unets["fourth"] is unets["original"] is not unets["half-width"]


@pytest.fixture
def measured(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Images of rows 50, by three training seeds, and 1-latent-gan were made; a checkout with the notebook of steps."""
    plant(monkeypatch, workspace / "papermill_runs/quick/checkpoints", "none")
    book = ledger.find(STEPS).notebook
    assert book
    shutil.copy(REPOSITORY / book, workspace / book)
    made = experiment(STEPS)
    evaluation = made.evaluation("shapes", N)
    for row in ("50", LATENT):
        made.images(row, evaluation, seed=0)
    return made


def cells(*rows: str) -> list[Row]:
    return [Row(row, "clip_shapes", 0.5, "by hand", n=N, ci_low=0.4, ci_high=0.6) for row in rows]


def parameters(**changes: Any) -> dict[str, Any]:
    return resolved(STEPS, "quick") | {"guidance": VALUES["guidance"]} | changes


def test_what_is_recorded_is_what_made_the_rows(measured: Experiment) -> None:
    result = record(STEPS, cells("50", LATENT), experiment=measured, parameters=parameters()).result
    origin = result["provenance"]
    base = {"shapes-base", "shapes-base-seed1", "shapes-base-seed2"}
    assert set(origin["checkpoints"]) == {*base, "shapes-1", "shapes-reader", "shapes-clip"}
    assert origin["checkpoints"]["shapes-1"]["path"].endswith("shapes-1-key_of_shapes-1/training.json")
    one = {"recipe": "shapes-1", "steps": 1, "sampler": "renoise", "guidance": 1.0, "network": "shapes-1", "seeds": 1}
    keys = {name: f"key_of_{name}" for name in ("shapes-1", "shapes-reader", "shapes-clip")}
    assert origin["networks"][LATENT] == one | {"keys": keys}


def test_a_result_that_its_networks_did_not_make_cannot_be_written(measured: Experiment, tmp_path: Path) -> None:
    file = tmp_path / "training.json"
    file.write_text("{}")
    for rows, given, changes, message in (
        (
            cells("50", "8"),
            {"experiment": measured},
            {},
            "row 8 has a number, and no images of it by shapes-4 were made",
        ),
        (cells("50"), {}, {}, "takes its checkpoints from what made its rows"),
        (cells("50"), {"checkpoints": {"shapes-base": file}}, {}, "takes its checkpoints from what made its rows"),
        (cells("50"), {"experiment": measured, "checkpoints": {}}, {}, "takes its checkpoints from what made its rows"),
        (cells("50"), {"experiment": measured}, {"guidance": 9.0}, "not made with the notebook's parameters"),
        (cells("50"), {"experiment": experiment("snapfusion-decoder")}, {}, "the experiment is of snapfusion-decoder"),
    ):
        with pytest.raises(ValueError, match=message):
            record(STEPS, rows, parameters=parameters(**changes), **given)
    with pytest.raises(ValueError, match="declares no networks at tier quick: give no experiment"):
        record("mobilediffusion-unet-cost", [], experiment=measured, parameters={"tier": "quick"})
    assert not (paths.runs() / "interactive").exists()


@pytest.mark.parametrize("table", QUALITY)
def test_images_say_which_network_made_them_and_what_was_removed(
    table: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plant(monkeypatch, tmp_path, "none")
    made = experiment(table)
    evaluation = made.evaluation("shapes", N)
    for row, network in ledger.find(table).networks("quick").items():
        description = made.images(row, evaluation, seed=0)[0].description
        assert description.startswith(f"{network.network}, "), row
        assert ("removed" in description) == bool(network.removed), row


def test_verify_finds_rows_by_other_networks(measured: Experiment) -> None:
    whole = record(STEPS, cells("50", LATENT), experiment=measured, parameters=parameters()).result
    path = run_folder("quick", STEPS, whole["provenance"]["parameters"]) / "result.json"
    shutil.copytree(paths.runs() / "interactive" / STEPS, path.parent)
    recorded = whole["provenance"]["checkpoints"]
    whole["provenance"]["fingerprint"]["recipes"] = dict.fromkeys(recorded, "of the two rows that there are")
    path.write_text(json.dumps(results.seal(whole)))
    (path.parent / "notebook.ipynb").write_text("{}")
    results.write(path, whole, path.parent, [*whole["files"], "notebook.ipynb"])
    assert verify.problems(path) == []
    assert not [note for note in verify.notes(whole) if "which network made" in note]

    def changed(change: Any) -> dict[str, Any]:
        result = json.loads(path.read_text())
        change(result["provenance"])
        path.write_text(json.dumps(results.seal(result)))
        return result

    for change, message in (
        (lambda origin: origin["networks"][LATENT].update(recipe="shapes-4", network="shapes-4"), "by shapes-4: exp"),
        (
            lambda origin: origin["networks"][LATENT].update(removed="all cross-attention"),
            "made by shapes-1, removed: all cross-attention: expected shapes-1",
        ),
        (
            lambda origin: origin["networks"][LATENT].update(decoder="shapes-lite"),
            "made by shapes-lite, latents of shapes-1: expected shapes-1",
        ),
        (lambda origin: origin["networks"].pop("50"), "row 50 was made by nothing that is recorded: expected shapes-b"),
        (lambda origin: origin["checkpoints"].pop("shapes-1"), "-latent-gan rests on shapes-1, whose checkpoint is"),
        (
            lambda origin: origin["checkpoints"].update({"shapes-1": origin["checkpoints"]["shapes-base"]}),
            "row 1-latent-gan rests on shapes-1, whose checkpoint is not",
        ),
    ):
        before = path.read_text()
        changed(change)
        assert [problem for problem in verify.problems(path) if message in problem]
        path.write_text(before)
    old = changed(lambda origin: origin.pop("networks"))
    (problem,) = verify.problems(path)
    assert "it does not say which network made each row" in problem
    assert any("before results recorded which network made each row" in note for note in verify.notes(old))


def test_recipes_cannot_be_set(cli_run: Any) -> None:
    given = ("images=100", "recipes=shapes-reader,shapes-clip")
    code, out, error = cli_run("reproduce", STEPS, *(word for one in given for word in ("--set", one)))
    assert (code, out) == (2, "")
    assert error.startswith(f"error: --set recipes=...: {STEPS} measures the networks that mdrepro/papers/*.yaml decl")
    assert "expected 50: shapes-base; 8: shapes-4; 1: shapes-1-gan; 8-ddim: shapes-base; 8-dpm++: " in error
    assert len(error.splitlines()) == 1


def test_keys_of_runs_are_those_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published checkpoints themselves: what is loaded is credited to them, with their key."""
    made = rows_of(STEPS, "quick", guidance=3.0)
    made.recipes = ("shapes-base",)  # of which there is one in any checkout
    credit = loaded.runs_of(made.pipeline("50").components)
    assert {name: one.record["recipe"] for name, one in credit.items()} == {
        "unet": "shapes-base",
        "vae": "shapes-vae",
        "text_encoder": "shapes-text",
    }
    assert credit["unet"].record["key"] == store.key(registry.get("shapes-base"))
