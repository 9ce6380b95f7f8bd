"""A trained recipe as a complete diffusers folder that others can load: weights, model card with what was measured."""

import importlib.metadata
from pathlib import Path
from typing import Any

from mdrepro.core import files
from mdrepro.core.errors import BadInput, NotAttempted, unknown
from mdrepro.models.safe import INDEX
from mdrepro.papers import ledger
from mdrepro.papers.schema import Table
from mdrepro.reproduce import formatting
from mdrepro.reproduce.workflow import results
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import store

CARD, LICENCE = "README.md", "LICENSE"
WRITTEN = {CARD, LICENCE, INDEX, "scheduler", "text_encoder", "tokenizer", "unet", "vae"}
"""Names in a written folder. One that holds any other is not replaced: a checkout has a README.md, too."""
EXAMPLES = {"shapes": "a red star left of a blue circle"}
"""A caption by the data's source; of others `EXAMPLE`."""
EXAMPLE = "a photograph of a lighthouse at dusk"
NOT_THE_PAPERS = (
    "**A small network, trained for minutes on scenes of 64 px that a program draws.** It shows that the method works, "
    "and is neither the paper's network nor comparable with the paper's numbers."
)


def write(name: str, folder: Path, *, decoder: str | None = None) -> Path:
    """Save the pipeline of a recipe with a model card and the licence, whole or not at all; returns the folder.

    ``decoder``: a recipe of another decoder for the same latents. A folder that this function wrote before is replaced.

    Raises BadInput for a recipe that is not a denoiser's, or a folder that holds something else, and NotAttempted where
    it is not trained; the message has the command.
    """
    from mdrepro.training.runs import commands

    if not registry.find(name):
        raise unknown("recipe", name, registry.RECIPES, registry.LISTED)
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if folder.exists() and not (folder.is_dir() and (not there or {CARD, INDEX} <= there <= WRITTEN)):
        raise BadInput(f"{folder} is there and holds no model card: expected a new folder, or one written before")
    pipeline = commands.pipeline(name, decoder)
    run = store.find(name)
    if run is None:
        raise NotAttempted(f"there is no checkpoint of {name}: mdrepro train {name}")
    with files.replacing_folder(folder) as aside:
        pipeline.save_pretrained(aside, safe_serialization=True)
        (aside / CARD).write_text(card(run, decoder), encoding="utf-8")
        (aside / LICENCE).write_text(licence(), encoding="utf-8")
    return folder


def upload(folder: Path, repository: str) -> str:
    """Upload a written folder to the Hugging Face hub as OWNER/NAME, made where it is not there; returns its address.

    The token is the hub's own (``hf auth login`` or ``HF_TOKEN``). Errors are `huggingface_hub`'s.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    address = api.create_repo(repository, exist_ok=True)
    api.upload_folder(folder_path=folder, repo_id=repository)
    return str(address)


def licence() -> str:
    """The text of this project's licence, from the installed package."""
    found = importlib.metadata.files("mdrepro") or []
    for file in found:
        if file.name == LICENCE:
            return file.read_text()
    return (Path(__file__).resolve().parents[2] / LICENCE).read_text(encoding="utf-8")


def card(run: store.Run, decoder: str | None = None) -> str:
    """The model card of a run's pipeline: the hub's metadata, how to use it, what was measured, how it was trained."""
    recipe = run.recipe
    metadata = importlib.metadata.metadata("mdrepro")
    head = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "license": metadata["License-Expression"].lower(),
        "tags": "[mdrepro, mobilediffusion, snapfusion]",
    }
    parts = [
        "\n".join(["---", *(f"{key}: {value}" for key, value in head.items()), "---"]),
        f"# {recipe.name}",
        f"Text to image, made by mdrepro {metadata['Version']}, an open reproduction of "
        "[MobileDiffusion](https://arxiv.org/abs/2311.16567) and [SnapFusion](https://arxiv.org/abs/2306.00980): "
        f"recipe `{recipe.name}` of tier {recipe.tier}" + (f", with the decoder of `{decoder}`." if decoder else "."),
        *([NOT_THE_PAPERS] if recipe.tier == "quick" else []),
        _use(recipe),
        _measured(recipe, decoder),
        _trained(run, decoder),
    ]
    return "\n\n".join(parts) + "\n"


def _use(recipe: Recipe) -> str:
    caption = EXAMPLES.get(recipe.data.get("source", ""), EXAMPLE)
    return "\n".join(
        [
            "## Use",
            "",
            "The import makes the classes known that the folder names; steps and guidance are the checkpoint's own.",
            "",
            "```python",
            "from mdrepro.models.pipeline import MobileDiffusionPipeline",
            "",
            'pipe = MobileDiffusionPipeline.from_pretrained("path or name of this model")',
            f'image = pipe("{caption}").images[0]',
            "```",
        ]
    )


def _measured(recipe: Recipe, decoder: str | None) -> str:
    """A table for each row of a published one that this network makes, with this decoder."""
    own = {None, "", recipe.parents.get("vae")} if decoder is None else {decoder}
    blocks = ["## Measured"]
    for table in ledger.tables().values():
        result = results.published_result(recipe.tier, table.id)
        declared = table.networks(ledger.check_tier(recipe.tier)).items()
        rows = {row: one for row, one in declared if one.recipe == recipe.name and one.decoder in own}
        for row, one in rows.items():
            cells = result["rows"] if result and not one.removed else []
            lines = [_line(table, cell) for cell in cells if cell["row"] == row and cell["value"] is not None]
            if result and lines:
                commit = str(result["provenance"].get("commit") or "no commit")[:9]
                steps = f", here in {one.steps} step{'s' * (one.steps != 1)}" if isinstance(one.steps, int) else ""
                title = f"{formatting.row_titles(table)[row]}{steps}, {one.sampler}"
                blocks.append(f"{table.title}. {title} (commit {commit}; 95 % intervals):")
                blocks.append("\n".join(["| measure | value | interval |", "| --- | ---: | --- |", *lines]))
    if len(blocks) == 1:
        blocks.append("No published table has a row of this network.")
    return "\n\n".join(blocks)


def _line(table: Table, cell: dict[str, Any]) -> str:
    value, interval, *_ = formatting.measured_cell(table, cell)
    column = table.columns[cell["column"]]
    title = column.title + (f" ({column.unit})" if column.unit else "")
    return f"| {title} | {value} | {interval} |".replace("\n", " ")


def _trained(run: store.Run, decoder: str | None) -> str:
    loop, record = run.recipe.loop, run.record
    others = [*record["row"]["parents"].values(), *([decoder] if decoder else [])]
    rests = [f"`{name}`" for name in dict.fromkeys(map(str, others))]
    lines = [
        f"- {loop.steps} steps of {loop.batch}, {loop.optimiser} at {loop.learning_rate:g}, {loop.precision}, "
        f"training seed {loop.seed}; {record['parameters'] / 1e6:.2f}M trained parameters",
        f"- rests on {', '.join(rests)}" if rests else "",
        f"- {record['seconds'] / 60:.0f} min on {record['hardware']['cpu']}, commit {str(record['commit'])[:9]}",
        f"- key {record['key']}; the whole record is `training.json` of the checkpoint in the repository",
    ]
    return "\n".join(["## Training", "", *filter(None, lines)])
