"""A folder of one's own pictures: what is read from it, what is refused, and training and drawing with it."""

import os
import sys

import numpy as np
import pytest
import torch
from command_tools import good, refused, sentence
from PIL import Image

from lessons_lib import data, recipes, weights
from lessons_lib.data import image_set
from lessons_lib.data.image_set import decode
from lessons_lib.unet import UNetConfig

RED, BLUE = (255, 0, 0), (0, 0, 255)


pytestmark = pytest.mark.usefixtures("here")


def fill(folder, count, colour=RED, size=(20, 24), mode="RGB", start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(start, start + count):
        Image.new(mode, size, colour).save(folder / f"{k:04d}.png")
    return folder


@pytest.fixture
def pets(tmp_path):
    fill(tmp_path / "pets" / "cat", 12)
    fill(tmp_path / "pets" / "dog", 15, BLUE)
    return tmp_path / "pets"


def load(folder, split="train", **how):
    return data.load(f"folder:{folder}", split, **how)


def splits(folder, **how):
    return {split: load(folder, split, **how) for split in data.SPLITS}


def test_class_folders_become_labels(pets, capsys):
    sets = splits(pets)
    assert sum(map(len, sets.values())) == 27 and all(map(len, sets.values()))
    for images in sets.values():
        assert images.class_names == ("cat", "dog") and images.source == "folder"
        assert images.images.shape[1:] == (3, 20, 20) and images.images.dtype == torch.uint8
        for picture, label in zip(images.images, images.labels, strict=True):
            assert picture[0, 0, 0] == (255, 0)[label] and picture[2, 0, 0] == (0, 255)[label]
    x_0, y = sets["train"].batch(torch.tensor([1, 0]))
    assert x_0.dtype == torch.float32 and set(x_0.unique().tolist()) == {-1, 1} and len(y) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1, "said once, on stderr"
    assert "Folder pets: 27 pictures (" in err and "20×20 pixels, colour, 2 classes: cat, dog." in err
    assert str(pets) not in sets["train"].note and "folder pets, 27 images" in sets["train"].note


def test_train_and_test_folders_are_the_splits_and_none_no_classes(tmp_path):
    for part, count in (("train", 20), ("test", 3)):
        for name in ("a", "b"):
            fill(tmp_path / "x" / part / name, count)
    sets = splits(tmp_path / "x")
    assert len(sets["test"]) == 6 and len(sets["train"]) + len(sets["val"]) == 40 and len(sets["val"]) >= 1
    fill(tmp_path / "x" / "val" / "a", 2)
    with pytest.raises(data.DataError, match="the same class folders, but one has a and the other a, b"):
        load(tmp_path / "x")
    fill(tmp_path / "x" / "val" / "b", 2)
    assert [len(images) for images in splits(tmp_path / "x").values()] == [40, 4, 6]
    (tmp_path / "x" / "masks").mkdir()
    with pytest.raises(data.DataError, match=r"splits \(train\) and other things \(masks\)"):
        load(tmp_path / "x")
    fill(tmp_path / "all", 12)
    (tmp_path / "all" / "notes").mkdir()
    for name in ("read me.txt", ".hidden.png", "model.pt"):
        (tmp_path / "all" / name).write_text("no picture")
    sets = splits(tmp_path / "all")
    assert sum(map(len, sets.values())) == 12
    assert sets["train"].class_names == () and not sets["train"].labels.any()


def test_size_and_channels_are_inferred_or_given(tmp_path):
    cases = [((20, 24), 20), ((33, 70), 32), ((28, 28), 28), ((9, 9), 16), ((300, 200), 64), ((47, 90), 44)]
    for k, (size, found) in enumerate(cases):
        folder = fill(tmp_path / f"{k}", 10, 90, size, "L")
        assert load(folder).images.shape[1:] == (1, found, found)
    assert load(folder, image_size=24, channels=3).images.shape[1:] == (3, 24, 24)
    fill(folder, 1, start=50)
    assert load(folder).images.shape[1] == 3, "one picture in colour"
    for how in ({"image_size": 4}, {"image_size": 5000}, {"channels": 2}):
        with pytest.raises(ValueError, match="must be"):
            load(folder, **how)
    with pytest.raises(ValueError, match="are for folder:PATH, not for mnist"):
        data.load("mnist", strict=True)


def saved(tmp_path, image, name="x.png", **how):
    image.save(tmp_path / name, **how)
    return tmp_path / name


def test_transparency_is_white_and_other_modes_are_read(tmp_path):
    for mode, colour in (("RGBA", (0, 0, 0, 0)), ("LA", (0, 0))):
        assert (decode(saved(tmp_path, Image.new(mode, (16, 16), colour)), 16, 3) == 255).all()
    half = decode(saved(tmp_path, Image.new("RGBA", (16, 16), (0, 0, 0, 128))), 16, 1)
    assert np.abs(half.astype(int) - 127).max() <= 1
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([9, 9, 9, 255, 0, 0])
    assert decode(saved(tmp_path, palette), 16, 3)[:, 0, 0].tolist() == [255, 0, 0]
    assert (decode(saved(tmp_path, palette, transparency=1), 16, 3) == 255).all()
    deep = Image.fromarray(np.full((16, 16), 32896, np.uint16))  # 128/255 of 65535
    assert (decode(saved(tmp_path, deep), 16, 1) == 128).all()
    assert image_set._inferred([tmp_path / "x.png"], None, None) == (16, 1)
    cmyk = decode(saved(tmp_path, Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "x.tif"), 16, 3)
    assert cmyk[:, 5, 5].tolist() == [255, 0, 0]
    floats = Image.fromarray(np.full((16, 16), 0.5, np.float32))
    assert (decode(saved(tmp_path, floats, "x.tif"), 16, 1) == 128).all()
    assert (decode(saved(tmp_path, Image.new("1", (16, 16), 1)), 16, 3) == 255).all()
    frames = [Image.new("L", (16, 16), value) for value in (60, 200)]
    saved(tmp_path, frames[0], "x.gif", save_all=True, append_images=frames[1:])
    assert (decode(tmp_path / "x.gif", 16, 1) == 60).all(), "the first picture"
    for name in ("x.webp", "x.bmp", "x.jpg"):
        pixels = decode(saved(tmp_path, Image.new("RGB", (40, 30), (200, 100, 50)), name), 16, 3)
        assert np.abs(pixels[:, 8, 8].astype(int) - (200, 100, 50)).max() <= 4
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was upside down
    found = decode(saved(tmp_path, Image.fromarray(pixels), "x.jpg", exif=exif, quality=95), 16, 1)[0]
    assert found[2:6].max() < 10 and found[10:14].min() > 245


def test_one_broken_picture_is_named_and_skipped(pets, capsys):
    path = pets / "cat" / "0003.png"
    path.write_bytes(path.read_bytes()[:-30])
    assert sum(map(len, splits(pets).values())) == 26
    err = capsys.readouterr().err
    assert "1 of 27 pictures cannot be read and are skipped: cat/0003.png (cut short or damaged)." in err
    for _ in range(2):  # what is kept on disk is as strict
        with pytest.raises(data.DataError, match=r"picture .*0003.png cannot be read: cut short or damaged"):
            load(pets, strict=True)


BAD_FOLDERS = {
    "nowhere": "There is no folder nowhere.",
    "file.png": "file.png is a file: name the folder that holds the pictures.",
    "empty": "holds no pictures (png, jpg",
    "few": "holds 4 pictures, but at least 10 are needed.",
    "hole": "The class folder {here}/hole/b holds no picture: fill it or move it away.",
    "both": "holds pictures (0000.png) and folders of pictures (a): put every picture into",
    "broken": "Only 0 of the 12 pictures in {here}/broken can be read, but at least 10 are needed;",
    "worse": "Only 9 of the 12 pictures in {here}/worse can be read, but at least 10 are needed;",
}


def test_a_bad_folder_is_one_sentence(here):
    (here / "file.png").write_bytes(b"x")
    (here / "empty" / "a").mkdir(parents=True)
    (here / "hole" / "b").mkdir(parents=True)
    for name in ("few", "hole/a", "both", "both/a", "broken", "worse"):
        fill(here / name, 4 if name == "few" else 12)
    for name, count in (("broken", 12), ("worse", 3)):
        for k in range(count):
            (here / name / f"{k:04d}.png").write_bytes(b"x")
    for name, words in BAD_FOLDERS.items():
        with pytest.raises(data.DataError) as caught:
            load(name)
        assert words.format(here=here) in str(caught.value) and "\n" not in str(caught.value)


def test_pictures_are_decoded_once(pets, decoded, tmp_path):
    before = sorted(pets.rglob("*"))
    first = splits(pets)
    assert len(decoded) == 27
    again = splits(pets)
    assert len(decoded) == 27 and sorted(pets.rglob("*")) == before, "and nothing is put beside them"
    for split, images in first.items():
        assert torch.equal(images.images[:], again[split].images[:])
        assert torch.equal(images.labels, again[split].labels)
    Image.new("RGB", (20, 24), (0, 255, 0)).save(pets / "cat" / "new.png")
    assert sum(map(len, splits(pets).values())) == 28 and len(decoded) == 27 + 28
    assert len(list((tmp_path / "data" / "folders").iterdir())) == 1, "the old ones are replaced"
    load(pets, image_size=16)
    assert len(decoded) == 27 + 28 + 28, "another size is another file"


HARMS = {
    "cut short": lambda kept, facts: os.truncate(kept, kept.stat().st_size - 1),
    "text": lambda kept, facts: kept.write_text("[]"),
    "other pictures": lambda kept, facts: np.save(kept, np.zeros((3, 3, 20, 20), np.uint8)),
    "no facts": lambda kept, facts: facts.unlink(),
    "wrong facts": lambda kept, facts: facts.write_text("[]"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_file_is_made_anew(pets, decoded, tmp_path, harm):
    first = load(pets).images[:]
    (kept,), (facts,) = ((tmp_path / "data").rglob(f"*.{kind}") for kind in ("npy", "json"))
    HARMS[harm](kept, facts)
    assert torch.equal(load(pets).images[:], first) and len(decoded) == 54


@pytest.fixture
def run(run, monkeypatch):

    def tiny(size, channels, num_classes):
        return UNetConfig(size, channels, 32, (1,), num_classes=num_classes, embedding_channels=16)

    def run_as_a_new_process(words, *more):
        data.notice.cache_clear()
        monkeypatch.setattr(sys, "argv", ["x", *words.split(), *more])
        return run(words, *more)

    monkeypatch.setattr(recipes, "unet_config", tiny)
    return run_as_a_new_process


SHORT = "--image-size 8 --epochs 1 --batch-size 12 --timesteps 10 --device cpu"


def test_train_then_sample(run, pets, tmp_path):
    pets.rename(tmp_path / "my pets")
    out = good(run(f"train {SHORT} --model denoiser --flip", "folder:my pets"))
    card = weights.read_card(tmp_path / "runs/my-pets-denoiser/my-pets-denoiser.safetensors")
    training = card["training"]
    assert training["command"].startswith("python -m lessons_lib train")
    assert training["command"].endswith("--model denoiser --flip 'folder:my pets'")
    assert training["data"].startswith("own pictures: folder my pets, 27 images")
    assert training["settings"]["loss"] == "v-mse" and card["schedule"]["name"] == "cosine"
    assert card["class_names"] == ["cat", "dog"] and str(tmp_path) not in str(card)
    assert card["defaults"]["sampler"] == "dpmpp_2m"  # DDIM loses fine detail
    assert "python -m lessons_lib sample 'folder:my pets' --out my-pets.png" in out

    (tmp_path / "my pets").rename(tmp_path / "gone")  # the pictures need not be there
    good(run("sample --labels dog,cat --steps 2 --out x.npz", "folder:my pets"))
    found = np.load("x.npz")
    assert found["labels"].tolist() == [1, 0] and found["images"].shape == (2, 3, 8, 8)
    said = "Unknown label 'cow': choose cat, dog; or a number from 0 to 1, or all."
    refused(run("sample --labels cow --out y.npz", "folder:my pets"), said)


def test_without_classes_the_denoiser_is_unconditional(run, tmp_path):
    fill(tmp_path / "faces", 14)
    good(run(f"train folder:faces {SHORT}"))
    assert sorted(os.listdir("runs")) == ["faces-denoiser"], "all is what can be trained"
    path = "runs/faces-denoiser/faces-denoiser.safetensors"
    assert weights.read_card(path)["config"]["num_classes"] == 0
    words = "sample folder:faces --steps 2 --out x.npz"
    assert good(run(f"{words} --num-per-label 3")).startswith("These weights know no classes")
    assert np.load("x.npz")["labels"].tolist() == [-1] * 3
    refused(run(f"{words} --labels 0"), "know no classes: leave out --labels.")
    status, _, err = run(f"train folder:faces --model evaluator {SHORT}")
    assert status == 2 and "needs two class folders or more, and folder:faces has none" in err


BAD_COMMANDS = {
    "train folder:nowhere": "There is no folder nowhere.",
    "train folder:": "folder: needs a path, such as folder:my/pictures.",
    "train folder:pets --model gan": "choose one of denoiser, classifier, evaluator, all.",
    "train folder:pets --image-size 30": "The image size must be a multiple of 4, got 30.",
    "train folder:pets --strict": "cat/0003.png cannot be read: no picture.",
    "train mnist --strict": "--strict belongs to folder:PATH, your own pictures.",
    "train mnist --image-size 32": "--image-size belongs to celeba or folder:PATH, your own pictures.",
    "train pets": "choose mnist, cifar10 or celeba. (Your own pictures: folder:PATH.)",
    "sample folder:pets --out x.png": "train folder:pets first, or name them with --weights.",
    "evaluate evaluator folder:pets": "Your own pictures are for train and sample: choose mnist, cifar10 or",
}


@pytest.mark.parametrize("words", BAD_COMMANDS)
def test_a_bad_command_is_one_sentence(run, pets, words):
    (pets / "cat" / "0003.png").write_bytes(b"x")
    status, out, err = run(words)
    assert status == 2 and out == "" and BAD_COMMANDS[words] in sentence(err)
    assert not os.path.exists("runs")
