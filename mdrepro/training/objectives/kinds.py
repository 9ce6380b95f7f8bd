"""Kinds of training run. Each registers itself in a file of this package, and nothing else names it.

To add one, put a file here with its loss and a function that builds it from a recipe::

    class Mine(Networks):                         # see `mdrepro.training.engine.objective`
        phases = (Phase("unet", ("unet",)),)

        def __init__(self, unet, scheduler, null_text, *, weight: float = 1.0) -> None:
            self.keep({"unet": unet})

        def losses(self, phase, batch, draws) -> dict[str, Tensor]: ...


    def _mine(inputs: Inputs) -> Training:
        return inputs.on_latents(Mine(inputs.denoiser(), inputs.scheduler, inputs.null_text, **inputs.options))


    register(Kind(name="mine", build=_mine, needs=DENOISER, options=(Mine,)))

Then a recipe (a row of `mdrepro.training.recipes`) may have ``kind="mine"``; ``mdrepro train`` lists and trains it, and
takes ``--set options.weight=2``: settings are the *keyword-only* arguments of what the registration names.

Importing this module imports neither torch nor the objectives; looking a kind up imports them.
"""

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdrepro.core.errors import BadInput, check
from mdrepro.data.sources import CAPTIONLESS
from mdrepro.training import objectives
from mdrepro.training.recipes.recipe import Recipe

if TYPE_CHECKING:
    from mdrepro.training.objectives.inputs import Inputs, Trainable

Declared = Callable[..., object]
"""A class or function whose arguments are settings."""
LATENTS = ("vae", "text")
"""What makes latents and text features of a recipe's data."""
DENOISER = (*LATENTS, "unet")
"""The same, and a denoiser to begin with."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is known of a kind of run before it is built.

    Args:
        name: as recipes have it.
        build: makes a recipe's `inputs.Inputs` into what is trained.
        needs: the roles that a recipe must fill, by a parent or by pretrained weights.
        options: what declares the recipe's ``options``.
        network: what declares the recipe's ``network``; None where it is a denoiser, whose class the recipe names.
        captions: whether its batches need them.
        check: called with the recipe's ``network`` before anything is trained; raises BadInput.
        gives: the part that the run is made for: ``unet``, ``vae``, ``text_encoder``, ``reader`` or ``clip``.
        sampler: of a denoiser, a name in `mdrepro.diffusion.samplers.SAMPLERS`; None for the scheduler that is stored
            with it, which no other can replace.
    """

    name: str
    build: "Callable[[Inputs], Trainable]"
    needs: tuple[str, ...] = ()
    options: tuple[Declared, ...] = ()
    network: Declared | None = None
    captions: bool = True
    check: Declared | None = None
    gives: str = "unet"
    sampler: str | None = "ddim"


_KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> None:
    """Make a kind known to recipes by its name."""
    _KINDS[kind.name] = kind


def get(name: str) -> Kind:
    """The kind of that name. Raises BadInput that names the nearest and all others."""
    if name not in _KINDS:
        for module in pkgutil.iter_modules(objectives.__path__):
            importlib.import_module(f"{objectives.__name__}.{module.name}")
    return _KINDS[check("kind", name, _KINDS)]


def kind_of(recipe: Recipe) -> Kind:
    """The kind of a recipe that can be built, as far as its fields say.

    Raises BadInput for an unknown kind or option, a role that it needs and that is not filled, data without the
    captions that it needs, or a network that `Kind.check` refuses.
    """
    kind = get(recipe.kind)
    known = option_types(kind)
    for name in recipe.options:
        check(f"option of {recipe.name}", name, known)
    for role in kind.needs:
        if role not in (*recipe.parents, *recipe.pretrained):
            raise BadInput(f"{recipe.name}: {kind.name} needs {' and '.join(kind.needs)}, and has no {role}")
    source = recipe.data.get("source")
    if kind.captions and source in CAPTIONLESS:
        raise BadInput(f"{recipe.name}: {kind.name} needs captions; data.source={source} has none")
    if kind.check:
        kind.check(**recipe.network)
    return kind


def argument_types(declared: Declared, every: bool = False) -> Mapping[str, object]:
    """Settings and their types: the keyword-only arguments, or with ``every`` all arguments where none is so."""
    inner = inspect.unwrap(declared.__init__ if isinstance(declared, type) else declared)  # type: ignore[misc]
    hints = typing.get_type_hints(inner)
    arguments = [one for one in inspect.signature(inner).parameters.values() if one.name != "self"]
    named = [one for one in arguments if one.kind is one.KEYWORD_ONLY]
    return {one.name: hints.get(one.name, object) for one in (arguments if every and not named else named)}


def option_types(kind: Kind) -> dict[str, object]:
    """The settings in ``options`` of recipes of a kind, and their types; those that ``network`` has too are its own."""
    network = argument_types(kind.network, every=True) if kind.network else {}
    types = {name: hint for declared in kind.options for name, hint in argument_types(declared).items()}
    return {name: hint for name, hint in types.items() if name not in network}
