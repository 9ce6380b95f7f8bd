"""Text encoders against transformers' own, and the word tokenizer against numbers by hand."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.models import text

torch.set_num_threads(1)

WORDS = ["a", "red", "star", ","]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny CLIP, saved whole as openai/clip-vit-large-patch14 is; its byte-pair vocabulary has letters alone."""
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=tower | {"vocab_size": len(tokens), "bos_token_id": 52, "eos_token_id": 53},
        vision_config=tower | {"image_size": 8, "patch_size": 4},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def test_clip_features_equal_those_of_transformers_whole_model(clip):
    tokenizer, encoder = text.load(clip)
    assert not encoder.training
    assert text.length(tokenizer, encoder) == 77
    prompts = ["a cat", ""]
    ids = CLIPTokenizer.from_pretrained(clip)(prompts, padding="max_length", max_length=77, return_tensors="pt")
    whole = CLIPModel.from_pretrained(clip).eval()
    features = text.encode(tokenizer, encoder, prompts)
    assert features.shape == (2, 77, 16)
    assert torch.equal(features, whole.text_model(ids.input_ids).last_hidden_state)
    # The final norm is in: rows have the mean and variance that its weights (ones and zeros here) give.
    torch.testing.assert_close(features.mean(-1), torch.zeros(2, 77), atol=1e-5, rtol=0)
    # Features of words do not depend on the padding after them.
    bare = encoder(ids.input_ids[:1, : 3 + 1 + 1]).last_hidden_state
    torch.testing.assert_close(features[:1, :5], bare)


def test_truncation_keeps_the_end_token_and_says_what_is_lost(clip, caplog):
    tokenizer, _ = text.load(clip)
    ids = text.tokenize(tokenizer, ["ab " * 60, "ab"], 77)
    assert ids.shape == (2, 77)
    assert ids[0, 0] == 52
    assert ids[0, -1] == 53
    assert (ids[0, 1:-1] < 52).all()
    assert ids[1, :4].tolist() == [52, 0, 27, 53]
    assert [record.getMessage()[:24] for record in caplog.records] == ["45 of 122 tokens are lef"]


def test_a_pipeline_folder_is_loaded_from_its_two_parts(clip, tmp_path):
    tokenizer, encoder = text.load(clip)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    encoder.save_pretrained(tmp_path / "text_encoder")
    again = text.encode(*text.load(tmp_path), ["a cat"])
    assert torch.equal(again, text.encode(tokenizer, encoder, ["a cat"]))


def test_missing_weights_are_an_error_and_not_random_numbers(clip, tmp_path):
    shutil.copytree(clip, tmp_path, dirs_exist_ok=True)
    weights = load_file(clip / "model.safetensors")
    del weights["text_model.final_layer_norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match=r"model\.safetensors lacks .*final_layer_norm\.weight"):
        text.load(tmp_path)


def test_what_cannot_be_had_says_how_to_get_it():
    with pytest.raises(NotAttempted, match="hf download nobody/no-such-clip"):
        text.load("nobody/no-such-clip", local_files_only=True)


def test_word_tokenizer_by_hand_and_after_saving(tmp_path):
    tokenizer = text.word_tokenizer(WORDS, 6)
    expected = [[0, 3, 4, 5, 1, 1], [0, 4, 6, 3, 2, 1], [0, 1, 1, 1, 1, 1]]
    prompts = ["A red star", "red, a purple star", ""]
    assert text.tokenize(tokenizer, prompts, 6).tolist() == expected
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert text.tokenize(again, prompts, 6).tolist() == expected
    assert again.model_max_length == 6
    alone = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))  # no transformers, no torch
    assert alone.encode("A red star").ids == [0, 3, 4, 5, 1]


def test_unknown_words_are_named(caplog):
    text.tokenize(text.word_tokenizer(WORDS, 6), ["a star", "a green star"], 6)
    assert [record.getMessage() for record in caplog.records] == ["words outside the vocabulary in 'a green star'"]


@pytest.mark.parametrize("words", [["a", "a"], ["red star"], ["Red"], ["it's"], [""]])
def test_a_vocabulary_that_cannot_be_is_refused(words):
    with pytest.raises(BadInput):
        text.word_tokenizer(words)


@torch.no_grad()
def test_small_encoder_pools_at_the_end_token():
    tokenizer = text.word_tokenizer(WORDS, 8)
    encoder = text.small_encoder(tokenizer, width=16, layers=2, heads=2)
    assert isinstance(encoder, CLIPTextModel)
    out = encoder(text.tokenize(tokenizer, ["a red star", ""], 8))
    assert torch.equal(out.pooler_output[0], out.last_hidden_state[0, 4])
    assert torch.equal(out.pooler_output[1], out.last_hidden_state[1, 1])
    assert text.small_encoder(text.word_tokenizer(WORDS)).num_parameters() < 1e6


@torch.no_grad()
def test_an_encoder_with_registers_gives_its_last_tokens_alone_even_after_saving(tmp_path):
    tokenizer = text.word_tokenizer(WORDS, 8)
    torch.manual_seed(0)
    encoder = text.small_encoder(tokenizer, width=16, layers=1, heads=2, registers=3)
    tokenizer.save_pretrained(tmp_path)
    encoder.save_pretrained(tmp_path)
    whole = encoder(text.tokenize(tokenizer, ["a red star"], 8)).last_hidden_state
    assert torch.equal(text.encode(tokenizer, encoder, ["a red star"]), whole[:, 5:])
    assert torch.equal(text.encode(*text.load(tmp_path), ["a red star"]), whole[:, 5:])
