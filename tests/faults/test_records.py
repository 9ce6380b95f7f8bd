"""Records never lead out of their folder, and a small damaged file beside a run does not block it."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from mdrepro.core.errors import BadInput
from mdrepro.core.paths import published
from mdrepro.reproduce.workflow import publish, results
from mdrepro.reproduce.workflow.folders import default_run
from mdrepro.training.engine import checkpoint, curve
from mdrepro.training.recipes import registry
from mdrepro.training.runs import session, store
from tests.support.checkout import TABLE, make_run

OUT = ["../victim", "a/../../victim", "/etc/passwd", "", "a\0"]


@pytest.mark.parametrize("name", OUT)
def test_a_training_record_names_no_file_outside(tmp_path: Path, name: str) -> None:
    recipe = registry.get("shapes-base")
    whole = {"key": "0" * 12, "files": {"unet/config.json": "0" * 64}}
    (tmp_path / session.RECORD).write_text(json.dumps(whole))
    found = store.read(recipe, tmp_path)
    assert found is not None
    assert found.record == whole
    shared = {"unet": {"recipe": name, "sha256": "0" * 64}}
    for strange in (
        {"files": {name: "0" * 64}},
        {store.SHARED: shared},
        {store.SHARED: {name: shared["unet"] | {"recipe": "a"}}},
    ):
        (tmp_path / session.RECORD).write_text(json.dumps(whole | strange))
        with pytest.raises(BadInput, match="remove that folder"):
            store.read(recipe, tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": []}', '{"files": {"a": 1}}', '{"files": {}, "shared": 3}'])
def test_a_damaged_training_record_is_bad_input(tmp_path: Path, text: str) -> None:
    (tmp_path / session.RECORD).write_text(text)
    with pytest.raises(BadInput, match=session.RECORD):
        store.read(registry.get("shapes-base"), tmp_path)
    assert store.read(registry.get("shapes-base"), tmp_path / "gone") is None


def test_publish_deletes_and_writes_nothing_outside(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A published result whose ``files`` lead out, sealed anew: publishing over it removed the file there."""
    make_run(monkeypatch)
    publish.publish([TABLE], "quick")
    file = published("quick") / f"{TABLE}.json"
    victim = workspace / "victim"
    victim.write_text("kept")
    result = results.read(file)
    result["files"] |= {"../../victim": "0" * 64}
    file.write_text(json.dumps(results.seal(result)))
    with pytest.raises(BadInput, match=r"\.\./\.\./victim"):
        publish.publish([TABLE], "quick")
    assert victim.read_text() == "kept"
    result = results.read(default_run("quick", TABLE) / "result.json")
    result["files"] |= {"figures/../../../../victim": "0" * 64}
    (default_run("quick", TABLE) / "result.json").write_text(json.dumps(results.seal(result)))
    with pytest.raises(BadInput, match="victim"):
        publish.publish([TABLE], "quick")


@pytest.mark.parametrize("files", [["a"], {"a": 1}, 3, None])
def test_a_result_of_other_types_is_bad_input(workspace: Path, monkeypatch: pytest.MonkeyPatch, files: Any) -> None:
    file = make_run(monkeypatch) / "result.json"
    file.write_text(json.dumps(results.seal(results.read(file) | {"files": files})))
    with pytest.raises(BadInput, match=r"result\.json"):
        results.read(file)


@pytest.mark.parametrize(
    "bad", [b"{", b"[1]", b'{"loss": 1}', b'{"step": NaN}', b'{"step": 1, "loss": "low"}', b"\xff\xfe", b"[" * 10**5]
)
def test_one_bad_line_of_the_losses_does_not_block_a_run(
    tmp_path: Path, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / curve.FILE
    good = [{"step": 1, "denoiser/loss": 0.5}, {"step": 2, "denoiser/loss": 0.25}]
    file.write_bytes(json.dumps(good[0]).encode() + b"\n" + bad + b"\n" + json.dumps(good[1]).encode() + b'\n{"cut')
    with caplog.at_level(logging.WARNING):
        kept = curve.Curve(tmp_path, 2, write=True)
    kept.close()
    assert kept.rows == good
    assert "line 2" in caplog.text
    assert [json.loads(line) for line in file.read_text().splitlines()] == good


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seconds": "1"}', '{"seconds": NaN}', "{}", '{"seconds": 1e999}'])
def test_a_damaged_count_of_seconds_does_not_block_a_run(tmp_path: Path, text: str, capsys: Any) -> None:
    file = tmp_path / session.SPENT
    file.write_text(text)
    with session._Spent(file, resume=True) as spent:
        assert 0 <= spent.total()["seconds"] < 1000
    assert json.loads(file.read_text()).keys() == {"seconds", "cpu_seconds"}
    assert text == "{}" or "is not counted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value"),
    [("sha256", {"../victim": "0" * 64}), ("sha256", ["a"]), ("step", "1"), ("state", []), ("sha256", {"a": 3})],
)
def test_a_checkpoint_names_no_file_outside(tmp_path: Path, field: str, value: Any) -> None:
    checkpoint.save(tmp_path, 1, {}, {"a": 1})
    saved = checkpoint.latest(tmp_path)
    assert saved is not None
    assert saved.state == {"a": 1}
    file = saved.folder / checkpoint.STATE
    record = json.loads(file.read_text()) | {field: value}
    del record[checkpoint.SEAL]
    file.write_text(json.dumps(record))
    with pytest.raises(BadInput, match="no whole checkpoint"):
        checkpoint.latest(tmp_path)
