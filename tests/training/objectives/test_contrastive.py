"""The contrastive text encoder: its loss by two other sources, where features are taken, and that it learns."""

import math

import numpy as np
import pytest
import torch
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from mdrepro.core.errors import BadInput
from mdrepro.data import shapes
from mdrepro.models import text
from mdrepro.models.scenes.towers import ImageTower, TextTower
from mdrepro.training.engine.draws import Draws
from mdrepro.training.objectives.contrastive import Contrastive, Temperature, info_nce
from mdrepro.training.objectives.registers import ReadOut, answers
from tests.support.bare_loop import Held, fit

WORDS = ["red", "blue", "left", "right", "square"]


@pytest.fixture
def objective():
    torch.manual_seed(0)
    tokenizer = text.word_tokenizer(WORDS, 8)
    return Contrastive(
        tokenizer, text.small_encoder(tokenizer, width=32, layers=1, heads=2), features=16, image_width=8
    )


@pytest.fixture(scope="module")
def scenes():
    pixels, captions = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), []
    for place, (colour, side) in enumerate((c, s) for c in ("red", "blue") for s in ("left", "right")):
        left = 4 if side == "left" else 20
        pixels[place, 0 if colour == "red" else 2, 12:20, left : left + 8] = 255
        captions.append(f"{colour} square {side}")
    return Held(pixels=pixels, caption=captions)


def unit(seed, *shape):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1)


def draws(count=4):
    return Draws(0, 0, 0, count, stream="towers")


def test_info_nce_equals_transformers_and_plain_numpy():
    image, words = unit(0, 5, 7), unit(1, 5, 7)
    assert info_nce(image, words, 3.0).item() == pytest.approx(
        image_text_contrastive_loss(3 * words @ image.T).item(), rel=1e-5
    )
    odds = np.exp(3 * image.double().numpy() @ words.double().numpy().T)
    both = [np.log(odds.sum(axis=axis) / odds.diagonal()).mean() for axis in (0, 1)]
    assert info_nce(image, words, 3.0).item() == pytest.approx(np.mean(both), rel=1e-5)
    assert both[0] != pytest.approx(both[1], rel=1e-3)  # so that a loss of one side alone would be seen


def test_info_nce_of_perfect_features_in_closed_form():
    assert info_nce(torch.eye(6), torch.eye(6), 4.0).item() == pytest.approx(math.log(1 + 5 * math.exp(-4)), rel=1e-5)
    assert info_nce(torch.ones(6, 1), torch.ones(6, 1), 4.0).item() == pytest.approx(math.log(6), rel=1e-6)


def test_temperature_starts_at_clips_and_is_bounded():
    temperature = Temperature()
    assert temperature().item() == pytest.approx(1 / 0.07, rel=1e-5)
    with torch.no_grad():
        temperature.log_scale.fill_(9)
    assert temperature().item() == pytest.approx(100, rel=1e-5)


def test_text_feature_is_taken_at_the_end_token(objective):
    ids = text.tokenize(objective.tokenizer, ["red square", "blue square left right"], 8)
    tower = objective.networks["text"]
    with torch.no_grad():
        hidden = tower.encoder(ids).last_hidden_state
        at = [(row == 1).nonzero()[0].item() for row in ids]
        assert at == [3, 5]
        expected = torch.stack([hidden[n, place] for n, place in enumerate(at)]) @ tower.projection.weight.T
        expected = expected / expected.square().sum(dim=1, keepdim=True).sqrt()
        assert torch.allclose(tower(ids)[0], expected, atol=1e-6)
        after = ids.clone()
        after[0, 4:] = 5
        assert torch.allclose(tower(after)[0][0], tower(ids)[0][0], atol=1e-6)


def test_loss_is_info_nce_of_both_towers(objective, scenes):
    found = objective.losses("towers", scenes.columns, draws())
    image, words, temperature = (objective.networks[name] for name in ("image", "text", "temperature"))
    ids = text.tokenize(objective.tokenizer, scenes.columns["caption"], 8)
    with torch.no_grad():
        similarity = temperature() * words(ids)[0] @ image(scenes.columns["pixels"] / 127.5 - 1).T
    assert found["loss"].item() == pytest.approx(image_text_contrastive_loss(similarity).item(), rel=1e-4)
    assert found["top1"].item() == (similarity.argmax(dim=0) == torch.arange(4)).float().mean().item()
    found["loss"].backward()
    assert all(p.grad is not None for network in objective.networks.values() for p in network.parameters())


def test_what_is_added_for_the_readout_leaves_the_end_tokens_feature(objective):
    tower = TextTower(objective.encoder, 16)
    tower.readout = ReadOut(objective.encoder.config.hidden_size)
    ids = text.tokenize(objective.tokenizer, ["red square", "blue"], 8)
    noise = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (plain, told), (same, others) = tower(ids), tower(ids, noise)
        hidden = tower.encoder(ids).last_hidden_state
        wanted = tower.readout(hidden + noise)
    assert torch.equal(plain, same)
    assert all(torch.equal(one, other) for one, other in zip(others, wanted, strict=True))
    assert not torch.equal(told[0], others[0])


def test_with_a_readout_its_loss_is_added(objective):
    scenes = shapes.Shapes("train", 4).batch(range(4))
    tokenizer = text.word_tokenizer(shapes.VOCABULARY, shapes.TOKENS)
    encoder = text.small_encoder(tokenizer, width=32, layers=1, heads=2)
    told = Contrastive(tokenizer, encoder, features=16, image_width=8, weight=0.5, noise=0.0)
    found = told.losses("towers", scenes, draws())
    ids = text.tokenize(tokenizer, scenes["caption"], shapes.TOKENS)
    logits = told.networks["text"](ids)[1]
    right = answers(scenes["scene"])
    by_hand = [torch.nn.functional.cross_entropy(one, right[:, n]).item() for n, one in enumerate(logits)]
    assert found["readout"].item() == pytest.approx(sum(by_hand) / 12, rel=1e-5)
    assert found["loss"].item() == pytest.approx(found["contrast"].item() + 0.5 * sum(by_hand) / 12, rel=1e-5)
    noisy = Contrastive(tokenizer, encoder, features=16, image_width=8, weight=0.5, noise=2.0)
    one, other = (noisy.losses("towers", scenes, Draws(seed, 0, 0, 4))["readout"] for seed in (0, 1))
    assert one != other


def test_negative_settings_are_refused(objective):
    with pytest.raises(BadInput, match="weight -1"):
        Contrastive(objective.tokenizer, objective.encoder, weight=-1)


def test_features_have_length_one_at_any_size():
    for size in (32, 64, 100):
        feature = ImageTower(16, 8)(torch.rand(2, 3, size, size))
        assert torch.allclose(feature.norm(dim=1), torch.ones(2), atol=1e-6)


def test_features_keep_left_and_right_apart():
    for seed in range(3):
        torch.manual_seed(seed)
        pixels = torch.full((2, 3, 64, 64), -1.0)
        pixels[0, 0, 24:40, 8:24] = pixels[1, 0, 24:40, 40:56] = 1
        left, right = ImageTower(16, 8)(pixels)
        assert left @ right < 0.8  # 0.92 and more where means are taken over the whole image


def test_it_learns_colour_and_side(objective, scenes):
    told = fit(objective, scenes, 60)
    assert told[-1]["top1"] == 1
    assert told[-1]["loss"] < 0.05 < told[0]["loss"]
    encoder = objective.finish(objective.networks)
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


def test_finish_takes_what_the_loop_returns(objective):
    torch.manual_seed(7)
    other = TextTower(text.small_encoder(objective.tokenizer, width=32, layers=1, heads=2), 16)
    encoder = objective.finish({"text": other})
    ids = text.tokenize(objective.tokenizer, ["red square"], 8)
    with torch.no_grad():
        assert torch.equal(encoder(ids).last_hidden_state, other.encoder(ids).last_hidden_state)
