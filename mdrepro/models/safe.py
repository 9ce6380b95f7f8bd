"""The one loader of networks: safetensors alone, every weight there, of its shape and finite.

Pickle files, which run code when they are opened, are refused.
"""

import contextlib
import importlib
import json
import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
import transformers
from diffusers.models.modeling_utils import ModelMixin
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.core.reading import inside, read_header, read_json
from mdrepro.models import bars

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
WEIGHTS = ("diffusion_pytorch_model", "pytorch_model", "model")
"""What diffusers and transformers call files of weights; a variant's name and the number of a shard may follow."""
INDEX = "model_index.json"
LARGEST, MOST = 1 << 20, 1 << 12
"""The largest number in a config, and the largest one that counts layers, blocks or heads."""
COUNTS = re.compile("layers|blocks|resnets|depth|heads|head_dim")
OPEN_BOUND = ("lambda_min_clipped", -math.inf)  # of DPM solvers, as diffusers saves them
NOT_WEIGHTS = re.compile(r"(^|\.)position_ids$")  # numbers from 0 on, which older files hold


def refuse_pickles(source: str | os.PathLike[str], subfolder: str | None = None, variant: str | None = None) -> None:
    """Do nothing where ``source`` can be loaded from safetensors, or is no local folder.

    Raises BadInput for a file, and where the ``subfolder``, or a component of a pipeline, has weights, or those of the
    ``variant`` (such as ``fp16``), as pickle and not as safetensors: the message has the code that converts them.
    """
    path = Path(source, subfolder or "")
    if path.is_file():
        raise _refusal(path) if path.suffix in PICKLES else BadInput(f"{path} is a file: expected a folder")
    for folder in _components(path):
        pickles = sorted(file for file in folder.iterdir() if file.suffix in PICKLES)
        safe = list(folder.glob("*.safetensors"))
        if pickles and not safe:
            raise _refusal(pickles[0])
        for file in pickles:
            if _is_weights(file, variant) and not any(
                _is_weights(other, variant) and _whole_stem(other) == _whole_stem(_converted(file)) for other in safe
            ):
                raise _refusal(file)


def _is_weights(file: Path, variant: str | None) -> bool:
    return _whole_stem(file) in [f"{kind}.{variant}" if variant else kind for kind in WEIGHTS]


def _whole_stem(file: Path) -> str:
    return re.sub(r"-\d+-of-\d+", "", file.stem)


def _components(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield folder
    index = folder / INDEX
    if index.is_file():
        names = (name for name in read_json(index, dict[str, Any]) if not name.startswith("_"))
        yield from (own for name in names if (own := inside(folder, name, index)).is_dir())


def _converted(file: Path) -> Path:
    """transformers calls its weights pytorch_model.bin and model.safetensors; diffusers changes the suffix alone."""
    renamed = file.with_name(file.name.replace("pytorch_model", "model", file.name.startswith("pytorch_model")))
    return renamed.with_suffix(".safetensors")


def _refusal(file: Path) -> BadInput:
    source, target = json.dumps(str(file)), json.dumps(str(_converted(file)))
    code = (
        "import torch; from safetensors.torch import save_file; "
        f'weights = torch.load({source}, map_location="cpu", weights_only=True); '
        "save_file({name: value.clone().contiguous() for name, value in weights.items()}, "
        f'{target}, metadata={{"format": "pt"}})'
    )
    return BadInput(
        f"{file} holds pickled weights, which can run code when loaded; safetensors alone is read. "
        f"Convert it once: python -c {shlex.quote(code)}"
    )


def network(kind: Any, source: str | os.PathLike[str], *, unused: str | None = None, **options: Any) -> Any:
    """The network of a class ``kind`` of diffusers, transformers or this package, from its files, in eval mode.

    ``source``: a local folder or a name on the hub. ``unused``: weights that a file may hold beside the network's own,
    as a regular expression. ``options``: of the class's own ``from_pretrained``.

    Raises BadInput, which names the weight and the file, for a folder that does not exactly hold the network: pickles,
    a damaged file, a config beyond bounds, or a weight that is missing, unexpected, of another shape or not finite;
    NotAttempted where it is neither a local folder nor in the cache, and cannot be downloaded.
    """
    _only_safetensors(options)
    subfolder, variant = options.get("subfolder") or "", options.get("variant")
    refuse_pickles(source, subfolder, variant)
    folder = Path(source, subfolder)
    files = dict[str, Path]()
    if local := Path(source).is_dir():
        check_config(folder / "config.json")
        files = _weights(folder, variant)
        if options.get("low_cpu_mem_usage") is False:
            _check_size(kind, folder, files)
    options |= {"use_safetensors": True, "output_loading_info": True}
    if issubclass(kind, PreTrainedModel):
        options["ignore_mismatched_sizes"] = True  # reported below: its own error names none
    with bars.hidden(), from_hub(source), _readable(folder, local):
        model, info = _loader(kind)(source, **options)
    known = [name for name in info["unexpected_keys"] if not (unused and re.match(unused, name))]
    shapes = {str(entry if isinstance(entry, str) else entry[0]) for entry in info["mismatched_keys"]}
    check_names(info["missing_keys"], known, shapes, folder if local else source, files)
    check_finite(model.state_dict(), folder if local else source, files)
    return model.eval()


def _only_safetensors(options: Mapping[str, Any]) -> None:
    if options.get("use_safetensors") is False:
        raise BadInput("use_safetensors is False: it must be True; safetensors alone is read")


def check_names(
    missing: Iterable[str],
    unexpected: Iterable[str],
    mismatched: Iterable[str],
    source: object,
    files: Mapping[str, Path],
) -> None:
    """Do nothing where no weight is named. Raises BadInput with the first of them, its file and how many there are.

    ``source``: what holds the network; ``files``: where each weight was found.
    """
    for what, names in (
        ("lacks", missing),
        ("holds, with a shape that its config does not have,", mismatched),
        ("holds, beside the network that its config describes,", unexpected),
    ):
        if found := sorted(name for name in names if not NOT_WEIGHTS.search(name)):
            file = files.get(found[0]) or next(iter(files.values()), source)
            more = f" and {len(found) - 1} more weights" if len(found) > 1 else ""
            raise BadInput(f"{file} {what} {found[0]}{more}: expected all weights of the network, and no others")


def check_finite(weights: Mapping[str, Tensor], source: object, files: Mapping[str, Path]) -> None:
    """Raises BadInput, which names the weight and the file, where one is NaN or infinite.

    Weights that accelerate leaves on disk, or elsewhere until they are needed, are read from their file.
    """
    for name, value in weights.items():
        if value.is_meta:
            if name not in files:
                continue
            with safe_open(files[name], "pt") as file:
                value = file.get_tensor(name)
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise BadInput(f"{files.get(name) or source}: the weight {name} is not finite; get or train it again")


def check_config(file: Path) -> dict[str, Any]:
    """A network's or a scheduler's configuration. Raises BadInput where it cannot be read or has immense numbers."""
    config: dict[str, Any] = read_json(file, dict[str, Any], largest=1 << 24, infinite=True)
    values: list[tuple[str, Any]] = list(config.items())
    for name, value in values:  # grows while it is read
        if isinstance(value, dict):
            values += [(f"{name}.{key}", item) for key, item in value.items()]
        elif isinstance(value, list):
            values += [(name, item) for item in value]
        most = MOST if COUNTS.search(name) else LARGEST
        size = len(value) if isinstance(value, list) else value
        if isinstance(size, (int, float)) and abs(size) > most and (name, size) != OPEN_BOUND:
            raise BadInput(f"{file}: {name} is {size:g}: expected at most {most}")
    return config


def _weights(folder: Path, variant: str | None) -> dict[str, Path]:
    """Where a folder's weights are, by name. Raises BadInput for a damaged file, or one outside the folder."""
    files = [file for file in sorted(folder.glob("*.safetensors")) if _is_weights(file, variant)]
    for index in folder.glob("*.safetensors.index.json"):
        listed = read_json(index, dict[str, Any]).get("weight_map")
        named = set(listed.values()) if isinstance(listed, dict) and all(map(_text, listed.values())) else {None}
        files += [inside(folder, name, index) for name in named]
    return {name: file for file in dict.fromkeys(files) for name in read_header(file)}


def _check_size(kind: Any, folder: Path, files: Mapping[str, Path]) -> None:
    """Raises BadInput where a config describes many more weights than there are, before memory is taken for them."""
    with _readable(folder, True), torch.device("meta"):
        described = sum(value.numel() for value in kind.from_config(kind.load_config(folder)).state_dict().values())
    held = sum(math.prod(shape) for file in set(files.values()) for shape in read_header(file).values())
    if described > 2 * held + LARGEST:
        raise BadInput(f"{folder}: its config describes {described:.3g} weights, and its files hold {held:.3g}")


def _text(value: object) -> bool:
    return isinstance(value, str)


@contextlib.contextmanager
def _readable(folder: Path, local: bool) -> Iterator[None]:
    """Turns whatever diffusers and transformers raise on a damaged local folder into BadInput."""
    try:
        yield
    except (BadInput, NotAttempted, MemoryError):
        raise
    except BaseException as error:
        panic = type(error).__module__ == "pyo3_runtime"  # of tokenizers, whose class derives from BaseException
        if not local or not (panic or isinstance(error, Exception)):
            raise
        reason = " ".join(str(error).split())[:300]
        raise BadInput(
            f"{folder} cannot be loaded ({type(error).__name__}: {reason}); get or save the whole folder again"
        ) from error


def _loader(kind: Any) -> Any:
    return super(SafetensorsOnly, kind).from_pretrained if issubclass(kind, SafetensorsOnly) else kind.from_pretrained


def part(kind: Any, folder: Path) -> Any:
    """A scheduler or tokenizer of a class ``kind`` from a local folder.

    Raises BadInput where there is none, or a tokenizer lacks what `check_tokenizer` asks for.
    """
    _check_scheduler(folder)
    with _readable(folder, True):
        loaded = kind.from_pretrained(folder)
    if isinstance(loaded, PreTrainedTokenizerBase):
        check_tokenizer(loaded, folder)
    return loaded


def check_tokenizer(tokenizer: Any, source: object) -> None:
    """Do nothing for a tokenizer that can take texts apart, end them and pad them.

    Raises BadInput, which names the ``source``, for any other.
    """
    for what in ("pad_token", "eos_token"):
        if not isinstance(number := getattr(tokenizer, f"{what}_id"), int) or number < 0:
            raise BadInput(f"{source}: the tokenizer has no {what}; get or save the whole folder again")
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, (int, float)) or longest < 2:
        raise BadInput(f"{source}: the tokenizer's model_max_length is {longest!r}: expected at least 2 tokens")
    with _readable(Path(str(source)), True):
        tokenizer(["a", "a b c d e"], padding="max_length", max_length=4, truncation=True, return_tensors="pt")


def check_vocabulary(tokenizer: Any, known: int, source: object = "this pipeline") -> None:
    """Raises BadInput where a tokenizer has a token that a text encoder, which knows so many, does not know."""
    if (last := max(tokenizer.get_vocab().values(), default=-1)) >= known:
        raise BadInput(f"{source}: the tokenizer has a token {last}, and the text encoder knows those below {known}")


def _check_scheduler(folder: Path) -> None:
    """`check_config` of a scheduler, where the folder holds one."""
    if (config := folder / "scheduler_config.json").is_file():
        check_config(config)


def parts(folder: Path, given: Iterable[str] = (), **options: Any) -> dict[str, Any]:
    """The networks of a saved pipeline by name, but for those ``given``; ``options``: dtype and variant.

    Raises BadInput as `network`, and where a part is not there that the pipeline's index names.
    """
    index = folder / INDEX
    found: dict[str, Any] = {}
    for name, entry in read_json(index, dict[str, Any]).items():
        if name.startswith("_") or name in given or not isinstance(entry, list) or entry == [None, None]:
            continue
        if len(entry) != 2 or not all(map(_text, entry)):
            raise BadInput(f"{index}: {name} is {entry}: expected a library and a class")
        own = inside(folder, name, index)
        if not own.is_dir():
            raise BadInput(
                f"{folder} has no folder {name}, which its {INDEX} names; get or save the whole folder again"
            )
        kind = _class(entry[0], entry[1], f"{index}: {name}")
        if issubclass(kind, (ModelMixin, PreTrainedModel)):
            dtype = options.get("dtype", options.get("torch_dtype"))
            if isinstance(dtype, dict):
                dtype = dtype.get(name, dtype.get("default"))
            found[name] = network(kind, own, dtype=dtype, variant=options.get("variant"))
        else:
            _check_scheduler(own)
    return found


def pipeline(kind: Any, source: str | os.PathLike[str], **options: Any) -> Any:
    """The pipeline of a class ``kind``, its networks by `network`.

    Arguments and errors as there; networks among the ``options`` are taken as they are.
    """
    _only_safetensors(options)
    refuse_pickles(source, None, options.get("variant"))
    local = Path(source).is_dir()
    if local:
        options |= parts(Path(source), options, **options)
    with bars.hidden(), from_hub(source), _readable(Path(source), local):
        loaded = _loader(kind)(source, **options | {"use_safetensors": True})
    for name, component in loaded.components.items():
        if isinstance(component, PreTrainedTokenizerBase):
            check_tokenizer(component, Path(source, name) if local else f"{source}, {name}")
    return loaded


def _class(library: str, name: str, source: str) -> type:
    """A class of diffusers, transformers or this package. Raises BadInput for any other."""
    module: Any = {"diffusers": diffusers, "transformers": transformers}.get(library)
    if module is None and library.startswith("mdrepro."):
        with contextlib.suppress(ImportError):
            module = importlib.import_module(library)
    if module is None:
        module = getattr(diffusers.pipelines, library, None)
    kind = getattr(module, name, None)
    if not isinstance(kind, type):
        raise BadInput(f"{source} is {name} of {library}: expected a class of diffusers, transformers or mdrepro")
    return kind


class SafetensorsOnly:
    """Reads and writes safetensors and nothing else: a base class named before the one of diffusers."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any) -> Self:
        """diffusers' ``from_pretrained`` of a local folder or a name on the hub; see `network` and `pipeline`."""
        read = network if issubclass(cls, ModelMixin) else pipeline
        loaded: Self = read(cls, pretrained_model_name_or_path, **options)
        return loaded

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        **options: Any,
    ) -> None:
        """diffusers' ``save_pretrained``. Raises BadInput for ``safe_serialization=False``."""
        if not safe_serialization:
            raise BadInput("safe_serialization is False: it must be True; weights are saved as safetensors alone")
        # Saving a pipeline, diffusers looks for these two in the signature of its parts.
        options |= {"variant": variant} if variant else {}
        options |= {"max_shard_size": max_shard_size} if max_shard_size else {}
        super().save_pretrained(save_directory, **options)  # type: ignore[misc]


class SafeModelMixin(SafetensorsOnly, ModelMixin):
    """diffusers' ModelMixin, read and written as safetensors alone."""


@contextlib.contextmanager
def from_hub(source: str | os.PathLike[str]) -> Iterator[None]:
    """``with from_hub(source):`` turns a download that failed into NotAttempted, with the command that gets it.

    Errors about a local folder pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if Path(source).exists():
            raise
        reason = str(error).strip().partition("\n")[0]
        raise NotAttempted(
            f"{source} is no folder here and could not be had from the hub ({reason}); get it with "
            f"`hf download {source} --local-dir FOLDER` and give the folder"
        ) from error
