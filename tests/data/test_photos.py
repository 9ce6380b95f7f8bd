"""Photographs: the fixed split, reading every kind of file, crops and tiles, and errors that name the file."""

import shutil

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.data import photos, sources


def save(path, size=(300, 280), mode="RGB", seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(values, "RGBA").convert("RGB").convert(mode).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    for number in range(10):
        save(tmp_path / "sub" / f"{number}.png", seed=number)
    return tmp_path


NATURAL = ["astronaut", "camera", "chelsea", "china", "coffee", "flower", "grace_hopper", "motorcycle_left"]
NATURAL += ["motorcycle_right", "rocket"]


def test_all_natural_scenes_of_packages_are_held_out():
    split = photos.split()
    assert [p.name for p in split.held_out] == NATURAL
    assert len({p.scene for p in split.held_out}) == 9
    assert len(split.train) == 8 + 29
    assert len(split.validation) == 8
    assert split.train == tuple(sorted(split.train, key=lambda p: p.name))


def test_nothing_is_in_two_parts():
    split = photos.split()
    contents = [p.sha256 for p in (*split.train, *split.validation, *split.held_out)]
    assert len(set(contents)) == len(contents) == 10 + 8 + 37


def test_listed_photographs_are_known_without_their_files_and_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(photos, "folder", lambda: tmp_path)
    train = photos.split().train
    absent = next(p for p in train if p.listed)
    with pytest.raises(NotAttempted, match=r"get it with: make photos"):
        absent.pixels()
    crops = photos.Crops(train, [64], 10)
    assert len(crops.fingerprint) == 64
    with pytest.raises(NotAttempted, match="make photos"):
        crops.require()
    absent.path.write_bytes(b"another")
    with pytest.raises(BadInput, match="not the listed photograph"):
        crops.require()


def test_a_recipe_on_listed_photographs_has_its_key_without_them_and_is_not_trained(monkeypatch, tmp_path):
    from mdrepro.training.objectives.inputs import Inputs
    from mdrepro.training.recipes import registry
    from mdrepro.training.runs import store

    monkeypatch.setattr(photos, "folder", lambda: tmp_path)
    sources._examples.cache_clear()
    sources._split.cache_clear()
    row = registry.get("photos-sd-start")
    assert len(store.key(row)) == 12
    with pytest.raises(NotAttempted, match="make photos"):
        Inputs(row, {}, tmp_path).examples()
    sources._examples.cache_clear()
    sources._split.cache_clear()


def test_the_list_names_each_photograph_once_with_a_licence():
    rows = list(photos.listed())
    assert len({row["name"] for row in rows}) == len({row["sha256"] for row in rows}) == len(rows) == 37
    assert {row["licence"] for row in rows} <= {"CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "GPL-2+"}
    assert all(len(row["sha256"]) == 64 and row["file"].startswith("usr/share/") for row in rows)


def test_origin_path_and_pixels_belong_together():
    coffee = next(p for p in photos.split().held_out if p.name == "coffee")
    assert coffee.origin == "package:skimage/data/coffee.png"
    assert coffee.pixels().dtype == torch.uint8
    assert np.array_equal(coffee.pixels().permute(1, 2, 0).numpy(), skimage.data.coffee())


def test_a_photograph_that_no_package_ships_is_named(monkeypatch):
    monkeypatch.setitem(photos.NATURAL_SCENES, "astronaut", ("skimage/data/gone.png",))
    with pytest.raises(BadInput, match=r"skimage does not ship data/gone\.png"):
        photos.split()


def test_a_folder_splits_by_name_alone(folder, tmp_path_factory):
    first = photos.split(str(folder))
    assert (len(first.held_out), len(first.validation), len(first.train)) == (3, 2, 5)
    moved = tmp_path_factory.mktemp("moved")
    for seed, photograph in enumerate((*first.train, *first.validation, *first.held_out), start=1000):
        save(moved / photograph.name, seed=seed)
    again = photos.split(str(moved))
    for part in ("train", "validation", "held_out"):
        assert [p.name for p in getattr(again, part)] == [p.name for p in getattr(first, part)]


def test_a_folder_takes_its_formats_once_each(tmp_path):
    for number, name in enumerate(["a.png", "b.JPG", "deep/er/c.webp", "d.jpeg", "e.png"]):
        save(tmp_path / name, seed=number)
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not a photograph")
    split = photos.split(str(tmp_path))
    assert sorted(p.name for p in (*split.train, *split.validation, *split.held_out)) == [
        "a.png",
        "b.JPG",
        "d.jpeg",
        "deep/er/c.webp",
        "e.png",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 99, "cannot read"),
        (b"GIF89a" + b"x" * 99, "cannot read"),
        ("truncated", "cannot read"),
        ("small", "200 x 300 px"),
        ("deep", "pixel mode I;16"),
    ],
)
def test_a_bad_photograph_is_named(folder, content, message):
    bad = folder / "sub" / "bad.png"
    if content == "truncated":
        save(bad, seed=77)
        content = bad.read_bytes()[:20000]
    if content == "small":
        save(bad, size=(200, 300))
    elif content == "deep":
        Image.fromarray(np.zeros((300, 300), np.uint16)).save(bad)
    else:
        bad.write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        photos.split(str(folder))
    assert str(bad) in str(caught.value)


def test_a_picture_bomb_is_refused(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadInput, match="DecompressionBomb"):
        photos.split(str(folder))


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_a_bad_folder_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=name):
        photos.split(str(tmp_path / name))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = save(tmp_path / ("x.jpg" if mode == "CMYK" else "x.png"), mode=mode)
    assert photos.Photograph("", "", path).pixels().shape == (3, 280, 300)


def test_transparency_is_laid_on_white_and_exif_turns(tmp_path):
    clear = np.zeros((300, 260, 4), np.uint8)
    clear[:150, :, 3] = 255
    Image.fromarray(clear, "RGBA").save(tmp_path / "clear.png")
    pixels = photos.Photograph("", "", tmp_path / "clear.png").pixels()
    assert pixels[:, :150].max() == 0
    assert pixels[:, 150:].min() == 255
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "turned.jpg", exif=exif)
    assert photos.Photograph("", "", tmp_path / "turned.jpg").pixels().shape == (3, 300, 280)


def test_tiles_are_centred_and_do_not_overlap():
    image = torch.arange(3 * 530 * 300).reshape(3, 530, 300)
    cut = photos.tiles(image)
    assert cut.shape == (2, 3, 256, 256)
    assert torch.equal(torch.cat(list(cut), dim=1), image[:, 9:521, 22:278])


def test_crops_are_parts_of_the_images_mirrored_half_of_the_time():
    images = [torch.arange(3 * 20 * 30).reshape(3, 20, 30), 5000 + torch.arange(3 * 40 * 16).reshape(3, 40, 16)]
    crops = photos.random_crops(images, 16, 400, torch.Generator().manual_seed(0))
    mirrored, seen = 0, [set(), set()]
    for crop in crops:
        flip = bool(crop[0, 0, 1] < crop[0, 0, 0])
        mirrored += flip
        upright = crop.flip(-1) if flip else crop
        which = int(upright[0, 0, 0] >= 5000)
        top, left = divmod(int(upright[0, 0, 0]) - 5000 * which, images[which].shape[2])
        assert torch.equal(upright, images[which][:, top : top + 16, left : left + 16])
        seen[which].add((top, left))
    assert 160 < mirrored < 240
    assert {top for top, _ in seen[0]} == set(range(5))
    assert {left for _, left in seen[0]} == set(range(15))
    assert {top for top, _ in seen[1]} == set(range(25))


def test_crops_follow_the_generator_alone():
    images = [torch.randint(256, (3, 64, 64), dtype=torch.uint8)]
    first, again = (photos.random_crops(images, 16, 8, torch.Generator().manual_seed(4)) for _ in range(2))
    other = photos.random_crops(images, 16, 8, torch.Generator().manual_seed(5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_crops_of_a_source_are_those_of_the_photographs_and_a_function_of_index_size_and_seed(folder):
    train = photos.split(str(folder)).train[:2]
    crops = photos.Crops(train, [248], 500, seed=3)
    taken = crops.batch(range(0, 500, 2))["pixels"]
    assert taken.shape == (250, 3, 248, 248)
    assert torch.equal(crops.batch([14, 400])["pixels"], taken[[7, 200]])
    windows = {
        window[:, :2].contiguous().numpy().tobytes()
        for image in (p.pixels() for p in train)
        for flipped in (image, image.flip(-1))
        for window in flipped.unfold(1, 248, 1).unfold(2, 248, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 248, 248)
    }
    seen = {crop[:, :2].contiguous().numpy().tobytes() for crop in taken}
    assert seen <= windows
    assert len(seen) > 240  # of 2 x 2 x 33 x 53
    assert not torch.equal(photos.Crops(train, [248], 500, seed=4).batch([0])["pixels"], taken[:1])
    others = (
        (train, [248], 500, 4),
        (train, [240], 500, 3),
        (train, [248, 240], 500, 3),
        (train[:1], [248], 500, 3),
        (train[::-1], [248], 500, 3),
        (train, [248], 500, 3, [264]),
    )
    assert len({crops.fingerprint, *(photos.Crops(*other).fingerprint for other in others)}) == 7
    assert photos.Crops(train, [248], 500, 3).fingerprint == crops.fingerprint
    assert len(crops) == 500


def test_steps_have_crops_of_one_size_and_all_sizes_the_same_area(folder):
    crops = photos.Crops(photos.split(str(folder)).train, [64, 128, 256], 100, seed=1)
    shapes = [crops.of_step(step).batch([0, 7])["pixels"].shape for step in range(300)]
    assert {shape[-1] for shape in shapes} == {64, 128, 256}
    assert {shape[0] * shape[2] * shape[3] for shape in shapes} == {2 * 256 * 256}
    for size in (64, 128, 256):  # binomial, four standard deviations
        assert abs(sum(shape[-1] == size for shape in shapes) - 100) < 33
    again = photos.Crops(photos.split(str(folder)).train, [64, 128, 256], 100, seed=1)
    for step in (2, 9):
        assert torch.equal(*(one.of_step(step).batch([5])["pixels"] for one in (again, crops)))
    other = photos.Crops(photos.split(str(folder)).train, [64, 128, 256], 100, seed=2)
    assert [other.of_step(k).size for k in range(20)] != [crops.of_step(k).size for k in range(20)]
    assert crops.batch([3])["pixels"].shape == (16, 3, 64, 64)
    small = crops.of_step(next(k for k in range(300) if shapes[k][-1] == 64))
    one, two, both = (small.batch(indices)["pixels"] for indices in ([3], [4], [3, 4]))
    assert torch.equal(both, torch.cat([one, two]))
    assert len({crop.numpy().tobytes() for crop in both}) == 32


def test_large_photographs_are_reduced_to_each_side(tmp_path):
    for number in range(4):
        save(tmp_path / f"{number}.png", size=(900, 600), seed=number)
    photograph = photos.split(str(tmp_path)).held_out[0]
    assert photograph.pixels(300).shape == (3, 300, 450)
    assert photograph.pixels(700).shape == photograph.pixels().shape == (3, 600, 900)
    with Image.open(photograph.path) as image:
        expected = np.asarray(image.resize((450, 300), Image.Resampling.LANCZOS))
    assert np.array_equal(photograph.pixels(300).permute(1, 2, 0).numpy(), expected)
    images = photos.Crops([photograph], [64], 5, sides=[300, 400])._images()
    assert [tuple(image.shape) for image in images] == [(3, 300, 450), (3, 400, 600)]
    with pytest.raises(BadInput, match="up to 128"):
        photos.Crops([photograph], [256], 5, sides=[128, 300])


@pytest.mark.parametrize(
    ("size", "count", "message"),
    [
        (12, 5, "crops of 12 px"),
        (0, 5, "crops of 0 px"),
        (288, 5, "up to 280"),
        (64, 0, "0 crops"),
    ],
)
def test_crops_that_cannot_be_cut(folder, size, count, message):
    with pytest.raises(BadInput, match=message):
        photos.Crops(photos.split(str(folder)).train, [size], count)


def test_a_recipes_photographs_count_by_content_not_by_place(folder, tmp_path_factory):
    def fingerprint(path, **more):
        return sources.examples({"source": "photos", "path": str(path), **more}).fingerprint

    before = fingerprint(folder)
    moved = tmp_path_factory.mktemp("other") / "moved"
    shutil.copytree(folder, moved)
    assert fingerprint(moved) == before
    assert fingerprint(moved, seed=1) != before
    changed = tmp_path_factory.mktemp("third") / "changed"
    shutil.copytree(folder, changed)
    for file in (changed / "sub").iterdir():
        save(file, seed=99 + int(file.stem))
    assert fingerprint(changed) != before


def test_pixels_come_back_and_are_rounded_not_truncated():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(photos.to_uint8(photos.to_network(pixels)), pixels)
    assert photos.to_network(pixels)[[0, -1]].tolist() == [-1, 1]
    assert photos.to_uint8(torch.tensor([0.9 / 127.5 - 1, -7.0, 7.0])).tolist() == [1, 0, 255]


def test_what_a_folder_holds_and_is_not_read_is_counted_aloud(folder, caplog):
    known = photos.split(str(folder))
    (folder / "sub" / "x.heic").write_bytes(b"")
    (folder / "y.jpg").symlink_to("gone.jpg")
    (folder / "notes.txt").write_bytes(b"")
    assert photos.split(str(folder)) == known
    (record,) = caplog.records
    assert record.getMessage().endswith("2 pictures are left out: sub/x.heic is of another format; y.jpg leads nowhere")
