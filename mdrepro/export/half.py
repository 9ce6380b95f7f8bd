"""What half precision does to a network, emulated: which layers overflow, and which lose precision.

Weights, and the result of every operation (sums, means, variances, activations), are rounded to float16, as an
accelerator stores them; inside one operation sums are float32. Norms, attention and GELU are computed in the operations
that exported files have. A layer loses what its output, from the rounded inputs that it has, lies further from
float32's than one rounding of that output does.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from mdrepro.export import parity, reauthor
from mdrepro.export.components import Component
from mdrepro.export.reauthor import Reauthored

LOST = 20.0  # dB that a layer may lose before it is named
LARGEST = 65504.0  # of float16
ROUNDED = 80.0  # dB, at most, of one rounding: an output that float16 holds exactly would lose by any error


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """`torch.nn.functional.gelu` by tanh and a cube, as mobile runtimes do; the cube is over `LARGEST` from 41."""
    cube = input * input * input
    return 0.5 * input * (1 + torch.tanh(math.sqrt(2 / math.pi) * (input + 0.044715 * cube)))


def swish(input: Tensor, inplace: bool = False) -> Tensor:
    """`torch.nn.functional.silu` as a product."""
    return input * torch.sigmoid(input)


def _product(a: Tensor, b: Tensor) -> Tensor:
    return a @ b.transpose(-1, -2)


LAYERS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    F.group_norm: reauthor.group_norm,
    F.layer_norm: reauthor.layer_norm,
    F.scaled_dot_product_attention: functools.partial(reauthor.attention, product=_product),
    F.gelu: gelu,
    F.silu: swish,
}
"""The operations of exported files, by torch's function."""
HALF_LAYERS = {**LAYERS, F.group_norm: reauthor.half_group_norm}
"""With the group norm that is made for half precision."""


@dataclass(frozen=True)
class Finding:
    """A layer that half precision spoils.

    Args:
        layer: its name in the network, with a function's after it where it is no module of its own.
        kind: the module's class or the function.
        operation: the first one that overflows; "" where none does.
        lost_db: PSNR that it loses against one rounding of its output, dB; infinite where that is not finite.
        largest: magnitude in its float32 output.
    """

    layer: str
    kind: str
    operation: str
    lost_db: float
    largest: float


class _Rounded(TorchDispatchMode):
    """Inside it, floating-point tensors that go into or come out of an operation are float16's; with ``weights`` alone,
    as in a file of float16 weights on a processor, only parameters."""

    def __init__(self, *, weights: bool = False) -> None:
        super().__init__()
        self.weights = weights
        self.overflowed: str = ""

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.is_view or func._schema.is_mutable:
            return func(*args, **(kwargs or {}))
        into = self._of_weights if self.weights else _round
        args = tree_map_only(Tensor, into, args)
        outputs = func(*args, **(kwargs or {}))
        if self.weights:
            return outputs
        outputs = tree_map_only(Tensor, _round, outputs)
        if not self.overflowed and not _finite(outputs) and _finite(args):
            self.overflowed = func.overloadpacket.__name__
        return outputs

    def _of_weights(self, value: Tensor) -> Tensor:
        return _round(value) if isinstance(value, nn.Parameter) else value


def _round(value: Tensor) -> Tensor:
    return value.half().float() if value.dtype == torch.float32 else value


def _finite(values: Any) -> bool:
    return all(bool(one.isfinite().all()) for one in tree_flatten(values)[0] if isinstance(one, Tensor))


def rounded_weights(component: Component) -> Callable[[Mapping[str, Any]], Any]:
    """The component with float16 weights and float32 arithmetic, as a ``run`` of `mdrepro.export.parity.measure`."""

    def run(inputs: Mapping[str, Any]) -> Any:
        with torch.inference_mode(), _Rounded(weights=True):
            outputs = component.module(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        return outputs[component.output].numpy()

    return run


def run(
    component: Component, layers: Mapping[Callable[..., Any], Callable[..., Any]] = LAYERS
) -> Callable[[Mapping[str, Any]], Any]:
    """The component in emulated half precision, as a ``run`` of `mdrepro.export.parity.measure`."""

    def emulated(inputs: Mapping[str, Any]) -> Any:
        with torch.inference_mode(), _Rounded(), Reauthored(layers):
            outputs = component.module(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        return outputs[component.output].numpy()

    return emulated


@torch.inference_mode()
def audit(
    component: Component, layers: Mapping[Callable[..., Any], Callable[..., Any]] = LAYERS, number: int = 1
) -> list[Finding]:
    """Layers that overflow or lose `LOST` dB in half precision, in the order in which they run.

    Each layer is run on its inputs from a network in half precision (float32's, where these are not finite), so that
    one which spoils its output does not spoil the next ones' record. ``number``: of the component's draw of inputs.
    """
    findings: dict[str, Finding] = {}
    with _watched(component.module, layers, findings):
        component.module(**component.draw(number))
    return list(findings.values())


@contextmanager
def _watched(
    module: nn.Module, layers: Mapping[Callable[..., Any], Callable[..., Any]], findings: dict[str, Finding]
) -> Iterator[None]:
    """Inside it, layers and functions of ``layers`` that are run are compared with themselves in half precision."""
    parents: list[str] = []
    inside: list[str] = []  # a leaf that runs: its own functions are not compared again

    def compare(name: str, kind: str, compute: Callable[..., Any], args: Any, kwargs: Any, expected: Any) -> Any:
        with _Rounded() as rounded, Reauthored(layers):
            output = compute(*args, **kwargs)
        lost, largest = _loss(expected, output)
        if rounded.overflowed or lost >= LOST:
            findings.setdefault(name, Finding(name, kind, rounded.overflowed, lost, largest))
        # what goes on is rounded, and finite
        return expected.half().float().clamp(-LARGEST, LARGEST) if lost == math.inf else output

    def function(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        expected = func(*args, **kwargs)
        if inside:
            return expected
        kind = func.__name__
        return compare(
            f"{parents[-1]}.{kind}".lstrip("."), kind, functools.partial(_call, func), args, kwargs, expected
        )

    def before(name: str, leaf: bool) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            parents.append(name)
            if leaf:
                inside.append(name)

        return hook

    def after(name: str, leaf: bool) -> Callable[..., Any]:
        def hook(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            parents.pop()
            if not leaf:
                return None
            inside.pop()
            if not (isinstance(output, Tensor) and output.dtype == torch.float32):
                return None
            return compare(name, type(layer).__name__, layer.forward, args, kwargs, output)

        return hook

    with ExitStack() as stack:
        for name, layer in module.named_modules():
            leaf = not any(True for _ in layer.children())
            for handle in (
                layer.register_forward_pre_hook(before(name, leaf)),
                layer.register_forward_hook(after(name, leaf), with_kwargs=True),
            ):
                stack.callback(handle.remove)
        stack.enter_context(Reauthored({func: functools.partial(function, func) for func in layers}))
        yield


def _call(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return func(*args, **kwargs)


def _loss(expected: Tensor, output: Tensor) -> tuple[float, float]:
    """dB that an output lost against one rounding of what was expected, and the largest magnitude of the latter."""
    largest = float(expected.abs().max())
    if not _finite(output):
        return math.inf, largest
    reference, found, once = (one.numpy() for one in (expected, output, _round(expected)))
    rounded = min(ROUNDED, parity.compare([reference], [once]).psnr_db)
    return rounded - parity.compare([reference], [found]).psnr_db, largest


def activations(largest: tuple[float, ...] = (4.0, 32.0, 64.0, 256.0)) -> pd.DataFrame:
    """GELU against swish in half precision, MobileDiffusion's reason for the latter, by the largest input.

    Inputs are spread evenly over -largest..largest. ``dB`` is the PSNR, ``overflows`` the first operation that does:
    GELU's cube becomes infinite, which is harmless only where tanh is not computed from exponentials.
    """
    rows = {}
    for bound in largest:
        x = torch.linspace(-bound, bound, 4001).half().float()
        line: dict[str, float | str] = {}
        for name, func, exact in (("GELU", gelu, F.gelu), ("swish", swish, F.silu)):
            with _Rounded() as rounded:
                found = func(x)
            line[f"{name}, dB"] = parity.compare([exact(x).numpy()], [found.numpy()]).psnr_db
            line[f"{name}, overflows"] = rounded.overflowed
        rows[bound] = line
    return pd.DataFrame(rows).T.rename_axis("largest input")
