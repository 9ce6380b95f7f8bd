"""What damaged or hostile records of images, phones, bundles, notebooks and tokenizers are refused for, by name."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import DPMSolverMultistepScheduler

from mdrepro.core.errors import BadInput
from mdrepro.core.paths import root
from mdrepro.export import runner
from mdrepro.latency import benchmark_model, bundle, imports, records
from mdrepro.models import safe, text
from mdrepro.models.pipeline import MobileDiffusionPipeline
from mdrepro.papers import ledger
from mdrepro.reproduce.workflow import cells, parameters, verify
from mdrepro.reproduce.workflow.fingerprint import fingerprint
from mdrepro.sampling import manifest
from tests.support import dialogue, readers
from tests.support import tiny_pipeline as tiny
from tests.support.checkout import NOTEBOOK, PARAMETERS, TABLE, make_run, notebook
from tests.support.reports import ABOUT, AI_HUB, MLPERF

DEEP = "[" * 100_000


def change(file: Path, edit: Callable[[Any], Any]) -> None:
    """Edits the JSON of a file in place."""
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


MANIFESTS: dict[str, Callable[[Any], Any]] = {
    "an image twice": lambda m: m["images"].append(m["images"][0]),
    "an image too few": lambda m: m["images"].pop(),
    "order": lambda m: m["images"].reverse(),
    "one file for two": lambda m: m["images"][1].update(file=m["images"][0]["file"]),
    "outside": lambda m: m["images"][0].update(file="../victim.png"),
    "a seed as text": lambda m: m["images"][0].update(seed="0"),
    "a field": lambda m: m["images"][0].pop("sha256"),
    "other settings": lambda m: m["settings"].update(steps=5),
    "no number": lambda m: m["settings"].update(images="2"),
    "a list": lambda m: m.update(settings=[]),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_lists_each_image_of_its_settings_once(case: str, tmp_path: Path) -> None:
    readers.image_set(tmp_path)
    known = manifest.Manifest.read(tmp_path)
    assert known.complete
    assert [entry.prompt for entry in known.images] == ["a", "b"]
    change(tmp_path / manifest.MANIFEST, MANIFESTS[case])
    with pytest.raises(BadInput, match=manifest.MANIFEST):
        manifest.Manifest.read(tmp_path)


BUNDLES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "times in its metadata": (lambda m: m["models"][0]["about"].update(times={"runs": 1, "mean_ms": 1.0}), "times"),
    "outside": (lambda m: m["models"][0].update(name="../m.tflite"), "inside"),
    "gone": (lambda m: m["models"][0].update(name="gone.tflite"), "missing"),
    "twice": (lambda m: m["models"].append(m["models"][0]), "no bundle"),
    "none": (lambda m: m.update(models=[]), "no bundle"),
    "threads": (lambda m: m.update(threads="4"), "threads"),
    "component": (lambda m: m["models"][0]["about"].update(component=[]), "component"),
}


@pytest.mark.parametrize("case", BUNDLES)
def test_a_folder_of_measurements_holds_its_own_networks_alone(case: str, tmp_path: Path) -> None:
    readers.bundled(tmp_path)
    assert [one.times.runs for one in bundle.collect(tmp_path / "out")[0]] == [12, 25]
    edit, says = BUNDLES[case]
    change(tmp_path / "out" / bundle.MANIFEST, edit)
    with pytest.raises(BadInput, match=says):
        bundle.collect(tmp_path / "out")


def edited(report: Any, *way: Any, value: Any) -> str:
    """A report's JSON with another value at one place."""
    whole = place = json.loads(json.dumps(report))
    for key in way[:-1]:
        place = place[key]
    place[way[-1]] = value
    return json.dumps(whole)


RUN = ("results", 0, "performance_run")
REPORTS: dict[str, tuple[str, str]] = {
    "throughput 0": ("mlperf-mobile", edited(MLPERF, *RUN, "throughput", value=0)),
    "throughput true": ("mlperf-mobile", edited(MLPERF, *RUN, "throughput", value=True)),
    "samples true": ("mlperf-mobile", edited(MLPERF, *RUN, "measured_samples", value=True)),
    "throughput tiny": ("mlperf-mobile", edited(MLPERF, *RUN, "throughput", value=5e-324)),
    "times true": ("ai-hub", edited(AI_HUB, "execution_summary", "all_inference_times", value=[True, 2])),
    "times too large": ("ai-hub", edited(AI_HUB, "execution_summary", "all_inference_times", value=[1.7e308] * 9000)),
    "deep": ("ai-hub", DEEP),
    "operations": ("xcode", "model: a\ndevice: b\nprediction_ms: 1\nneural_engine: yes\n"),
}


@pytest.mark.parametrize("case", REPORTS)
def test_reports_of_others_give_numbers_or_are_refused(case: str, tmp_path: Path) -> None:
    kind, content = REPORTS[case]
    file = tmp_path / "report"
    file.write_text(content)
    with pytest.raises(BadInput, match="report"):
        imports.read(kind, file, ABOUT if kind != "xcode" else {})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("min=140071 max=151121", "min=150071 max=151121"),
        ("count=25", f"count={'9' * 5000}"),
        ("count=25", "count=0"),
        ("avg=143528", "avg=1e999"),
        ("Inference (avg): 143528", f"Inference (avg): {'9' * 400}"),
        ("overall=73.4102", f"overall={'9' * 400}"),
        ("Replacing 310", f"Replacing {'9' * 5000}"),
    ],
)
def test_times_that_contradict_each_other_are_refused(old: str, new: str) -> None:
    (report,) = benchmark_model.reports(dialogue.GPU)
    assert (report.times.runs, report.times.mean_ms) == (25, 143.528)
    assert old in dialogue.GPU
    printed = dialogue.GPU.replace(old, new)
    if "avg=1e999" in printed:  # the summary's mean counts
        assert benchmark_model.reports(printed)[0].times == report.times
        return
    with pytest.raises(BadInput):
        benchmark_model.reports(printed)


def test_records_of_latency_nested_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"format": 1, "records": ' + DEEP)
    with pytest.raises(BadInput, match=r"r\.json"):
        records.load(tmp_path / "r.json")


EXPORTED: dict[str, Callable[[Any], Any]] = {
    "outside": lambda b: b["files"].update(unet="../unet.tflite"),
    "tokenizer outside": lambda b: b["tokenizer"].update(file="/etc/passwd"),
    "no tokenizer": lambda b: b.pop("tokenizer"),
    "length": lambda b: b["tokenizer"].update(length=0),
    "padding": lambda b: b["tokenizer"].update(padding=None),
    "steps": lambda b: b.update(steps=True),
    "guidance": lambda b: b.update(guidance="7.5"),
    "levels": lambda b: b["schedule"].update(levels=[0.5, 1.5]),
    "no levels": lambda b: b["schedule"].update(levels=[]),
    "offset": lambda b: b["schedule"].update(offset=0.5),
    "hash": lambda b: b["sha256"].pop("unet"),
}


@pytest.mark.parametrize("case", EXPORTED)
def test_an_exported_bundle_has_its_fields(case: str, tmp_path: Path) -> None:
    readers.exported_bundle(tmp_path)
    file = tmp_path / runner.bundle_name("fp32")
    assert runner._read(file)["steps"] == 8
    change(file, EXPORTED[case])
    with pytest.raises(BadInput, match="export"):
        runner._read(file)


SOURCES: dict[str, tuple[object, str]] = {
    "no text": ({"cell_type": "code", "source": 3}, "cells"),
    "tags": ({"cell_type": "code", "source": "", "metadata": {"tags": 3}}, "cells"),
    "no cell": (3, "cells"),
    "cut": ({"cell_type": "code", "source": "print("}, "no Python"),
    "deep": ({"cell_type": "code", "source": "-" * 100_000 + "1"}, "no Python"),
    "null byte": ({"cell_type": "code", "source": "a\0"}, "no Python"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_a_damaged_cell_is_bad_input_that_names_the_notebook(case: str, tmp_path: Path) -> None:
    cell, says = SOURCES[case]
    file = tmp_path / "n.ipynb"
    file.write_text(json.dumps(notebook(PARAMETERS, "print(tier, factor, steps, models, photos, fail)")))
    assert parameters.declared(file)["steps"].default == 3
    change(file, lambda book: book["cells"].append(cell))
    with pytest.raises(BadInput, match=rf"n\.ipynb.*{says}"):
        parameters.declared(file)


@pytest.mark.parametrize("line", ["x: int = 1  # in [1]: h", "x: int = -[]  # in: h", f"x: int = {'(' * 300}1"])
def test_a_damaged_parameter_is_bad_input(line: str, tmp_path: Path) -> None:
    file = tmp_path / "n.ipynb"
    file.write_text(json.dumps(notebook(line, "print(x)")))
    with pytest.raises(BadInput, match="parameters cell"):
        parameters.declared(file)


@pytest.mark.parametrize(
    ("source", "python"),
    [
        ("%matplotlib inline\nimport a", "pass\nimport a"),
        ("if x:\n    !ls\nfiles = !ls\nx?", "if x:\n    pass\npass\npass"),
        ("%%time\nimport a", "pass\nimport a"),
        ("%%bash\nfor f in *; do ls $f; done", ""),
        ('a = ("%d"\n% 3)', 'a = ("%d"\n% 3)'),
    ],
)
def test_lines_of_ipython_are_left_out(source: str, python: str) -> None:
    assert cells.python(source, Path("n.ipynb")) == python


def test_a_magic_stops_nothing_and_a_cut_notebook_its_own_table(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(monkeypatch)
    table, values = ledger.find(TABLE), {"tier": "quick"}
    assert verify.verify("quick")["ok"]
    magic = "%matplotlib inline\nimport mdrepro.core\n"
    change(root() / NOTEBOOK, lambda book: book["cells"][1].update(source=magic + "".join(book["cells"][1]["source"])))
    assert "mdrepro/core/__init__.py" in fingerprint(table, values)["code"]
    assert verify.verify("quick")["ok"]
    (root() / NOTEBOOK).write_text('{"cells": [')
    found = verify.verify("quick")
    assert not found["ok"]
    (other,) = found["tables"][TABLE]["other runs"].values()
    assert NOTEBOOK in other["problems"][0]
    assert run.is_dir()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline."""
    folder = tmp_path_factory.mktemp("saved")
    tiny.pipeline().save_pretrained(folder)
    return folder


def no_tokens(config: Any) -> None:
    for name in ("pad_token", "eos_token"):
        config.pop(name)


def test_an_open_bound_of_a_scheduler_is_read_and_no_other(tmp_path: Path) -> None:
    DPMSolverMultistepScheduler().save_pretrained(tmp_path)
    file = tmp_path / "scheduler_config.json"
    assert '"lambda_min_clipped": -Infinity' in file.read_text()
    assert safe.part(DPMSolverMultistepScheduler, tmp_path).config.lambda_min_clipped == -math.inf
    for name, value in (("beta_start", -math.inf), ("lambda_min_clipped", math.inf), ("beta_end", math.nan)):
        file.write_text(json.dumps({name: value}))
        with pytest.raises(BadInput, match="scheduler_config"):
            safe.part(DPMSolverMultistepScheduler, tmp_path)


TOKENIZERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "no token to pad with": ("tokenizer_config.json", no_tokens),
    "length": ("tokenizer_config.json", lambda c: c.update(model_max_length=-1)),
    "numbers beyond": ("tokenizer.json", lambda t: t["model"]["vocab"].update(a=10**6)),
    "tokens around texts without numbers": ("tokenizer.json", lambda t: t["post_processor"]["special_tokens"].clear()),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_tokenizer_without_its_tokens_is_refused(case: str, saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "pipeline")
    name, edit = TOKENIZERS[case]
    change(folder / "tokenizer" / name, edit)
    for read in (MobileDiffusionPipeline.from_pretrained, text.load):
        with pytest.raises(BadInput, match="tokenizer"):
            read(folder)


def test_a_tokenizer_of_more_tokens_than_the_encoder_knows_is_refused() -> None:
    parts = tiny.pipeline().components
    parts["tokenizer"].add_tokens([f"extra{n}" for n in range(500)])
    with pytest.raises(BadInput, match="tokenizer has"):
        MobileDiffusionPipeline(**parts)
    safe.check_tokenizer(parts["tokenizer"], "here")


def test_the_log_of_litert_2_is_refused_by_name() -> None:
    for line in ("========== BENCHMARK RESULTS ==========", "INFO: [litert/tools/benchmark_litert_model.h:179]"):
        with pytest.raises(BadInput, match=r"LiteRT 2's benchmark_model, which is not read: expected"):
            benchmark_model.reports(f"{line}\nInference (avg): 12.3 ms\n")
