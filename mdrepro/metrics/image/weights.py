"""Files of weights: looked up, checked by SHA-256, and read without running anything that is in them."""

import hashlib
import re
import urllib.error
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.core.files import sha256
from mdrepro.metrics.image.catalogue import WeightsFile

NETWORK = re.compile(r"(diffusion_pytorch_)?model(-\d+-of-\d+)?\.safetensors")
"""What diffusers and transformers read by default: no variants, and no other package's weights beside them."""
STATE_DICTS = (".bin", ".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Checked:
    """A file of weights whose hash is known, or a folder with those of one network."""

    path: Path
    sha256: str  # of the file; of several, over their names and hashes
    published: bool | None  # whether it is the published file; None where no hash of one is known here
    name: str  # for people and records


def cache() -> Path:
    """torch.hub's folder of downloaded files."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find(file: WeightsFile, path: Path | None, *, sha256: str | None = None, download: bool = False) -> Checked:
    """A published file of weights, or one at ``path`` of another ``sha256`` that stands in for it.

    Without a path it is looked for in torch.hub's cache, into which ``download`` gets it. Raises BadInput where no file
    is at ``path``, or its SHA-256 is neither the published one nor ``sha256``, and NotAttempted where it is not in the
    cache and was not to be, or could not be, downloaded.
    """
    if path is None:
        path = next((cache() / name for name in file.names if (cache() / name).is_file()), None)
        path = path or _downloaded(file, download)
    if not path.is_file():
        raise BadInput(f"{path} is no file of weights: expected one of {', '.join(file.names)}")
    return check(path, file.sha256, sha256)


def check(path: Path, published: str, given: str | None) -> Checked:
    """A file whose SHA-256 is ``given``, or else begins with ``published``: any, where that is "".

    Raises BadInput for another or a damaged file, or a ``given`` that is no hash.
    """
    digest = _digest(path)
    _agree(path, digest, given)
    if given is None and not digest.startswith(published):
        raise BadInput(
            f"{path} has SHA-256 {digest}, and the published file {published}: expected the published file, or "
            f"another one that you name by its hash, with --sha256 {digest}"
        )
    return Checked(path, digest, digest.startswith(published) if published else None, path.name)


def network(folder: Path, given: str | None, name: str) -> Checked:
    """The safetensors files of a folder that transformers or diffusers saved, by one hash.

    Raises BadInput for no such file, one that is damaged, or another SHA-256 than ``given``.
    """
    files = sorted(file for file in folder.iterdir() if NETWORK.fullmatch(file.name))
    if not files:
        raise BadInput(
            f"{folder} holds no weights: expected a folder with model.safetensors, as save_pretrained writes"
        )
    digests = [_digest(file) for file in files]
    pairs = "".join(f"{file.name} {digest}\n" for file, digest in zip(files, digests, strict=True))
    whole = digests[0] if len(files) == 1 else hashlib.sha256(pairs.encode()).hexdigest()
    _agree(folder, whole, given)
    return Checked(folder, whole, None, name)


def state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by safetensors or torch's ``weights_only`` reader. Raises BadInput for any other file."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        content = content.get("state_dict", content)
        if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
            raise ValueError("it holds more than named tensors")
    except Exception as error:  # whatever a damaged or hostile file makes torch raise
        reason = str(error).strip().partition("\n")[0][:200]
        raise BadInput(
            f"{path} cannot be read as weights ({type(error).__name__}: {reason}); expected a state dict, saved by "
            "torch.save or as safetensors"
        ) from error
    return {name.removeprefix("module."): value for name, value in content.items()}


def is_script(path: Path) -> bool:
    """Whether a file is a TorchScript program."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist())


def _digest(file: Path) -> str:
    """SHA-256 of a file; the hub's cache calls files by theirs, and such a file must match its name."""
    digest, stored = sha256(file), file.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", stored) and stored != digest:
        raise BadInput(f"{file} is damaged: its SHA-256 is {digest}, not {stored}; delete it and get it again")
    return digest


def _agree(path: Path, digest: str, given: str | None) -> None:
    if given is None:
        return
    if not re.fullmatch(r"[0-9a-fA-F]{64}", given):
        raise BadInput(f"--sha256 {given}: expected 64 hexadecimal digits")
    if digest != given.lower():
        raise BadInput(f"{path} has SHA-256 {digest}, not {given}: expected the file of that hash")


def _downloaded(file: WeightsFile, download: bool) -> Path:
    target = cache() / file.names[0]
    get = f"get it with --download, or put {file.url} there, or name a file with --weights"
    if not download:
        raise NotAttempted(f"the weights {' or '.join(file.names)} are not in {cache()}; {get}")
    cache().mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(file.url, str(target), hash_prefix=file.sha256[:64], progress=False)
    except (OSError, urllib.error.URLError, RuntimeError) as error:  # RuntimeError: another hash than published
        raise NotAttempted(f"{file.url} could not be downloaded ({error}); {get}") from error
    return target


def file_of(weights: str) -> Path:
    """``--weights`` as the path of a file. Raises BadInput for another suffix."""
    if Path(weights).suffix not in STATE_DICTS:
        raise BadInput(f"--weights {weights}: expected a file that ends in {', '.join(STATE_DICTS)}")
    return Path(weights)
