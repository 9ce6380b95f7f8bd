"""One published result with all that it rests on, changed in a hundred and more places: verify finds every change."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mdrepro.core.files import sha256
from mdrepro.core.paths import published, runs
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.publish import publish
from mdrepro.reproduce.workflow.verify import ORIGIN, SECTIONS, verify
from tests.support.checkout import TABLE, make_run, row

Change = Callable[[dict[str, Any]], object]
Mutation = tuple[str, Callable[[], object]]


@pytest.fixture
def result(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published result that rests on an input and two trained runs, one of them published."""
    ours, local = published("quick") / "checkpoints/t-base", runs() / "quick/checkpoints/t-1-0123456789ab"
    for folder in (ours, local):
        (folder / "unet").mkdir(parents=True)
        (folder / "unet/model.safetensors").write_bytes(bytes(range(64)))
        files = {"unet/model.safetensors": sha256(folder / "unet/model.safetensors")}
        (folder / "training.json").write_text(json.dumps({"files": files, "bytes": 64, "key": "0123456789ab"}))
    rows = [
        row(859.52, n=3, ci_low=850.0, ci_high=870.0, by_seed=(850.0, 869.04)),
        row(500.0, column="macs"),
        row(285.0, row="snapfusion", column="macs"),
    ]
    make_run(
        monkeypatch,
        rows,
        inputs=[("requirements.lock", workspace / "requirements.lock")],
        checkpoints={"t-base": ours / "training.json", "t-1": local / "training.json"},
    )
    publish([TABLE], "quick")
    return published("quick") / f"{TABLE}.json"


def resealed(path: Path, change: Change, *, csv: bool = False) -> None:
    """Change a result and seal it again; with ``csv`` also its CSV, and the hash of that."""
    value = json.loads(path.read_text())
    change(value)
    if csv:
        results.write_csv(path.with_suffix(".csv"), value["rows"])
        value["files"][f"{TABLE}.csv"] = sha256(path.with_suffix(".csv"))
    path.write_text(json.dumps(results.seal(value)))


def turned(path: Path, place: int) -> None:
    """Turn one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1
    path.write_bytes(content)


def another(value: Any) -> Any:
    """A value of the same kind that is another one."""
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, list):
        return [*value, 1.0]
    return 7 if value is None else value + 1


def of_rows(path: Path) -> Iterator[Mutation]:
    rows = json.loads(path.read_text())["rows"]
    measured = [index for index, one in enumerate(rows) if one["value"] is not None]
    absent = [index for index, one in enumerate(rows) if one["value"] is None][:5]
    for index in [*measured, absent[0]]:
        for name in rows[index]:
            yield (
                f"{name} of row {index}",
                lambda i=index, n=name: resealed(path, lambda r: r["rows"][i].update({n: another(r["rows"][i][n])})),
            )
    for index in [*measured, *absent]:
        yield f"no row {index}", lambda i=index: resealed(path, lambda r: r["rows"].pop(i), csv=True)
        yield (
            f"row {index} twice",
            lambda i=index: resealed(path, lambda r: r["rows"].insert(i, r["rows"][i]), csv=True),
        )
    first = measured[0]
    for name in ("row", "column", "unit", "verdict", "paper_value", "paper_confidence", "seeds", "by_seed", "reason"):
        yield (
            f"{name} of row {first}, in the CSV too",
            lambda n=name: resealed(
                path, lambda r: r["rows"][first].update({n: another(r["rows"][first][n])}), csv=True
            ),
        )
    for name, value in (
        ("n", 0),
        ("ci_low", 900.0),
        ("ci_low", None),
        ("value", None),
        ("value", True),
        ("protocol", ""),
    ):
        yield (
            f"{name} {value} of row {first}, in the CSV too",
            lambda n=name, v=value: resealed(path, lambda r: r["rows"][first].update({n: v}), csv=True),
        )
    yield "rows in another order", lambda: resealed(path, lambda r: r["rows"].reverse(), csv=True)


def of_csv(path: Path) -> Iterator[Mutation]:
    file = path.with_suffix(".csv")

    def changed(old: str, new: str) -> None:
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
        resealed(path, lambda r: r["files"].update({file.name: sha256(file)}))

    yield "a verdict in the CSV alone", lambda: changed("reproduced", "differs")
    yield "a number in the CSV alone", lambda: changed("859.52", "859.53")
    yield "a line of the CSV", lambda: changed(file.read_text().splitlines(keepends=True)[3], "")
    yield "the end of the CSV", lambda: changed(file.read_text()[-20:], "")


def of_files(path: Path) -> Iterator[Mutation]:
    for name in json.loads(path.read_text())["files"]:
        file = path.parent / name
        yield f"a bit of {name}", lambda f=file: turned(f, 20)
        yield f"{name} is gone", lambda f=file: f.unlink()
        yield f"{name} is not named", lambda n=name: resealed(path, lambda r: r["files"].pop(n))
        yield (
            f"{name} has another name",
            lambda n=name: resealed(path, lambda r: r["files"].update({f"x{n}": r["files"].pop(n)})),
        )
    for place in range(100, path.stat().st_size, path.stat().st_size // 8):
        yield f"bit {place} of the result", lambda p=place: turned(path, p)
    yield "a figure that no result names", lambda: (path.parent / "figures/more.png").touch()


def of_claims(path: Path) -> Iterator[Mutation]:
    for index in range(len(json.loads(path.read_text())["claims"])):
        yield f"no claim {index}", lambda i=index: resealed(path, lambda r: r["claims"].pop(i))
        for field in ("id", "verdict", "numbers"):
            yield (
                f"{field} of claim {index}",
                lambda i=index, f=field: resealed(
                    path, lambda r: r["claims"][i].update({f: another(r["claims"][i][f])})
                ),
            )


def of_origin(path: Path) -> Iterator[Mutation]:
    def origin(change: Change) -> Callable[[], None]:
        return lambda: resealed(path, lambda r: change(r["provenance"]))

    for name in sorted(SECTIONS - {"sha256"}):
        yield f"no {name}", lambda n=name: resealed(path, lambda r: r.pop(n))
    yield "another section", lambda: resealed(path, lambda r: r.update(more=1))
    yield "another table", lambda: resealed(path, lambda r: r.update(table="snapfusion-unet-table3"))
    yield "another tier", lambda: resealed(path, lambda r: r.update(tier="proxy"))
    for name in sorted(ORIGIN | {"notebook_sha256"}):
        yield f"no {name}", origin(lambda o, n=name: o.pop(n))
    for name, value in (
        ("commit", "x"),
        ("commit", None),
        ("dirty", True),
        ("changed_files", ["x"]),
        ("created", "yesterday"),
        ("parameters", {"tier": "quick"}),
        ("seed", 7),
        ("hardware", {}),
        ("versions", {}),
        ("notebook_sha256", "x"),
        ("inputs", {"requirements.lock": "0" * 64}),
        ("inputs", {"gone.lock": "0" * 64}),
    ):
        yield f"{name} {value}", origin(lambda o, n=name, v=value: o.update({n: v}))
    for name in ("t-base", "t-1"):
        for field, value in (("sha256", "0" * 64), ("path", "results/quick/checkpoints/t-9/training.json")):
            yield f"{field} of {name}", origin(lambda o, n=name, f=field, v=value: o["checkpoints"][n].update({f: v}))
    yield "a recipe without a record", origin(lambda o: o["fingerprint"]["recipes"].update({"t-9": "x"}))
    yield "a fingerprint of another table", origin(lambda o: o["fingerprint"]["papers"].clear())


def of_weights(path: Path) -> Iterator[Mutation]:
    for home in (path.parent, runs() / "quick"):
        (folder,) = (home / "checkpoints").iterdir()
        weights, record = folder / "unet/model.safetensors", folder / "training.json"
        yield f"a bit of {weights}", lambda w=weights: turned(w, 33)
        yield f"{weights} is gone", lambda w=weights: w.unlink()
        yield f"a bit of {record}", lambda r=record: turned(r, 100)

    (folder,) = (path.parent / "checkpoints").iterdir()
    record = folder / "training.json"

    def rewritten(**fields: Any) -> None:
        record.write_text(json.dumps(json.loads(record.read_text()) | fields))

    yield "no record", lambda: record.unlink()
    yield "a file that no record names", lambda: (folder / "unet/more.safetensors").touch()
    yield "a record of no files", lambda: rewritten(files={})
    yield "a record of a file elsewhere", lambda: rewritten(files={"../../x": "0" * 64})
    yield "a record of another key", lambda: rewritten(key="0" * 12)
    yield "shared with what is not there", lambda: rewritten(shared={"unet": {"recipe": "t-8", "sha256": "0" * 64}})
    yield "shared with what is elsewhere", lambda: rewritten(shared={"unet": {"recipe": "../x", "sha256": "0" * 64}})


@pytest.mark.parametrize("kind", [of_rows, of_csv, of_files, of_claims, of_origin, of_weights])
def test_every_change_is_found(kind: Callable[[Path], Iterator[Mutation]], result: Path) -> None:
    homes = (published("quick"), runs() / "quick/checkpoints")
    before = {file: file.read_bytes() for home in homes for file in home.rglob("*") if file.is_file()}
    assert verify("quick")["ok"], verify("quick")
    missed, count = [], 0
    for name, change in kind(result):
        change()
        missed += [name] if verify("quick")["ok"] else []
        count += 1
        for file in {file for home in homes for file in home.rglob("*") if file.is_file()} - before.keys():
            file.unlink()
        for file, content in before.items():
            file.write_bytes(content)
    assert not missed
    assert count >= LEAST[kind]
    assert verify("quick")["ok"]


LEAST = {of_rows: 80, of_csv: 4, of_files: 24, of_claims: 4, of_origin: 40, of_weights: 13}
