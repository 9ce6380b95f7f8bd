"""From a prompt to an image with three ``.tflite`` files, numpy and the tokenizer: no torch, no transformers.

A folder of `mdrepro.export.bundle` holds the files, ``tokenizer.json`` and ``bundle-fp32.json``, which says how they go
together. It is what an app on a phone does, and gives the torch pipeline's image::

    images = Runner("bundle").images(["a red star"])  # uint8 (1, height, width, 3)
"""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from mdrepro.core import machine
from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256
from mdrepro.core.reading import checked, inside, read_json
from mdrepro.export import flatbuffer
from mdrepro.export.needs import needed
from mdrepro.export.solvers import Array, Schedule

if TYPE_CHECKING:
    import tokenizers

FORMAT = 1
NETWORKS = ("text-encoder", "unet", "decoder")
FIELDS: dict[str, Any] = {
    "tokenizer": dict[str, Any],
    "schedule": dict[str, Any],
    "steps": PositiveInt,
    "guidance": PositiveFloat,
}
TOKENIZER_FIELDS: dict[str, Any] = {"file": str, "length": PositiveInt, "padding": NonNegativeInt, "unknown": int}

logger = logging.getLogger(__name__)


class LiteRTNetwork:
    """One ``.tflite`` file, ready to run on so many threads; None for as many as there are cores.

    ``summary``: what the file says of itself. Raises BadInput where it is no such file, is cut off, or needs an
    operation that this runtime lacks, and NotAttempted where ai-edge-litert is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
        self.summary = flatbuffer.read(path)
        self.path = Path(path)
        litert = needed("ai_edge_litert.interpreter")
        try:
            interpreter = litert.Interpreter(os.fspath(path), num_threads=threads or machine.cores())
            interpreter.allocate_tensors()
            self._run = interpreter.get_signature_runner()
        except (ValueError, RuntimeError) as error:
            reason, needs = str(error).strip().partition("\n")[0], ", ".join(self.summary.operations)
            raise BadInput(f"{path} cannot be run here ({reason}); it needs {needs}") from error

    def __call__(self, **inputs: Array) -> dict[str, Array]:
        """Outputs by name, for inputs by name. Raises BadInput for other names, shapes or types than the file has."""
        wanted = {port.name: port for port in self.summary.inputs}
        given = {name: flatbuffer.Port(name, value.shape, str(value.dtype)) for name, value in inputs.items()}
        if given != wanted:
            ours, needs = ("; ".join(str(port) for _, port in sorted(p.items())) for p in (given, wanted))
            raise BadInput(f"{self.path.name} was given {ours}: expected {needs}")
        outputs: dict[str, Array] = self._run(**inputs)
        return outputs


class Runner:
    """A text-to-image system out of a ``bundle-*.json``, or a folder that holds one.

    Attributes:
        description: the bundle's JSON.
        branches, latent: of the denoiser: its batch, and the shape of a latent.
        takes_guidance: whether it takes the guidance scale as an input.

    Raises BadInput where the bundle is not whole, or its files do not fit together, and NotAttempted without
    ai-edge-litert or tokenizers.
    """

    def __init__(self, bundle: str | os.PathLike[str], threads: int | None = None) -> None:
        file = _locate(Path(bundle))
        self.description = _read(file)
        self.schedule = Schedule.from_json(self.description["schedule"])
        self.tokenizer = _tokenizer(file.parent / self.description["tokenizer"]["file"])
        files = self.description["files"]
        self.text_encoder, self.unet, self.decoder = (
            LiteRTNetwork(file.parent / files[name], threads) for name in NETWORKS
        )
        ports = {port.name: port.shape for port in self.unet.summary.inputs}
        self.branches, self.latent = ports["sample"][0], ports["sample"][1:]
        self.takes_guidance = "guidance" in ports

    def tokens(self, prompt: str) -> NDArray[np.int32]:
        """Token numbers of a prompt, (1, tokens). A longer one loses its last words, not its end token; a warning."""
        settings = self.description["tokenizer"]
        ids = self.tokenizer.encode(prompt).ids
        if settings["unknown"] in ids:
            logger.warning("words outside the vocabulary in %r", prompt)
        if len(ids) > (length := settings["length"]):
            logger.warning("%d of %d tokens are left out at the end of %r", len(ids) - length, len(ids), prompt)
            ids = [*ids[: length - 1], ids[-1]]
        return np.array([ids + [settings["padding"]] * (length - len(ids))], np.int32)

    def encode(self, prompt: str) -> Array:
        """Text features of a prompt, (1, features, width)."""
        return self.text_encoder(input_ids=self.tokens(prompt))["text"]

    def images(
        self,
        prompts: Sequence[str],
        *,
        negative_prompt: str = "",
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
        noise: Array | None = None,
        on_step: Callable[[int, int, Array], None] | None = None,
    ) -> NDArray[np.uint8]:
        """An image for each prompt, uint8 (prompts, height, width, 3). Raises BadInput for what is not allowed.

        Args:
            negative_prompt: what guidance leads away from.
            steps, guidance: None for the checkpoint's own; guidance w is w v(text) - (w - 1) v(negative), 1 is none.
            seed: of the noise: that of image i depends on seed and i alone.
            noise: in place of drawn: (prompts, draws, channels, h, w) of variance 1, where ``draws`` is 1 for DDIM and
                the number of steps for re-noising.
            on_step: called as (image, step, latent) after each step.
        """
        steps = self.description["steps"] if steps is None else steps
        guidance = self.description["guidance"] if guidance is None else guidance
        if isinstance(prompts, str) or not prompts:
            raise BadInput("prompts: expected a list of texts that is not empty")
        if guidance < 1:
            raise BadInput(f"guidance is {guidance}: it must be 1 (none) or more")
        times, shape = self.schedule.timesteps(steps), (self.schedule.draws(steps), *self.latent)
        if noise is not None and noise.shape != (len(prompts), *shape):
            raise BadInput(f"noise has shape {noise.shape}: expected {(len(prompts), *shape)}")
        if self.takes_guidance and negative_prompt:
            raise BadInput("this denoiser takes the guidance scale as an input: there can be no negative prompt")
        null = self.encode(negative_prompt) if guidance != 1 and not self.takes_guidance else None
        images = []
        for index, prompt in enumerate(prompts):
            rng = np.random.default_rng([seed, index])
            drawn = rng.standard_normal(shape, np.float32) if noise is None else noise[index].astype(np.float32)
            text, x = self.encode(prompt), drawn[:1]
            for step, time in enumerate(times):
                prediction = self.predict(x, time, text, null, guidance)
                fresh = drawn[step + 1 : step + 2] if step + 1 < len(drawn) else None
                x = self.schedule.step(x, prediction, times, step, fresh)
                if on_step is not None:
                    on_step(index, step, x)
            images.append(self.decode(x))
        return np.concatenate(images)

    def predict(self, x: Array, time: int, text: Array, null: Array | None, guidance: float) -> Array:
        """The denoiser's prediction for one latent, guided where there is a null branch or it takes w as an input."""
        now = np.array([time], np.float32)
        if self.takes_guidance:
            w = np.array([guidance], np.float32)
            return self.unet(sample=x, timestep=now, encoder_hidden_states=text, guidance=w)["prediction"]
        texts = [text] if null is None else [null, text]
        if self.branches == 2:
            both = np.concatenate([texts[0], texts[-1]])
            out = self.unet(sample=np.concatenate([x, x]), timestep=now, encoder_hidden_states=both)["prediction"]
            outs = [out[:1], out[1:]]
        else:
            outs = [self.unet(sample=x, timestep=now, encoder_hidden_states=one)["prediction"] for one in texts]
        return outs[-1] if null is None else outs[0] + np.float32(guidance) * (outs[1] - outs[0])

    def decode(self, x: Array) -> NDArray[np.uint8]:
        """Pixels of a latent, uint8 (1, height, width, 3), rounded."""
        return (self.decoder(latent=x)["image"] * 255).round().astype(np.uint8)


def bundle_name(precision: str) -> str:
    """The name of a bundle's file."""
    return f"bundle-{precision}.json"


def _locate(path: Path) -> Path:
    bundles = sorted(path.glob(bundle_name("*"))) if path.is_dir() else [path]
    if len(bundles) != 1:
        names = ", ".join(file.name for file in bundles) or "none"
        raise BadInput(f"{path} holds {names}: expected one {bundle_name('*')} of `mdrepro export`, or name the file")
    return bundles[0]


def _read(file: Path) -> dict[str, Any]:
    """A bundle's JSON, its fields and its networks' hashes checked."""
    description: dict[str, Any] = read_json(file, dict[str, Any])
    source, names = f"{file} is no bundle of `mdrepro export`", dict[str, str]
    files, hashes = (checked(description.get(name), names, f"{source}: {name}") for name in ("files", "sha256"))
    if description.get("format") != FORMAT or not sorted(files) == sorted(hashes) == sorted(NETWORKS):
        raise BadInput(f"{file} is of another version: export the model again")
    for name, kind in FIELDS.items():
        checked(description.get(name), kind, f"{source}: {name}")
    tokenizer = description["tokenizer"]
    for name, kind in TOKENIZER_FIELDS.items():
        checked(tokenizer.get(name), kind, f"{source}: tokenizer: {name}")
    Schedule.from_json(description["schedule"])
    inside(file.parent, tokenizer["file"], file)
    for name in NETWORKS:
        path = inside(file.parent, files[name], file)
        if not path.is_file() or sha256(path) != hashes[name]:
            raise BadInput(f"{path} is {'not what was exported' if path.is_file() else 'missing'}: export it again")
    return description


def _tokenizer(file: Path) -> "tokenizers.Tokenizer":
    library = needed("tokenizers")
    try:
        tokenizer = library.Tokenizer.from_file(os.fspath(file))
    except Exception as error:  # the library raises Exception itself
        raise BadInput(f"{file} is no tokenizer ({error}): export the model again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
