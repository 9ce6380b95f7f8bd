"""What users bring, in small: folders as Stable Diffusion and CLIP are saved, and captioned pictures of each kind."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from PIL import Image

from mdrepro.models import text
from tests.support.tiny_pipeline import WORDS

WIDTH, SIDE, COUNT = 32, 32, 6
CAPTIONS = [["a red star", "a star"], ["a blue circle", "a circle"], ["a star left of a circle", "a blue star"]] * 2


def clip(place: Path) -> None:
    """CLIP's text model and its tokenizer, in one folder."""
    torch.manual_seed(0)
    tokenizer = text.word_tokenizer(WORDS, 10)
    text.small_encoder(tokenizer, width=WIDTH, layers=1, heads=2).save_pretrained(place)
    tokenizer.save_pretrained(place)


def stable_diffusion(place: Path) -> None:
    """A pipeline's folder with what training takes of it; its UNet has two levels."""
    torch.manual_seed(1)
    widths = (8, 8, 8, 8)
    AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIDE,
    ).save_pretrained(place / "vae")
    UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(16, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
        layers_per_block=1,
    ).save_pretrained(place / "unet")
    PNDMScheduler(beta_schedule="scaled_linear", steps_offset=1).save_pretrained(place / "scheduler")
    clip(place / "text_encoder")
    (place / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))


def picture(number: int) -> bytes:
    """A PNG that is not square."""
    values = np.random.default_rng(number).integers(0, 256, (SIDE + 4, SIDE + 9, 3), dtype=np.uint8)
    made = io.BytesIO()
    Image.fromarray(values).save(made, "PNG")
    return made.getvalue()


def coco(place: Path) -> None:
    """COCO's folder, with two captions for each picture."""
    (place / "annotations").mkdir(parents=True)
    (place / "train2017").mkdir()
    images = [{"id": number, "file_name": f"{number:012}.png"} for number in range(COUNT)]
    for image in images:
        (place / "train2017" / image["file_name"]).write_bytes(picture(image["id"]))
    said = [{"image_id": number, "caption": one} for number in range(COUNT) for one in CAPTIONS[number]]
    told = json.dumps({"images": images, "annotations": said})
    (place / "annotations/captions_train2017.json").write_text(told)


def folder(place: Path) -> None:
    """Pictures beside metadata.jsonl."""
    place.mkdir(parents=True)
    for number in range(COUNT):
        (place / f"{number}.png").write_bytes(picture(number))
    lines = [json.dumps({"file_name": f"{number}.png", "text": CAPTIONS[number][0]}) for number in range(COUNT)]
    (place / "metadata.jsonl").write_text("\n".join(lines))


def shards(place: Path) -> None:
    """Two shards of WebDataset."""
    place.mkdir(parents=True)
    for shard in range(2):
        with tarfile.open(place / f"{shard:03}.tar", "w") as tar:
            for number in range(shard * COUNT // 2, (shard + 1) * COUNT // 2):
                for suffix, content in (("png", picture(number)), ("txt", CAPTIONS[number][0].encode())):
                    member = tarfile.TarInfo(f"{number:04}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
