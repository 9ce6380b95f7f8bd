"""SnapFusion's evolvable UNet against diffusers' UNet, and what skipping, removing and copying a block must do."""

import copy
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from mdrepro.core.errors import BadInput
from mdrepro.models.snapfusion.evolvable import EvolvableUNet, _config_of, _plain

torch.set_num_threads(1)

TINY = {
    "sample_size": 8,
    "cross_attention_dim": 12,
    "block_out_channels": (8, 16, 24, 24),
    "norm_num_groups": 4,
}
NAMES = [  # SD-1.5's 38 blocks, typed in
    *(("down-1", kind, i) for i in (0, 1) for kind in ("resnet", "cross-attention")),
    *(("down-2", kind, i) for i in (0, 1) for kind in ("resnet", "cross-attention")),
    *(("down-3", kind, i) for i in (0, 1) for kind in ("resnet", "cross-attention")),
    *(("down-4", "resnet", i) for i in (0, 1)),
    *(("mid", kind, i) for kind, i in (("resnet", 0), ("cross-attention", 0), ("resnet", 1))),
    *(("up-0", "resnet", i) for i in (0, 1, 2)),
    *(("up-1", kind, i) for i in (0, 1, 2) for kind in ("resnet", "cross-attention")),
    *(("up-2", kind, i) for i in (0, 1, 2) for kind in ("resnet", "cross-attention")),
    *(("up-3", kind, i) for i in (0, 1, 2) for kind in ("resnet", "cross-attention")),
]
MERGING = [name for name in NAMES if name[0].startswith("up") and name[1] == "resnet"]
"""They take a skip connection beside x, and keep it by their 1x1 shortcut when they are removed."""
WIDENING = [("down-2", "resnet", 0), ("down-3", "resnet", 0), ("up-2", "resnet", 0), ("up-3", "resnet", 0)]
KEPT = {*WIDENING, *MERGING}
"""Their 1x1 shortcut stays."""


def randomised(network: nn.Module) -> nn.Module:
    """Every weight drawn, the norms' too, so that no two blocks and no shortcut can be exchanged unseen."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return network.eval()


@pytest.fixture(scope="module")
def theirs() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return randomised(UNet2DConditionModel(**TINY))


@pytest.fixture(scope="module")
def whole(theirs) -> torch.Tensor:
    """Output of diffusers' network as it is."""
    return output(theirs)


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("sd") / "unet"
    theirs.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder) -> EvolvableUNet:
    return EvolvableUNet.from_sd15(folder)


@pytest.fixture
def unet(loaded) -> EvolvableUNet:
    return copy.deepcopy(loaded)


def inputs(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    sample = torch.randn(batch, 4, 8, 16, generator=draw)
    return sample, torch.tensor([3.0, 700.0][:batch]), torch.randn(batch, 5, 12, generator=draw)


@torch.no_grad()
def output(network: nn.Module) -> torch.Tensor:
    return network(*inputs()).sample


def module(network: nn.Module, stage: str, kind: str, index: int) -> nn.Module:
    """A block by its place in diffusers' module tree."""
    side, _, number = stage.partition("-")
    parent = {"down": f"down_blocks.{int(number or 1) - 1}", "up": f"up_blocks.{number}", "mid": "mid_block"}[side]
    return network.get_submodule(f"{parent}.{'resnets' if kind == 'resnet' else 'attentions'}.{index}")


# With nothing removed.


def test_output_is_that_of_diffusers(theirs, unet):
    assert not unet.training
    torch.testing.assert_close(output(unet), output(theirs), rtol=0, atol=1e-5)
    assert output(theirs).std() > 0.1
    assert torch.equal(unet(*inputs(), return_dict=False)[0], unet(*inputs()).sample)


@pytest.mark.parametrize("levels", [2, 3])
def test_output_of_other_builds_is_that_of_diffusers(tmp_path, levels):
    """Other numbers of levels, of ResNets and heads, and other levels with transformers."""
    cross = (False, True, True)[:levels]
    changes = {
        "block_out_channels": (8, 16, 24)[:levels],
        "down_block_types": ["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in cross],
        "up_block_types": ["CrossAttnUpBlock2D" if c else "UpBlock2D" for c in reversed(cross)],
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "in_channels": 8,
        "out_channels": 6,
    }
    theirs = randomised(UNet2DConditionModel(**TINY | changes))
    theirs.save_pretrained(tmp_path)
    unet = EvolvableUNet.from_sd15(tmp_path)
    sample, time, text = inputs()
    sample = torch.cat([sample, sample.flip(0)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(
            unet(sample, time, text).sample, theirs(sample, time, text).sample, rtol=0, atol=1e-5
        )


def test_full_size_has_every_key_of_sd15_exactly_once():
    with torch.device("meta"):
        theirs = UNet2DConditionModel(sample_size=64, cross_attention_dim=768).state_dict()
        ours = EvolvableUNet().state_dict()
    assert len(theirs) == 686
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}


def test_full_size_config_of_sd15_is_ours_by_default():
    with torch.device("meta"):
        theirs, ours = UNet2DConditionModel(sample_size=64, cross_attention_dim=768), EvolvableUNet()
    read = _config_of(theirs.config, Path("sd15"))
    assert {name: _plain(ours.config[name]) for name in read} == {name: _plain(value) for name, value in read.items()}
    assert set(ours.config) - set(read) == {"actions", "skip_probability", "_use_default_values"}


@pytest.mark.slow
@torch.inference_mode()
def test_full_size_output_is_that_of_diffusers():
    """At half the usual height and width; the weights are shared, so 3.4 GB serve both."""
    torch.manual_seed(0)
    theirs = UNet2DConditionModel(sample_size=64, cross_attention_dim=768).eval()
    for parameter in theirs.parameters():
        if parameter.ndim == 1:  # norms, which start alike
            parameter.add_(0.1 * torch.randn_like(parameter))
    with torch.device("meta"):
        ours = EvolvableUNet()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    given = torch.randn(1, 4, 32, 32), 500, torch.randn(1, 77, 768)
    expected = theirs(*given).sample
    error = (ours.eval()(*given).sample - expected).abs().max()
    assert 0.1 < expected.std() < 10
    print(f"largest difference {error:.1e}")
    assert error <= 1e-5


def test_every_weight_of_the_folder_is_taken(theirs, unet):
    wanted = theirs.state_dict()
    assert unet.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in unet.state_dict().items())


def test_a_pipeline_s_folder_will_do(theirs, folder):
    assert torch.equal(output(EvolvableUNet.from_sd15(folder.parent)), output(EvolvableUNet.from_sd15(folder)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"use_linear_projection": True}, "use_linear_projection"),
        ({"attention_head_dim": [2, 4, 4, 4]}, "attention_head_dim"),
        ({"mid_block_type": None}, "mid_block_type"),
        ({"up_block_types": ["UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]}, "up_block_types"),
    ],
)
def test_a_unet_of_another_build_is_refused(tmp_path, change, named):
    UNet2DConditionModel(**TINY | change).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=re.escape(f"no Stable Diffusion 1.x UNet: {named} = ")):
        EvolvableUNet.from_sd15(tmp_path)


def test_a_folder_without_a_unet(tmp_path):
    with pytest.raises(BadInput, match=r"config\.json"):
        EvolvableUNet.from_sd15(tmp_path)


# Skipping, removing and copying.


def test_blocks_are_those_of_sd15_in_the_order_of_computation(unet):
    assert [(b.stage, b.kind, b.index) for b in unet.blocks()] == NAMES
    ran = []
    for name in NAMES:
        module(unet, *name).register_forward_hook(lambda *_, name=name: ran.append(name))
    output(unet)
    assert ran == NAMES


def test_blocks_say_their_widths(unet):
    for block in unet.blocks():
        layer = module(unet, block.stage, block.kind, block.index)
        if isinstance(layer, ResnetBlock2D):
            assert (layer.in_channels, layer.out_channels) == (block.in_width + block.skip_width, block.out_width)
        else:
            assert layer.in_channels == block.in_width == block.out_width
        name = (block.stage, block.kind, block.index)
        assert block.changes_width == (name in WIDENING)
        assert block.leaves_shortcut == (name in KEPT)


def without(theirs: UNet2DConditionModel, stage: str, kind: str, index: int) -> torch.Tensor:
    """Output of diffusers' network with one block giving x back, or its 1x1 shortcut's output where it has one."""
    layer = module(theirs, stage, kind, index)
    if kind == "cross-attention":
        hook = layer.register_forward_hook(lambda layer, args, out: (args[0],))
    elif (stage, kind, index) in KEPT:
        hook = layer.register_forward_hook(lambda layer, args, out: layer.conv_shortcut(args[0]))
    else:
        hook = layer.register_forward_hook(lambda layer, args, out: args[0])
    with hook:
        return output(theirs)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: "-".join(map(str, name)))
def test_removing_a_block_is_putting_an_identity_in_its_place(theirs, whole, unet, name):
    assert unet.remove(*name) == "remove {} {} {}".format(*name)
    found = output(unet)
    torch.testing.assert_close(found, without(theirs, *name), rtol=0, atol=1e-5)
    assert not torch.allclose(found, whole, atol=1e-3)
    assert name not in [(b.stage, b.kind, b.index) for b in unet.blocks()]
    lost = sum(p.numel() for p in module(theirs, *name).parameters())
    if name in KEPT:
        lost -= sum(p.numel() for p in module(theirs, *name).conv_shortcut.parameters())
    assert unet.num_parameters() == theirs.num_parameters() - lost


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WIDENING], ids=lambda n: "-".join(map(str, n)))
def test_a_copy_runs_behind_its_original_on_the_same_skip_connection(theirs, unet, name, monkeypatch):
    """diffusers' network in which the block is run twice, the second time with its own output as x."""
    layer = module(theirs, *name)
    once = layer.forward

    def twice(x, *args, **named):
        out = once(x, *args, **named)
        if isinstance(out, tuple):
            return once(out[0], *args, **named)
        return once(torch.cat([out, x[:, out.shape[1] :]], dim=1), *args, **named)

    monkeypatch.setattr(layer, "forward", twice)
    stage, kind, index = name
    assert unet.duplicate(*name) == f"duplicate {stage} {kind} {index}"
    torch.testing.assert_close(output(unet), output(theirs), rtol=1e-5, atol=1e-4)
    first, second = (
        module(unet, stage, kind, i) for i in (index, max(i for s, k, i in NAMES if (s, k) == (stage, kind)) + 1)
    )
    assert all(torch.equal(a, b) and a is not b for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("name", WIDENING, ids=lambda name: "-".join(map(str, name)))
def test_a_resnet_that_changes_the_width_cannot_be_copied(unet, name):
    with pytest.raises(BadInput, match="would not fit"):
        unet.duplicate(*name)
    assert list(unet.config.actions) == []


def test_everything_removed_still_runs(theirs, unet):
    for name in NAMES:
        unet.remove(*name)
    assert unet.blocks() == []
    assert output(unet).shape == output(theirs).shape
    merging = [f"up_blocks.{level}.resnets.{index}" for level in range(4) for index in range(3)]
    assert [name for name in unet.state_dict() if "resnets" in name] == [
        f"{stage}.conv_shortcut.{value}"
        for stage in [*(f"down_blocks.{level}.resnets.0" for level in (1, 2)), *merging]
        for value in ("weight", "bias")
    ]


def test_a_skip_connection_goes_with_the_shortcut_alone(theirs, unet):
    """It still counts without its ResNet; a second action leaves x as it is, where the width allows that."""
    unet.remove("up-1", "resnet", 1)
    merged = output(unet)
    assert unet.remove("up-1", "shortcut", 1) == "remove up-1 shortcut 1"
    layer = module(theirs, "up-1", "resnet", 1)
    with layer.register_forward_hook(lambda layer, args, out: args[0][:, : out.shape[1]]):
        torch.testing.assert_close(output(unet), output(theirs), rtol=0, atol=1e-5)
    assert not torch.allclose(output(unet), merged, atol=1e-3)
    assert unet.num_parameters() == theirs.num_parameters() - sum(p.numel() for p in layer.parameters())
    unet.replay(["remove up-2 resnet 0", "remove up-1 resnet 2"])
    for action in ("remove up-2 shortcut 0", "duplicate up-1 shortcut 2"):
        with pytest.raises(BadInput, match="expected the removal of a shortcut between as many channels"):
            unet.replay([action])


def test_an_index_is_never_given_twice(unet):
    unet.duplicate("up-1", "cross-attention", 0)
    unet.remove("up-1", "cross-attention", 3)
    unet.duplicate("up-1", "cross-attention", 2)
    found = [b.index for b in unet.blocks() if (b.stage, b.kind) == ("up-1", "cross-attention")]
    assert found == [0, 1, 2, 4]


ACTIONS = (
    "duplicate up-1 cross-attention 1",
    "remove down-2 resnet 0",
    "duplicate mid resnet 1",
    "remove up-1 cross-attention 1",
    "remove up-0 resnet 1",
)


def test_an_action_log_can_be_replayed(loaded, unet):
    """Two ways to the same network: actions one at a time, and the log they leave."""
    log = []
    for action in ACTIONS:
        verb, stage, kind, index = action.split()
        log.append(getattr(unet, verb)(stage, kind, int(index)))
    assert tuple(log) == ACTIONS == tuple(unet.config.actions)
    again = copy.deepcopy(loaded).replay(log)
    assert torch.equal(output(again), output(unet))


def test_a_log_that_fails_changes_nothing(unet):
    before = output(unet)
    with pytest.raises(BadInput, match="expected one of 0, 2"):
        unet.replay(["remove up-3 resnet 1", "remove up-3 resnet 1"])
    assert torch.equal(output(unet), before)
    assert list(unet.config.actions) == []


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("remove up-4 resnet 0", "did you mean up-"),
        ("remove up-3 attention 0", "did you mean cross-attention"),
        ("remove up-3 resnet 3", "expected one of 0, 1, 2"),
        ("remove down-4 cross-attention 0", "none is left"),
        ("drop up-3 resnet 0", "remove or duplicate"),
        ("remove up-3 resnet", "such as 'remove up-3 cross-attention 1'"),
        ("remove up-3 resnet first", "such as"),
    ],
)
def test_an_impossible_action_says_what_is_allowed(unet, action, message):
    with pytest.raises(BadInput, match=message):
        unet.replay([action])


# Robust training.


def test_a_skipped_block_computes_what_a_removed_one_does(loaded, unet):
    unet.train().robust_training(0.5, seed=3)
    skipped = unet._draw()
    assert 10 < len(skipped) < 28
    unet.skip_generator.manual_seed(3)
    removed = copy.deepcopy(loaded).replay(f"remove {name}" for name in skipped)
    assert torch.equal(output(unet), output(removed))


def test_blocks_named_are_skipped_inside_the_with_and_nothing_changes(loaded, unet):
    first, second = "up-3 cross-attention 1", "down-2 resnet 0"
    expected = {
        names: output(copy.deepcopy(loaded).replay(f"remove {name}" for name in names))
        for names in ((first,), (first, second))
    }
    before, weights, whole = dict(unet.config), copy.deepcopy(unet.state_dict()), output(unet)
    with unet.skipping([first]):
        assert torch.equal(output(unet), expected[first,])
        with unet.skipping([second]):
            assert torch.equal(output(unet), expected[first, second])
        assert torch.equal(output(unet), expected[first,])
    with pytest.raises(RuntimeError, match="inside"), unet.skipping([first]):
        raise RuntimeError("inside")
    assert torch.equal(output(unet), whole)
    assert dict(unet.config) == before
    assert all(torch.equal(value, weights[name]) for name, value in unet.state_dict().items())
    with pytest.raises(BadInput, match="did you mean up-3 resnet"), unet.skipping(["up-3 resnett 1"]):
        pass


def test_blocks_named_are_skipped_beside_those_drawn(loaded, unet):
    unet.train().robust_training(0.5, seed=3)
    drawn = unet._draw()
    named = next(b.name for b in unet.blocks() if b.name not in drawn)
    unet.skip_generator.manual_seed(3)
    with unet.skipping([named]):
        found = output(unet)
    assert torch.equal(found, output(copy.deepcopy(loaded).replay(f"remove {name}" for name in drawn | {named})))


def test_skipping_is_reproducible_and_apart_from_the_global_generator(unet):
    unet.train()
    unet.robust_training(0.3, seed=7)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = [unet._draw() for _ in range(3)]
    assert torch.equal(torch.get_rng_state(), state)
    assert len(set(first)) == 3
    unet.robust_training(0.3, seed=7)
    torch.manual_seed(99)
    assert [unet._draw() for _ in range(3)] == first
    unet.robust_training(0.3, seed=8)
    assert [unet._draw() for _ in range(3)] != first


def test_a_generator_s_state_resumes(unet):
    unet.train().robust_training(0.3, seed=7)
    unet._draw()
    state = unet.skip_generator.get_state()
    expected = unet._draw()
    unet.skip_generator.set_state(state)
    assert unet._draw() == expected


def test_every_block_is_skipped_as_often_as_asked(unet):
    unet.train().robust_training(0.25, seed=0)
    drawn = [unet._draw() for _ in range(2000)]
    for name in NAMES:
        share = sum("{} {} {}".format(*name) in skipped for skipped in drawn) / len(drawn)
        assert share == pytest.approx(0.25, abs=0.05)  # five standard deviations


def test_nothing_is_skipped_in_eval_mode_or_at_probability_zero(theirs, unet):
    unet.robust_training(1.0, seed=0)
    torch.testing.assert_close(output(unet.eval()), output(theirs), rtol=0, atol=1e-5)
    assert not torch.allclose(output(unet.train()), output(theirs), atol=1e-2)
    unet.robust_training(0.0, seed=0)
    torch.testing.assert_close(output(unet), output(theirs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("probability", [-0.1, 1.5, float("nan")])
def test_an_impossible_probability(unet, probability):
    with pytest.raises(BadInput, match="0 to 1"):
        unet.robust_training(probability, seed=0)
    with pytest.raises(BadInput, match="0 to 1"):
        EvolvableUNet(**TINY, skip_probability=probability)


def gradients(unet: EvolvableUNet) -> dict[str, torch.Tensor | None]:
    unet.train().robust_training(0.3, seed=2)
    unet.zero_grad()
    unet(*inputs()).sample.square().mean().backward()
    return {name: parameter.grad for name, parameter in unet.named_parameters()}


def test_gradient_checkpointing_gives_the_same_gradients(unet):
    expected = {name: None if grad is None else grad.clone() for name, grad in gradients(unet).items()}
    assert any(grad is None for grad in expected.values())  # of the blocks skipped
    calls = []

    def checkpointed(module, *args, **named):
        calls.append(module)
        return torch.utils.checkpoint.checkpoint(module, *args, use_reentrant=False, **named)

    unet.enable_gradient_checkpointing(checkpointed)
    found = gradients(unet)
    assert any(isinstance(module, ResnetBlock2D) for module in calls)
    for name, grad in expected.items():
        assert (grad is None) == (found[name] is None)
        assert grad is None or torch.allclose(grad, found[name], atol=1e-6)


# Storage.


def test_saved_and_loaded_is_bit_identical(tmp_path, unet):
    unet.replay(ACTIONS)
    unet.robust_training(0.2, seed=1)
    with torch.no_grad():
        module(unet, "up-1", "cross-attention", 3).proj_out.weight.add_(1)  # the copy has gone its own way
    unet.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    again = EvolvableUNet.from_pretrained(tmp_path)
    assert torch.equal(output(again), output(unet))
    assert tuple(again.config.actions) == ACTIONS
    assert again.config.skip_probability == 0.2
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "EvolvableUNet"
    again.remove("up-3", "resnet", 2)
    assert len(unet.config.actions) == len(ACTIONS)


def test_a_deep_copy_is_independent(unet):
    unet.train().robust_training(0.4, seed=4)
    twin = copy.deepcopy(unet)
    assert twin._draw() == unet._draw()
    twin._draw()
    twin.remove("up-3", "resnet", 2)
    assert len(unet.blocks()) == len(list(unet.layout.computed())) == 38
    assert "up_blocks.3.resnets.2.conv1.weight" in unet.state_dict()


@pytest.mark.parametrize("load", [EvolvableUNet.from_pretrained, EvolvableUNet.from_sd15])
def test_a_pickle_is_refused_and_the_message_converts_it(tmp_path, theirs, load):
    theirs.save_pretrained(tmp_path, safe_serialization=False)
    if load == EvolvableUNet.from_pretrained:
        theirs_config = EvolvableUNet(**TINY)
        theirs_config.save_config(tmp_path)
    with pytest.raises(BadInput, match="pickled weights") as error:
        load(tmp_path)
    command = shlex.split(str(error.value).partition("Convert it once: ")[2])
    assert command[:2] == ["python", "-c"]
    exec(command[2], {})
    torch.testing.assert_close(output(load(tmp_path)), output(theirs), rtol=0, atol=1e-5)


def test_safetensors_cannot_be_turned_off(tmp_path, unet):
    with pytest.raises(BadInput, match="safetensors alone"):
        unet.save_pretrained(tmp_path, safe_serialization=False)
    unet.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="safetensors alone"):
        EvolvableUNet.from_pretrained(tmp_path, use_safetensors=False)


# Input.


@pytest.mark.parametrize(
    ("sample", "text", "message"),
    [
        ((1, 3, 8, 8), (1, 5, 12), "multiples of 8"),
        ((1, 4, 12, 8), (1, 5, 12), "multiples of 8"),
        ((1, 4, 8, 12), (1, 5, 12), "multiples of 8"),
        ((1, 4, 8, 8), (1, 5, 13), "tokens, 12"),
        ((2, 4, 8, 8), (1, 5, 12), "batch 2"),
    ],
)
def test_input_that_does_not_fit(unet, sample, text, message):
    with pytest.raises(BadInput, match=message):
        unet(torch.zeros(sample), 1, torch.zeros(text))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cross_attention": (True, True)}, "2 values for 4"),
        ({"attention_heads": 3}, "not a multiple of attention_heads"),
        ({"norm_num_groups": 7}, "not a multiple of norm_num_groups"),
    ],
)
def test_config_that_does_not_fit(change, message):
    with pytest.raises(BadInput, match=message):
        EvolvableUNet(**TINY | change)
