"""record, publish and verify: whole files or none, every edit found, verdicts recomputed."""

import csv
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from mdrepro.core.errors import BadInput
from mdrepro.core.files import replacing_folder, write_json
from mdrepro.core.paths import published, runs, runs_of
from mdrepro.core.provenance import state
from mdrepro.evaluation.rows import Row
from mdrepro.papers import ledger
from mdrepro.papers.schema import Tolerance
from mdrepro.reproduce.workflow import publish as publishing
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.folders import default_run
from mdrepro.reproduce.workflow.parameters import resolve
from mdrepro.reproduce.workflow.plan import plan
from mdrepro.reproduce.workflow.publish import publish
from mdrepro.reproduce.workflow.record import record
from mdrepro.reproduce.workflow.verify import problems, verify
from tests.support.checkout import NOTEBOOK, TABLE, make_run, row

matplotlib.use("Agg")


def test_record_writes_every_field_and_judges(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(monkeypatch)
    result = json.loads((folder / "result.json").read_text())
    row = next(row for row in result["rows"] if (row["row"], row["column"]) == ("sd15", "params"))
    wanted = {"row", "column", "value", "unit", "n", "ci_low", "ci_high", "protocol", "paper_value", "verdict"}
    assert wanted <= set(row)
    assert (row["value"], row["paper_value"], row["verdict"]) == (859.52, 860, "reproduced")
    assert row["unit"] == "M"
    origin = result["provenance"]
    assert len(origin["commit"]) == 40
    assert origin["dirty"] is False
    assert origin["parameters"]["steps"] == 3
    assert str(workspace) not in json.dumps(result)
    assert {"torch", "diffusers"} <= set(origin["versions"])
    assert sorted(path.name for path in folder.iterdir()) == ["figures", "notebook.ipynb", "result.csv", "result.json"]
    assert sorted(path.name for path in (folder / "figures").iterdir()) == ["cost.png", "cost.svg"]
    with open(folder / "result.csv", encoding="utf-8") as file:
        lines = {(line["row"], line["column"]): line for line in csv.DictReader(file)}
    assert float(lines["sd15", "params"]["value"]) == 859.52
    assert len(lines) == len(result["rows"])


def test_a_result_keeps_the_value_of_each_training_seed(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(monkeypatch, [row(2.0, n=9, ci_low=1.0, ci_high=3.0, by_seed=(1.5, 2.5))])
    kept = {(one["row"], one["column"]): one for one in json.loads((folder / "result.json").read_text())["rows"]}
    measured, absent = kept["sd15", "params"], kept["sdxl", "params"]
    assert (measured["seeds"], measured["by_seed"]) == (2, [1.5, 2.5])
    assert (absent["seeds"], absent["by_seed"]) == (None, [])
    with open(folder / "result.csv", encoding="utf-8") as file:
        lines = {(line["row"], line["column"]): line for line in csv.DictReader(file)}
    assert (lines["sd15", "params"]["seeds"], lines["sd15", "params"]["by_seed"]) == ("2", "1.5 2.5")
    assert lines["sdxl", "params"]["by_seed"] == ""


def test_every_cell_of_the_paper_gets_a_verdict(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(monkeypatch)
    rows = results.read(folder / "result.json")["rows"]
    assert {(cell.row, cell.column) for cell in ledger.find(TABLE).cells} <= {(r["row"], r["column"]) for r in rows}
    left_out = next(row for row in rows if row["row"] == "sdxl" and row["column"] == "params")
    assert left_out["verdict"] == "not attempted"
    assert left_out["reason"]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([row(row="sd99")], "declares no cell"),
        ([row(), row()], "twice"),
        ([row(float("nan"))], "JSON"),
    ],
)
def test_record_refuses_what_the_table_does_not_declare(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, rows: list[Row], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        make_run(monkeypatch, rows)
    assert not default_run("quick", TABLE).exists()
    assert list(runs_of("quick", TABLE).iterdir()) == []


def test_a_row_has_a_value_or_a_reason() -> None:
    for bad in ({"value": None}, {"value": 1.0, "reason": "x"}, {"ci_low": 1.0}, {"ci_low": 0.0, "ci_high": 1.0}):
        with pytest.raises(ValueError, match="sd15/params"):
            row(**bad)


def test_record_in_jupyter_goes_elsewhere(workspace: Path) -> None:
    shown = record(TABLE, [row()], parameters=resolve(ledger.find(TABLE), "quick"))
    assert shown.folder == runs() / "interactive" / TABLE
    assert "reproduced" in shown._repr_html_()
    assert not default_run("quick", TABLE).exists()


def _edit(path: Path, change: Any) -> None:
    result = json.loads(path.read_text())
    change(result)
    path.write_text(json.dumps(result))


def _reseal(path: Path, change: Any) -> None:
    _edit(path, change)
    path.write_text(json.dumps(results.seal(json.loads(path.read_text()))))


def _params(result: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in result["rows"] if (row["row"], row["column"]) == ("sd15", "params"))


@pytest.mark.parametrize(
    ("damage", "names", "says"),
    [
        (lambda f: _edit(f / "result.json", lambda r: _params(r).update(value=1.0)), "result.json", "edited"),
        (lambda f: _edit(f / "result.json", lambda r: _params(r).update(protocol="x")), "result.json", "edited"),
        (lambda f: _reseal(f / "result.json", lambda r: _params(r).update(value=1.0)), "result.json", "recomputed"),
        (
            lambda f: _reseal(f / "result.json", lambda r: _params(r).update(paper_value=1)),
            "result.json",
            "paper_value",
        ),
        (lambda f: _reseal(f / "result.json", lambda r: r.update(claims=[])), "result.json", "claim"),
        (lambda f: (f / "result.csv").write_text("row\n"), "result.csv", "changed"),
        (lambda f: (f / "figures/cost.png").unlink(), "cost.png", "gone"),
        (lambda f: (f / "notebook.ipynb").write_text("[]"), "notebook.ipynb", "changed"),
        (lambda f: (f / "result.json").write_text("{"), "result.json", "not a readable"),
        (lambda f: (f / "result.json").write_text("[]"), "result.json", "not a readable"),
        (lambda f: _edit(f / "result.json", lambda r: r.pop("rows")), "result.json", ""),
        (lambda f: _reseal(f / "result.json", lambda r: r.pop("files")), "result.json", "files"),
    ],
)
def test_verify_names_the_file_that_was_touched(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, damage: Any, names: str, says: str
) -> None:
    folder = make_run(monkeypatch)
    assert problems(folder / "result.json") == []
    damage(folder)
    found = problems(folder / "result.json")
    assert found
    assert names in found[0]
    assert any(says in line for line in found)
    assert verify("quick")["ok"] is False


def test_verify_misses_gone_inputs(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(monkeypatch)
    lost = {"package:skimage/data/nothing.png": "0" * 64}
    _reseal(folder / "result.json", lambda r: r["provenance"].update(inputs=lost))
    assert "nothing.png is gone" in problems(folder / "result.json")[0]
    wrong = {"package:skimage/data/coffee.png": "0" * 64}
    _reseal(folder / "result.json", lambda r: r["provenance"].update(inputs=wrong))
    assert "not the one" in problems(folder / "result.json")[0]
    (workspace / NOTEBOOK).unlink()
    assert any("notebook" in line for line in problems(folder / "result.json"))


def test_a_run_in_the_wrong_place_is_found(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(monkeypatch)
    for place in (runs_of("paper", TABLE) / folder.name, folder.with_name("0123456789ab")):
        shutil.copytree(folder, place)
        assert "does not belong here" in problems(place / "result.json")[0]


def test_edited_results_are_refused_wherever_they_are_read(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(monkeypatch)
    publish([TABLE], "quick")
    for path, read in (
        (folder / "result.json", results.run_result),
        (published("quick") / f"{TABLE}.json", results.published_result),
    ):
        _edit(path, lambda r: _params(r).update(value=860.0))
        with pytest.raises(BadInput, match=f"{path.name}.*edited"):
            read("quick", TABLE)
    with pytest.raises(BadInput, match="edited"):
        plan([TABLE], "quick")


def test_git_that_cannot_say_is_not_clean(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / ".git/index").write_bytes(b"broken")
    assert state()["dirty"]
    shutil.rmtree(workspace / ".git")
    assert state() == {"commit": None, "dirty": True, "changed_files": ["(git status failed)"]}
    subprocess.run(["git", "init", "-q", workspace.parent], check=True)
    assert state()["commit"] is None


def test_publishing_is_all_or_none(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(monkeypatch)
    with pytest.raises(BadInput, match="vae-reconstruction has no run"):
        publish([TABLE, "mobilediffusion-vae-reconstruction"], "quick")
    assert not published("quick").exists()


def test_publish_copies_a_clean_run_that_verifies(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(monkeypatch)
    written = publish([TABLE], "quick")
    place = published("quick")
    assert {path.relative_to(place).as_posix() for path in written} == {
        f"{TABLE}.json",
        f"{TABLE}.csv",
        f"figures/{TABLE}-cost.png",
        f"figures/{TABLE}-cost.svg",
    }
    assert results.read(place / f"{TABLE}.json")["rows"] == results.read(folder / "result.json")["rows"]
    found = verify("quick")
    assert found["ok"] is True
    assert found["tables"][TABLE]["verdicts"]["reproduced"] == 1
    assert found["tables"][TABLE]["published"]["ok"]
    make_run(monkeypatch)  # results/ is not part of what makes a tree dirty
    publish([TABLE], "quick")
    (place / f"figures/{TABLE}-cost.svg").write_text("<svg/>")
    assert verify("quick")["ok"] is False


def test_publish_refuses_what_cannot_be_traced(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="has no run"):
        publish([TABLE], "quick")
    make_run(monkeypatch, settings=("steps=5",))
    with pytest.raises(BadInput, match="has no run with the default parameters"):
        publish([TABLE], "quick")
    (workspace / "requirements.lock").write_text("toy==2.0\n")
    make_run(monkeypatch)
    with pytest.raises(BadInput, match=r"not made from a clean commit \(requirements\.lock"):
        publish([TABLE], "quick")
    (workspace / "requirements.lock").write_text("toy==1.0\n")
    folder = make_run(monkeypatch)
    (folder / "result.csv").write_text("")
    with pytest.raises(BadInput, match="does not verify"):
        publish([TABLE], "quick")
    assert not published("quick").exists()


def test_published_numbers_are_judged_again_and_stay(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, cli_run: Any
) -> None:
    make_run(monkeypatch)
    publish([TABLE], "quick")
    place = published("quick") / f"{TABLE}.json"
    before, spec = results.read(place), ledger.find(TABLE)
    assert publishing.rejudge("quick") == []
    exact = spec.columns["params"].model_copy(update={"tolerance": Tolerance(relative=1e-9)})
    strict = spec.model_copy(update={"columns": spec.columns | {"params": exact}})
    monkeypatch.setattr(ledger, "find", lambda name, planned=False: {TABLE: strict}[name])
    assert verify("quick")["ok"] is False
    written = publishing.rejudge("quick")
    assert [path.name for path in written] == [f"{TABLE}.csv", f"{TABLE}.json"]
    after = results.read(place)
    assert [row["verdict"] for row in before["rows"] if row["value"]] == ["reproduced"]
    assert [row["verdict"] for row in after["rows"] if row["value"]] == ["differs"]
    for one in (before, after):
        one["rows"] = [{key: row[key] for key in row if key != "verdict"} for row in one["rows"]]
    assert after["rows"] == before["rows"]
    assert after["provenance"] == before["provenance"] | {"judged_at": before["provenance"]["commit"]}
    found = verify("quick")["tables"][TABLE]["published"]
    assert found["ok"] is True
    assert any("its verdicts given anew at " in note for note in found["notes"])
    gone = spec.model_copy(update={"columns": {name: one for name, one in spec.columns.items() if name != "params"}})
    monkeypatch.setattr(ledger, "find", lambda name, planned=False: gone)
    with pytest.raises(BadInput, match=f"{TABLE} declares no sd15/params, which was published"):
        publishing.rejudge("quick")
    (workspace / "requirements.lock").write_text("toy==2.0\n")
    with pytest.raises(BadInput, match=r"of a clean commit, and requirements\.lock changed"):
        publishing.rejudge("quick")
    for arguments in ([], [TABLE, "--rejudge"]):
        code, out, error = cli_run("publish", *arguments)
        assert (code, out) == (2, "")
        assert error.startswith("error: expected either tables to publish or --rejudge")


def test_a_rerun_is_set_beside_the_published_numbers(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(monkeypatch)
    publish([TABLE], "quick")
    table = ledger.find(TABLE)
    same = results.read(make_run(monkeypatch) / "result.json")
    other = results.read(make_run(monkeypatch, [row(861.0)]) / "result.json")
    earlier = results.published_result("quick", TABLE)
    key = ("sd15", "params")
    assert results.agreement(table, same["rows"], earlier)[key] is True
    assert results.agreement(table, other["rows"], earlier)[key] is False
    assert results.agreement(table, same["rows"], None) == {}


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    final = tmp_path / "final"
    final.mkdir()
    (final / "old").write_text("old")

    def fail() -> None:
        with replacing_folder(final) as folder:
            (folder / "new").write_text("new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert (final / "old").read_text() == "old"
    with replacing_folder(final) as folder:
        (folder / "new").write_text("new")
    assert [path.name for path in final.iterdir()] == ["new"]
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"value": float("inf")})
    assert not (tmp_path / "x.json").exists()
