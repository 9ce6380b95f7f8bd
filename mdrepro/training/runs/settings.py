"""``--set section.name=value`` on a recipe, checked against what its network and objective take."""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diffusers import DDIMScheduler
from pydantic import ConfigDict, TypeAdapter, ValidationError

from mdrepro.core.errors import BadInput, check
from mdrepro.core.reading import parse_json
from mdrepro.data import sources
from mdrepro.models.denoiser import class_named
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.objectives import kinds
from mdrepro.training.objectives.inputs import UNET
from mdrepro.training.recipes.recipe import Recipe

SECTIONS = ("loop", "data", "network", "noise", "options", "pretrained", "sampling")


def allowed(recipe: Recipe) -> dict[str, Mapping[str, object]]:
    """The settings of each section and their types."""
    kind = kinds.kind_of(recipe)
    return {
        "loop": kinds.argument_types(LoopConfig),
        "data": {name: _type(value) for name, value in sources.settings(recipe.data).items()},
        "network": _network(recipe, kind),
        "noise": kinds.argument_types(DDIMScheduler, every=True) if "text" in kind.needs else {},
        "options": kinds.option_types(kind),
        "pretrained": dict.fromkeys(recipe.pretrained, str),
        "sampling": {"steps": int, "guidance": float},
    }


def changed(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with settings such as ``loop.steps=100``. Values are JSON, or else text.

    Raises BadInput for another form, an unknown name, or a value of another type; the message says what is expected.
    """
    for setting in sorted(settings, key=lambda text: not text.startswith(("data.source=", "network.class="))):
        name, sign, text = setting.partition("=")
        section, dot, field = name.partition(".")
        if not (sign and dot):
            raise BadInput(f"--set {setting}: it must be section.name=value, such as loop.steps=100")
        check("section", section, SECTIONS)
        types = allowed(recipe)[section]
        check(f"setting of {recipe.name}", name, [f"{section}.{one}" for one in types])
        change: dict[str, Any] = {field: _value(name, text, types[field])}
        before = getattr(recipe, section)
        after: Any = {**before, **change} if isinstance(before, Mapping) else replace(before, **change)
        recipe = replace(recipe, **{section: after})
        if name == "data.source":
            sources.settings(recipe.data)
        if name == "network.class":  # what the other class does not take is left to its defaults
            types = allowed(recipe)["network"]
            recipe = replace(recipe, network={key: kept for key, kept in recipe.network.items() if key in types})
    kinds.kind_of(recipe)
    return recipe


def _value(name: str, text: str, kind: Any) -> Any:
    try:
        values = [parse_json(text, name), text]
    except BadInput:
        values = [text]
    adapter = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))
    for value in values:
        try:
            return adapter.validate_python(value)
        except ValidationError:
            continue
    raise BadInput(f"{name}={text}: it must be {kind if typing.get_args(kind) else kind.__name__}")


def _type(value: object) -> object:
    """That of a setting's default; sequences are of numbers."""
    return tuple[int, ...] if isinstance(value, (list, tuple)) else type(value)


def _network(recipe: Recipe, kind: kinds.Kind) -> Mapping[str, object]:
    if kind.network:
        return kinds.argument_types(kind.network, every=True)
    if "unet" in recipe.pretrained:
        return {"class": str}
    if "unet" in recipe.parents:
        return {}
    denoiser = class_named(recipe.network.get("class", UNET), "network.class")
    return {"class": str, **kinds.argument_types(denoiser, every=True)}
