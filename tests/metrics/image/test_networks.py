"""CLIP, DINOv2 and the scene reader from folders that tests make, against the packages that they come from."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.metrics.image import catalogue, clip_score, encoders, images, resizing
from mdrepro.metrics.image.features import extract
from tests.support import weight_files as makers

CAPTIONS = ["a cat", "two dogs and a red ball", "words " * 9, "the very last long caption of them all, cut short"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Wide, high, small and large ones."""
    sizes = [(40, 60), (70, 30), (20, 25), (90, 90)]
    return images.files(makers.photos(tmp_path_factory.mktemp("photos"), n=4, sizes=sizes)[0])


class Adapter:
    """transformers 5 gives outputs where torchmetrics 1.9 expects tensors."""

    def __init__(self, model):
        self.model, self.config = model, model.config

    def to(self, device):
        return self

    def get_image_features(self, pixels):
        return self.model.get_image_features(pixels).pooler_output

    def get_text_features(self, ids, mask):
        return self.model.get_text_features(ids, mask).pooler_output


def test_the_score_is_torchmetrics_of_the_same_folder(clip_folder, pictures):
    from torchmetrics.functional.multimodal import clip_score as theirs
    from transformers import AutoProcessor, CLIPModel

    encoder = encoders.load("clip", str(clip_folder))
    found = extract(pictures, {"x": encoder}, keep=["x"], batch=3)["x"]
    short = CAPTIONS[:1] * 4
    values = clip_score.cosines(found.features, encoder.network.texts(short).features)
    model, processor = CLIPModel.from_pretrained(clip_folder).eval(), AutoProcessor.from_pretrained(clip_folder)
    with torch.no_grad():
        expected = theirs([images.read(file) for file in pictures], short, lambda: (Adapter(model), processor)).item()
    assert 100 * values.mean() == pytest.approx(expected, abs=2e-4)
    assert encoder.network.width == 16
    assert "CLIPImageProcessor of transformers" in encoder.preparation
    assert np.ptp(values) > 1e-4


def test_captions_that_are_too_long_keep_their_end_token(clip_folder):
    """CLIP reads a text's feature at its end token: cut by position, as torchmetrics does, it reads another one."""
    from transformers import AutoTokenizer, CLIPModel

    texts = encoders.load("clip", str(clip_folder)).network.texts(CAPTIONS)
    assert (texts.cut, texts.tokens) == (3, makers.CLIP_TOKENS)
    words, model = AutoTokenizer.from_pretrained(clip_folder), CLIPModel.from_pretrained(clip_folder).eval()
    for text, feature in zip(CAPTIONS, texts.features, strict=True):
        ids = words(text).input_ids
        ids = torch.tensor([ids if len(ids) <= makers.CLIP_TOKENS else [*ids[: makers.CLIP_TOKENS - 1], ids[-1]]])
        with torch.no_grad():
            expected = model.get_text_features(input_ids=ids).pooler_output[0]
        assert torch.allclose(feature, expected, atol=1e-5)


def test_clip_fid_conventions_share_a_network_and_differ(clip_folder, pictures):
    network = encoders.network("clip", str(clip_folder))
    names = ["clip", "clip-clean", "clip-torch-fidelity"]
    ready = {name: encoders.Encoder(encoders.row(name), network, torch.device("cpu")) for name in names}
    found = {name: each.features for name, each in extract(pictures, ready, keep=names).items()}
    assert not torch.allclose(found["clip-clean"], found["clip-torch-fidelity"], atol=1e-3)
    spread = found["clip"].std()
    assert (found["clip"] - found["clip-clean"]).abs().mean() < 0.3 * spread  # the same but for rounding and the kernel


def test_pictures_for_clip_are_those_of_clean_fid_and_torch_fidelity(pictures):
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
    from torchvision import transforms

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in resizing.OPENAI)
    crop = transforms.Compose(
        [transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(32)]
    )
    for file in pictures:
        x = images.read(file)
        theirs = torch.from_numpy(np.asarray(crop(Image.open(file))).copy()).permute(2, 0, 1)  # as img_preprocess_clip
        assert torch.allclose(resizing.RESIZES["clip-clean"](x, 32), (theirs / 255 - mean) / std, atol=1e-5)
        squashed = interpolate_bilinear_2d_like_tensorflow1x(x[None].float(), size=(32, 32), align_corners=False)[0]
        assert torch.allclose(resizing.RESIZES["clip-tf"](x, 32), (squashed / 255 - mean) / std, atol=1e-5)
        pillow = Image.open(file).resize((224, 224), Image.Resampling.BICUBIC)
        usual = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*resizing.IMAGENET)])(pillow)
        assert torch.allclose(resizing.RESIZES["dinov2"](x, 224), usual, atol=1e-5)


@pytest.mark.parametrize("fault", ["config", "weights", "pickle", "part", "hash", "hub"])
def test_folders_that_hold_no_clip_are_refused(clip_folder, tmp_path, monkeypatch, fault):
    import shutil

    from safetensors.torch import load_file, save_file

    folder, options = tmp_path / "clip", {}
    shutil.copytree(clip_folder, folder)
    source, error, says = str(folder), BadInput, fault
    if fault == "config":
        (folder / "config.json").unlink()
        says = r"holds no config.json: expected a folder that transformers saved"
    elif fault == "weights":
        (folder / "model.safetensors").unlink()
        says = r"holds no weights: expected"
    elif fault == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        says = "pickled weights"
    elif fault == "part":
        tensors = load_file(folder / "model.safetensors")
        del tensors["visual_projection.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        says = "does not hold a whole CLIP: 1 weights are missing"
    elif fault == "hash":
        options, says = {"sha256": "0" * 64}, "expected the file of that hash"
    else:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        source, error = "openai/no-such-clip", NotAttempted
        says = r"is no folder here and not in the hub's cache .*--download, or with `hf download openai/no-such-clip"
    with pytest.raises(error, match=says):
        encoders.load("clip", source, **options)


def test_dinov2_gives_the_class_token(tmp_path, pictures):
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=56)
    model = Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    encoder = encoders.load("dinov2", str(tmp_path))
    found = extract(pictures, {"x": encoder}, keep=["x"])["x"].features
    x = torch.stack([resizing.RESIZES["dinov2"](images.read(file), 224) for file in pictures])
    with torch.no_grad():
        assert torch.allclose(found, model(x).pooler_output, atol=1e-5)
    assert (encoder.row.label, encoder.network.width) == ("FD-DINOv2", 24)


def test_the_scene_reader_takes_scenes_alone(tmp_path, pictures):
    from mdrepro.data.shapes import SIZE
    from mdrepro.models.scenes.reader import SceneReader

    reader = SceneReader(width=8, depth=1).eval()
    reader.save_pretrained(tmp_path / "reader")
    makers.save(np.random.default_rng(0).uniform(0, 255, (SIZE, SIZE, 3)), tmp_path / "scene.png")
    encoder = encoders.load("shapes", str(tmp_path / "reader"))
    found = extract([tmp_path / "scene.png"], {"x": encoder}, keep=["x"])["x"].features
    with torch.no_grad():
        assert torch.allclose(found, reader.features(images.read(tmp_path / "scene.png")[None]), atol=1e-5)
    assert encoder.row.label == "FID[shapes]"
    with pytest.raises(BadInput, match=rf"0000.png: an image is \(40, 60\) px: the scene reader takes {SIZE} x {SIZE}"):
        extract(pictures, {"x": encoder})
    with pytest.raises(BadInput, match="expected the folder of a scene reader"):
        encoders.load("shapes", str(tmp_path / "nowhere"))


def test_open_clip_that_is_not_installed_is_not_attempted(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(NotAttempted, match="pip install open_clip_torch"):
        encoders.load("open-clip")


@pytest.fixture
def tiny_open_clip(tmp_path):
    """open_clip with a small model called tiny: the package, the model and its transform."""
    package = pytest.importorskip("open_clip")
    import json

    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    (tmp_path / "tiny.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    package.add_model_config(tmp_path / "tiny.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, _, transform = package.create_model_and_transforms("tiny")
    return package, model.eval(), transform


def test_open_clip_from_a_file(tmp_path, pictures, tiny_open_clip):
    package, model, transform = tiny_open_clip
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    encoder = encoders.load("open-clip", f"tiny={tmp_path / 'tiny.pt'}")
    found = extract(pictures, {"x": encoder}, keep=["x"])["x"].features
    long = "word " * 100
    texts = encoder.network.texts(["a cat", long])
    with torch.no_grad():
        usual: Tensor = torch.stack([transform(Image.open(file)) for file in pictures])
        assert torch.allclose(found, model.eval().encode_image(usual), atol=1e-5)
        tokens = package.get_tokenizer("tiny")(["a cat", long])
        assert torch.allclose(texts.features, model.encode_text(tokens), atol=1e-5)
    assert tokens[1, -1] == tokens[0].max()  # the end token
    assert (texts.cut, texts.tokens, encoder.network.width) == (1, 77, 16)
    torch.save(dict(list(model.state_dict().items())[1:]), tmp_path / "cut.pt")
    with pytest.raises(BadInput, match="does not hold the weights of tiny"):
        encoders.load("open-clip", f"tiny={tmp_path / 'cut.pt'}")
    with pytest.raises(BadInput, match="unknown model of open_clip 'tinier'"):
        encoders.load("open-clip", f"tinier={tmp_path / 'tiny.pt'}")
    with pytest.raises(BadInput, match="unknown tag of ViT-g-14"):
        encoders.load("open-clip", "ViT-g-14/laion")
    with pytest.raises(NotAttempted, match=r"laion2b_s34b_b88k of open_clip are not here .*; get it with --download"):
        encoders.load("open-clip")


def test_the_folder_of_weights_is_of_the_default_backbone():
    """BK-SDM's: ViT-g-14 with pretrained laion2b_s34b_b88k, which the hub files under the same words."""
    assert catalogue.DEFAULTS["open-clip"] == "ViT-g-14/laion2b_s34b_b88k"
    assert catalogue.VIT_G[0].lower().replace("-", "_").endswith("vit_g_14_laion2b_s34b_b88k")


def padded(picture, size):
    """hpsv2's steps for an image: the longer side to the size by bicubic on floats, black borders, CLIP's norm."""
    from torchvision.transforms import functional as vision

    x = vision.to_tensor(picture.convert("RGB"))
    height, width = x.shape[1:]
    scale = size / max(height, width)
    x = vision.resize(x, [round(height * scale), round(width * scale)], vision.InterpolationMode.BICUBIC)
    tall, wide = (size - side for side in x.shape[1:])
    x = vision.pad(x, [wide // 2, tall // 2, wide - wide // 2, tall - tall // 2])
    return vision.normalize(x, list(resizing.OPENAI[0]), list(resizing.OPENAI[1]))


def test_the_preference_score_from_a_file_in_hpsv2_s_format(tmp_path, pictures, tiny_open_clip):
    """hpsv2: a checkpoint with a state_dict and more, 100 times the cosine of open_clip's features."""
    from mdrepro.metrics.image import sets

    package, model, _ = tiny_open_clip
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, tmp_path / "HPS.pt")
    encoder = encoders.load("hps", f"tiny={tmp_path / 'HPS.pt'}")
    captions = [f"picture {i}" for i in range(len(pictures))]
    features = extract(pictures, {"x": encoder}, keep=["x"])["x"]
    score = sets.preference_score(encoder, features, captions)
    with torch.no_grad():
        images_bd = model.encode_image(torch.stack([padded(Image.open(file), 32) for file in pictures]), normalize=True)
        texts_bd = model.encode_text(package.get_tokenizer("tiny")(captions), normalize=True)
    expected = 100 * (images_bd * texts_bd).sum(dim=1)
    assert score.value == pytest.approx(float(expected.mean()), abs=1e-4)
    assert score.low < score.value < score.high
    assert (score.name, score.n) == ("HPS v2.1", len(pictures))
    assert encoder.network.weights.sha256 in score.protocol
    assert "HPS v2.1, CLIP tiny, open_clip, 32 px, longer side by bicubic on floats" in score.protocol
    # open_clip's own transform for a longer side, which resizes on 8 bits: 0 to 255 there, and some beyond here
    theirs = package.image_transform(32, is_train=False, resize_mode="longest", interpolation="bicubic")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in resizing.OPENAI)
    for file in pictures:
        ours, usual = (x * std + mean for x in (encoder.prepare(images.read(file)), theirs(Image.open(file))))
        off = (ours.clamp(0, 1) - usual).abs()
        assert float(off.max()) < 6 / 255
        assert float(off.mean()) < 1 / 255


def test_preference_scores_need_their_weights_and_captions(tmp_path, pictures, tiny_open_clip):
    from mdrepro.metrics.image import sets

    weights = tiny_open_clip[1].state_dict()
    torch.save(dict(list(weights.items())[1:]), tmp_path / "cut.pt")
    with pytest.raises(BadInput, match="does not hold the weights of tiny"):
        encoders.load("hps", f"tiny={tmp_path / 'cut.pt'}")
    torch.save(weights, tmp_path / "tiny.pt")
    with pytest.raises(BadInput, match="unknown model of open_clip 'tinier'"):
        encoders.load("hps", f"tinier={tmp_path / 'tiny.pt'}")
    with pytest.raises(BadInput, match="not 0000"):
        encoders.load("hps", f"tiny={tmp_path / 'tiny.pt'}", sha256="0" * 64)
    with pytest.raises(NotAttempted, match=r"HPS_v2\.1_compressed\.pt are not in the hub's cache .*--download"):
        encoders.load("hps")
    ready = encoders.load("hps", f"tiny={tmp_path / 'tiny.pt'}")
    folder = pictures[0].parent
    for options, says in (
        ({"hps": None, "captions": ["a"]}, "hps: a CLIP encoder is needed"),
        ({"hps": ready}, "hps: captions are needed"),
        ({"hps": ready, "captions": ["a"]}, f"{len(pictures)} images, and there are 1 captions"),
    ):
        with pytest.raises(BadInput, match=says):
            sets.evaluate(None, folder, ["hps"], **options)
