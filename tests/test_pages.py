"""The pages for users: each command and each snippet in them runs as it stands there, on what ships.

A line that no test runs is in `NOT_RUN`, with the reason. A name in capitals, such as REAL, is a file of that name.
"""

import math
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import typer
from PIL import Image

from mdrepro.cli.app import app
from mdrepro.core import paths
from tests.support import tflite_files, weight_files
from tests.support.checkout import REPOSITORY

PAGES = ["README.md", *(f"docs/{name}.md" for name in ("use", "export", "latency", "training", "metrics", "scaling"))]
SHIPPED = ("notebooks", "results", "workflow", "docs", "environment.yml", "requirements.lock", "mdrepro", "tools")
PROGRAMS = ("mdrepro", "make", "python", "accelerate", "torchrun", "srun", "jupyter", ".")
ROOT: Any = typer.main.get_command(app)

PHONE = "full-size networks, and a phone"
HOURS = "trains for an hour and more"
CLIP = "published weights of gigabytes"
LAUNCHED = "processes of a launcher, which tests/cli/test_evaluate.py and tests/sampling/test_generate.py start"
GPUS = "many GPUs and captioned pictures"
CI = "what continuous integration runs"
NOT_RUN = {
    "make reproduce": CI,
    "make test": CI,
    ". .venv/bin/activate": "changes the shell that it is typed in",
    "mdrepro --install-completion": "changes the user's shell; tests/cli/test_help.py completes",
    "jupyter lab notebooks": "serves until it is stopped",
    "mdrepro export mobilediffusion --component text-encoder --component unet --branches 1 --precision fp16 --out a": (
        PHONE
    ),
    "mdrepro export mobilediffusion-lite --component decoder --precision fp16 --out b": PHONE,
    "mdrepro latency --collect for-the-phone --out phone.json": PHONE,
    "mdrepro reproduce mobilediffusion-device-latency --set records=phone.json": PHONE,
    "mdrepro train shapes-base": HOURS,
    "mdrepro train shapes-base --seeds 3": HOURS,
    "mdrepro train shapes-4 shapes-1 --jobs 2": HOURS,
    "mdrepro train --all --tier quick --jobs 2": HOURS,
    "accelerate launch --num_processes 2 -m mdrepro train shapes-base": HOURS,
    "make photos": "extracts photographs from Debian packages, by the network",
    "mdrepro train photos-sd photos-ours photos-ours-lite --jobs 2": HOURS,
    "mdrepro train photos-sd-perceptual photos-ours-perceptual photos-ours-lite-perceptual --jobs 2": HOURS,
    "mdrepro train shapes-base shapes-1 --seeds 3": HOURS,
    "mdrepro train shapes-1-seed2": HOURS,
    "mdrepro train --all --seeds 3": HOURS,
    "mdrepro publish --checkpoints shapes-base-seed1": "of a network that takes an hour, from a clean commit",
    "mdrepro train proxy-sd --set loop.steps=2 --set loop.batch=2 --set loop.accumulation=1": "captioned pictures",
    "accelerate launch --num_processes 8 -m mdrepro train sf-8": "eight GPUs and captioned pictures",
    "mdrepro evaluate images REAL GENERATED --captions captions.txt --clip open-clip --metrics fid,clip-score": (CLIP),
    "mdrepro evaluate images REAL GENERATED --protocol bk-sdm --captions captions.jsonl": CLIP,
    "mdrepro evaluate protocols REAL GENERATED --published 13.5": "all encoders' published weights",
    "mdrepro reproduce mobilediffusion-steps --tier proxy": "COCO and a GPU",
    "mdrepro reproduce snapfusion-step-distillation --tier paper --set images=5000": "COCO and a GPU",
    "torchrun --nproc-per-node 2 -m mdrepro evaluate images REAL GENERATED": LAUNCHED,
    "torchrun --nproc-per-node 8 -m mdrepro generate sf-8 --prompts captions.txt --out images": LAUNCHED,
    "accelerate launch --num_processes 8 --use_fsdp --fsdp_version 2 -m mdrepro train md-base": GPUS,
    "mdrepro reproduce --executor slurm --cores 8": "a cluster; tests/slurm/test_cluster.py starts one",
    "srun --nodes 64 --ntasks-per-node 1 torchrun --nnodes 64 --nproc-per-node 8 --rdzv-backend c10d "
    "--rdzv-endpoint HOST:29500 -m mdrepro train md-base": GPUS,
    "python -m tools.bed": "an hour: images of 1,000 captions by many samplers",
    "python -m benchmarks.fid --images 1000 --threads 1": "many minutes",
    "make bench": "an hour",
}
"""Commands that tests do not run, by reason: what they need, or take. That their options exist is tested."""
WEIGHTS = "--weights inception.pth --sha256 {inception}"
INCEPTION = f"{WEIGHTS} --few"
DRY = "--dry-run"
ADDED = {
    "mdrepro reproduce mobilediffusion-vae-reconstruction --set steps=50,100 --set seed=0..4": DRY,
    "mdrepro reproduce mobilediffusion-steps": DRY,
    "mdrepro reproduce mobilediffusion-steps --seeds 3": DRY,
    "mdrepro reproduce mobilediffusion-device-latency": DRY,
    "mdrepro reproduce mobilediffusion-device-latency snapfusion-latency-breakdown": DRY,
    "mdrepro reproduce mobilediffusion-device-latency --set networks=text-encoder,sd-decoder --set resolution=128": DRY,
    "mdrepro train shapes-reader --max-seconds 60": "--max-seconds 1",
    "mdrepro train shapes-base --set loop.steps=500 --max-seconds 300": "--max-seconds 1 --set data.cache=false",
    "mdrepro evaluate images REAL GENERATED": INCEPTION,
    "mdrepro evaluate images REAL GENERATED --encoder clean --metrics fid,kid,precision,recall --json": INCEPTION,
    "mdrepro evaluate images REAL GENERATED --against clean-fid": INCEPTION,
    "mdrepro evaluate protocols REAL GENERATED --clip clip --captions captions.txt": "--clip-weights CLIP --few",
    "mdrepro evaluate statistics REAL --shard 0/2 --out 0.safetensors": WEIGHTS,
    "mdrepro evaluate statistics REAL --shard 1/2 --out 1.safetensors": WEIGHTS,
}
"""Options that make a command short, or say where weights are, as the pages say."""
SLOW = {
    *(command for command in ADDED),
    "mdrepro reproduce mobilediffusion-vae-reconstruction --set steps=100 --dry-run",
    "mdrepro export shapes-1 --precision int8 --out out",
    "mdrepro export shapes-1 --precision fp32 --precision int8 --out out",
    "mdrepro export shapes-1 --component unet --target coreml --precision fp16 --out out --json",
    "from mdrepro.export.runner import Runner",
    "mdrepro verify",
    "mdrepro latency FILE.tflite",
    "mdrepro evaluate reconstruction ORIGINALS DECODED --json",
    "mdrepro evaluate reconstruction ORIGINALS DECODED --against scikit-image",
    "mdrepro evaluate combine 0.safetensors 1.safetensors --out real.safetensors",
    "python -m tools.layouts",
}
"""What takes seconds each: commands, and code by its first line."""


class Snippet(NamedTuple):
    """A command, or a fenced block of code with its language."""

    language: str
    text: str

    @property
    def name(self) -> str:
        """A command without its comment; the first line of code."""
        line = self.text.strip().partition("\n")[0]
        return " ".join(re.sub(r"\s#.*", "", line).split()) if self.language == "sh" else line


def snippets(page: str) -> list[Snippet]:
    """All of a page, in order: the lines of blocks of commands, and blocks of code.

    What a command printed, and formulas, stand in indented blocks that begin with no program.
    """
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    found = []
    for block in re.finditer(r"^```(\w*)\n(.*?)^```$|(?<=\n\n)((?:^ {4}[^\n]*\n)+)", text, re.MULTILINE | re.DOTALL):
        language, body = (block[1], block[2]) if block[2] else ("", block[3])
        lines = [line.strip() for line in body.splitlines() if line.strip()]
        if language in ("", "sh") and lines[0].split()[0] in PROGRAMS:
            found += [Snippet("sh", line) for line in lines]
        else:
            assert language in ("python", "yaml", ""), f"{page}: {language}"
            found += [Snippet(language, body)] if language else []
    return found


def inline(page: str) -> Iterator[str]:
    """Commands in a page's sentences, but for patterns, which have an ellipsis."""
    text = re.sub(r"^```.*?^```$", "", (REPOSITORY / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for found in re.findall(r"`(mdrepro [^`]+)`", text):
        if "…" not in found:
            yield " ".join(found.split())


def parse(command: str) -> None:
    """Raises where ``mdrepro`` has no such command or option, or refuses a value; sentences may leave arguments out."""
    words = shlex.split(re.sub(r"\bN\b", "2", command), comments=True)
    words = words[words.index("mdrepro") + 1 :]
    here = ROOT
    while words and words[0] in getattr(here, "commands", {}):
        here = here.commands[words.pop(0)]
    if hasattr(here, "commands"):
        assert not words or words[0].startswith("--"), f"{command}: no such command"
        return
    try:
        here.make_context(command, words)
    except Exception as error:
        if type(error).__name__ != "MissingParameter":
            raise


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working copy with what ships, no runs, and the files that pages name in capitals."""
    for name in SHIPPED:
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "papermill_runs").mkdir()
    (tmp_path / "captions.txt").write_text("a red star\n" * 6)
    monkeypatch.setenv("MDREPRO_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    paths.root.cache_clear()
    torch.set_num_threads(1)
    yield tmp_path
    paths.root.cache_clear()


def pictures(home: Path) -> None:
    real, generated = weight_files.photos(home / "pictures", size=192)
    for name in ("REAL", "ORIGINALS"):
        (home / name).symlink_to(real)
    for name in ("GENERATED", "DECODED"):
        (home / name).symlink_to(generated)


def networks(home: Path) -> None:
    says = {"model": "mobilediffusion", "precision": "fp16"}
    for folder, component in (("a", "text-encoder"), ("a", "unet"), ("b", "decoder")):
        tflite_files.exported(home / folder, component=component, **says)


PREPARED: dict[str, Callable[[Path], None]] = {"docs/latency.md": networks, "docs/metrics.md": pictures}


def run_page(page: str, home: Path, cli_run: Any, *, slow: bool, values: dict[str, str] | None = None) -> None:
    """From top to bottom; the slow ones only where it says so."""
    names: dict[str, Any] = {}
    for snippet in snippets(page):
        if snippet.name in NOT_RUN or (snippet.name in SLOW and not slow):
            continue
        if snippet.language == "python":
            exec(compile(snippet.text, page, "exec"), names)
        elif snippet.language == "yaml":
            (home / snippet.name.removeprefix("# ")).write_text(snippet.text)
        else:
            added = ADDED.get(snippet.name, "").format(**(values or {}))
            words = [name for word in shlex.split(f"{snippet.name} {added}") for name in expand(home, word)]
            if words[:2] == ["python", "-m"]:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(sys, "argv", words[2:])
                    runpy.run_module(words[2], run_name="__main__")
                continue
            assert words[0] == "mdrepro", f"{page}: {snippet.name} is run by nothing: run it, or say why in NOT_RUN"
            code, _, error = cli_run(*words[1:])
            assert code == 0, f"{page}: {snippet.name}: {error}"


def expand(home: Path, word: str) -> list[str]:
    return sorted(str(file.relative_to(home)) for file in home.glob(word)) if "*" in word else [word]


@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs_from_top_to_bottom(page: str, home: Path, cli_run: Any) -> None:
    PREPARED.get(page, lambda _: None)(home)
    run_page(page, home, cli_run, slow=False)
    if page == "docs/use.md":
        assert Image.open("star.png").size == (64, 64)
        assert {path.name for path in Path("one-step").iterdir()} > {"model_index.json", "unet", "vae"}
        assert "iPhone 15 Pro" in Path("records.json").read_text()
    if page == "docs/training.md":
        assert len(list(Path("images").glob("*.png"))) == 6


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if {each.name for each in snippets(page)} & SLOW])
def test_what_takes_longer_runs_too(page: str, home: Path, cli_run: Any) -> None:
    PREPARED.get(page, lambda _: None)(home)
    values = {}
    if page in ("README.md", "docs/metrics.md"):
        from mdrepro.core.files import sha256

        torch.save(weight_files.inception_weights(), home / "inception.pth")
        values["inception"] = sha256(home / "inception.pth")
        weight_files.clip(home / "CLIP")
        if page == "README.md":
            pictures(home)
            (home / "FILE.tflite").symlink_to("out/unet-int8.tflite")  # an earlier line of the page exports it
    run_page(page, home, cli_run, slow=True, values=values)


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_has_options_that_there_are(page: str) -> None:
    listed = [f"{each.name} {ADDED.get(each.name, '')}" for each in snippets(page) if each.language == "sh"]
    for command in [*inline(page), *listed]:
        if "mdrepro" in command.split():
            parse(command)


def test_the_arithmetic_of_scaling_is_right() -> None:
    from mdrepro.metrics.cost.measure import calculate
    from mdrepro.training.recipes import registry

    text = (REPOSITORY / "docs/scaling.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| ([\d\s*/.+e()ceil]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) == 14
    for arithmetic, value in rows:
        digits = len(value.partition(".")[2])
        assert f"{eval(arithmetic, {'ceil': math.ceil}):.{digits}f}" == value, arithmetic
    loop = registry.get("md-base").loop
    assert f"{loop.batch} / 8 / {loop.accumulation}" in text
    assert f"{loop.steps} * {loop.batch}" in text
    assert f"{calculate('mobilediffusion').params} * 4" in text


def test_each_reason_is_of_a_line_that_is_there() -> None:
    there = {each.name for page in PAGES for each in snippets(page)}
    assert {*NOT_RUN, *ADDED, *SLOW} <= there
    assert not NOT_RUN.keys() & (ADDED.keys() | SLOW)


def test_blocks_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "A `mdrepro list`.\n\n    mdrepro show T  # why\n    make x\n\n    printed: 1\n\n"
        "```sh\npython -m a.b\n```\n\n```python\nif x:\n\n    y = 1\n```\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "REPOSITORY", tmp_path)
    assert [(each.language, each.name) for each in snippets("page.md")] == [
        ("sh", "mdrepro show T"),
        ("sh", "make x"),
        ("sh", "python -m a.b"),
        ("python", "if x:"),
    ]
    assert list(inline("page.md")) == ["mdrepro list"]
    for wrong in ("mdrepro shw", "mdrepro show T --nothing", "mdrepro latency x --on phone"):
        with pytest.raises(Exception, match=r"no such|No such|phone"):
            parse(wrong)
