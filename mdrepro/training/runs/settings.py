"""``--set section.name=value`` on a recipe, checked against what its network and objective take."""

import functools
import importlib
import inspect
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from mdrepro.core.errors import BadInput, unknown
from mdrepro.data import sources
from mdrepro.models.mobilediffusion import vae
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import build

SECTIONS = ("loop", "data", "network", "noise", "options", "pretrained", "sampling")
GIVEN = {"self", "return", "unet", "teacher", "scheduler", "null_text", "generator", "discriminator", "model"}
GIVEN |= {"student", "terms", "reader", "tokenizer", "encoder", "text_encoder"}
"""Arguments that are no settings: `build` gives them."""


def allowed(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The settings of each section and their types."""
    types = {name: type(value) for name, value in sources.settings(recipe.data).items()}
    return {
        "loop": _takes(LoopConfig),
        "data": types,
        "network": _network(recipe),
        "noise": _noise(recipe),
        "options": _options(recipe),
        "pretrained": dict.fromkeys(recipe.pretrained, str),
        "sampling": {"steps": int, "guidance": float},
    }


def changed(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with settings such as ``loop.steps=100``. Values are JSON, or else text.

    Raises:
        BadInput: not of that form, an unknown name, or a value of another type; the message says what is allowed.
    """
    for setting in sorted(settings, key=lambda text: not text.startswith(("data.source=", "network.class="))):
        name, sign, text = setting.partition("=")
        section, dot, field = name.partition(".")
        if not (sign and dot):
            raise BadInput(f"--set {setting}: allowed is section.name=value, such as loop.steps=100")
        if section not in SECTIONS:
            raise unknown("section", section, SECTIONS)
        types = allowed(recipe)[section]
        if field not in types:
            raise unknown(f"setting of {recipe.name}", name, [f"{section}.{one}" for one in types])
        value = _value(name, text, types[field])
        if section == "loop":
            recipe = replace(recipe, loop=replace(recipe.loop, **{field: value}))
        else:
            changes: dict[str, Any] = {section: {**getattr(recipe, section), field: value}}
            recipe = replace(recipe, **changes)
        if name == "data.source":
            sources.settings(recipe.data)
        if name == "network.class":  # what the other class does not take is left to its defaults
            types = allowed(recipe)["network"]
            recipe = replace(recipe, network={key: kept for key, kept in recipe.network.items() if key in types})
    if recipe.kind in ("autoencoder", "decoder"):
        vae.configuration(recipe.network["row"], recipe.network["width"])
    return recipe


def _value(name: str, text: str, kind: Any) -> Any:
    try:
        values = [json.loads(text), text]
    except ValueError:
        values = [text]
    adapter = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    for value in values:
        try:
            return adapter.validate_python(value)
        except ValidationError:
            continue
    raise BadInput(f"{name}={text}: allowed is {kind if typing.get_args(kind) else kind.__name__}")


@functools.cache
def _takes(function: Callable[..., Any] | type) -> dict[str, Any]:
    """The arguments of a function or class that are settings, and their types."""
    inner = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    hints = typing.get_type_hints(inspect.unwrap(inner))
    return {name: hints.get(name, Any) for name in inspect.signature(inner).parameters if name not in GIVEN}


def _network(recipe: Recipe) -> dict[str, Any]:
    from mdrepro.models import text
    from mdrepro.models.mobilediffusion import vae
    from mdrepro.models.mobilediffusion.discriminator import UNETS
    from mdrepro.models.scenes.clip import SceneClip
    from mdrepro.models.scenes.reader import SceneReader
    from mdrepro.training.objectives.synthetic import pruned

    kinds: Mapping[str, Any] = {
        "reader": SceneReader,
        "clip": SceneClip,
        "autoencoder": vae.build,
        "decoder": vae.build,
        "synthetic": pruned,
        "text": text.small_encoder,
    }
    if recipe.kind in kinds:
        return _takes(kinds[recipe.kind])
    if "unet" in recipe.pretrained:
        return {"class": str}
    if "unet" in recipe.parents:
        return {}
    name = recipe.network.get("class", build.UNET)
    if name not in UNETS:
        raise unknown("network.class", name, UNETS)
    return {"class": str, **_takes(getattr(importlib.import_module(UNETS[name]), name))}


def _noise(recipe: Recipe) -> dict[str, Any]:
    from diffusers import DDIMScheduler

    return _takes(DDIMScheduler) if "text" in {**recipe.parents, **recipe.pretrained} else {}


def _options(recipe: Recipe) -> dict[str, Any]:
    from mdrepro.training.objectives.autoencoder import Terms

    if recipe.kind == "evolution":
        from mdrepro.training.evolution.run import Options

        return _takes(Options)
    terms = _takes(Terms) if recipe.kind in ("autoencoder", "decoder") else {}
    types = _takes(build.objective_class(recipe.kind))
    if recipe.kind == "clip":  # the widths of its towers are the network's
        return {name: kind for name, kind in types.items() if name not in _network(recipe)}
    return types | terms | {"gan": {"logits": str}, "relu": {"relu_scaling": str}}.get(recipe.kind, {})
