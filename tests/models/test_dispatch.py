"""Networks over several devices by accelerate: ``device_map="auto"`` keeps units whole, and outputs are the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model, infer_auto_device_map
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mdrepro.core.errors import BadInput
from mdrepro.models.mobilediffusion.unet import MobileDiffusionUNet
from mdrepro.models.snapfusion.evolvable import EvolvableUNet
from tests.support import tiny_pipeline as tiny


def evolvable() -> EvolvableUNet:
    """Two levels, one ResNet removed so that its shortcut is left."""
    torch.manual_seed(0)
    unet = EvolvableUNet(
        sample_size=8,
        block_out_channels=(16, 32),
        cross_attention=(True, False),
        cross_attention_dim=tiny.CROSS,
        layers_per_block=1,
        attention_heads=2,
        norm_num_groups=8,
    )
    unet.remove("up-1", "resnet", 0)
    return unet.eval()


def denoise(unet: Any) -> Tensor:
    x_bchw = torch.ones(1, unet.config.in_channels, 8, 8)
    return unet(x_bchw, torch.tensor([500.0]), torch.ones(1, 3, tiny.CROSS)).sample


NETWORKS: dict[str, tuple[Callable[[], Any], Callable[[Any], Tensor]]] = {
    "mobilediffusion": (tiny.unet, denoise),
    "sd-like": (lambda: tiny.unet(transformer_projection=True, transformer_blocks=(1, 1, 1)), denoise),
    "snapfusion": (evolvable, denoise),
    "autoencoder": (tiny.autoencoder, lambda vae: vae(torch.ones(1, 3, 16, 16)).sample),
    "text": (
        lambda: tiny.pipeline().text_encoder,
        lambda text: text(torch.ones(1, 10, dtype=torch.int64)).last_hidden_state,
    ),
}


def size(network: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in network.state_dict().values())


def units(network: Any) -> dict[str, nn.Module]:
    """By name what is to stay on one device."""
    kinds = network._no_split_modules
    return {name: module for name, module in network.named_modules() if type(module).__name__ in kinds}


def place(name: str, device_map: dict[str, Any]) -> Any:
    """The device of a parameter, by the longest name of a module in the map that it begins with."""
    fitting = [module for module in device_map if not module or name == module or name.startswith(f"{module}.")]
    return device_map[max(fitting, key=len)]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_map_by_memory_splits_the_network_and_no_unit(name: str) -> None:
    network = NETWORKS[name][0]()
    kept = units(network)
    assert {type(module).__name__ for module in kept.values()} <= set(network._no_split_modules)
    assert len(kept) >= 3
    most = max(map(size, kept.values()))
    limits = {0: most + size(network) // 4, 1: most + size(network) // 4, "cpu": size(network)}
    device_map = infer_auto_device_map(network, limits, no_split_module_classes=network._no_split_modules)
    assert len(set(device_map.values())) >= 2
    for unit, module in kept.items():
        assert len({place(f"{unit}.{own}", device_map) for own, _ in module.named_parameters()}) == 1, unit


@pytest.mark.parametrize("name", NETWORKS)
def test_half_on_disk_it_gives_the_same(name: str, tmp_path: Path) -> None:
    build, run = NETWORKS[name]
    with torch.no_grad():
        expected = run(build())
        network = build()
        device_map = infer_auto_device_map(
            network, {"cpu": size(network) * 4 // 5}, no_split_module_classes=network._no_split_modules
        )
        assert set(device_map.values()) == {"cpu", "disk"}
        dispatch_model(network, device_map, main_device="cpu", offload_dir=tmp_path)
        assert any(value.is_meta for value in network.parameters())
        assert torch.equal(run(network), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_on_two_devices_in_turns_nothing_meets_what_is_on_the_other(name: str) -> None:
    """Tensors without values, which refuse to meet one of another device, as on two GPUs."""
    build, run = NETWORKS[name]
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        network = build()
        kept, device_map = units(network), dict[str, Any]()
        for parameter, _ in network.named_parameters():
            unit = next((unit for unit in kept if parameter.startswith(f"{unit}.")), parameter.rpartition(".")[0])
            device_map.setdefault(unit, f"cuda:{len(device_map) % 2}")
        spread(network, device_map)
        run(network)


def spread(network: nn.Module, device_map: dict[str, Any]) -> None:
    """As accelerate does with GPUs: each module on its device, to which its inputs are moved."""
    from accelerate.utils import send_to_device

    for name, module in network.named_modules():
        for inner in module.modules() if name in device_map else ():
            for own in (inner._parameters, inner._buffers):
                own |= {key: value.to(device_map[name]) for key, value in own.items() if value is not None}

            def move(_: nn.Module, args: Any, kwargs: Any, device: str = device_map[name]) -> Any:
                return send_to_device(args, device), send_to_device(kwargs, device)

            inner.register_forward_pre_hook(move, with_kwargs=True)


def test_a_saved_network_is_loaded_that_way(tmp_path: Path) -> None:
    unet = tiny.unet()
    unet.save_pretrained(tmp_path / "unet")
    options: dict[str, Any] = {"device_map": "auto", "max_memory": {"cpu": size(unet) // 2}}
    loaded = MobileDiffusionUNet.from_pretrained(tmp_path / "unet", offload_folder=tmp_path / "offload", **options)
    assert any(value.is_meta for value in loaded.parameters())
    with torch.no_grad():
        assert torch.equal(denoise(loaded), denoise(unet))
    last = unet.conv_out.weight
    for broken in (unet.conv_in.weight, last):
        with torch.no_grad():
            kept, broken[0, 0, 0, 0] = broken[0, 0, 0, 0].clone(), float("nan")
            unet.save_pretrained(tmp_path / "broken")
            broken[0, 0, 0, 0] = kept
        with pytest.raises(BadInput, match="is not finite"):
            MobileDiffusionUNet.from_pretrained(tmp_path / "broken", offload_folder=tmp_path / "offload", **options)
