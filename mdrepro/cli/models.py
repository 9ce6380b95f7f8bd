"""``mdrepro publish-model``: a trained recipe as a diffusers folder with its model card."""

from pathlib import Path
from typing import Annotated

import typer


def publish_model(
    recipe: Annotated[str, typer.Argument(help="A trained or published recipe of a denoiser; NAME-seed1 is a seed.")],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="A new folder, or one written before.")],
    decoder: Annotated[str | None, typer.Option(help="A recipe of another decoder for the same latents.")] = None,
    hub: Annotated[
        str | None, typer.Option("--hub", metavar="OWNER/NAME", help="Upload it to the Hugging Face hub, too.")
    ] = None,
) -> None:
    """Write a recipe's pipeline for others: diffusers folder, model card with what was measured, licence."""
    from mdrepro.reproduce import model_card

    folder = model_card.write(recipe, to, decoder=decoder)
    print(folder)
    if hub:
        print(model_card.upload(folder, hub))
