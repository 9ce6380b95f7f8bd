"""One process or many: what of accelerate the training loop uses, and the state of wrapped networks as whole tensors.

Under DDP each process holds all weights, under FSDP (version 2) a part of each (a DTensor). Here both look like plain
tensors, so that checkpoints do not depend on how many processes wrote them.
"""

import warnings
from collections.abc import Iterable, Mapping

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.state import AcceleratorState, PartialState  # type: ignore[import-untyped]
from accelerate.utils import (  # type: ignore[import-untyped]
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    broadcast,
    parse_flag_from_env,
)
from torch import Tensor, nn

from mdrepro.core.errors import BadInput

SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)


def start(partial: bool = False) -> Accelerator:
    """accelerate, as its launcher or torchrun set it up; on the CPU where there is no other device.

    ``partial`` if some parameters take no part in some steps. Raises BadInput for another type of distribution.
    """
    options = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=partial)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision="no", kwargs_handlers=[options])
    if accelerator.distributed_type == DistributedType.MULTI_CPU and parse_flag_from_env("ACCELERATE_USE_FSDP"):
        # accelerate looks for sharding on accelerators alone; torch shards over CPU processes just as well.
        for state in (PartialState, AcceleratorState):
            state._shared_state["distributed_type"] = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    if accelerator.distributed_type not in SUPPORTED:
        raise BadInput(f"{accelerator.distributed_type}: it must be one process, DDP or FSDP")
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise BadInput("FSDP of version 1: it must be 2 (accelerate launch --use_fsdp --fsdp_version 2)")
    if accelerator.is_fsdp2:  # every process has built the networks; empty ones fail for a single layer
        accelerator.state.fsdp_plugin.cpu_ram_efficient_loading = False
    return accelerator


@torch.no_grad()
def align(network: nn.Module) -> None:
    """Give all processes the weights of the first."""
    for tensor in state(network).values():
        tensor.copy_(broadcast(tensor.contiguous()))


def any_of(accelerator: Accelerator, flag: bool) -> bool:
    """Whether it is true on any process."""
    return bool(accelerator.gather(torch.tensor([flag], device=accelerator.device)).any())


def wrap(accelerator: Accelerator, network: nn.Module) -> nn.Module:
    """The network for training by these processes."""
    if accelerator.is_fsdp2:
        for parameter in network.parameters():  # FSDP shards contiguous ones only
            parameter.data = parameter.data.contiguous()
        unused = torch.optim.SGD(network.parameters(), lr=0.0)  # accelerate wants to see one; the real ones come later
        return accelerator.prepare(network, unused)[0]
    with warnings.catch_warnings():  # torch has a new name for broadcast_buffers, accelerate not yet
        warnings.simplefilter("ignore", FutureWarning)
        return accelerator.prepare_model(network)


def unwrap(accelerator: Accelerator, network: nn.Module) -> nn.Module:
    """The network that was wrapped; under FSDP, its weights stay in parts."""
    inner = accelerator.unwrap_model(network, keep_torch_compile=False)
    vars(inner).pop("_is_accelerate_prepared", None)  # else accelerate would not wrap it in a second run
    return inner


def state(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, in parts under FSDP."""
    return {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, the memory itself."""
    return tensor.to_local() if _in_parts(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, put together from all processes' parts."""
    return tensor.full_tensor() if _in_parts(tensor) else tensor  # type: ignore[attr-defined]


def whole_state(network: nn.Module) -> dict[str, Tensor]:
    """As `state`, put together."""
    return {name: whole(value) for name, value in state(network).items()}


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor in the memory format, device and parts of a parameter; only the device if its shape is another."""
    if value.shape != parameter.shape:
        return value.to(parameter.device, copy=True)
    if _in_parts(parameter):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
        return distribute_tensor(value.to(parameter.device), mesh, placements)
    return torch.empty_like(parameter).copy_(value)


@torch.no_grad()
def load(network: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Overwrite parameters and buffers by whole tensors of the same names and shapes."""
    for name, own in state(network).items():
        own.copy_(like(values[name], own))


def optimiser_state(network: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``<parameter>/<quantity>`` of an optimiser of this network, in parts under FSDP."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    return {
        f"{names[parameter]}/{quantity}": value
        for parameter, values in optimiser.state.items()
        for quantity, value in values.items()
    }


def load_optimiser_state(network: nn.Module, optimiser: torch.optim.Optimizer, values: Mapping[str, Tensor]) -> None:
    """Take over what `optimiser_state` gave, as whole tensors; those of parameters of other optimisers are left out."""
    named = dict(network.named_parameters())
    mine = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    optimiser.state.clear()
    for key, value in values.items():
        name, _, quantity = key.rpartition("/")
        if id(named[name]) in mine:
            optimiser.state[named[name]][quantity] = like(value, named[name])


def reshard(accelerator: Accelerator, networks: Iterable[nn.Module]) -> None:
    """Under FSDP, give back weights gathered for a forward pass, which are stale once the parts change."""
    for network in networks if accelerator.is_fsdp2 else ():
        for module in network.modules():
            if hasattr(module, "reshard"):
                module.reshard()  # type: ignore[operator]


def _in_parts(tensor: Tensor) -> bool:
    """Whether it is a DTensor, without the seconds that importing that class takes."""
    return hasattr(tensor, "full_tensor")
