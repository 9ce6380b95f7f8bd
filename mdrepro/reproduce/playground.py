"""Type a caption, move sliders, see images: the notebook ``playground.ipynb`` in JupyterLab."""

import functools
import io
import math
import re
import time
from collections.abc import Sequence
from html import escape
from typing import Any

import ipywidgets as widgets  # type: ignore[import-untyped]
import torch
from PIL import Image
from torch import Tensor

from mdrepro.core.errors import BadInput
from mdrepro.data import shapes
from mdrepro.sampling import generate
from mdrepro.training.objectives import kinds
from mdrepro.training.recipes import registry
from mdrepro.training.runs import pipelines, store

ZOOM = 2
PALE = "color: #5b6470; font-size: 90%"
WRONG = "color: #b23a2e"
WORD = re.compile(r"[^\W_]+")


def unknown_words(caption: str) -> list[str]:
    """The words of a caption that no caption of scenes has, each once."""
    words = dict.fromkeys(WORD.findall(caption.lower()))
    return [word for word in words if word not in shapes.VOCABULARY]


def marked(caption: str) -> str:
    """The caption as HTML, with a mark on each word that no caption of scenes has."""
    parts, end = [], 0
    for found in WORD.finditer(caption):
        word = escape(found[0])
        parts += [escape(caption[end : found.start()]), f"<mark>{word}</mark>" if unknown_words(found[0]) else word]
        end = found.end()
    return "".join(parts) + escape(caption[end:])


def png(images: Tensor) -> bytes:
    """Images side by side, uint8 (n, 3, h, w), as a PNG of twice their size."""
    row = torch.cat(list(torch.nn.functional.pad(images, (0, 2, 0, 0), value=255)), dim=2)
    picture = Image.fromarray(row.permute(1, 2, 0).numpy())
    file = io.BytesIO()
    picture.resize((picture.width * ZOOM, picture.height * ZOOM), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


class Playground:
    """Widgets for text to image with trained denoisers.

    Args:
        recipes: names of denoisers, trained here or published.
        reader: a recipe of a scene reader, which says what it sees in each image; None for none.
        caption: to begin with.

    Raises BadInput for no recipe, and NotAttempted, with the command, where a run is missing.
    """

    def __init__(
        self,
        recipes: Sequence[str],
        reader: str | None = "shapes-reader",
        caption: str = "a small red star left of a large blue circle on a white background",
    ) -> None:
        if not recipes:
            raise BadInput("no recipe: give names of trained denoisers; mdrepro train --list has them")
        self.pipelines = functools.cache(pipelines.load)
        self.reader = store.load_or_train(reader).load("reader") if reader else None
        wide, slow = widgets.Layout(width="40em"), {"continuous_update": False}
        self.caption = widgets.Text(caption, description="caption", layout=wide, **slow)
        self.model = widgets.Dropdown(options=list(recipes), description="model")
        self.steps = widgets.IntSlider(1, 1, 50, description="steps", **slow)
        self.guidance = widgets.FloatSlider(1.0, min=1.0, max=14.0, step=0.5, description="guidance", **slow)
        self.seed = widgets.IntSlider(0, 0, 999, description="seed", **slow)
        self.count = widgets.IntSlider(4, 1, 8, description="images", **slow)
        self.picture = widgets.Image(format="png")
        self.message = widgets.HTML()
        self._quiet = False
        self.model.observe(lambda _: self._begin(), "value")
        for control in (self.caption, self.steps, self.guidance, self.seed, self.count):
            control.observe(self._changed, "value")
        self._begin()

    @property
    def widget(self) -> Any:
        """All of it, for the notebook to show."""
        rows = ([self.model, self.seed], [self.steps, self.guidance, self.count])
        return widgets.VBox([self.caption, *(widgets.HBox(row) for row in rows), self.picture, self.message])

    def _begin(self) -> None:
        """Set the steps and the guidance that the selected model is meant for, and draw once."""
        config = self.pipelines(self.model.value).config
        self._quiet = True
        self.steps.value, self.guidance.value = int(config["default_steps"]), float(config["default_guidance"])
        self._quiet = False
        self.draw()

    def _changed(self, _: object) -> None:
        if not self._quiet:
            self.draw()

    def images(self) -> Tensor:
        """Images of the caption as the widgets stand: uint8, (count, 3, 64, 64); image i starts from noise i."""
        texts = [self.caption.value] * self.count.value
        sampler = kinds.kind_of(registry.get(self.model.value)).sampler
        given = {"steps": self.steps.value, "guidance": self.guidance.value, "seed": self.seed.value}
        batch = math.ceil(len(texts) / torch.get_num_threads())  # as many batches as are made at once
        return generate.images(self.pipelines(self.model.value), texts, sampler=sampler, batch=batch, **given)

    def draw(self) -> None:
        """Sample the images and show them with what the reader finds in each, or no image and the reason why not."""
        unknown = unknown_words(self.caption.value)
        if unknown or not WORD.search(self.caption.value):
            self._refuse(unknown)
            return
        began = time.perf_counter()
        images = self.images()
        lines = [f"{(time.perf_counter() - began) / len(images) * 1000:.0f} ms per image"]
        self.picture.value, self.picture.layout.display = png(images), None
        for number, reading in enumerate(self.reader.read(images) if self.reader else (), start=1):
            things = ", ".join(f"{thing.size} {thing.colour} {thing.shape}" for thing, *_ in reading.things)
            lines.append(f"image {number}, as the reader sees it: {things or 'nothing'} on {reading.background}")
        self.message.value = "".join(f'<p style="{PALE}; margin: 0">{escape(line)}</p>' for line in lines)

    def _refuse(self, unknown: Sequence[str]) -> None:
        """No picture: the one before was of another caption."""
        known = ", ".join(word for word in shapes.VOCABULARY if word.isalnum())
        reason = f"the text encoder never learned: {', '.join(unknown)}" if unknown else "the caption has no words"
        self.picture.value, self.picture.layout.display = b"", "none"
        self.message.value = (
            f'<p style="margin: 0">{marked(self.caption.value)}</p>'
            f'<p style="{WRONG}; margin: 0">{escape(reason)}</p>'
            f'<p style="{PALE}; margin: 0">It knows: {escape(known)}</p>'
        )
